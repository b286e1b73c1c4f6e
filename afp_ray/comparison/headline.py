"""What a study came to in three clauses: the tasks, the alignment of sentences, and the price in the pivot language."""

from collections.abc import Sequence
from dataclasses import dataclass

from afp_ray.comparison.wording import ALPHA, listed, p_of
from afp_ray.languages import find_language
from afp_ray.records import (
    ArmRow,
    Clause,
    Difference,
    Headline,
    HeadlineNumber,
    MajorityRow,
    RepresentationRow,
    signed_points,
)

FORGETTING_LIMIT = -0.01
"""A change of the pivot's mean at or below this counts as forgetting, whether or not noise is ruled out."""
MOVED = 0.05
"""A significant gain of retrieval below this is called small."""
MAX_NAMES = 3
"""Arms that a clause names one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What the headline is made of.

    Attributes:
        rows: the arms of the table.
        representation: what was measured of sentences, the mean over languages of each arm among it.
        majority: the floor of the tasks; null where there is none.
        pivot: code of the pivot language.
        failed: arms that have no row since their trials failed.
        is_complete: whether every study has ended with all its trials.
    """

    rows: Sequence[ArmRow]
    representation: Sequence[RepresentationRow]
    majority: MajorityRow | None
    pivot: str
    failed: Sequence[str]
    is_complete: bool

    @property
    def arms(self) -> list[ArmRow]:
        """The arms but base."""
        return [row for row in self.rows if not row.is_base]

    @property
    def has_base(self) -> bool:
        """Whether there is something to compare with."""
        return any(row.is_base for row in self.rows)

    @property
    def kind(self) -> str:
        """What an arm is called: a method where no two arms share theirs."""
        methods = [row.method for row in self.arms]
        return "method" if len(set(methods)) == len(methods) else "arm"


def make_headline(finding: Finding) -> Headline:
    """The three clauses, each right by itself whatever was measured and whatever failed."""
    return Headline(tasks=_tasks(finding), alignment=_alignment(finding), price=_price(finding))


def _tasks(finding: Finding) -> Clause:
    base = next((row for row in finding.rows if row.is_base and row.mean is not None), None)
    before = base.mean.mean if base is not None and base.mean is not None else None
    numbers = tuple(
        HeadlineNumber(arm=row.arm, value=row.mean.mean, before=before, difference=row.mean.vs_base)
        for row in finding.arms
        if row.mean is not None
    )
    words = _tasks_words(finding, numbers)
    if finding.failed:
        words += f" {listed(finding.failed)} failed."
    return Clause(text=words if finding.is_complete else f"So far: {words}", numbers=numbers)


def _tasks_words(finding: Finding, numbers: Sequence[HeadlineNumber]) -> str:
    if not finding.arms:
        return "Base alone was scored, so there is nothing to compare."
    if not numbers:
        return f"No task was scored outside {_pivot_name(finding)}."
    floor = _floor(finding)
    top = max(numbers, key=lambda number: number.value)
    if not finding.has_base:
        words = f"There is no base to compare with; {top.arm} has the highest mean on the tasks ({_share(top.value)})."
    elif floor is not None:
        words = f"{_comparison(finding, numbers)[:-1]}, but this says little:"
    else:
        words = _comparison(finding, numbers)
    if floor is not None:
        none = f"no {finding.kind} scores above the majority ({_share(floor)}), so the model does not do the tasks."
        words += f" {none if words.endswith(':') else none[0].upper() + none[1:]}"
    return words


def _floor(finding: Finding) -> float | None:
    """The majority baseline, where every arm, base included, is below it."""
    floor = finding.majority.mean if finding.majority is not None else None
    means = [row.mean.mean for row in finding.rows if row.mean is not None]
    return floor if floor is not None and means and max(means) < floor else None


