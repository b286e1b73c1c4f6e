"""What the API and `--json` answer with, beside the records of the package; the same models type the client."""

from typing import Any, Literal

from afp_ray.config import StrictModel, StudyConfig
from afp_ray.evaluation.overlap_records import OverlapReport
from afp_ray.records import Best, Comparison, LayerMetrics, Score, TrainingSummary, TrialRecord

__all__ = [
    "Best",
    "Comparison",
    "Health",
    "PlanAnswer",
    "Problem",
    "StudyDetail",
    "StudyStatus",
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
    folder: str


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
    layers: tuple[LayerMetrics, ...] = ()
    training: TrainingSummary | None = None
    fingerprints: dict[str, str] = {}
    environment: dict[str, str] = {}
    warnings: tuple[str, ...] = ()
    mlflow_run_id: str | None = None


class PlannedArm(StrictModel):
    """What an arm asks for."""

    arm: str
    search: int
    confirm: int
    finished: int
    searched_fields: tuple[str, ...] = ()


class PlanAnswer(StrictModel):
    """What a study would do; nothing was started."""

    study: str
    study_hash: str
    arms: tuple[PlannedArm, ...]
    trials: int
    """Trainings at most, over all arms."""
    finished: int
    """Of them already finished in this study."""
    hours: tuple[float, float] | None = None
    """Range of the trial-hours still to spend, from finished trials of this storage; null when there are none."""
    based_on: int = 0
    """Finished trials behind `hours`."""
    disk_bytes: int | None = None
    """Checkpoints that stay, at most; null when the model's size is not known."""
    free_bytes: int
    notes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    overlap: tuple[OverlapReport, ...] = ()
    """Evaluation rows whose text training has too; one report for each kind of training data of the arms."""
