"""What a trial is scored on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Discriminator, Field, Tag, model_validator

from afp_ray import plugins
from afp_ray.config.base import StrictModel
from afp_ray.config.data import SourceConfig
from afp_ray.config.names import OrPlugin
from afp_ray.config.own_task import OwnTaskConfig
from afp_ray.languages import is_known, may_be_declared, unknown_language
from afp_ray.plugins import Names

GENERATION_TASKS = ("translation", "summarization", "answer_language", "mgsm", "xquad_qa")
DIRECTIONS: dict[str, tuple[str, ...]] = {
    "translation": ("translation", "translation_to_pivot"),
    "summarization": ("summarization", "summarization_to_pivot"),
    "answer_language": ("answer_language", "answer_language_to_pivot"),
    "mgsm": ("mgsm",),
    "xquad_qa": ("xquad_qa", "xquad_qa_from_pivot", "xquad_qa_to_pivot"),
}
"""Scores of a generation task by its name: from the pivot into a language, and from that language into the pivot; of
tasks within one language also that."""
WITHIN = ("mgsm", "xquad_qa")
"""Directions that stay within one language; the pivot is scored there too."""
GENERATED_SCORES = tuple(name for names in DIRECTIONS.values() for name in names)
DirectionName = Literal[
    "translation",
    "translation_to_pivot",
    "summarization",
    "summarization_to_pivot",
    "answer_language",
    "answer_language_to_pivot",
    "mgsm",
    "xquad_qa",
    "xquad_qa_from_pivot",
    "xquad_qa_to_pivot",
]
_Tasks = Literal[
    "xnli",
    "pawsx",
    "xcopa",
    "xstorycloze",
    "xwinograd",
    "translation",
    "summarization",
    "answer_language",
    "mgsm",
    "xquad_qa",
]
CHOICE_TASKS = Names(
    plugins.TASKS,
    ("xnli", "pawsx", "xcopa", "xstorycloze", "xwinograd"),
    reserved=("mean", "pivot_mean", "retrieval", "majority", *GENERATION_TASKS, *GENERATED_SCORES),
)
"""Choice tasks by name, those of plug-ins included."""
TaskName = Annotated[_Tasks, OrPlugin(Names(plugins.TASKS, get_args(_Tasks)))]
DEFAULT_TASKS: tuple[TaskName, ...] = ("xnli", "pawsx", "xcopa", "xstorycloze", "xwinograd")
"""Scored where nothing is said. A task that is added later stays out: these are in the ids of finished trials."""
LANGUAGES_FOR_ALL, LANGUAGES_BY_TASK = "tasks in the same languages", "tasks with languages of their own"
"""The two ways to name tasks, as pydantic tells them apart."""


def _form_of_tasks(value: Any) -> str:
    return LANGUAGES_BY_TASK if isinstance(value, Mapping) else LANGUAGES_FOR_ALL


Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")


class RepresentationConfig(StrictModel):
    """Sentence retrieval, alignment and uniformity on held-out translation pairs."""

    source: SourceConfig = SourceConfig()
    """Where the held-out pairs come from; a source without splits gives one half to validation, the other to test."""
    num_pairs: int = Field(default=100, ge=2, le=1_000_000)
    """Pairs per language and split; chance of retrieval@1 is its inverse."""


MAX_SHOTS = 10_000
"""No model reads more demonstrations; what is larger is a slip of the keyboard."""


class GenerationConfig(StrictModel):
    """How texts are generated, and what the generation tasks read; without effect where `tasks` has none of them."""

    directions: tuple[DirectionName, ...] | None = Field(default=None, min_length=1)
    """Scores to make: `translation` goes from the pivot into each language, `translation_to_pivot` back; `xquad_qa` has
    text, question and answer in one language, `xquad_qa_from_pivot` the question in the pivot, `xquad_qa_to_pivot` text
    and answer in the pivot; null makes all of every generation task."""
    pivot: str | None = None
    """Language on the other side of every direction; null takes `data.pivot`."""
    max_new_tokens: int = Field(default=128, ge=1, le=1_000_000)
    """Longest generated text, in tokens."""
    temperature: float = Field(default=0.0, ge=0, le=1e6)
    """Divisor of the logits before a token is drawn; 0 takes the likeliest token."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Tokens are drawn among the likeliest that together have this probability; unused at temperature 0."""
    seed: int = Field(default=0, ge=0)
    """Seed of the drawn tokens; unused at temperature 0."""
    translation_form: Literal["equals", "clause"] = "equals"
    """How a translation is asked for: "sentence =", or "sentence Translate into Chinese:"."""
    translation_corpus: Literal["flores", "ntrex"] = "flores"
    """Files under `data_dir` that sentences come from."""
    summarization_corpus: Literal["convsumx", "ncls"] = "convsumx"
    """Files under `data_dir` that texts and summaries come from."""
    answer_corpus: Literal["vicuna", "mt_bench", "hc3"] = "vicuna"
    """Files under `data_dir` that questions come from; demonstrations are answers of `mt_bench` and, for `hc3`,
    instructions of `bactrian-x/` there; `vicuna` has none."""
    question_form: Literal["clause", "native"] = "clause"
    """How `mgsm` and `xquad_qa` ask: "question Answer in Chinese:", or in words of the question's own language as
    lm-evaluation-harness has them."""
    math_steps: bool = False
    """Demonstrations of `mgsm` show the steps that lead to the number; they need `mgsm/exemplars.py`."""
    spbleu_model: str | None = None
    """SentencePiece model file of FLORES; adds spBLEU to the translation scores."""

    @model_validator(mode="after")
    def _values_are_known(self) -> Self:
        if self.directions is not None and len(set(self.directions)) != len(self.directions):
            raise ValueError(f"`directions` repeats a value: {list(self.directions)}")
        if self.pivot is not None:
            _require_languages((self.pivot,))
        return self


