"""What runs and what it gave: jobs, failures and results of trials."""

from enum import StrEnum
from typing import Any, Literal

from afp_ray.config.base import StrictModel
from afp_ray.records.scores import LayerMetrics, Score


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


class DeviceHours(StrictModel):
    """Hours of the devices of one trial: its GPUs, or its workers where there is no GPU."""

    training: float
    """Of the steps, over all attempts; 0 where nothing was trained."""
    evaluation: float
    """Of scoring."""
    startup: float | None = None
    """Of all else, as loading the model and saving it; null where results do not tell it from `evaluation`, which has
    it then."""


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
    computed_from: str | None = None
    """The form in which weights entered the products, and why not another; null in results of before it was told."""
    step_form: str | None = None
    """`graph`, `compile` or `eager` as `runtime.step` names them, at the end; null in results of before it was told."""
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
