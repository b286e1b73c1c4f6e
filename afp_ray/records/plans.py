"""What a study would do, read and cost, as it is told before anything runs."""

from typing import Literal

from afp_ray.config.base import StrictModel


class OverlapExample(StrictModel):
    """One evaluation text that training has too."""

    row: str
    """Id of the evaluation row."""
    field: str
    kind: Literal["exact", "contained"]
    text: str
    """Of the evaluation row."""
    training: str
    """The training text that has it."""
    run: str | None = None
    """The longest run that both share, without case and punctuation; null where the whole text is shared."""
    run_length: int = 0
    """Of the run, in words, or in characters where the script writes no space between words."""


class Overlap(StrictModel):
    """How many rows of one task, language and split training has seen text of."""

    task: str
    language: str
    split: Literal["validation", "test"]
    rows: int
    exact: int
    """Rows with a text that is a whole training text, after normalisation."""
    contained: int
    """Further rows that share a run of `run_limit` words or characters with a training text."""
    suspect: int
    """Of both: rows whose every text stands in training, or that share such a run with it."""
    run_limit: int = 13
    run_unit: Literal["words", "characters"] = "words"
    """Characters in the scripts that write no space between words, by how many of them write a word."""
    example: OverlapExample | None = None

    @property
    def found(self) -> int:
        """Rows with either."""
        return self.exact + self.contained


class OverlapReport(StrictModel):
    """The overlap of everything that is evaluated with everything that may be trained on."""

    training_texts: int
    heldout_removed: int = 0
    """Training pairs that every trial leaves out, for they share a sentence with a held-out pair of retrieval."""
    cells: tuple[Overlap, ...]

    @property
    def suspect(self) -> int:
        """Suspect evaluation rows, over all tasks, languages and splits."""
        return sum(cell.suspect for cell in self.cells)


class UnreadFiles(StrictModel):
    """What lies in a folder or archive of the sources or of the evaluation and is not read."""

    where: str
    """The folder or archive."""
    names: tuple[str, ...]
    """The first files that are not read; hidden ones and those of other languages are left out."""
    num_files: int
    """Of them all."""
    num_other_languages: int
    """Files named as those that are read, but for the language."""
    is_cut: bool = False
    """Whether there are more files than were looked at."""
    text: str
    """In one line."""


class PlannedArm(StrictModel):
    """What an arm asks for."""

    arm: str
    search: int
    confirm: int
    finished: int
    searched_fields: tuple[str, ...] = ()
    left: int = 0
    """Trials that it still trains."""
    trial_s: float | None = None
    """Likely seconds of one of them, trained whole; null where nothing tells."""
    hours: float | None = None
    """Likely trial-hours of what it has left; null where nothing tells."""
    problem: str | None = None
    """Why its model cannot be loaded, so that its trials fail; null where it can."""
    whole_share: float = 1.0
    """Whole trainings that its search is expected to run for each of its trials: below 1 with rungs."""


class PlanCost(StrictModel):
    """What the rest of a study will cost, as far as measured trials tell."""

    source: Literal["trials", "probe"]
    """Finished trials of the storage, or a few steps that were run for it now."""
    measured: int
    """Of them."""
    trial_hours: tuple[float, float, float]
    """Least, likely and most hours of trials still to run, one after another."""
    device_hours: float
    """Likely hours of the workers of all of them, as `budget.gpu_hours` counts them."""
    concurrency: int | None = None
    """Trials at the same time; null where that is not known before the cluster is."""
    wall_hours: float | None = None
    """Likely hours until the end; null without `concurrency`."""
    spent_hours: float = 0.0
    """Device-hours that the study has spent."""
    money: float | None = None
    """Price of `device_hours`, in the currency of `--price`; null where none was given."""
    stops_at: float | None = None
    """Share of the cost after which a budget ends the study; null where it comes to its end."""
    stopped_by: str = ""
    """That budget, as the study file names it."""


class PlannedMemory(StrictModel):
    """What a trial of some arms takes of a GPU: measured by a probe, and computed for the longest rows there can be."""

    arms: tuple[str, ...]
    card: str
    """Name of the GPU that the probe ran on."""
    card_bytes: int
    measured_bytes: int | None
    """Highest memory of tensors in the steps of the probe; null where nothing is trained."""
    reserved_bytes: int
    """Highest memory that the probe held of the card, training and scoring together."""
    computed_bytes: int | None
    """Of a step whose texts all have `training.max_length` tokens, in passes as the study asks for; null likewise."""
    micro_batch_size: int | None
    """Instructions of the largest pass that fits the card then; null without that term, or where nothing fits."""
    pair_chunk_size: int | None
    """Likewise pairs."""
    fits: bool
    """Whether the passes that the study asks for fit."""
    trials_per_card: int
    """Trials that the card holds at a time by what the probe held; whether that is faster was not measured."""
    step_s: float | None
    """Seconds of a step of one trial that has the card for itself; null where nothing is trained."""


class PlannedEffect(StrictModel):
    """The smallest true difference of an arm to base that the study is likely to find on the mean over tasks."""

    arm: str
    effect: float
    """In shares of 1: 0.02 is two points."""
    power: float
    """Probability with which it is found."""
    alpha: float
    """Level of the test: 0.05 over the arms that are compared, as Holm tests the first of them."""
    contents: int
    """Test questions outside the pivot language, each counted once however many languages it is in."""
    tasks: int
    seeds: int
    content_deviation: float
    """Standard deviation of the difference of one content."""
    seed_deviation: float | None
    """Standard deviation of the difference over training runs; null where nobody knows it."""
    source: str
    """Whose deviations they are, in words."""


class StudyPlan(StrictModel):
    """What a study would do; nothing of it was started."""

    study: str
    study_hash: str
    arms: tuple[PlannedArm, ...]
    trials: int
    """Trainings at most, over all arms."""
    finished: int
    """Of them already finished in this study: trials of the same id."""
    finished_otherwise: int = 0
    """Further trials that finished under this name, of another configuration or on other files."""
    differs: tuple[str, ...] = ()
    """What differs from the study that ran under this name, a field each; `afp run` refuses that without
    `--allow-drift`."""
    hours: tuple[float, float] | None = None
    """Range of the trial-hours still to spend, as in `cost`; null where that is."""
    based_on: int = 0
    """Finished trials behind `hours`."""
    cost: PlanCost | None = None
    """Null where an arm has trials left whose like nobody has measured."""
    on_gpu: bool = False
    """Whether the trials ask for GPUs, so that device-hours are those of GPUs."""
    disk_bytes: int | None = None
    """Checkpoints that stay, at most; null when the model's size is not known."""
    free_bytes: int
    notes: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What keeps the study from starting on this machine, though not elsewhere."""
    unread: tuple[UnreadFiles, ...] = ()
    """What lies in the folders of the sources and is not read."""
    overlap: tuple[OverlapReport, ...] = ()
    """Evaluation rows whose text training has too; one report for each kind of training data of the arms."""
    effects: tuple[PlannedEffect, ...] = ()
    """By arm; empty where there is no base, no choice task outside the pivot, or nothing that tells the spread."""
    memory: tuple[PlannedMemory, ...] = ()
    """Of each kind of trial that was probed on a GPU."""
