"""Per-example predictions and their Parquet file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from afp_ray.errors import DataError
from afp_ray.store import write_atomic

_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("language", pa.string()),
        ("shots", pa.int32()),
        ("demo_seed", pa.int64()),
        ("example_id", pa.string()),
        ("content_id", pa.string()),
        ("gold", pa.int32()),
        ("predicted", pa.int32()),
        ("correct", pa.bool_()),
        ("log_likelihoods", pa.list_(pa.float64())),
        ("metric", pa.string()),
        ("text", pa.string()),
        ("reference", pa.string()),
        ("value", pa.float64()),
        ("totals", pa.list_(pa.float64())),
    ],
    metadata={"afp_ray.format": "2"},
)
"""Format 1 ended at `log_likelihoods`; its rows are read as choices."""
NUM_COLUMNS_1 = 10


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model chose or wrote for one example.

    Attributes:
        task, language, shots, demo_seed: the cell that the example was scored in.
        example_id, content_id: as the task names them.
        gold, predicted: index of the right and of the chosen choice; null for a generated text.
        correct: whether they are equal; null for a generated text.
        log_likelihoods: of each choice's continuation, in nats, summed over its tokens; () for a generated text.
        metric: the main metric of the task.
        text, reference: what was generated, and what to compare it with; "" for a choice.
        value: the example's own value of the metric, in [0, 1]; null for a choice, where `correct` says it.
        totals: numbers whose sums over examples give the metric of them all (BLEU: see `text_metrics.bleu_of_totals`);
            () where that is the mean of the values.
    """

    task: str
    language: str
    shots: int
    demo_seed: int
    example_id: str
    content_id: str
    gold: int | None = None
    predicted: int | None = None
    correct: bool | None = None
    log_likelihoods: tuple[float, ...] = ()
    metric: str = "accuracy"
    text: str = ""
    reference: str = ""
    value: float | None = None
    totals: tuple[float, ...] = ()


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """Write `predictions` to a Parquet file, whole or not at all; equal predictions give equal bytes.

    Raises: UnavailableError when the disk refuses.
    """
    columns = {name: [getattr(prediction, name) for prediction in predictions] for name in _SCHEMA.names}
    table = pa.Table.from_pydict(columns, schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions of a file that `write_predictions` wrote, in its order.

    Raises: DataError when the file is absent, broken, or of another form.
    """
    try:
        is_first = "metric" not in pq.read_schema(path).names
        table = pq.read_table(path, schema=pa.schema(list(_SCHEMA)[:NUM_COLUMNS_1]) if is_first else _SCHEMA)
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"no predictions can be read: {error}", where=str(path), fix="score the trial again to write it anew"
        ) from error
    columns = table.to_pydict()
    for name in ("log_likelihoods", "totals"):
        if name in columns:
            columns[name] = [tuple(values) for values in columns[name]]
    return [Prediction(*values) for values in zip(*(columns[name] for name in table.schema.names), strict=True)]
