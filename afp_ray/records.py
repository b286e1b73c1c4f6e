"""What rooms hand each other: scores, trial results, jobs, ledger events and the state replayed from them."""

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from afp_ray.config.base import StrictModel


class TrialStatus(StrEnum):
    """State of a trial in the ledger."""

    PLANNED = "PLANNED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether no further event is expected (a FAILED trial may still be retried by a new attempt)."""
        return self not in (TrialStatus.PLANNED, TrialStatus.RUNNING)


class FailureClass(StrEnum):
    """Why a trial failed; decides whether a fresh attempt makes sense."""

    DIVERGED = "DIVERGED"
    INFRA = "INFRA"
    OOM = "OOM"
    DATA = "DATA"
    CONFIG = "CONFIG"
    BUG = "BUG"


Role = Literal["search", "confirm", "test"]


class Score(StrictModel):
    """One number: a task (or representation metric) in one language at one number of shots on one split."""

    task: str
    """Name of the task; `retrieval` for the representation metrics."""
    language: str
    shots: int = 0
    split: Literal["validation", "test"]
    metric: str
    """`accuracy`, `retrieval@1`, `alignment` or `uniformity`."""
    value: float
    """Accuracy and retrieval in [0, 1]; alignment and uniformity as arXiv:2005.10242 defines them."""
    n: int
    """Examples behind the value."""
    standard_error: float | None = None
    """Of the value over examples; null where none is defined."""


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
    peak_memory_bytes: int = 0
    """Highest GPU memory allocated, or resident memory on CPU."""
    contrastive_loss: float | None = None
    """Mean over the last tenth of the steps, in nats; null when the term is off."""
    instruction_loss: float | None = None
    """Likewise, in nats per supervised token."""
    gradient_cosine: float | None = None
    """Mean cosine between the gradients of the two terms; null when it was not measured."""


class TrialResult(StrictModel):
    """What one trial gave; durable as `result.json` before anything else hears of it."""

    trial_id: str
    status: Literal["DONE"] = "DONE"
    config: dict[str, Any]
    """The resolved `TrialConfig` as JSON."""
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
    """With DONE: the study's objective on the validation split."""
    splits: tuple[str, ...] | None = None
    """With DONE."""
    gpu_hours: float | None = None
    """With DONE."""
    failure: Failure | None = None
    """With FAILED."""
    note: str = ""
    """`adopted` when the result was found on disk, the study that it came from, or why a study was closed."""
    study_hash: str | None = None
    """With OPENED: hash of the study without its runtime."""


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
    splits: tuple[str, ...] = ()
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
    trials: tuple[TrialRecord, ...] = Field(default=())
    """In the order in which they were planned."""

    def trial(self, trial_id: str) -> TrialRecord | None:
        """The trial of that id, or None."""
        return next((trial for trial in self.trials if trial.trial_id == trial_id), None)


Interval = tuple[float, float]


class ScoreSummary(StrictModel):
    """A mean over seeds with its 95 % interval over examples (and seeds, where there are several)."""

    mean: float
    ci95: Interval | None = None
    """Null where the metric has no per-example values."""
    n_seeds: int


class Difference(StrictModel):
    """One arm minus another over the same examples."""

    delta: float
    """Positive is better, whatever the direction of the metric."""
    ci95: Interval | None = None
    """Paired bootstrap over contents, 95 %."""
    p: float | None = None
    """Paired permutation test over contents, two-sided, unadjusted."""
    p_holm: float | None = None
    """`p` after Holm over the arms of the table; null where nothing was tested."""
    test: str = "paired bootstrap and permutation, clustered by content"
    n: int = 0
    """Examples that both arms answered."""

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted (else the plain) p-value is below 0.05."""
        p = self.p if self.p_holm is None else self.p_holm
        return p is not None and p < 0.05


class LanguageSummary(StrictModel):
    """One language of a configuration, mean over its tasks."""

    score: float
    delta: float | None = None
    ci95: Interval | None = None
    """Of the difference to base."""
    significant: bool = False


class ConstraintCheck(StrictModel):
    """A limit that the best configuration had to keep, or a guard that it is reported against."""

    value: float
    limit: float
    ok: bool


class RunnerUp(StrictModel):
    """The second best arm, and how far behind it is."""

    arm: str
    score: float
    behind: Difference | None = None
    """Best minus runner-up."""
    verdict: str


class Best(StrictModel):
    """The best confirmed configuration of a study."""

    study: str
    objective: str
    """The metric that chose, with its direction."""
    split: Literal["validation", "test"]
    """Split of every number here; the choice itself was made on validation."""
    arm: str
    config: dict[str, Any]
    """The resolved `TrialConfig` of the first seed."""
    score: ScoreSummary
    vs_base: Difference | None = None
    """Null where the study has no base, or the best arm is base itself."""
    per_language: dict[str, LanguageSummary] = {}
    constraints: dict[str, ConstraintCheck] = {}
    p_best: float | None = None
    """Share of resamples in which this arm stays ahead of every other."""
    runner_up: RunnerUp | None = None
    gpu_hours: float
    """Of one trial of this configuration, mean over seeds."""
    checkpoint: str | None = None
    """Folder of the saved model of the first seed."""
    mlflow_run_id: str | None = None
    trials: tuple[str, ...]
    reproduce: str
    """Command that runs the same study again, or continues it."""
    warnings: tuple[str, ...] = ()


class TableCell(StrictModel):
    """One arm on one (task, language, shots), or on a mean of such cells."""

    task: str
    """`mean` and `pivot_mean` are the means over tasks, languages and shots."""
    language: str
    """Empty for a mean over languages."""
    shots: int | None = None
    mean: float
    """Mean over seeds."""
    vs_base: Difference | None = None
    """Null for base itself and where there is no base."""


class ArmRow(StrictModel):
    """One row of the ablation table: an arm's confirmed configuration."""

    arm: str
    method: str
    is_base: bool
    n_seeds: int
    trials: tuple[str, ...]
    validation: float | None
    """The study's objective on validation, mean over seeds: what chose."""
    cells: tuple[TableCell, ...]
    mean: TableCell | None
    """Over every task, shots and non-pivot language; null where there are none."""
    pivot_mean: TableCell | None
    gpu_hours: float
    verdict: str
    """The difference to base in words."""
    config: dict[str, Any]


class RepresentationRow(StrictModel):
    """Sentence representations of one arm on one split, mean over languages and seeds."""

    arm: str
    language: str
    """Empty for the mean over languages."""
    layer: int
    pooling: str
    retrieval_at_1: float
    alignment: float
    uniformity: float
    before: tuple[float, float, float] | None = None
    """The same three of base, at the same layer and pooling."""


class Comparison(StrictModel):
    """The ablation table of one or more studies."""

    studies: tuple[str, ...]
    split: Literal["validation", "test"]
    objective: str
    base: str | None
    arms: tuple[ArmRow, ...]
    representation: tuple[RepresentationRow, ...] = ()
    verdicts: tuple[str, ...] = ()
    """The table in sentences."""
    warnings: tuple[str, ...] = ()
