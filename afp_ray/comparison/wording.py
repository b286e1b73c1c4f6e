"""Differences in sentences, and p-values adjusted over the family of tests that is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from afp_ray.records import Difference, signed_points
from afp_ray.statistics import PairedDifference, holm, holm_levels

ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Measured:
    """A difference with what its intervals are made from.

    Attributes:
        difference: as it is by itself.
        pair: null where it has no interval.
    """

    difference: Difference
    pair: PairedDifference | None = None


def adjust(measured: Sequence[Measured | None]) -> list[Difference | None]:
    """The differences with their p-values adjusted (Holm) over those that were tested, and the intervals that agree."""
    tested = [index for index, member in enumerate(measured) if member is not None and member.difference.p is not None]
    p_values = [measured[index].difference.p for index in tested]  # type: ignore[union-attr]
    adjusted, levels = holm(p_values), holm_levels(p_values, ALPHA)  # type: ignore[arg-type]
    differences = [None if member is None else member.difference for member in measured]
    for index, p, level in zip(tested, adjusted, levels, strict=True):
        member = measured[index]
        assert member is not None
        update: dict[str, object] = {"p_holm": p}
        if member.pair is not None:
            interval = member.pair.at(level)
            update["ci95_holm"] = (interval.low, interval.high)
        differences[index] = member.difference.model_copy(update=update)
    return differences


def in_words(delta: Difference | None, *, has_base: bool = True, is_base: bool = False, other: str = "base") -> str:
    """A difference to base, or to another arm, as a sentence, in points (hundredths)."""
    if is_base:
        return "the model as it is"
    if delta is None:
        return "no difference was measured" if has_base else "no base to compare with"
    size = points(delta)
    p = p_of(delta)
    if p is None:
        return f"{size} to {other}, not tested"
    if p >= ALPHA:
        # Said, since a reader who holds the interval of this difference alone against it would see 0 left out.
        alone = f"; {p_text(delta.p)} were it compared alone" if delta.p is not None and delta.p < ALPHA else ""
        return f"not distinguishable from {other} ({size}, {p_text(p)}{alone})"
    return f"{'better' if delta.delta > 0 else 'worse'} than {other} ({size}, {p_text(p)})"


def sentence(name: str, delta: Difference | None, *, other: str = "base") -> str:
    """What a difference says of the arm called `name`."""
    if delta is None:
        return f"{name} was not compared with {other}"
    return f"{name} {'differs by' if p_of(delta) is None else 'is'} {in_words(delta, other=other)}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def points(delta: Difference) -> str:
    """A difference with its interval, in points; with the reason where there is none."""
    size = f"{signed_points(delta.delta)} points"
    if delta.shown is not None:
        return f"{size} [{signed_points(delta.shown[0])}, {signed_points(delta.shown[1])}]"
    return f"{size}, {delta.note}" if delta.note else size


def p_of(delta: Difference) -> float | None:
    """The adjusted p-value, else the plain one."""
    return delta.p if delta.p_holm is None else delta.p_holm


def p_text(p: float) -> str:
    """A p-value as it is read."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
