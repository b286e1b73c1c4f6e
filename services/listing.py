"""Lists the tasks, methods and languages that a study can name, plug-ins included, and what is there of them."""

from typing import Any, Literal

from afp_ray import plugins
from afp_ray.config.base import StrictModel
from afp_ray.errors import ConfigError
from afp_ray.evaluation.available import available_tasks
from afp_ray.languages import LANGUAGES, OTHERS, WORDS
from afp_ray.methods import METHODS, SUMMARIES
from services.studies import load


class TaskRow(StrictModel):
    """A task and the rows of it that are found."""

    name: str
    kind: Literal["choice", "generation"]
    data_dir: str | None
    """Folder that was looked at; null for the embedded rows."""
    rows: dict[str, dict[str, int]]
    """Rows by language and split."""
    problems: dict[str, str]
    """Why rows that are there cannot be read, by language."""
    layout: str
    """The files that are looked for."""
    package: str = ""
    """The package whose plug-in it is, in words; empty for a task of ours."""


class MethodRow(StrictModel):
    """A method and what it trains on."""

    name: str
    summary: str
    reads_pairs: bool
    reads_instructions: bool
    is_trained: bool
    pins: dict[str, Any]
    """Fields that it pins, by dotted name."""


class LanguageRow(StrictModel):
    """A language with a row of its own."""

    code: str
    code3: str
    name: str
    script: str
    has_word_space: bool
    resource: str
    words: tuple[str, ...]
    """Prompt words that it has, by the names of the template."""


def task_rows(study: str | None, data_dir: str | None, *, pivot: str = "en") -> list[TaskRow]:
    """Every task with what is found of it.

    Args:
        study: a study file, whose `evaluation.data_dir` and pivot count; null takes the next two.
        data_dir: folder of the original files; null for the embedded rows.
        pivot: other side of the generation tasks.
    Raises: ConfigError for a study that gives arms folders of their own; DataError for what is no folder.
    """
    if study is not None:
        asked = load(study)
        if data_dir is None and "evaluation.data_dir" in {*asked.compare, *asked.tune}:
            raise ConfigError(f"the arms of {study} have folders of their own", fix="name one with --data-dir")
        data_dir = data_dir or asked.fixed.get("evaluation.data_dir")
        pivot = asked.fixed.get("data.pivot", pivot)
    return [
        TaskRow(
            name=task.name,
            kind=task.kind,
            data_dir=data_dir,
            rows={code: dict(splits) for code, splits in task.rows.items()},
            problems=dict(task.problems),
            layout=task.layout,
            package=_package(plugins.TASKS, task.name),
        )
        for task in available_tasks(data_dir, pivot=pivot)
    ]


def method_rows() -> list[MethodRow]:
    """Every method, in the order of the table."""
    return [_method_row(name) for name in METHODS]


def _method_row(name: str) -> MethodRow:
    pins = dict(METHODS[name])
    has_contrast = pins.get("loss.contrastive_weight", 1.0) > 0
    has_instructions = pins.get("loss.instruction_weight", 1.0) > 0
    share = pins.get("data.translation_share", 0.0)
    return MethodRow(
        name=name,
        summary=SUMMARIES.get(name) or _package(plugins.METHODS, name),
        reads_pairs=has_contrast or (has_instructions and share > 0),
        reads_instructions=has_instructions and share < 1,
        is_trained=pins.get("training.max_steps") != 0,
        pins=pins,
    )


def _package(group: str, name: str) -> str:
    """Name and version of the package of a plug-in; empty for what is ours."""
    plugin = plugins.find(group).get(name)
    return "" if plugin is None else f"of the package {plugin.package} {plugin.version}"


def language_rows() -> list[LanguageRow]:
    """Every language that has a row, those with prompt words first."""
    return [
        LanguageRow(
            code=row.code,
            code3=row.code3,
            name=row.name,
            script=row.script,
            has_word_space=bool(row.space),
            resource=row.resource,
            words=tuple(word for word in WORDS if word in row.words),
        )
        for row in (*LANGUAGES.values(), *OTHERS.values())
    ]
