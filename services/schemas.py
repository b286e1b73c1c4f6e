"""What the API and `--json` answer with, beside the records of the package; the same models type the client."""

from typing import Any, Literal

from afp_ray.config import StrictModel, StudyConfig
from afp_ray.records import Best, LayerMetrics, MissingScore, Score, TrainingSummary, TrialRecord

__all__ = [
    "Health",
    "JobResult",
    "Problem",
    "StudyDetail",
    "StudyStatus",
    "Submission",
    "TrialDetail",
    "TrialPage",
]


class Health(StrictModel):
    """`GET /v1/health`."""

    status: Literal["ok"] = "ok"
    version: str
    storage: str
    studies: int


class Problem(StrictModel):
    """Why a request failed."""

    status: int
    title: str
    detail: str = ""
    allowed: str = ""
    fix: str = ""


class ArmStatus(StrictModel):
    """How far one arm is."""

    arm: str
    done: int = 0
    running: int = 0
    planned: int = 0
    failed: int = 0
    pruned: int = 0
    paused: int = 0
    cancelled: int = 0
    best_objective: float | None = None


class RunningTrial(StrictModel):
    """A trial at work."""

    trial_id: str
    arm: str
    seed: int
    attempt: int
    stage: str = ""
    done: int = 0
    total: int = 0
    metrics: dict[str, float] = {}
    seconds: float = 0.0
    left_s: float | None = None
    """Until the stage ends, at its pace so far; null before there is one."""


class DoctorCheck(StrictModel):
    """One check of the environment."""

    name: str
    verdict: Literal["OK", "WARN", "FAIL"]
    found: str
    fix: str = ""


class TrackingLag(StrictModel):
    """How far MLflow is behind the ledger."""

    events: int
    trials: int
    """That the events are of."""
    since: float | None = None
    """When the first of them was written, or since when MLflow cannot be written; null when it shows everything."""
    reason: str | None = None
    """Why they are not shown; null when nothing is known to be wrong."""


class StudyStatus(StrictModel):
    """How far a study is, from its ledger."""

    name: str
    description: str = ""
    state: Literal["running", "complete", "budget", "interrupted", "error", "dead"]
    """`dead`: the driver ended without a word, for instance by a kill; `afp resume` continues."""
    closed: str | None = None
    driver: dict[str, Any] | None = None
    """Pid and host of the driver at work."""
    trials: int
    counts: dict[str, int]
    arms: tuple[ArmStatus, ...] = ()
    running: tuple[RunningTrial, ...] = ()
    failures: tuple[str, ...] = ()
    gpu_hours: float = 0.0
    objective: str
    direction: str
    best_objective: float | None = None
    best_arm: str | None = None
    opened_at: float | None = None
    tracking: TrackingLag | None = None
    """Null when MLflow shows all of the ledger."""
    notes: tuple[str, ...] = ()
    """Arms of which no search trial keeps the study's constraints."""
    folder: str


RESULT_MARK = "result   "
"""How the last line of a study that runs as a job of a cluster begins; a `JobResult` follows."""


class JobResult(StrictModel):
    """How a study that runs as a job of a cluster ended, for whoever follows its log."""

    exit_code: int
    status: StudyStatus
    best: Best | None = None


class Submission(StrictModel):
    """The job of a cluster that runs a study."""

    submission_id: str
    address: str
    study: str
    study_hash: str
    state: Literal["submitted", "attached", "complete"]
    """`attached`: it was at work already; `complete`: it had completed the study, and nothing was started."""
    job_status: str | None = None
    """Ray's word for the job once it is over; null while it goes on without us."""
    exit_code: int | None = None
    """Of the study; null while it goes on."""
    status: StudyStatus | None = None
    best: Best | None = None


class StudyDetail(StrictModel):
    """A study with its configuration."""

    status: StudyStatus
    config: StudyConfig


class TrialPage(StrictModel):
    """A page of the trials of a study."""

    total: int
    offset: int
    limit: int
    trials: tuple[TrialRecord, ...]


class TrialDetail(StrictModel):
    """A trial with its result."""

    record: TrialRecord
    scores: tuple[Score, ...] = ()
    """Of a trial that failed because it could not score everything: what it could score."""
    missing: tuple[MissingScore, ...] = ()
    """What it could not score."""
    layers: tuple[LayerMetrics, ...] = ()
    training: TrainingSummary | None = None
    fingerprints: dict[str, str] = {}
    environment: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    mlflow_run_id: str | None = None