def _require_languages(codes: Iterable[str]) -> None:
    """Refuse what can be no language; whether a code of ISO 639-3 is declared is known by the whole trial alone."""
    for code in codes:
        if not is_known(code) and not may_be_declared(code):
            raise ValueError(f"language {unknown_language(code)}")


class EvaluationConfig(StrictModel):
    """Tasks, languages and shots of the scores, and the held-out pairs of the representation metrics."""

    tasks: Annotated[
        Annotated[tuple[TaskName, ...], Tag(LANGUAGES_FOR_ALL)]
        | Annotated[dict[TaskName, Annotated[tuple[str, ...], Field(min_length=1)]], Tag(LANGUAGES_BY_TASK)],
        Discriminator(_form_of_tasks),
    ] = DEFAULT_TASKS
    """Choice and generation tasks to score; may be empty. A list scores each in `languages`; a mapping gives each its
    own: `{xcopa: [zh, th], pawsx: [en, zh]}`."""
    own_tasks: dict[str, OwnTaskConfig] = {}
    """Choice tasks of your own by name, scored beside `tasks`: rows in files, and a template for their columns."""
    data_dir: str | None = None
    """Folder with the tasks' original files in sub-folders; null takes the embedded rows. `~` and `${AFP_DATA_DIR}`
    are expanded."""
    languages: tuple[str, ...] | None = None
    """Languages to score; null takes the pivot and the trained languages, or those that `tasks` gives."""
    shots: tuple[int, ...] = (0,)
    """Numbers of demonstrations before each question."""
    prompt_language: Literal["native", "pivot"] = "native"
    """Template words and demonstrations in the question's own language, or in the pivot."""
    demo_seeds: tuple[int, ...] = (0,)
    """Seeds of the drawn demonstrations; unused at 0 shots."""
    demo_balance: Literal["none", "class"] = "none"
    """Demonstrations of choice tasks as they are drawn, or as many of each class (label; of XCOPA cause and effect)."""
    template: Literal["afp", "harness"] = "afp"
    """Prompts of choice tasks: our own, or those of lm-evaluation-harness to the letter."""
    scoring: Literal["sum", "length", "bytes", "pmi"] = "sum"
    """What the chosen answer of a choice task has most of: log-likelihood, that per character or per UTF-8 byte, or
    log-likelihood less that after a neutral context (arXiv:2104.08315)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Weights and states while tasks are scored and texts written. `bf16` rounds a copy of the weights, takes half the
    memory traffic and runs on the fast units of a GPU; log-probabilities stay float32, and so do training, the
    checkpoint and the representation metrics."""
    limit: int | None = Field(default=None, ge=1)
    """Rows per task, language and split; null takes all."""
    representation: RepresentationConfig | None = RepresentationConfig()
    """Held-out pairs; null skips the representation metrics."""
    generation: GenerationConfig = GenerationConfig()
    """Decoding, directions and corpora of the generation tasks."""

    @property
    def directions(self) -> tuple[str, ...]:
        """Scores that the generation tasks make, in the order of `tasks`."""
        wanted = self.generation.directions
        made = [name for task in self.tasks for name in DIRECTIONS.get(task, ())]
        return tuple(name for name in made if wanted is None or name in wanted)

    @property
    def choice_tasks(self) -> tuple[str, ...]:
        """Choice tasks that are scored, those of the user's own last."""
        return (*(name for name in self.tasks if name in CHOICE_TASKS), *self.own_tasks)

    def languages_of(self, task: str, languages: Sequence[str]) -> Sequence[str]:
        """Languages that a task is scored in: its own, or `languages` where `tasks` is a list."""
        if task in self.own_tasks:
            return self.own_tasks[task].languages or languages
        return self.tasks[task] if isinstance(self.tasks, dict) else languages  # type: ignore[index]

    @property
    def idle_fields(self) -> tuple[str, ...]:
        """Fields that change no score here: the trial id leaves them out, as it does at their default.

        Class balance needs demonstrations; template and scoring need a choice task, precision a task of any kind.
        """
        has_choices = bool(self.choice_tasks)
        idle = () if has_choices and any(self.shots) else ("demo_balance",)
        idle = idle if has_choices else (*idle, "template", "scoring")
        return idle if self.tasks or self.own_tasks else (*idle, "precision")

    @model_validator(mode="after")
    def _lists_are_sets(self) -> Self:
        for name in ("tasks", "languages", "shots", "demo_seeds"):
            values = getattr(self, name)
            if values is not None and len(set(values)) != len(values):
                raise ValueError(f"`{name}` repeats a value: {list(values)}")
        _require_languages(self.languages or ())
        if not self.shots or any(not 0 <= shots <= MAX_SHOTS for shots in self.shots):
            raise ValueError(f"`shots` must be one or more numbers from 0 to {MAX_SHOTS}, got {list(self.shots)}")
        if not self.demo_seeds:
            raise ValueError("`demo_seeds` is empty; give at least one seed")
        return self

    @model_validator(mode="after")
    def _languages_have_one_place(self) -> Self:
        if not isinstance(self.tasks, dict):
            return self
        if self.languages is not None:
            raise ValueError("`languages` has no effect where `tasks` gives each task its own; keep one of the two")
        for task, codes in self.tasks.items():
            if len(set(codes)) != len(codes):
                raise ValueError(f"`tasks` repeats a language of {task}: {', '.join(codes)}")
            _require_languages(codes)
        return self

    @model_validator(mode="after")
    def _own_tasks_have_names(self) -> Self:
        for name in self.own_tasks:
            if not plugins.is_name(name) or CHOICE_TASKS.is_taken(name):
                raise ValueError(
                    f"`own_tasks` cannot have the name {name!r}; allowed: a letter, then letters, digits and _, all "
                    "lower-case, and no name of a task or score of ours"
                )
        return self

    @model_validator(mode="after")
    def _directions_have_tasks(self) -> Self:
        chosen = [name for name in self.tasks if name in GENERATION_TASKS]
        for name in self.generation.directions or ():
            if not any(name in DIRECTIONS.get(task, ()) for task in self.tasks):
                raise ValueError(f"`generation.directions` has {name!r}, whose task is not among `tasks`")
        for task in chosen:
            if not set(DIRECTIONS[task]) & set(self.directions):
                raise ValueError(f"`generation.directions` leaves nothing of task {task!r}")
        return self
