"""Keeps the instructions with the best scores, read from a file or given by a model.

Source: AlpaGasus keeps 9,000 of 52,000 by score, arXiv:2307.08701.
"""

import math
from collections.abc import Mapping, Sequence

from afp_ray.data.readers.files import SourceFile, digest, expand_path, plain_file, rows_file
from afp_ray.data.readers.jsonl import read_whole
from afp_ray.data.rows import ParallelInstruction
from afp_ray.errors import DataError

_ALLOWED = '{"id": "...", "score": 4.5} a line, higher is better'


def keep_best(
    rows: Sequence[ParallelInstruction], scores: Mapping[str, float] | Sequence[float], k: int
) -> list[ParallelInstruction]:
    """The `k` rows of the highest scores, in their order in `rows`.

    Args:
        rows: candidates.
        scores: one score a row, or scores by `content_id`, with or without the name of the corpus before its colon.
        k: rows to keep, >= 1; all of them when there are no more.
    Returns: `k` rows; of equal scores, those of the lower `content_id`, then the earlier ones.
    Raises: DataError for a row without a score, or a score that is no number.
    """
    values = _values(rows, scores) if isinstance(scores, Mapping) else list(scores)
    assert len(values) == len(rows), "one score a row"
    for row, value in zip(rows, values, strict=True):
        _require_number(value, f"instruction {row.content_id}")
    order = sorted(range(len(rows)), key=lambda index: (-values[index], rows[index].content_id, index))
    return [rows[index] for index in sorted(order[:k])]


def read_scores(path: str) -> dict[str, float]:
    """Scores by id, from a JSONL file.

    Args:
        path: `~` and `${AFP_DATA_DIR}` are expanded.
    Raises: DataError naming the line, for a file that is missing, a line in another form, an id given twice, NaN.
    """
    file = expand_path(path)
    return _parse(rows_file(file) or plain_file(file))


def scores_digest(path: str) -> str:
    """SHA-256 of the bytes of a file of scores, in hex.

    Raises: DataError when it is missing or cannot be read.
    """
    return digest(plain_file(expand_path(path)))


def _parse(file: SourceFile) -> dict[str, float]:
    scores: dict[str, float] = {}
    for where, row in read_whole(file):
        if not isinstance(row.get("id"), str | int) or "score" not in row:
            raise DataError(f"no `id` and `score`, but {', '.join(row)}", where=where, allowed=_ALLOWED)
        name = str(row["id"])
        if name in scores:
            raise DataError(f"the id {name!r} is given twice", where=where, fix="keep one score for each id")
        scores[name] = _require_number(row["score"], where)
    if not scores:
        raise DataError("the file holds no scores", where=file.label, allowed=_ALLOWED)
    return scores


def _require_number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"the score {value!r} is no finite number", where=where, allowed=_ALLOWED)
    return float(value)


def _values(rows: Sequence[ParallelInstruction], scores: Mapping[str, float]) -> list[float]:
    values = []
    for row in rows:
        names = (name for name in (row.content_id, row.content_id.partition(":")[2]) if name in scores)
        name = next(names, None)
        if name is None:
            raise DataError(
                f"no score for instruction {row.content_id!r}",
                where="data.instruction_scores",
                allowed="a score for every instruction that the filter lets pass",
                fix="add a line with this id, or set data.keep_best: null",
            )
        values.append(scores[name])
    return values
