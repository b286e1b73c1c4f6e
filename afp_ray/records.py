"""What rooms hand each other: scores, trial results, jobs, ledger events and the state replayed from them."""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from afp_ray.config.base import StrictModel
from afp_ray.findings import (
    ArmRow,
    Best,
    Cheapest,
    Comparison,
    ComponentEffect,
    ConstraintCheck,
    DeviceHours,
    Difference,
    FieldImportance,
    FrontPoint,
    Interval,
    LanguageSummary,
    MajorityRow,
    ParetoPoint,
    RepresentationRow,
    Requirement,
    RungCorrelation,
    RunnerUp,
    ScoreSummary,
    SearchFront,
    TableCell,
)

__all__ = [
    "MAIN_METRICS",
    "ArmRow",
    "Best",
    "Cheapest",
    "Comparison",
    "ComponentEffect",
    "ConstraintCheck",
    "Difference",
    "Failure",
    "FailureClass",
    "FieldImportance",
    "FrontPoint",
    "IncompleteScores",
    "Interval",
    "Job",
    "LanguageSummary",
    "LayerMetrics",
    "LedgerEvent",
    "MajorityRow",
    "MissingScore",
    "ParetoPoint",
    "RepresentationRow",
    "Requirement",
    "Role",
    "RungCorrelation",
    "RunnerUp",
    "Score",
    "ScoreSummary",
    "SearchFront",
    "StudyState",
    "TableCell",
    "TrainingSummary",
    "TrialRecord",
    "TrialResult",
    "TrialStatus",
    "Until",
]


class TrialStatus(StrEnum):
    """State of a trial in the ledger."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    """Scored at a rung; continued when it is promoted, PRUNED when it never is."""
    DONE = "DONE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether no further event is expected (a FAILED trial may still be retried by a new attempt)."""
        return self not in (TrialStatus.PLANNED, TrialStatus.RUNNING, TrialStatus.PAUSED)


class FailureClass(StrEnum):
    """Why a trial failed; decides whether a fresh attempt makes sense."""

    DIVERGED = "DIVERGED"
    PREEMPTED = "PREEMPTED"
    """Its machine was taken away; it goes on from its checkpoint, and that counts as no retry."""
    INFRA = "INFRA"
    STORAGE = "STORAGE"
    """The disk was full or refused; the study stops, and the trial runs again when it is continued."""
    OOM = "OOM"
    DATA = "DATA"
    CONFIG = "CONFIG"
    BUG = "BUG"


Role = Literal["search", "confirm", "test"]

MAIN_METRICS = ("accuracy", "bleu", "rouge1", "target_language_rate", "exact_match", "f1")
"""The metric of each kind of task that means, objectives and comparisons read; a task has one of them."""


class Score(StrictModel):
    """One number: a task (or representation metric) in one language at one number of shots on one split."""

    task: str
    """Name of the task; `retrieval` for the representation metrics."""
    language: str
    shots: int = 0
    split: Literal["validation", "test"]
    metric: str
    """`accuracy`; of generated text `bleu`, `chrf++`, `spbleu`, `rouge1`, `rouge2`, `rougeL`, `target_language_rate`,
    `unknown_language_rate`, `exact_match`, `f1`, `em`; of representations `retrieval@1`, `alignment`, `uniformity`."""
    value: float
    """In [0, 1], BLEU and chrF++ too; alignment and uniformity as arXiv:2005.10242 defines them."""
    n: int
    """Examples behind the value."""
    standard_error: float | None = None
    """Of the value over examples; null where none is defined."""
    demo_deviation: float | None = None
    """Sample standard deviation of the values of single demonstration seeds; null where there is one seed."""
    majority: float | None = None
    """Accuracy of always giving the most frequent right answer of these examples; null but for choice tasks."""
    signature: str = ""
    """How a metric of generated text was computed: sacreBLEU's signature, or tokenizer and limits; "" elsewhere."""

    @property
    def is_main(self) -> bool:
        """Whether means, objectives and comparisons read it."""
        return self.metric in MAIN_METRICS


class MissingScore(StrictModel):
    """A task that could not be scored in one language on one split, at any number of shots."""

    task: str
    language: str
    split: Literal["validation", "test"]
    problem: str
    """Kind and first line of the error."""


class IncompleteScores(StrictModel):
    """What a trial scored that could not score everything; `incomplete.json` of a trial that failed for it."""

    scores: tuple[Score, ...]
    missing: tuple[MissingScore, ...]


