"""The confirmed configuration of every arm of a study, with its per-example answers on one split.

Shapes: S seeds, N examples; the examples are the same, in the same order, for every arm.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from afp_ray.comparison.rungs import rung_correlations, rung_warnings
from afp_ray.config import StudyConfig, canonical_json, flatten
from afp_ray.errors import DataError, UserError
from afp_ray.ledger import replay
from afp_ray.methods import METHODS
from afp_ray.records import DeviceHours, RungCorrelation, StudyState, TrialRecord, TrialResult, TrialStatus
from afp_ray.store import StudyPaths, file_digest, list_studies, read_result, read_study

_KEYS = ("task", "language", "shots", "example_id", "content_id")
_GENERATED = ("metric", "value", "totals", "gold")
"""Columns of predictions that a file may lack."""
Column = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Examples:
    """Which example each of the N columns of an arm's values is.

    Attributes:
        task, language, example_id, content_id: (N,) text.
        shots: (N,) number of demonstrations.
        metric: (N,) main metric of the task.
        gold: (N,) index of the right choice, -1 where there is none; null where it is not known.
    """

    task: Column
    language: Column
    shots: Column
    example_id: Column
    content_id: Column
    metric: Column
    gold: Column | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.task)

    def same_as(self, other: "Examples") -> bool:
        """Whether both are the same examples in the same order."""
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _KEYS)


@dataclass(frozen=True, slots=True)
class ConfirmedArm:
    """One arm with the trials that confirm its configuration.

    Attributes:
        study: name of its study.
        name: name in tables; with its study where several are compared.
        records, results: one per seed, in the order of the study's seeds.
        values: (S, N) of the main metric, mean over demonstration seeds; of choices, the share that is right.
        examples: what the N columns are.
        folder: folder of the first seed's trial.
        workers: of one trial, for results that do not say how many they had.
        totals: (S, N, D) numbers whose sums give the metric where it is no mean of values (BLEU), summed over
            demonstration seeds; zeros in the rows of other metrics. Null where every metric is a mean.
    """

    study: str
    name: str
    records: tuple[TrialRecord, ...]
    results: tuple[TrialResult, ...]
    values: NDArray[np.float64]
    examples: Examples
    folder: Path
    totals: NDArray[np.float64] | None = None
    workers: int = 1

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved trial of the first seed."""
        return self.results[0].config

    @property
    def method(self) -> str:
        """The row of the ablation."""
        return str(self.config["method"])

    @property
    def own_tasks(self) -> tuple[str, ...]:
        """Choice tasks of the study's own."""
        return tuple(self.config["evaluation"].get("own_tasks", ()))

    @property
    def is_trained(self) -> bool:
        """Whether its model is not simply one that was there before, as base and published checkpoints are."""
        return int(self.config["training"]["max_steps"]) > 0

    @property
    def pivot(self) -> str:
        """The pivot language."""
        return str(self.config["data"]["pivot"])

    @property
    def hours(self) -> DeviceHours:
        """What one trial cost, mean over seeds."""
        by_seed = [result.hours(self.workers) for result in self.results]
        training = float(np.mean([hours.training for hours in by_seed]))
        startups = [hours.startup for hours in by_seed if hours.startup is not None]
        if len(startups) == len(by_seed):
            evaluation = float(np.mean([hours.evaluation for hours in by_seed]))
            return DeviceHours(training=training, evaluation=evaluation, startup=float(np.mean(startups)))
        rest = float(np.mean([hours.evaluation + (hours.startup or 0.0) for hours in by_seed]))
        return DeviceHours(training=training, evaluation=rest)

    @property
    def training_s(self) -> float:
        """Seconds of the training of one trial, mean over seeds; 0 where nothing was trained."""
        return float(np.mean([result.training.seconds for result in self.results])) if self.is_trained else 0.0

    @property
    def objective(self) -> float | None:
        """The study's objective on validation, mean over seeds."""
        values = [record.objective for record in self.records if record.objective is not None]
        return float(np.mean(values)) if len(values) == len(self.records) else None


@dataclass(slots=True)
class ReadStudy:
    """A study as it lies on disk."""

    paths: StudyPaths
    config: StudyConfig
    state: StudyState
    arms: list[ConfirmedArm] = field(default_factory=list)
    rungs: tuple[RungCorrelation, ...] = ()
    failed: list[str] = field(default_factory=list)
    """Arms that have nothing confirmed since all their trials failed, as tables name them."""
    warnings: list[str] = field(default_factory=list)


