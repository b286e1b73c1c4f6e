"""What the API and `--json` answer with, beside the records of the package; the same models type the client."""

from typing import Any, Literal

from afp_ray.config import StrictModel, StudyConfig
from afp_ray.records import (
    Best,
    Difference,
    LayerMetrics,
    MissingScore,
    Score,
    TrainingSummary,
    TrialRecord,
    TrialResult,
)
from afp_ray.records.plans import UnreadFiles


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
    """Planned so far."""
    expected: int = 0
    """Of the whole study: those that there are, once it is complete, and until then as many as may come."""
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


class EvalCell(StrictModel):
    """One score with what it is read against."""

    split: Literal["validation", "test"]
    task: str
    language: str
    shots: int
    metric: str
    value: float
    n: int
    """Examples."""
    standard_error: float | None = None
    """Over examples, by content."""
    demo_deviation: float | None = None
    """Over demonstration seeds; null where there is one."""
    majority: float | None = None
    """Of always giving the most frequent right answer; null but for choice tasks."""
    base: float | None = None
    """The other model's."""
    vs_base: Difference | None = None
    """Of the main metric to the other model's, paired; p-values adjusted (Holm) over the cells of the split."""
    published: dict[str, float] = {}
    """Published values of untrained checkpoints by name: this one's, and others where they were asked for. Test rows,
    0 shots, native prompts."""
    signature: str = ""


class EvalAnswer(TrialResult):
    """The result of the model as a trial, and its scores beside baselines."""

    model: str
    folder: str
    cells: tuple[EvalCell, ...]
    base_result: TrialResult | None = None


class OptunaExport(StrictModel):
    """What `afp export --optuna` wrote."""

    file: str
    studies: tuple[str, ...]
    """Optuna studies, one for each arm that has trials."""
    trials: int
    """Trials that they hold."""
    changed: int
    """Of them those that were added or changed."""
    left_out: int
    """Trials whose parameters are outside the space that the study has now."""
    open_with: str
    """The command that shows them in a browser."""


class Spread(StrictModel):
    """A length over rows."""

    mean: float
    p50: float
    p95: float
    max: int


class SourceRead(StrictModel):
    """What one source gave for one language."""

    source: str
    language: str
    """Empty for rows in several languages."""
    read: int
    kept: int
    refused: dict[str, int]
    """Rows by the reason for which they were refused."""


class Amounts(StrictModel):
    """Rows of one language."""

    language: str
    pairs: int
    """Pairs with the pivot that the sources have; of the pivot itself, none."""
    pairs_drawn: int
    instructions: int
    """Instructions that the sources have in this language."""
    prompts_drawn: int
    responses_drawn: int


class MixCell(StrictModel):
    """Instructions with a prompt and a response in these languages."""

    prompt: str
    response: str
    rows: int


class TextLengths(StrictModel):
    """Lengths of the texts of one language in one place."""

    language: str
    what: Literal["pairs", "prompts", "responses"]
    rows: int
    characters: Spread
    tokens: Spread
    """Without special tokens."""
    fertility: float
    """Tokens per word; per character where the language writes no space between words."""
    per: Literal["word", "character"]


class Truncation(StrictModel):
    """What `training.max_length` costs one language."""

    language: str
    """Of the pair's side, or of the response, which is what is cut."""
    what: Literal["pairs", "instructions"]
    rows: int
    rows_cut: float
    """Share of the rows that lose tokens, in [0, 1]."""
    rows_lost: float
    """Share of the rows that are left out since no response is left."""
    tokens_lost: float
    """Share of all tokens."""


class SampleRow(StrictModel):
    """A drawn row: a pair, or a prompt and its response."""

    kind: Literal["pair", "instruction"]
    source_language: str
    target_language: str
    source: str
    target: str
    content_id: str


class InspectAnswer(StrictModel):
    """What an arm trains on."""

    study: str
    arm: str
    other_arms: tuple[str, ...]
    """Further arms that are trained."""
    seed: int
    model: str
    max_length: int
    pivot: str
    languages: tuple[str, ...]
    searched: dict[str, str | int | float | bool | None]
    """Data fields that the study searches, at the value that was drawn with."""
    sources: tuple[SourceRead, ...]
    unread: tuple[UnreadFiles, ...] = ()
    held_out: int
    """Pairs removed since retrieval is measured on their sentences."""
    filtered: int | None
    """Rows that the quality filter dropped; null where it is off."""
    pairs: int
    instructions: int
    amounts: tuple[Amounts, ...]
    mix: tuple[MixCell, ...]
    lengths: tuple[TextLengths, ...]
    truncation: tuple[Truncation, ...]
    samples: tuple[SampleRow, ...]


class BuildAnswer(StrictModel):
    """A file of drawn rows."""

    file: str
    arm: str
    pairs: int
    instructions: int


class DroppedExample(StrictModel):
    """A row that the filter dropped."""

    sides: dict[str, str]
    """Text by language, or by the name of its part."""


class FilterReason(StrictModel):
    """Rows of one language dropped for one reason."""

    language: str
    kind: Literal["pair", "instruction"]
    reason: str
    dropped: int
    """Of instructions, the language versions that failed: a row goes with all its languages when one of them does."""
    examples: tuple[DroppedExample, ...]


class FilterLanguage(StrictModel):
    """What the filter did to one language."""

    language: str
    kind: Literal["pair", "instruction"]
    read: int
    kept: int
    is_judged: bool
    """Whether there were enough rows to learn from which of them are misaligned."""


class FilterAnswer(StrictModel):
    """What the quality filter drops from the sources of an arm."""

    study: str
    arm: str
    filter: str
    pivot: str
    """Its prompts are what the others are compared with, so it has no misaligned rows of its own."""
    instructions_read: int
    """Instructions of all languages together, each counted once."""
    instructions_kept: int
    not_best: int
    """Instructions that were not among the best scored ones."""
    languages: tuple[FilterLanguage, ...]
    reasons: tuple[FilterReason, ...]


class Reproduction(StrictModel):
    """A finished trial that was run again (`afp reproduce`)."""

    trial_id: str
    reproduced: bool
    """Whether every score is there again and within the tolerance."""
    largest_difference: float
    scores: dict[str, float]
    """Absolute difference of each score."""
