"""What an evaluation would read, checked and hashed before anything is started; needs no torch."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afp_ray.config import CHOICE_TASKS, SPLITS, EvaluationConfig, Split
from afp_ray.config.base import canonical_json
from afp_ray.config.mistakes import Refusals
from afp_ray.data.readers.files import SourceFile, digest, expand_path, plain_file
from afp_ray.errors import TaskError
from afp_ray.evaluation.prompts import generation_cells, generation_languages, load_direction, sides, task_of
from afp_ray.evaluation.questions import LanguageRows, load_rows, render_cells
from afp_ray.evaluation.task import Row
from afp_ray.evaluation.task_files import open_data_dir
from afp_ray.evaluation.tasks import choice_task
from afp_ray.evaluation.text_metrics import spbleu
from afp_ray.languages import WORDS_FIELD

_MAX_DIGESTS = 8
_digests: OrderedDict[str, tuple[list[LanguageRows], str]] = OrderedDict()
"""Digests of the last evaluations with the very rows that they were made of, which are still those of their files."""


def check_evaluation(
    config: EvaluationConfig, *, languages: Sequence[str], pivot: str, splits: Sequence[Split] = SPLITS
) -> None:
    """Render every row of every task, language and split, so that nothing can fail after the GPU is granted.

    Args:
        config: what is scored.
        languages: languages to score.
        pivot: language of the prompts when `prompt_language` is `pivot`.
        splits: what will be scored.

    Raises: TaskError, DataError or ConfigError naming the row, the language or the word that is missing;
        SeveralConfigError where several tasks lack something.
    """
    refusals = Refusals()
    for name in _choices(config):
        with refusals:
            for language in config.languages_of(name, languages):
                for split in splits:
                    with _at_task(config, name):
                        for _ in render_cells(name, config, language=language, pivot=pivot, split=split):
                            pass
    refusals.refuse()
    side, spoken = generation_languages(config, languages=languages, pivot=pivot)
    for direction, codes in spoken.items():
        for language in codes:
            for split in splits:
                with _at_task(config, task_of(direction).name):
                    for _ in generation_cells(direction, config, language=language, pivot=side, split=split):
                        pass
    if config.directions and config.generation.spbleu_model:
        spbleu(config.generation.spbleu_model)


@contextmanager
def _at_task(config: EvaluationConfig, task: str) -> Iterator[None]:
    """Let an error about languages name the place where a task has its own, one about a word the task that asks."""
    try:
        yield
    except TaskError as error:
        if error.where.startswith(f"{WORDS_FIELD}."):
            problem = f"{task} asks with a word: {error.problem}"
            raise TaskError(problem, where=error.where, allowed=error.allowed, fix=error.fix) from error
        if error.where != "evaluation.languages" or not isinstance(config.tasks, dict):
            raise
        where = f"evaluation.tasks.{task}"
        raise TaskError(error.problem, where=where, allowed=error.allowed, fix=error.fix) from error


def _choices(config: EvaluationConfig) -> list[str]:
    return list(config.choice_tasks)


def evaluation_fingerprint(config: EvaluationConfig, *, languages: Sequence[str], pivot: str) -> str:
    """SHA-256 over the task rows that an evaluation reads: both splits, and with shots the demonstrations.

    Rows count by content, not by path: a copied or moved folder keeps its fingerprint. The model file of spBLEU counts
    too. Asked again in a process while the files stay as they are, it is not computed anew.
    The held-out pairs of the representation metrics are not part of it.

    Raises: as `check_evaluation`.
    """
    parts = list(_read(config, languages=languages, pivot=pivot))
    model = ""
    if config.directions and config.generation.spbleu_model:
        model = digest(plain_file(expand_path(config.generation.spbleu_model)))
    key = canonical_json([config.model_dump(mode="json"), list(languages), pivot, model])
    before, digest_before = _digests.get(key, ([], ""))
    if len(before) == len(parts) and all(old is new for old, (_, _, new) in zip(before, parts, strict=True)):
        return digest_before  # rows that are the very objects of then: their files have not changed
    whole = hashlib.sha256()
    for name, fields, rows in parts:
        _add(whole, name, rows, fields, config)
    for text in _questions(config, languages=languages, pivot=pivot):
        whole.update(text.encode() + b"\n")
    whole.update(model.encode())
    _digests[key] = [rows for _, _, rows in parts], whole.hexdigest()
    _digests.move_to_end(key)
    if len(_digests) > _MAX_DIGESTS:
        _digests.popitem(last=False)
    return whole.hexdigest()


def _read(
    config: EvaluationConfig, *, languages: Sequence[str], pivot: str
) -> Iterator[tuple[str, Sequence[str], LanguageRows]]:
    """Name, fields that count, and rows of everything that is read, in a fixed order."""
    for name in _choices(config):
        extra = (pivot,) if config.prompt_language == "pivot" and any(config.shots) else ()
        for language in sorted({*config.languages_of(name, languages), *extra}):
            task = choice_task(name, config)
            yield f"{name}/{language}", task.fields, load_rows(task, config.data_dir, language)
    side, spoken = generation_languages(config, languages=languages, pivot=pivot)
    for direction, codes in spoken.items():
        fields = ("source", "target", *task_of(direction).extra)
        for language in sorted(codes):
            rows = load_direction(direction, config, language=language, pivot=side)
            yield f"{direction}/{side}/{language}", fields, rows


def _questions(config: EvaluationConfig, *, languages: Sequence[str], pivot: str) -> Iterator[str]:
    """Every question of the tasks that are not ours, at 0 shots: what their code asks may change with any release.

    What our own tasks ask changes with `SCORE_VERSION` alone.
    """
    for name in _choices(config):
        if name in CHOICE_TASKS.own:
            continue
        alone = config.model_copy(update={"shots": (0,)})
        for language in config.languages_of(name, languages):
            for split in SPLITS:
                for cell in render_cells(name, alone, language=language, pivot=pivot, split=split):
                    for example in cell.examples:
                        question = example.question
                        yield canonical_json([question.choices, question.gold, question.neutral])


def files_by_folder(
    config: EvaluationConfig, *, languages: Sequence[str], pivot: str
) -> Iterator[tuple[str, list[SourceFile]]]:
    """Folders of tasks, or the archives that hold them, and the files that are read from each."""
    if config.data_dir is None:
        return
    root = open_data_dir(config.data_dir)
    files = [
        file
        for name in _choices(config)
        for code in config.languages_of(name, languages)
        for file in choice_task(name, config).files(root, code).values()
    ]
    side, spoken = generation_languages(config, languages=languages, pivot=pivot)
    for direction, codes in spoken.items():
        for code in codes:
            source, target = sides(direction, language=code, pivot=side)
            by_split = task_of(direction).files(root, config.generation, source, target)
            files += [file for members in by_split.values() for file in members]
    for file in files:
        yield str(root / Path(file.path).relative_to(root).parts[0]), list(file.parts)


def evaluation_texts(config: EvaluationConfig, *, languages: Sequence[str], pivot: str) -> Iterator[str]:
    """Every text of the rows that an evaluation reads, demonstrations included."""
    for _, fields, rows in _read(config, languages=languages, pivot=pivot):
        for row in (*(row for split in SPLITS for row in rows.splits[split]), *rows.demonstrations):
            yield from (str(row[key]) for key in fields)


def _add(whole: Any, name: str, rows: LanguageRows, fields: Sequence[str], config: EvaluationConfig) -> None:
    parts: dict[str, Sequence[Row]] = {split: rows.splits[split] for split in SPLITS}
    if any(config.shots):
        parts["demonstrations"] = rows.demonstrations
    for part, members in parts.items():
        whole.update(f"{name}/{part}\n".encode())
        for row in members:
            values = {
                key: str(row[key]) for key in ("id", "content_id", *fields, *(("shown",) if "shown" in row else ()))
            }
            whole.update(canonical_json(values).encode() + b"\n")
