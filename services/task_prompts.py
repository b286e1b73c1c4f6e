"""What a task asks: the first rows of a language as the model sees them, to the letter (`afp task show`)."""

from collections.abc import Iterator, Sequence

from afp_ray.config import (
    CHOICE_TASKS,
    DIRECTIONS,
    GENERATION_TASKS,
    WITHIN,
    EvaluationConfig,
    Split,
    StrictModel,
    StudyConfig,
    TrialConfig,
)
from afp_ray.config.fields import did_you_mean
from afp_ray.errors import ConfigError
from afp_ray.evaluation.prompts import generation_cells
from afp_ray.evaluation.questions import SEPARATOR, render_cells
from afp_ray.search import make_arms, resolve
from afp_ray.search.arms import corners
from services.trials import eval_config


class PromptRow(StrictModel):
    """One row as the model sees it, demonstrations included."""

    name: str
    """The task, or the direction of a generation task."""
    shots: int
    demo_seed: int
    id: str
    content_id: str
    choices: tuple[tuple[str, str], ...] = ()
    """Context and scored continuation of each choice; empty for a generation task."""
    gold: int | None = None
    """Index of the right choice."""
    prompt: str | None = None
    """Of a generation task."""
    reference: str | None = None


class TaskPrompts(StrictModel):
    """What a task asks in one language."""

    task: str
    language: str
    split: Split
    rows: tuple[PromptRow, ...]


def task_prompts(
    name: str,
    study: StudyConfig | None = None,
    *,
    language: str | None = None,
    num_rows: int = 3,
    split: Split = "test",
    data_dir: str | None = None,
    sets: Sequence[str] = (),
) -> TaskPrompts:
    """The first rows of a task.

    Args:
        name: of this package, of a plug-in, or of `study`.
        study: whose evaluation is shown; null takes defaults.
        language: null takes the first language that the study scores it in, else English (Chinese where it translates).
        num_rows: rows of each number of shots and draw of demonstrations.
        split: rows to show.
        data_dir: the tasks' original files; null takes the study's, else the embedded rows.
        sets: `evaluation.<field>=value` each, where there is no study.
    Raises: UserError for a task, language or row that does not work out.
    """
    own = () if study is None else _trial_of(study).evaluation.own_tasks
    names = [*CHOICE_TASKS, *GENERATION_TASKS, *own]
    if name not in names:
        fix = did_you_mean(name, names) or "a task of a study file is shown with --study FILE"
        raise ConfigError(f"there is no task {name[:80]!r}", where="NAME", allowed=", ".join(names), fix=fix)
    trial = _config(name, language, data_dir, sets) if study is None else _trial_of(study)
    update = {"limit": num_rows} | ({"data_dir": data_dir} if data_dir is not None else {})
    config = trial.evaluation.model_copy(update=update)
    scored = config.languages_of(name, trial.evaluated_languages) if _is_scored(name, config) else ()
    is_between = name in DIRECTIONS and not set(DIRECTIONS[name]) & set(WITHIN)
    code = language or next((code for code in scored if not is_between or code != trial.data.pivot), "en")
    rows = tuple(_rows(name, config, code, trial.data.pivot, split))
    return TaskPrompts(task=name, language=code, split=split, rows=rows)


def _is_scored(name: str, config: EvaluationConfig) -> bool:
    return name in config.tasks or name in config.own_tasks


def _trial_of(study: StudyConfig) -> TrialConfig:
    """The first arm, its searched fields at one end."""
    arm = make_arms(study)[0]
    return resolve(arm, {name: corners(spec)[0] for name, spec in arm.tune.items()}, study.seeds[0])


def _config(name: str, language: str | None, data_dir: str | None, sets: Sequence[str]) -> TrialConfig:
    languages = ["en", language] if language not in (None, "en") else ["en", "zh"] if language is None else ["en"]
    return eval_config(
        "embedded",
        tasks=[name],
        languages=[code for code in languages if code is not None],
        pivot="en",
        shots=[0],
        demo_seeds=[0],
        data_dir=data_dir,
        limit=None,
        sets=sets,
    )


def _rows(name: str, config: EvaluationConfig, language: str, pivot: str, split: Split) -> Iterator[PromptRow]:
    if name not in DIRECTIONS:
        for cell in render_cells(name, config, language=language, pivot=pivot, split=split):
            for example in cell.examples:
                yield PromptRow(
                    name=name,
                    shots=cell.shots,
                    demo_seed=cell.demo_seed,
                    id=example.id,
                    content_id=example.content_id,
                    choices=example.question.choices,
                    gold=example.question.gold,
                )
        return
    side = config.generation.pivot or pivot
    made = [direction for direction in DIRECTIONS[name] if direction in config.directions] or DIRECTIONS[name]
    for direction in made:
        if language == side and direction not in WITHIN:
            continue
        for written in generation_cells(direction, config, language=language, pivot=side, split=split):
            for asked in written.examples:
                yield PromptRow(
                    name=direction,
                    shots=written.shots,
                    demo_seed=written.demo_seed,
                    id=asked.id,
                    content_id=asked.content_id,
                    prompt=SEPARATOR.join([*asked.demonstrations, asked.prompt]),
                    reference=asked.reference,
                )