def _comparison(finding: Finding, numbers: Sequence[HeadlineNumber]) -> str:
    """How the arms fare against base on the tasks."""
    compared = [number for number in numbers if number.difference is not None]
    if not compared:
        return "No difference to base was measured on the tasks."
    better = [number for number in compared if _is_sure(number, 1)]
    worse = [number for number in compared if _is_sure(number, -1)]
    seeds = {row.arm: row.n_seeds for row in finding.arms}
    if better:
        verb = "beats" if len(better) == 1 else "beat"
        words = f"{_who(better, len(compared), finding.kind)} {verb} base on the tasks ({_gains(better, seeds)})"
    elif len(worse) == len(compared):
        who = f"Every {finding.kind}" if len(worse) > 1 else worse[0].arm
        return f"{who} is worse than base on the tasks ({_gains(worse, seeds)})."
    else:
        top = max(compared, key=_delta)
        largest = f"largest {signed_points(_delta(top))}" if _delta(top) > 0 else f"best {signed_points(_delta(top))}"
        words = f"No {finding.kind} beat base on the tasks ({largest}, {_doubt(top)}{_seed_note([top], seeds)})"
    if worse:
        words += f"; {_who(worse, len(compared), finding.kind)} {'is' if len(worse) == 1 else 'are'} worse"
        words += f" ({_gains(worse, seeds)})"
    return f"{words}."


def _alignment(finding: Finding) -> Clause:
    reported = {row.arm: row for row in finding.representation if not row.language}
    numbers = tuple(
        HeadlineNumber(
            arm=row.arm,
            value=reported[row.arm].retrieval_at_1,
            before=before[0] if (before := reported[row.arm].before) is not None else None,
            difference=reported[row.arm].retrieval_difference,
        )
        for row in finding.arms
        if row.arm in reported
    )
    return Clause(text=_alignment_words(finding, numbers), numbers=numbers)


def _alignment_words(finding: Finding, numbers: Sequence[HeadlineNumber]) -> str:
    if not numbers:
        return "Alignment was not measured (evaluation.representation)." if finding.arms else "Nothing was aligned."
    compared = [number for number in numbers if number.before is not None]
    if not compared:
        return f"Translations are found for {_shares(numbers)} of sentences; without base no change can be told."
    rose = [number for number in compared if _is_sure(number, 1)]
    fell = [number for number in compared if _is_sure(number, -1)]
    if rose:
        is_small = max(map(_delta, rose)) < MOVED
        words = f"Alignment {'rose a little' if is_small else 'did happen'}: translations are found for {_shares(rose)}"
        words += f" of sentences, {_before(rose)} before"
    else:
        doubts = {_doubt(number) for number in compared if number not in fell}
        doubt = f" ({listed(sorted(doubts))})" if doubts else ""
        words = f"Alignment did not happen: translations are found for {_shares(compared)} of sentences, "
        words += f"{_before(compared)} before{doubt}"
    if fell:
        words += f"; it fell with {listed([number.arm for number in fell])}"
        words += f" (to {_shares(fell, named=False)})" if rose else ""
    return f"{words}."


def _price(finding: Finding) -> Clause:
    base = next((row for row in finding.rows if row.is_base and row.pivot_mean is not None), None)
    before = base.pivot_mean.mean if base is not None and base.pivot_mean is not None else None
    numbers = tuple(
        HeadlineNumber(arm=row.arm, value=row.pivot_mean.mean, before=before, difference=row.pivot_mean.vs_base)
        for row in finding.arms
        if row.pivot_mean is not None
    )
    return Clause(text=_price_words(finding, numbers), numbers=numbers)


def _price_words(finding: Finding, numbers: Sequence[HeadlineNumber]) -> str:
    name = _pivot_name(finding)
    if not finding.arms:
        return "Nothing was paid."
    if not numbers:
        return f"The price was not measured: {name} is not among the languages of the tasks."
    compared = [number for number in numbers if number.difference is not None]
    if not compared:
        return f"Without base the price in {name} cannot be told."
    lost = [number for number in compared if is_forgetting(number.difference)]
    if not lost:
        gained = [number for number in compared if _is_sure(number, 1)]
        gain = f"; {listed([number.arm for number in gained])} gained" if gained else ""
        return f"No price was seen: {name} changed by {_range([_delta(number) for number in compared])} points{gain}."
    doubtful = [number.arm for number in lost if not _is_sure(number, -1)]
    words = f"The price: {_range([-_delta(number) for number in lost], signed=False)} points of {name}"
    if len(lost) < len(compared):
        words += f" ({_who(lost, len(compared), finding.kind, most='most')})"
    if doubtful and len(doubtful) == len(lost):
        words += ", within noise"
    elif doubtful:
        words += f"; {listed(doubtful)} within noise"
    return f"{words}."


