"""Which tasks there are, in which languages their rows are found, and how many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from afp_ray.config import EvaluationConfig, Split
from afp_ray.config.evaluation import DIRECTIONS
from afp_ray.errors import UserError
from afp_ray.evaluation.check import check_evaluation
from afp_ray.evaluation.generation_tasks import GENERATION
from afp_ray.evaluation.prompts import load_direction, sides
from afp_ray.evaluation.questions import LanguageRows, load_rows
from afp_ray.evaluation.task_files import open_data_dir
from afp_ray.evaluation.tasks import TASKS
from afp_ray.languages import known_codes


@dataclass(frozen=True, slots=True)
class AvailableTask:
    """A task and what is there of it.

    Attributes:
        name: in `evaluation.tasks`.
        kind: whether choices are scored or texts are written.
        rows: by language and split, how many; a language without rows is left out.
        problems: by language, why rows that are there cannot be read.
        layout: the files that are looked for.
    """

    name: str
    kind: Literal["choice", "generation"]
    rows: Mapping[str, Mapping[Split, int]]
    problems: Mapping[str, str]
    layout: str


def available_tasks(data_dir: str | None, *, pivot: str = "en") -> list[AvailableTask]:
    """Every task, with the rows that it has.

    Args:
        data_dir: folder of the tasks' original files; None takes the embedded rows.
        pivot: other side of the generation tasks, which tell the languages beside it.
    Raises: DataError when `data_dir` is no folder.
    """
    if data_dir is not None:
        open_data_dir(data_dir)
    return [_available(name, data_dir, pivot) for name in (*TASKS, *GENERATION)]


def _available(name: str, data_dir: str | None, pivot: str) -> AvailableTask:
    rows: dict[str, Mapping[Split, int]] = {}
    problems: dict[str, str] = {}
    for code in known_codes():
        if not _has_files(name, data_dir, code, pivot):
            continue
        try:
            rows[code] = {split: len(part) for split, part in _rows(name, data_dir, code, pivot).splits.items()}
        except UserError as error:
            problems[code] = error.problem
    layout = TASKS[name].layout if name in TASKS else GENERATION[name].layout(EvaluationConfig().generation)
    return AvailableTask(name, "choice" if name in TASKS else "generation", rows, problems, layout)


def choice_languages(data_dir: str | None, languages: Sequence[str], *, pivot: str) -> dict[str, list[str]]:
    """Languages among `languages` that each choice task has rows of, all of which become prompts."""
    found: dict[str, list[str]] = {}
    for name in TASKS:
        for code in languages:
            if _has_files(name, data_dir, code, pivot) and not prompt_problem(name, data_dir, code, pivot=pivot):
                found.setdefault(name, []).append(code)
    return found


def prompt_problem(name: str, data_dir: str | None, language: str, *, pivot: str) -> str:
    """Why the rows of a choice task cannot be asked in a language; "" where they can."""
    config = EvaluationConfig.model_validate(
        {"tasks": [name], "data_dir": data_dir, "languages": [language], "representation": None}
    )
    try:
        check_evaluation(config, languages=[language], pivot=pivot)
    except UserError as error:
        return error.problem
    return ""


def _has_files(name: str, data_dir: str | None, language: str, pivot: str) -> bool:
    """Whether files of the language are there, without reading them; of embedded rows, whether there are any."""
    try:
        if data_dir is None:
            return any(_rows(name, None, language, pivot).splits.values())
        folder = open_data_dir(data_dir)
        if name in TASKS:
            return bool(TASKS[name].files(folder, language))
        source, target = sides(DIRECTIONS[name][0], language=language, pivot=pivot)
        return bool(GENERATION[name].files(folder, EvaluationConfig().generation, source, target))
    except UserError:
        return False


def _rows(name: str, data_dir: str | None, language: str, pivot: str) -> LanguageRows:
    if name in TASKS:
        return load_rows(TASKS[name], data_dir, language)
    config = EvaluationConfig.model_validate({"tasks": [name], "data_dir": data_dir})
    return load_direction(DIRECTIONS[name][0], config, language=language, pivot=pivot)


def task_folders(data_dir: Path) -> dict[str, set[str]]:
    """By choice task, names of the folders or archives below `data_dir` that its rows are read from."""
    found: dict[str, set[str]] = {}
    for name, task in TASKS.items():
        for code in known_codes():
            for file in task.files(data_dir, code).values():
                path = Path(file.path)
                if path.is_relative_to(data_dir):
                    found.setdefault(name, set()).add(path.relative_to(data_dir).parts[0])
    return found
