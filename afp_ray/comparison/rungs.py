"""Whether the rungs of a study that stops trials early tell what the whole training tells, and a warning where not.

Ranked are the trials of an arm's search that were scored at both amounts. Those that were stopped in between cannot be
among them, and what is left is more alike than all that began, so that noise turns its order more easily: what the
correlation would be over all of them is estimated beside it.
"""

from collections.abc import Sequence

from afp_ray.config import PrunerConfig
from afp_ray.records import RungCorrelation, TrialRecord, TrialStatus
from afp_ray.statistics import MIN_PAIRS, rank_correlation, unrestricted_correlation

LIMIT = 0.5
"""A correlation below this is warned about."""


def rung_correlations(
    trials: Sequence[TrialRecord], pruner: PrunerConfig, *, prefix: str = ""
) -> tuple[RungCorrelation, ...]:
    """Every rung against every later one and the end, arm by arm; nothing where no trial was ever paused.

    Args:
        trials: of a study.
        pruner: of the study.
        prefix: before the names of its arms.
    """
    by_arm: dict[str, list[TrialRecord]] = {}
    for record in trials:
        if record.role == "search" and record.rungs:
            by_arm.setdefault(record.arm, []).append(record)
    rows = []
    for arm, searched in by_arm.items():
        amounts = _amounts(searched, pruner.factor)
        for first, later in _ordered_pairs(len(amounts)):
            later_amount = None if later is None else amounts[later]
            pairs = _both(searched, first, later)
            everything = [trial.rungs[first] for trial in searched if first < len(trial.rungs)]
            rows.append(_row(prefix + arm, pruner.unit, (amounts[first], later_amount), pairs, everything))
    return tuple(rows)


def _ordered_pairs(num_rungs: int) -> list[tuple[int, int | None]]:
    """Each rung with every later one, the end last."""
    return [(first, later) for first in range(num_rungs) for later in (*range(first + 1, num_rungs), None)]


def _amounts(trials: Sequence[TrialRecord], factor: int) -> list[int]:
    """The amount of every rung that was reached, from the trials that stand on one."""
    reached = {trial.until.rung: trial.until.amount for trial in trials if trial.until is not None}
    if not reached:  # every trial went on to its end, so that nothing tells where the rungs were
        return []
    rung, amount = min(reached.items())
    steps = range(max(len(trial.rungs) for trial in trials))
    return [reached.get(step, round(amount * float(factor) ** (step - rung))) for step in steps]


def _both(trials: Sequence[TrialRecord], first: int, later: int | None) -> list[tuple[float, float]]:
    """Scores at two rungs, or at a rung and the end, of the trials that have both."""
    pairs = []
    for trial in trials:
        if later is None:
            after = trial.objective if trial.status is TrialStatus.DONE else None
        else:
            after = trial.rungs[later] if later < len(trial.rungs) else None
        if after is not None and first < len(trial.rungs):
            pairs.append((trial.rungs[first], after))
    return pairs


def _row(
    arm: str,
    unit: str,
    amounts: tuple[int, int | None],
    pairs: Sequence[tuple[float, float]],
    everything: Sequence[float],
) -> RungCorrelation:
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    correlation = rank_correlation(before, after)
    if len(pairs) < MIN_PAIRS:
        trials = f"{len(pairs)} trial{'s were' if len(pairs) != 1 else ' was'} scored at both"
        verdict = f"cannot be told: {trials}, and {MIN_PAIRS} are needed"
    elif correlation is None:
        verdict = f"cannot be told: {len(pairs)} trials scored alike"
    else:
        interval = (
            f", 95 % interval {correlation.low:.2f} to {correlation.high:.2f}" if correlation.n > MIN_PAIRS else ""
        )
        verdict = f"rank correlation {correlation.rho:.2f} over {correlation.n} trials{interval}"
    of_all = None if correlation is None else unrestricted_correlation(before, after, everything)
    if of_all is not None and len(everything) > len(pairs):
        verdict += f"; about {of_all:.2f} for all {len(everything)} that were scored there"
    amount, later = amounts
    return RungCorrelation(
        arm=arm,
        unit=unit,
        amount=amount,
        later=later,
        n=len(pairs),
        rho=None if correlation is None else correlation.rho,
        ci95=None if correlation is None else (correlation.low, correlation.high),
        p=None if correlation is None else correlation.p,
        of_all=of_all,
        verdict=f"{arm}: the ranking at {amount:,} {unit} against that at {_in_words(unit, later)}: {verdict}",
    )


def _in_words(unit: str, later: int | None) -> str:
    return "the end" if later is None else f"{later:,} {unit}"


def rung_warnings(rows: Sequence[RungCorrelation]) -> list[str]:
    """What a reader of the results has to know: rungs that say little, and arms of whose rungs nothing is known.

    A rung is judged by the end of the training; where too few trials came so far, by the latest rung that enough did.
    """
    judged: dict[tuple[str, int], RungCorrelation | None] = {}
    for row in rows:  # of each rung the end comes last
        judged[row.arm, row.amount] = row if row.rho is not None else judged.get((row.arm, row.amount))
    warnings = []
    for row in filter(None, judged.values()):
        if row.rho is not None and row.rho < LIMIT:
            warnings.append(f"{row.arm}: {_doubt(row)}")
    for arm in dict.fromkeys(row.arm for row in rows):
        if all(row.rho is None for row in rows if row.arm == arm):
            most = max(row.n for row in rows if row.arm == arm)
            warnings.append(
                f"{arm}: whether the ranking at a rung tells the ranking at the end is not known: {most} of its trials "
                f"got as far as a second score, and {MIN_PAIRS} are needed; raise budget.trials"
            )
    return warnings


def _doubt(row: RungCorrelation) -> str:
    """What a low correlation means: a rung that says little, or the best of many, whose order noise turns."""
    what = f"rank correlation {row.rho:.2f} over {row.n} trials"
    end = _in_words(row.unit, row.later)
    if row.of_all is None or row.of_all < LIMIT:
        return (
            f"the ranking at {row.amount:,} {row.unit} says little about the ranking at {end}: {what}; raise pruner.min"
        )
    return (
        f"the trials that went on from {row.amount:,} {row.unit} were ranked otherwise at {end}: {what}, but about "
        f"{row.of_all:.2f} for all, since only the best went on; raise pruner.min where more depends on it"
    )