def read_confirmed(paths: StudyPaths, *, split: str, prefix: bool = False) -> ReadStudy:
    """Read a study and the confirmed configuration of each of its arms.

    Args:
        paths: where it lies.
        split: whose per-example answers are read.
        prefix: whether arms are named with their study.
    Raises: UserError when there is no such study; DataError when a file of it cannot be read.
    """
    study = ReadStudy(paths, read_config(paths), replay(paths.ledger))
    by_arm: dict[str, list[TrialRecord]] = {}
    for record in study.state.trials:
        by_arm.setdefault(record.arm, []).append(record)
    for name, records in by_arm.items():
        chosen = confirmed_records(records, split)
        shown = f"{paths.name}/{name}" if prefix else name
        if not chosen:
            study.warnings.append(_left_out(name, records))
            study.failed += [shown] if _all_failed(records) else []
            continue
        expected = 1 if "seed" in METHODS.get(chosen[0].config["method"], {}) else len(study.config.seeds)
        if len(chosen) < expected:
            study.warnings.append(f"arm {name} is confirmed at {len(chosen)} of {expected} seeds")
        arm = _read_arm(paths, chosen, split=split, name=shown)
        study.arms.append(replace(arm, workers=study.config.runtime.num_workers))
    study.rungs = rung_correlations(study.state.trials, study.config.pruner, prefix=f"{paths.name}/" if prefix else "")
    study.warnings += rung_warnings(study.rungs)
    if failed := sum(record.status is TrialStatus.FAILED for record in study.state.trials):
        study.warnings.append(f"{failed} of {len(study.state.trials)} trials failed")
    if not study.state.is_complete:
        study.warnings.append(f"study {paths.name} is not complete")
    return study


def _left_out(name: str, records: Sequence[TrialRecord]) -> str:
    """Why an arm without a confirmed configuration is not in the table: its failure, where all of it has failed."""
    held = _all_failed(records)
    last = held[-1].failure if held else None
    if last is None:
        return f"arm {name} has no confirmed configuration yet, so it is left out"
    return f"arm {name} failed, so it is left out: {last.failure_class}: {last.message}"


