"""The curve of a training, read from what the trial writes while it trains."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from afp_ray.errors import DataError
from services.service_schemas import TrainingCurve


def curve_answer(file: Path, trial_id: str, *, max_points: int) -> TrainingCurve:
    """The curve of a trial, thinned out evenly; empty before the first step and where nothing is trained.

    Args:
        file: `training.jsonl` of the trial.
        trial_id: its id.
        max_points: steps at most, from 2 up; the first and the last stay.
    Raises: DataError when the file cannot be read.
    """
    rows = list(_rows(file))
    chosen = [rows[index] for index in _spread(len(rows), max_points)]
    names = dict.fromkeys(name for row in chosen for name in row if name != "step")
    return TrainingCurve(
        trial_id=trial_id,
        total=len(rows),
        steps=tuple(row["step"] for row in chosen),
        metrics={name: tuple(row.get(name) for row in chosen) for name in names},
    )


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Lines that are whole: the last one may still be written, and a kill may leave half of one."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"the curve cannot be read: {error.strerror}", where=str(file)) from error
    for line in content.split(b"\n")[:-1]:
        try:
            row = from_json(line)
            is_row = isinstance(row["step"], int)
        except (ValueError, KeyError, TypeError):
            continue
        if is_row:
            yield row


def _spread(length: int, max_points: int) -> Sequence[int]:
    """Indices of at most `max_points` of so many rows, evenly spread, both ends among them."""
    if length <= max_points:
        return range(length)
    step = (length - 1) / (max_points - 1)
    return [round(number * step) for number in range(max_points)]
