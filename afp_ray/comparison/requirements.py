"""Statements about two arms that a pipeline requires: `afp > base`, `mcl >= afp`."""

import re
from collections.abc import Sequence

from afp_ray.comparison.confirmed import ConfirmedArm, read_confirmed
from afp_ray.comparison.metric import Metric, measure
from afp_ray.comparison.shared import comparable
from afp_ray.comparison.wording import adjust, sentence
from afp_ray.errors import ConfigError
from afp_ray.records import Difference, Requirement
from afp_ray.store import StudyPaths

_STATEMENT = re.compile(r"\s*(.+?)\s*(>=|>)\s*([^>=].*?)\s*")


def check_requirements(paths: Sequence[StudyPaths], texts: Sequence[str], *, split: str = "test") -> list[Requirement]:
    """Whether each statement about the arms' mean scores holds.

    `a > b` holds when a is significantly better than b, `a >= b` unless it is significantly worse; p-values are
    adjusted (Holm) over the statements.

    Args:
        paths: the studies; arms are named as in their table.
        texts: the statements.
        split: whose scores are compared.
    Raises: ConfigError for a statement of another form or an arm that there is not.
    """
    studies = [read_confirmed(study_paths, split=split, prefix=len(paths) > 1) for study_paths in paths]
    compared, _ = comparable([arm for study in studies for arm in study.arms], metric="mean")
    arms = {arm.name: arm for arm in compared}
    parsed = [_parse(text, arms) for text in texts]
    differences = adjust([measure(Metric("mean"), left, right, split) for left, _, right in parsed])
    return [
        Requirement(
            text=text,
            ok=_holds(sign, delta),
            difference=delta,
            verdict=sentence(left.name, delta, other=right.name),
        )
        for text, (left, sign, right), delta in zip(texts, parsed, differences, strict=True)
    ]


def _parse(text: str, arms: dict[str, ConfirmedArm]) -> tuple[ConfirmedArm, str, ConfirmedArm]:
    match = _STATEMENT.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is no requirement", where="--require", fix="write --require 'afp > base'")
    left, sign, right = match.groups()
    for name in (left, right):
        if name not in arms:
            raise ConfigError(
                f"there is no confirmed arm {name!r}", where="--require", allowed=", ".join(arms) or "none yet"
            )
    return arms[left], sign, arms[right]


def _holds(sign: str, delta: Difference | None) -> bool:
    if delta is None or delta.p is None:
        return False
    if sign == ">":
        return delta.is_significant and delta.delta > 0
    return not (delta.is_significant and delta.delta < 0)
