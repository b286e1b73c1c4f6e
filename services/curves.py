"""The curve of a training, read from what the trial writes while it trains."""

from collections.abc import Sequence
from pathlib import Path

from afp_ray.store import read_curve
from services.service_schemas import TrainingCurve


def curve_answer(file: Path, trial_id: str, *, max_points: int) -> TrainingCurve:
    """The curve of a trial, thinned out evenly; empty before the first step and where nothing is trained.

    Args:
        file: `training.jsonl` of the trial.
        trial_id: its id.
        max_points: steps at most, from 2 up; the first and the last stay.
    Raises: DataError when the file cannot be read.
    """
    rows = list(read_curve(file))
    chosen = [rows[index] for index in _spread(len(rows), max_points)]
    names = dict.fromkeys(name for row in chosen for name in row if name != "step")
    return TrainingCurve(
        trial_id=trial_id,
        total=len(rows),
        steps=tuple(row["step"] for row in chosen),
        metrics={name: tuple(row.get(name) for row in chosen) for name in names},
    )


def _spread(length: int, max_points: int) -> Sequence[int]:
    """Indices of at most `max_points` of so many rows, evenly spread, both ends among them."""
    if length <= max_points:
        return range(length)
    step = (length - 1) / (max_points - 1)
    return [round(number * step) for number in range(max_points)]
