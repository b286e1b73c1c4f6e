"""Rows of a generation task in one direction, rendered as prompts with demonstrations before them."""

from collections.abc import Iterator, Sequence
from functools import cache

from afp_ray.config import DIRECTIONS, SPLITS, WITHIN, EvaluationConfig, Split
from afp_ray.data import embedded
from afp_ray.errors import TaskError
from afp_ray.evaluation.generation_task import JOINT, GenerationCell, GenerationExample, GenerationTask
from afp_ray.evaluation.generation_tasks import GENERATION
from afp_ray.evaluation.questions import LanguageRows, draw_rows, own_languages, split_rows, too_few_rows
from afp_ray.evaluation.task import Row, where_of
from afp_ray.evaluation.task_files import open_data_dir
from afp_ray.languages import known_codes, language_row


def task_of(direction: str) -> GenerationTask:
    """The task that a direction belongs to."""
    return next(GENERATION[name] for name, names in DIRECTIONS.items() if direction in names)


def generation_languages(
    config: EvaluationConfig, *, languages: Sequence[str], pivot: str
) -> tuple[str, dict[str, list[str]]]:
    """The language on one side of every direction, and those on the other by direction.

    A direction within one language has the pivot too. Where no other language is scored, directions between two are
    left out of a task that has one within, unless they are asked for by name.

    Raises: TaskError when a direction is asked for and there is no other language.
    """
    side = config.generation.pivot or pivot
    spoken: dict[str, list[str]] = {}
    for name in config.directions:
        own = config.languages_of(task_of(name).name, languages)
        spoken[name] = [language for language in own if name in WITHIN or language != side]
    for name, codes in spoken.items():
        if not codes and (config.generation.directions or not set(DIRECTIONS[task_of(name).name]) & set(WITHIN)):
            raise TaskError(
                f"{name} needs a language beside {side!r}",
                where="evaluation.languages",
                allowed=f"one or more languages other than {side!r}; scored are: "
                f"{', '.join(config.languages_of(task_of(name).name, languages))}",
                fix="add a language, or drop the generation tasks",
            )
    return side, spoken


def sides(direction: str, *, language: str, pivot: str) -> tuple[str, str]:
    """The language of the prompt and of the answer; where a text comes with the prompt, it is in the answer's."""
    if direction in WITHIN:
        return language, language
    return (language, pivot) if direction.endswith("_to_pivot") else (pivot, language)


def load_direction(direction: str, config: EvaluationConfig, *, language: str, pivot: str) -> LanguageRows:
    """Both splits of a direction, embedded or from the original files.

    Raises: TaskError when there are no rows, or texts of the language cannot be measured; DataError and ConfigError for
        files that cannot be read.
    """
    task = task_of(direction)
    source, target = sides(direction, language=language, pivot=pivot)
    task.check(target)
    if config.data_dir is None:
        return _embedded_rows(task, direction, source, target)
    folder = open_data_dir(config.data_dir)
    files = task.files(folder, config.generation, source, target)
    if not files:
        raise _no_files(direction, config, language=language, pivot=pivot)
    parsed = {split: task.parse(members, config.generation, source, target) for split, members in files.items()}
    every = (file for members in files.values() for file in members)
    splits = split_rows(parsed, every, asked=direction, language=language)
    skipped = sum(part.num_skipped for part in parsed.values())
    shown = task.shown(folder, config.generation, source, target) if task.shown else None
    return LanguageRows(splits, splits["validation"] if shown is None else shown, skipped)


def _available(direction: str, config: EvaluationConfig, pivot: str) -> list[str]:
    """Languages that the direction has files for."""
    folder = open_data_dir(config.data_dir or "")
    codes = [code for code in known_codes() if direction in WITHIN or code != pivot]
    pairs = {code: sides(direction, language=code, pivot=pivot) for code in codes}
    return [code for code, pair in pairs.items() if task_of(direction).files(folder, config.generation, *pair)]


def _no_files(direction: str, config: EvaluationConfig, *, language: str, pivot: str) -> TaskError:
    source, target = sides(direction, language=language, pivot=pivot)
    available = _available(direction, config, pivot)
    return TaskError(
        f"{direction} has no rows from {source!r} to {target!r} under {config.data_dir}",
        where="evaluation.languages",
        allowed=f"languages with files: {', '.join(available) or 'none'}",
        fix=f"add the files ({task_of(direction).layout(config.generation)}), drop the language, leave the direction "
        f"out of evaluation.generation.directions, or {own_languages(task_of(direction).name, available)}",
    )


@cache
def _embedded_rows(task: GenerationTask, direction: str, source: str, target: str) -> LanguageRows:
    if task.embedded is None:
        raise TaskError(
            f"{direction} has no embedded rows",
            where="evaluation.data_dir",
            allowed="a folder with the original files",
            fix="give evaluation.data_dir, or drop the task",
        )
    for language in (source, target):
        if language not in embedded.LANGUAGES:
            raise TaskError(
                f"{direction} has no embedded rows in {language!r}",
                where="evaluation.languages",
                allowed=", ".join(embedded.LANGUAGES),
                fix=f"drop the language, give evaluation.data_dir, or {own_languages(task.name, embedded.LANGUAGES)}",
            )
    splits = {split: task.embedded(source, target, split) for split in SPLITS}
    return LanguageRows(splits, task.embedded(source, target, "train"), 0)


def generation_cells(
    direction: str, config: EvaluationConfig, *, language: str, pivot: str, split: Split
) -> Iterator[GenerationCell]:
    """The cells of one direction and language: one per number of shots and demonstration seed.

    Demonstrations come from the embedded training rows, or from the validation rows of the original files; an example
    that shares its content with one of them sees the next row of the draw instead.

    Raises: TaskError for rows or shots that do not work out.
    """
    task = task_of(direction)
    source, target = (language_row(code) for code in sides(direction, language=language, pivot=pivot))
    rows = load_direction(direction, config, language=language, pivot=pivot)
    shown = [row for row in rows.demonstrations if row["target"]]

    def prompt(row: Row) -> str:
        return task.prompt(row, source, target, config.generation)

    for shots in config.shots:
        if shots and not shown:
            raise TaskError(
                f"{direction} has no answers to show as demonstrations",
                where=where_of(rows.splits["validation"][0], direction),
                allowed="0 shots",
                fix=f"set evaluation.shots: [0], or give rows with answers ({task.layout(config.generation)})",
            )
        for seed in config.demo_seeds if shots else (0,):
            drawn = draw_rows(shown, seed=seed, count=2 * shots) if shots else []
            examples = []
            for row in rows.splits[split][: config.limit]:
                content = str(row["content_id"])
                demos = [demo for demo in drawn if str(demo["content_id"]) != content][:shots]
                if len(demos) < shots:
                    raise too_few_rows(direction, language, shots=shots, num_rows=len(demos))
                answered = tuple(f"{prompt(demo)}{JOINT}{demo.get('shown', demo['target'])}" for demo in demos)
                examples.append(GenerationExample(str(row["id"]), content, answered, prompt(row), str(row["target"])))
            yield GenerationCell(direction, language, target.code, shots, seed, examples, rows.num_skipped)
