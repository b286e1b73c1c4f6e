"""What is told of finished trials: one by itself, two beside each other, and single examples with their answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from afp_ray.comparison.confirmed import arm_of_result
from afp_ray.comparison.examples import Answered, Choice, answered_examples
from afp_ray.comparison.trial_pairs import paired_differences
from afp_ray.config import StrictModel, TrialConfig, canonical_json, flatten
from afp_ray.config.evaluation import Split
from afp_ray.config.fields import did_you_mean
from afp_ray.errors import ConfigError, DataError
from afp_ray.ledger import replay
from afp_ray.records import (
    Difference,
    Failure,
    LayerMetrics,
    MissingScore,
    Score,
    TrainingSummary,
    TrialExamples,
    TrialRecord,
    TrialResult,
)
from afp_ray.store import find_result, read_incomplete
from afp_ray.tracking.location import find_run
from services.trial_references import StoredTrial, find_trial, nearest_base

_SEEDS = ("seed", "data.seed")
_OF_LEDGER = (
    "arm", "role", "params", "objective", "planned_at", "started_at", "ended_at", "attempt", "failure", "note"
)  # fmt: skip
_OF_RESULT = ("scores", "layers", "training", "seconds", "fingerprints", "environment", "warnings")


class SeedTrial(StrictModel):
    """A trial of the same configuration at another seed."""

    seed: int
    trial_id: str
    status: str
    objective: float | None = None


class TrialSheet(StrictModel):
    """Everything about one trial."""

    trial_id: str
    study: str | None = None
    """Null of a trial that ran by itself, as all that the ledger alone knows."""
    arm: str | None = None
    seed: int
    role: str | None = None
    """What it was planned for first."""
    status: str
    """A `TrialStatus`."""
    folder: str
    config: dict[str, Any]
    """The resolved `TrialConfig`."""
    changed: dict[str, Any]
    """Its fields that have not their default, by dotted name."""
    params: dict[str, Any] = {}
    """Sampled values by dotted name."""
    objective: float | None = None
    """The study's, on validation."""
    scores: tuple[Score, ...] = ()
    missing: tuple[MissingScore, ...] = ()
    """What a failed trial could not score."""
    layers: tuple[LayerMetrics, ...] = ()
    training: TrainingSummary | None = None
    seconds: float | None = None
    """Wall time of all its stages."""
    planned_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    attempt: int = 1
    seeds: tuple[SeedTrial, ...] = ()
    """The same configuration at every seed of the study that it was run at, this one included."""
    checkpoint: str | None = None
    """Folder of the saved model; null where there is none."""
    mlflow_run_id: str | None = None
    failure: Failure | None = None
    fingerprints: dict[str, str] = {}
    environment: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    note: str = ""


class ScorePair(StrictModel):
    """One score of two trials."""

    split: Literal["validation", "test"]
    task: str
    language: str
    shots: int
    metric: str
    a: float | None
    """Null where the trial lacks it."""
    b: float | None
    difference: Difference | None = None
    """B minus A, paired over examples, p-values adjusted (Holm) over the scores of the split; null for a metric that is
    no main one, and where the two did not answer the same examples."""


class TrialDiff(StrictModel):
    """Two trials, and what they differ in."""

    a: TrialSheet
    b: TrialSheet
    config: dict[str, tuple[Any, Any]]
    """Fields that differ, by dotted name: of A and of B."""
    scores: tuple[ScorePair, ...]
    """Those that differ."""
    equal_scores: int
    other: dict[str, tuple[Any, Any]]
    """Costs, content hashes and versions that differ, by name."""
    notes: tuple[str, ...] = ()
    """Why there are no paired differences."""


def show_answer(reference: str, storage: Path) -> TrialSheet:
    """Everything about the trial that `reference` stands for, finished or not.

    Raises: UserError when there is no such trial.
    """
    return _sheet(find_trial(reference, storage))


def _sheet(trial: StoredTrial) -> TrialSheet:
    record, files = trial.record, trial.files
    result = find_result(files.result)
    if record is None and result is None:
        raise DataError(f"trial {trial.trial_id} has no result yet", where=str(files.folder), fix="let it finish")
    config = record.config if record is not None else result.config  # type: ignore[union-attr]
    incomplete = read_incomplete(files) if result is None else None
    fields: dict[str, Any] = {}
    if record is not None:
        fields = {name: getattr(record, name) for name in _OF_LEDGER}
        fields |= {
            "study": trial.study,
            "seeds": _seeds(trial, record),
            "mlflow_run_id": find_run(trial.paths, trial.trial_id),
        }
    if result is not None:
        fields |= {name: getattr(result, name) for name in _OF_RESULT}
    elif incomplete is not None:
        fields |= {"scores": incomplete.scores, "missing": incomplete.missing}
    return TrialSheet(
        trial_id=trial.trial_id,
        seed=int(config["seed"]),
        status=str(record.status) if record is not None else "DONE",
        folder=str(files.folder),
        config=config,
        changed=changed_fields(config),
        checkpoint=str(files.checkpoint) if files.checkpoint.is_dir() else None,
        **fields,
    )


