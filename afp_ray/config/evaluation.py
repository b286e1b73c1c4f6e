"""What a trial is scored on."""

from typing import Literal, Self

from pydantic import Field, model_validator

from afp_ray.config.base import StrictModel
from afp_ray.config.data import SourceConfig
from afp_ray.languages import LANGUAGES

CHOICE_TASKS = ("xnli", "pawsx", "xcopa", "xstorycloze", "xwinograd")
GENERATION_TASKS = ("translation", "summarization", "answer_language")
TaskName = Literal[
    "xnli", "pawsx", "xcopa", "xstorycloze", "xwinograd", "translation", "summarization", "answer_language"
]
Split = Literal["validation", "test"]


class RepresentationConfig(StrictModel):
    """Sentence retrieval, alignment and uniformity on held-out translation pairs."""

    source: SourceConfig = SourceConfig()
    """Where the held-out pairs come from; a source without splits gives one half to validation, the other to test."""
    num_pairs: int = Field(default=100, ge=2)
    """Pairs per language and split; chance of retrieval@1 is its inverse."""


class EvaluationConfig(StrictModel):
    """Tasks, languages and shots of the scores, and the held-out pairs of the representation metrics."""

    tasks: tuple[TaskName, ...] = CHOICE_TASKS  # type: ignore[assignment]
    """Choice and generation tasks to score; may be empty."""
    data_dir: str | None = None
    """Folder with the tasks' original files in sub-folders; null takes the embedded rows. `~` and `${AFP_DATA_DIR}`
    are expanded."""
    languages: tuple[str, ...] | None = None
    """Languages to score; null takes the pivot and the trained languages."""
    shots: tuple[int, ...] = (0,)
    """Numbers of demonstrations before each question."""
    prompt_language: Literal["native", "pivot"] = "native"
    """Template words and demonstrations in the question's own language, or in the pivot."""
    demo_seeds: tuple[int, ...] = (0,)
    """Seeds of the drawn demonstrations; unused at 0 shots."""
    limit: int | None = Field(default=None, ge=1)
    """Rows per task, language and split; null takes all."""
    representation: RepresentationConfig | None = RepresentationConfig()
    """Held-out pairs; null skips the representation metrics."""

    @model_validator(mode="after")
    def _lists_are_sets(self) -> Self:
        for name in ("tasks", "languages", "shots", "demo_seeds"):
            values = getattr(self, name)
            if values is not None and len(set(values)) != len(values):
                raise ValueError(f"`{name}` repeats a value: {list(values)}")
        for code in self.languages or ():
            if code not in LANGUAGES:
                raise ValueError(f"language {code!r} is unknown; allowed: {', '.join(sorted(LANGUAGES))}")
        if not self.shots or any(shots < 0 for shots in self.shots):
            raise ValueError(f"`shots` must be one or more numbers >= 0, got {list(self.shots)}")
        if not self.demo_seeds:
            raise ValueError("`demo_seeds` is empty; give at least one seed")
        return self