class LayerMetrics(StrictModel):
    """Representation metrics of one layer and pooling for one language and split."""

    split: Literal["validation", "test"]
    language: str
    layer: int
    """Index into `hidden_states`; 0 is the embedding output."""
    pooling: Literal["last", "mean"]
    retrieval_at_1: float
    """Share of pairs whose translation is the nearest neighbour, mean of both directions, in [0, 1]."""
    alignment: float
    """Mean squared distance of the unit vectors of a pair; lower is better."""
    uniformity: float
    """Log of the mean Gaussian potential over both sides; lower is better."""
    n: int
    retrieval_from_pivot: float | None = None
    """Share of the pivot's sentences whose translation is the nearest one; null in results of before it was kept, as
    the fields below."""
    retrieval_to_pivot: float | None = None
    """Likewise, from the language to the pivot."""
    anisotropy: float | None = None
    """Mean cosine of two sentences of a side, mean of both sides; 1 where all states point the same way."""
    language_probe: float | None = None
    """Share of the language's sentences whose language a linear probe tells, among the pivot and all languages."""
    language_probe_chance: float | None = None
    """What a probe that knows nothing reaches: one in the number of languages."""


class TrainingSummary(StrictModel):
    """What the training of a trial did and cost."""

    steps: int
    tokens: int = 0
    """Real (unpadded) tokens that went through the model in training."""
    dropped_tokens: int = 0
    """Tokens cut off by `max_length`."""
    seconds: float = 0.0
    gpu_hours: float = 0.0
    """Hours of GPUs held (of workers where there is no GPU), evaluation included."""
    training_hours: float | None = None
    """Of them those of the steps, over all attempts; null in results of before they were told apart, as both below."""
    evaluation_hours: float | None = None
    """Of them those of scoring."""
    workers: int | None = None
    """Of the last attempt."""
    peak_memory_bytes: int = 0
    """Highest GPU memory allocated, or resident memory on CPU."""
    contrastive_loss: float | None = None
    """Mean over the last tenth of the steps, in nats; null when the term is off."""
    instruction_loss: float | None = None
    """Likewise, in nats per supervised token."""
    gradient_cosine: float | None = None
    """Mean cosine between the gradients of the two terms; null when it was not measured."""
    gradient_ratio: float | None = None
    """Mean norm of the instruction term's gradient over that of the contrastive term's, weights included; likewise."""
    trainable_parameters: int | None = None
    """Weights that were trained, tied ones counted once; null in results of before it was counted."""
    micro_batch_size: int | None = None
    """Instructions of one forward pass of a worker at the end; null where nothing was trained."""
    pair_chunk_size: int | None = None
    """Likewise pairs."""
    num_halvings: int = 0
    """How often memory ran out and both were halved."""
    resumed_from_step: int | None = None
    """Steps that the last attempt found done; null when it began at the first one."""
    notes: tuple[str, ...] = ()
    """What went wrong on the way and was survived, in sentences."""


class Until(StrictModel):
    """The rung up to which a job trains, on the way to the whole training of its trial."""

    rung: int
    """0-based."""
    unit: Literal["steps", "tokens", "rows"]
    amount: int
    """Of `unit`, counted from the start of the training."""


class TrialResult(StrictModel):
    """What one trial gave; durable as `result.json` before anything else hears of it."""

    trial_id: str
    status: Literal["DONE", "PAUSED"] = "DONE"
    """PAUSED at a rung: scored there, and not trained to its end."""
    config: dict[str, Any]
    """The resolved `TrialConfig` as JSON."""
    until: Until | None = None
    """With PAUSED: the rung."""
    splits: tuple[str, ...]
    """Splits that were scored."""
    scores: tuple[Score, ...]
    layers: tuple[LayerMetrics, ...] = ()
    training: TrainingSummary
    checkpoint: str | None = None
    """Folder of the saved model, relative to the trial's folder; null when none was kept."""
    predictions: dict[str, str] = {}
    """Parquet file of per-example predictions by split, relative to the trial's folder."""
    fingerprints: dict[str, str] = {}
    """Content hashes of model, data and evaluation rows."""
    environment: dict[str, str] = {}
    """Versions and device."""
    seconds: float = 0.0
    """Wall time of the trial, all stages."""
    warnings: tuple[str, ...] = ()

    def hours(self, workers: int) -> DeviceHours:
        """What the trial cost.

        Args:
            workers: that it had, for a result that does not say so.
        """
        ran, trained = self.training, 0.0
        if self.config["training"]["max_steps"] > 0:
            of_steps = ran.seconds * (ran.workers or workers) / 3600
            trained = of_steps if ran.training_hours is None else ran.training_hours
        rest = max(0.0, ran.gpu_hours - trained)
        if ran.evaluation_hours is None:
            return DeviceHours(training=trained, evaluation=rest)
        scored = min(ran.evaluation_hours, rest)
        return DeviceHours(training=trained, evaluation=scored, startup=rest - scored)