def _all_failed(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials of an arm of which every one that was not cancelled has failed; none otherwise."""
    held = [record for record in records if record.status is not TrialStatus.CANCELLED]
    return held if all(record.status is TrialStatus.FAILED for record in held) else []


def read_config(paths: StudyPaths) -> StudyConfig:
    """The study as it was run.

    Raises: UserError when there is none of that name, with the names that there are.
    """
    if not paths.study.is_file() or not paths.ledger.is_file():
        names = [other.name for other in list_studies(paths.storage)]
        raise UserError(
            f"there is no study {paths.name!r} under {paths.storage}",
            allowed=", ".join(names) or "none yet",
            fix="give one of these names, or another --storage",
        )
    return read_study(paths)


def arm_of_result(paths: StudyPaths, result: TrialResult, *, split: str, name: str) -> ConfirmedArm:
    """A single finished trial as an arm, with its per-example answers on one split.

    Args:
        paths: the folder that holds its `trials/`.
        result: what the trial gave.
        split: whose answers are read.
        name: its name in tables.
    Raises: DataError when its predictions cannot be read.
    """
    record = TrialRecord(
        trial_id=result.trial_id,
        arm=name,
        seed=int(result.config["seed"]),
        role="test",
        status=TrialStatus.DONE,
        attempt=1,
        config=result.config,
        planned_at=0.0,
    )
    return _read_arm(paths, [record], split=split, name=name)


def confirmed_records(records: Sequence[TrialRecord], split: str) -> list[TrialRecord]:
    """The trials of the arm's confirmed configuration, by seed: most seeds, then the best validation objective."""
    groups: dict[str, dict[int, TrialRecord]] = {}
    for record in records:
        if record.status is TrialStatus.DONE and "test" in record.splits and split in record.splits:
            seedless = {key: value for key, value in flatten(record.config).items() if key not in ("seed", "data.seed")}
            groups.setdefault(canonical_json(seedless), {})[record.seed] = record
    if not groups:
        return []
    ordered = sorted(groups.values(), key=lambda group: -len(group))
    return [ordered[0][seed] for seed in sorted(ordered[0])]


def _read_arm(paths: StudyPaths, records: Sequence[TrialRecord], *, split: str, name: str) -> ConfirmedArm:
    results = tuple(_read_result(paths, record) for record in records)
    tables = [_read_answers(paths, record, split) for record in records]
    examples = tables[0][0]
    for record, (other, *_) in zip(records[1:], tables[1:], strict=True):
        if not examples.same_as(other):
            raise DataError(
                f"trials {records[0].trial_id} and {record.trial_id} of arm {name} answered different examples",
                where=str(paths.folder),
                fix="score both again on the same evaluation data",
            )
    values = np.stack([values for _, values, _ in tables])
    totals = [totals for *_, totals in tables if totals is not None]
    folder = paths.trial(records[0].trial_id).folder
    stacked = np.stack(totals) if totals else None
    return ConfirmedArm(paths.name, name, tuple(records), results, values, examples, folder, stacked)


def _read_result(paths: StudyPaths, record: TrialRecord) -> TrialResult:
    file = paths.trial(record.trial_id).result
    try:
        return read_result(file, check=lambda content: _require_unaltered(paths, record, file, content))
    except DataError as error:
        raise DataError(error.problem, where=error.where, fix=_again(paths)) from error


def _read_answers(
    paths: StudyPaths, record: TrialRecord, split: str
) -> tuple[Examples, NDArray[np.float64], NDArray[np.float64] | None]:
    """Examples in a fixed order, each one's value over demonstration seeds, and totals where a metric has them."""
    file = paths.trial(record.trial_id).predictions_of(split)
    try:
        content = file.read_bytes()
        _require_unaltered(paths, record, file, content)
        table = pq.read_table(pa.BufferReader(content))
        table = table.select([*_KEYS, "correct", *(name for name in _GENERATED if name in table.column_names)])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError("the predictions cannot be read", where=str(file), fix=_again(paths)) from error
    correct = table["correct"].cast("float64")
    has_texts = "metric" in table.column_names
    values = pc.coalesce(table["value"], correct) if has_texts else correct
    metrics = table["metric"] if has_texts else pa.array(["accuracy"] * len(table))
    gold = pc.fill_null(table["gold"], -1) if "gold" in table.column_names else pa.array([-1] * len(table))
    plain = table.select(list(_KEYS)).append_column("value", values).append_column("metric", metrics)
    plain = plain.append_column("gold", gold)
    grouped = plain.group_by(list(_KEYS)).aggregate([("value", "mean"), ("metric", "min"), ("gold", "min")])
    grouped = grouped.sort_by([(name, "ascending") for name in _KEYS])
    columns = [grouped[name].to_numpy(zero_copy_only=False) for name in (*_KEYS, "metric_min", "gold_min")]
    examples = Examples(*columns)
    totals = _sum_totals(table, grouped) if has_texts else None
    return examples, np.asarray(grouped["value_mean"].to_numpy(), dtype=np.float64), totals


def _sum_totals(table: pa.Table, grouped: pa.Table) -> NDArray[np.float64] | None:
    """(N, D) totals of each example, over its rows; null where no row has any."""
    lengths = pc.list_value_length(table["totals"]).to_numpy(zero_copy_only=False)
    width = int(max(lengths, default=0))
    if width == 0:
        return None
    keys = [grouped[name].to_pylist() for name in _KEYS]
    indices = {key: index for index, key in enumerate(zip(*keys, strict=True))}
    summed = np.zeros((len(indices), width))
    rows = zip(*(table[name].to_pylist() for name in (*_KEYS, "totals")), strict=True)
    for *key, totals in rows:
        if totals:
            summed[indices[tuple(key)], : len(totals)] += totals
    return summed


def _require_unaltered(paths: StudyPaths, record: TrialRecord, file: Path, content: bytes) -> None:
    name = str(file.relative_to(paths.trial(record.trial_id).folder))
    if name in record.files and file_digest(name, content) != record.files[name]:
        raise DataError(
            "a file of a finished trial is not what the trial wrote: its SHA-256 differs from the ledger's",
            where=str(file),
            fix=_again(paths),
        )


def _again(paths: StudyPaths) -> str:
    return f"afp resume {paths.name} sets what is left of that trial aside and runs it again"


def check_same_examples(arms: Sequence[ConfirmedArm], *, data: Sequence[str] = ("evaluation", "heldout")) -> None:
    """Refuse to compare arms that were scored on different rows.

    Args:
        arms: to be compared.
        data: the fingerprints that must be equal.
    Raises: DataError naming two arms and what differs.
    """
    for arm in arms[1:]:
        first = arms[0]
        for what in data:
            left, right = (side.results[0].fingerprints.get(what) for side in (first, arm))
            if left != right:
                raise _mixed(first, arm, f"their {what} data differ ({left} and {right})")
        if not first.examples.same_as(arm.examples):
            raise _mixed(first, arm, f"they answered {len(first.examples):,} and {len(arm.examples):,} examples")


def _mixed(left: ConfirmedArm, right: ConfirmedArm, reason: str) -> DataError:
    return DataError(
        f"{left.name} and {right.name} were not scored on the same examples: {reason}",
        fix="compare studies with the same evaluation tasks, languages, shots, limit and data",
    )
