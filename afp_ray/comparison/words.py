"""Differences in sentences, and p-values adjusted over the family of tests that is shown."""

from collections.abc import Sequence

from afp_ray.findings import Difference
from afp_ray.statistics import holm

ALPHA = 0.05


def adjust(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """The same differences with their p-values adjusted (Holm) over those that were tested."""
    tested = [index for index, item in enumerate(differences) if item is not None and item.p is not None]
    adjusted = holm([differences[index].p for index in tested])  # type: ignore[union-attr, misc]
    found: list[Difference | None] = list(differences)
    for index, p in zip(tested, adjusted, strict=True):
        found[index] = differences[index].model_copy(update={"p_holm": p})  # type: ignore[union-attr]
    return found


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
        return f"not distinguishable from {other} ({size}, {p_text(p)})"
    return f"{'better' if delta.delta > 0 else 'worse'} than {other} ({size}, {p_text(p)})"


def points(delta: Difference) -> str:
    """A difference with its interval, in points."""
    size = f"{100 * delta.delta:+.1f} points"
    if delta.ci95 is not None:
        size += f" [{100 * delta.ci95[0]:+.1f}, {100 * delta.ci95[1]:+.1f}]"
    return size


def p_of(delta: Difference) -> float | None:
    """The adjusted p-value, else the plain one."""
    return delta.p if delta.p_holm is None else delta.p_holm


def p_text(p: float) -> str:
    """A p-value as it is read."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