class Job(StrictModel):
    """One piece of work for an executor: a trial, and which splits to score."""

    trial_id: str
    arm: str
    seed: int
    role: Role
    """`search` and `confirm` train and score validation; `confirm` and `test` score the test split too."""
    config: dict[str, Any]
    params: dict[str, Any] = {}
    """Sampled values by dotted name; empty where nothing was searched."""
    attempt: int = 1
    until: Until | None = None
    """Null trains to the end."""
    num_halvings: int = 0
    """How often its micro-batch was halved because earlier attempts ran out of memory."""

    @property
    def splits(self) -> tuple[Literal["validation", "test"], ...]:
        """Splits that this job scores."""
        return ("validation",) if self.role == "search" else ("validation", "test")


class Failure(StrictModel):
    """Why an attempt ended without a result."""

    failure_class: FailureClass
    message: str
    """First line of the error."""
    traceback: str = ""
    step: int | None = None
    """Optimizer step of a divergence."""


class LedgerEvent(StrictModel):
    """One line of `ledger.jsonl`."""

    time: float
    """Seconds since the epoch, UTC."""
    trial_id: str | None
    """Null for events of the whole study."""
    state: str
    """A `TrialStatus`, or `OPENED` / `CLOSED` for the study."""
    attempt: int
    """1-based attempt of the trial, or of the driver."""
    role: Role | None = None
    arm: str | None = None
    seed: int | None = None
    config: dict[str, Any] | None = None
    """With PLANNED only."""
    params: dict[str, Any] | None = None
    """With PLANNED only."""
    objective: float | None = None
    """With DONE and PAUSED: the study's objective on the validation split."""
    values: dict[str, float] | None = None
    """With DONE and PAUSED: further metrics that the study asks for, on the validation split."""
    until: Until | None = None
    """With PLANNED, of a trial that is to pause at a rung, and with PAUSED."""
    num_halvings: int | None = None
    """With PLANNED, where an attempt before ran out of memory: how often the micro-batch is halved."""
    splits: tuple[str, ...] | None = None
    """With DONE."""
    gpu_hours: float | None = None
    """With DONE."""
    files: dict[str, str] | None = None
    """With DONE: digests of the result and the predictions, by their names in the trial's folder."""
    is_afresh: bool | None = None
    """With PLANNED, of a finished trial whose files are lost or were altered: it is finished no longer."""
    failure: Failure | None = None
    """With FAILED."""
    note: str = ""
    """`adopted` when the result was found on disk, the study that it came from, or why a study was closed."""
    study_hash: str | None = None
    """With OPENED: hash of the study without its runtime."""
    packages: dict[str, str] | None = None
    """With OPENED: versions of the packages that scores depend on, where the driver runs."""
    driver: str | None = None
    """Token of the driver that wrote it; null in ledgers of before there were tokens."""
    check: str | None = None
    """CRC-32 of the line without this field, which stands last; null in ledgers of before there were checks."""


class TrialRecord(StrictModel):
    """A trial as replayed from the ledger."""

    trial_id: str
    arm: str
    seed: int
    role: Role
    """Role it was planned for first."""
    status: TrialStatus
    attempt: int
    config: dict[str, Any]
    params: dict[str, Any] = {}
    objective: float | None = None
    values: dict[str, float] = {}
    """Further objectives and constrained metrics on validation, by name."""
    until: Until | None = None
    """The rung that it was planned for last; null where that is the whole training."""
    num_halvings: int = 0
    """How often its micro-batch was halved because an attempt ran out of memory."""
    rungs: tuple[float, ...] = ()
    """The study's objective at every rung that it reached."""
    splits: tuple[str, ...] = ()
    files: dict[str, str] = {}
    """Digests of the result and the predictions; empty where the ledger is of before they were kept."""
    gpu_hours: float = 0.0
    failure: Failure | None = None
    note: str = ""
    planned_at: float
    started_at: float | None = None
    ended_at: float | None = None
    test_pending: bool = False
    """A test job was planned and has not ended."""


class StudyState(StrictModel):
    """A study as replayed from its ledger."""

    name: str
    study_hash: str | None = None
    opened_at: float | None = None
    closed: str | None = None
    """Why the last driver closed the study; null while one is driving or after a kill."""
    driver_attempt: int = 0
    packages: dict[str, str] = {}
    """Versions that the last driver had; empty in ledgers of before they were kept."""
    trials: tuple[TrialRecord, ...] = Field(default=())
    """In the order in which they were planned."""

    def trial(self, trial_id: str) -> TrialRecord | None:
        """The trial of that id, or None."""
        return next((trial for trial in self.trials if trial.trial_id == trial_id), None)


OnEvent = Callable[[LedgerEvent, StudyState], None]
"""Told each event of a ledger, and the state after it."""