def is_forgetting(delta: Difference | None) -> bool:
    """Whether an arm lost so much in the pivot language that it must be said."""
    return delta is not None and delta.delta < 0 and (delta.is_significant or delta.delta <= FORGETTING_LIMIT)


def _is_sure(number: HeadlineNumber, sign: int) -> bool:
    """Whether it changed in a direction, beyond noise."""
    return number.difference is not None and number.difference.is_significant and sign * number.difference.delta > 0


def _delta(number: HeadlineNumber) -> float:
    return number.difference.delta if number.difference is not None else 0.0


def _doubt(number: HeadlineNumber) -> str:
    """Why a change that is not significant is none."""
    p = p_of(number.difference) if number.difference is not None else None
    return "not tested" if p is None else "within noise" if p >= ALPHA else "beyond noise"


def _who(numbers: Sequence[HeadlineNumber], total: int, kind: str, *, most: str = "") -> str:
    """The arms by name; their number where they are many, with the one that changed most if asked."""
    if len(numbers) <= MAX_NAMES:
        return listed([number.arm for number in numbers])
    top = max(numbers, key=lambda number: abs(_delta(number)))
    return f"{len(numbers)} of {total} {kind}s" + (f", {most} {top.arm}" if most else "")


def _gains(numbers: Sequence[HeadlineNumber], seeds: dict[str, int]) -> str:
    """Differences to base, one by one where they are few."""
    if len(numbers) > MAX_NAMES:
        top = max(numbers, key=lambda number: abs(_delta(number)))
        return f"most {top.arm}, {signed_points(_delta(top))} points{_seed_note(numbers, seeds)}"
    if len(numbers) == 1:
        return f"{signed_points(_delta(numbers[0]))} points{_seed_note(numbers, seeds)}"
    each = listed([f"{number.arm} {signed_points(_delta(number))}" for number in numbers])
    return f"{each} points{_seed_note(numbers, seeds)}"


def _seed_note(numbers: Sequence[HeadlineNumber], seeds: dict[str, int]) -> str:
    return ", one seed" if any(seeds[number.arm] == 1 for number in numbers) else ""


def _shares(numbers: Sequence[HeadlineNumber], *, named: bool = True) -> str:
    """What is found now, by arm where they are few."""
    values = [number.value for number in numbers]
    others = [number.before for number in numbers if number.before is not None]
    digits = _digits([*values, *others])
    if named and len(numbers) <= MAX_NAMES:
        return listed([f"{_share(number.value, digits)} ({number.arm})" for number in numbers])
    if not named:
        return _between(values, digits)
    top = max(numbers, key=lambda number: number.value)
    return f"{_between(values, digits)} ({len(numbers)} arms, most with {top.arm})"


def _before(numbers: Sequence[HeadlineNumber]) -> str:
    values = [number.before for number in numbers if number.before is not None]
    return _between(values, _digits([*(number.value for number in numbers), *values]))


def _between(values: Sequence[float], digits: int) -> str:
    low, high = _share(min(values), digits), _share(max(values), digits)
    return high if low == high else f"{low.removesuffix(' %')} to {high}"


def _digits(values: Sequence[float]) -> int:
    """One digit where whole percents would not tell the values apart."""
    return 0 if max(values) - min(values) >= MOVED else 1


def _share(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def _range(deltas: Sequence[float], *, signed: bool = True) -> str:
    """From the smallest to the largest change in points; whole ones where all are large."""
    digits = 0 if min(map(abs, deltas)) >= 0.1 else 1
    texts = [signed_points(value, digits) if signed else f"{100 * value:.{digits}f}" for value in sorted(deltas)]
    return texts[0] if texts[0] == texts[-1] else f"{texts[0]} to {texts[-1]}"


def _pivot_name(finding: Finding) -> str:
    language = find_language(finding.pivot)
    return language.name if language is not None else finding.pivot