def changed_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a resolved trial that have not their default, by dotted name; its method always."""
    defaults = flatten(TrialConfig(method=config["method"]).model_dump(mode="json"))
    own = flatten(dict(config))
    return {name: value for name, value in own.items() if name == "method" or defaults.get(name, ...) != value}


def _seeds(trial: StoredTrial, record: TrialRecord) -> tuple[SeedTrial, ...]:
    """Trials of the study whose configuration differs in the seed alone, by seed."""

    def seedless(config: Mapping[str, Any]) -> str:
        return canonical_json({name: value for name, value in flatten(dict(config)).items() if name not in _SEEDS})

    own = seedless(record.config)
    same = [
        other
        for other in replay(trial.paths.ledger).trials
        if other.arm == record.arm and seedless(other.config) == own
    ]
    return tuple(
        SeedTrial(seed=other.seed, trial_id=other.trial_id, status=str(other.status), objective=other.objective)
        for other in sorted(same, key=lambda other: other.seed)
    )


def diff_answer(first: str, second: str, storage: Path) -> TrialDiff:
    """What two finished trials differ in: configuration, scores, costs.

    Raises: UserError when one is not there; DataError when one has no result.
    """
    a, b = find_trial(first, storage), find_trial(second, storage)
    left, right = a.result(), b.result()
    differences, notes = _paired(a, b, left, right)
    pairs, num_equal = _score_pairs(left, right, differences)
    return TrialDiff(
        a=_sheet(a),
        b=_sheet(b),
        config=_differing(flatten(left.config), flatten(right.config)),
        scores=tuple(pairs),
        equal_scores=num_equal,
        other=_differing(_facts(left), _facts(right)),
        notes=tuple(notes),
    )


_ScoreKey = tuple[str, str, str, int, str]


def _key(score: Score) -> _ScoreKey:
    return score.split, score.task, score.language, score.shots, score.metric


def _paired(
    a: StoredTrial, b: StoredTrial, left: TrialResult, right: TrialResult
) -> tuple[dict[_ScoreKey, Difference], list[str]]:
    """B minus A for each main score of a split that both were scored on, and why some have none."""
    differences: dict[_ScoreKey, Difference] = {}
    notes: list[str] = []
    for split in [name for name in right.splits if name in left.splits]:
        scores = [score for score in right.scores if score.split == split]
        try:
            trial = arm_of_result(b.paths, right, split=split, name=right.trial_id)
            other = arm_of_result(a.paths, left, split=split, name=left.trial_id)
        except DataError as error:
            notes.append(f"no paired differences on {split}: {error.problem}")
            continue
        if not trial.examples.same_as(other.examples):
            notes.append(f"no paired differences on {split}: the two answered different examples")
            continue
        paired = zip(scores, paired_differences(trial, other, scores), strict=True)
        differences |= {_key(score): difference for score, difference in paired if difference is not None}
    return differences, notes


def _score_pairs(
    left: TrialResult, right: TrialResult, differences: Mapping[_ScoreKey, Difference]
) -> tuple[list[ScorePair], int]:
    """The scores that differ, and the number of those that do not."""
    ours, theirs = ({_key(score): score.value for score in result.scores} for result in (left, right))
    pairs: list[ScorePair] = []
    keys = list(dict.fromkeys([*ours, *theirs]))
    for key in keys:
        a, b = ours.get(key), theirs.get(key)
        if a != b:
            split, task, language, shots, metric = key
            names = {"split": split, "task": task, "language": language, "shots": shots, "metric": metric}
            pairs.append(ScorePair.model_validate({**names, "a": a, "b": b, "difference": differences.get(key)}))
    return pairs, len(keys) - len(pairs)


def _facts(result: TrialResult) -> dict[str, Any]:
    training = {f"training.{name}": value for name, value in result.training.model_dump(mode="json").items()}
    content = {f"content of {name}": digest[:16] for name, digest in result.fingerprints.items()}
    return {**training, "seconds": result.seconds, **content, **result.environment}


def _differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = dict.fromkeys([*left, *right])
    return {name: (left.get(name), right.get(name)) for name in names if left.get(name) != right.get(name)}


def examples_answer(
    reference: str,
    storage: Path,
    *,
    against: str | None = None,
    split: Split | None = None,
    task: str | None = None,
    language: str | None = None,
    is_flipped: bool = False,
    limit: int | None = 10,
) -> TrialExamples:
    """Examples that a trial answered, beside what base or another trial answered.

    Args:
        reference: the trial.
        storage: folder of the studies.
        against: the other trial; None takes the base of its study that is nearest.
        split: None takes test where the trial was scored on it, else validation.
        task, language: of the examples; None takes all.
        is_flipped: those alone that the two answered differently.
        limit: examples at most; None gives all.
    Raises: UserError for a trial, task or language that is not there; DataError without predictions.
    """
    trial = find_trial(reference, storage)
    result = trial.result()
    split = split or ("test" if "test" in result.splits else "validation")
    _require_scored(result, task=task, language=language)
    other = find_trial(against, storage) if against is not None else nearest_base(trial, split)
    if other is None and is_flipped:
        raise ConfigError(
            f"trial {trial.trial_id} has no base to compare with",
            where="--flipped",
            fix="name another trial: --against TRIAL",
        )
    beside = _answered(other) if other is not None else None
    choice = Choice(split, task=task, language=language, is_flipped=is_flipped, limit=limit)
    return answered_examples(_answered(trial), beside, choice)


def _answered(trial: StoredTrial) -> Answered:
    result, record = trial.result(), trial.record
    is_base = result.config["method"] == "base"
    name = trial.trial_id[:6] if record is None else record.arm if is_base else f"{record.arm} seed {record.seed}"
    return Answered(name, result, trial.files)


def _require_scored(result: TrialResult, *, task: str | None, language: str | None) -> None:
    main = [score for score in result.scores if score.is_main]
    for option, value, names in (
        ("--task", task, [score.task for score in main]),
        ("--language", language, [score.language for score in main]),
    ):
        if value is not None and value not in names:
            allowed: Sequence[str] = list(dict.fromkeys(names))
            raise ConfigError(
                f"trial {result.trial_id} was not scored on {value[:80]!r}",
                where=option,
                allowed=", ".join(allowed),
                fix=did_you_mean(value, allowed) or "give one of these",
            )
