"""Grade-school problems answered by a number: MGSM (arXiv:2210.03057).

Original files: `mgsm/mgsm_<language>.tsv` with problem TAB number, halved by content (`task.halves`); a content is a
line, the same in every language. Demonstrations are those of `mgsm/exemplars.py` where it lies beside them (read as
data, never run), else validation rows. The embedded corpus has no numbers.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from afp_ray.config import GenerationConfig
from afp_ray.data.readers.files import SourceFile, clean
from afp_ray.data.readers.streams import read_text
from afp_ray.errors import DataError
from afp_ray.evaluation.answer_metrics import exact_match, last_number
from afp_ray.evaluation.generation_task import Files, GenerationTask
from afp_ray.evaluation.generation_tasks import wording
from afp_ray.evaluation.task import ParsedRows, Row
from afp_ray.evaluation.task_files import locate, read_columns
from afp_ray.evaluation.text_metrics import TextMetric
from afp_ray.languages import Language

_EXEMPLARS = "MGSM_EXEMPLARS"


def prompt(row: Row, source: Language, target: Language, config: GenerationConfig) -> str:
    """`problem Answer in Chinese:`, or with the words of the language before problem and answer."""
    if config.question_form == "clause":
        return wording.clause(row["source"], target)
    question, answer, steps = wording.native(wording.PROBLEM, source, task="mgsm")
    return f"{question}{row['source']}\n{steps if config.math_steps else answer}"


def files(data_dir: Path, config: GenerationConfig, source: str, target: str) -> Files:
    """The problems of the language."""
    file = locate(data_dir, "mgsm", f"mgsm_{source}.tsv")
    return {"test": (file,)} if file else {}


def parse(files: tuple[SourceFile, ...], config: GenerationConfig, source: str, target: str) -> ParsedRows:
    """Rows of one file, by line.

    Raises: DataError for a line that is not problem TAB number.
    """
    rows: list[Row] = []
    num_skipped = 0
    for number, row in enumerate(read_columns(files[0], ("question", "answer"), has_header=False), start=1):
        text, answer = clean(row["question"]), clean(row["answer"])
        if not text or not answer:
            num_skipped += 1
            continue
        if last_number(answer, "en") is None:
            raise DataError(
                f"the answer {answer[:80]!r} has no number", where=row["where"], fix="restore the answer of that row"
            )
        name = f"mgsm:{number}"
        rows.append({"id": name, "content_id": name, "source": text, "target": answer, "where": row["where"]})
    return ParsedRows(rows, num_skipped)


def shown(data_dir: Path, config: GenerationConfig, source: str, target: str) -> Sequence[Row] | None:
    """The exemplars of the language; without their file null, or nothing where steps are asked for.

    Raises: DataError when the file is not as its authors release it.
    """
    file = locate(data_dir, "mgsm", "exemplars.py")
    if file is None:
        return [] if config.math_steps else None
    rows: list[Row] = []
    for name, entry in _exemplars(file).get(source, {}).items():
        problem, steps = (clean(str(entry[key])) for key in ("q", "a"))
        number = last_number(steps, source)
        if number is None:
            raise DataError(f"exemplar {name} of {source} has no number", where=file.label, fix="restore the file")
        question, _, answer = wording.PROBLEM.get(source, ("", "", ""))
        solution = clean(_without(steps, answer))
        text = {"source": clean(_without(problem, question)), "target": f"{number.normalize():f}"}
        identity = {"id": f"mgsm-exemplar:{name}", "content_id": f"mgsm-exemplar:{name}", "where": file.label}
        rows.append({**identity, **text, "shown": solution if config.math_steps else text["target"]})
    return rows


def _exemplars(file: SourceFile) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """The mapping of the file, without running it: language -> number -> problem `q` and answer in steps `a`."""
    try:
        for node in ast.parse(read_text(file)).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == _EXEMPLARS:
                table: Mapping[str, Mapping[str, Mapping[str, Any]]] = ast.literal_eval(node.value)
                if all({"q", "a"} <= set(entry) for rows in table.values() for entry in rows.values()):
                    return table
    except (SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise _unreadable(file, str(error)) from error
    raise _unreadable(file, f"no {_EXEMPLARS} with q and a")


def _unreadable(file: SourceFile, problem: str) -> DataError:
    return DataError(
        f"the exemplars cannot be read: {problem}",
        where=file.label,
        allowed=f"{_EXEMPLARS} = {{language: {{number: {{'q': ..., 'a': ...}}}}}}",
        fix="give the file as its authors release it, or take it away",
    )


def _without(text: str, beginning: str) -> str:
    return text.removeprefix(beginning.strip()) if beginning.strip() else text


def layout(config: GenerationConfig) -> str:
    """The files that are looked for."""
    return "mgsm/mgsm_<language>.tsv, and mgsm/exemplars.py for demonstrations"


def metrics(language: str, config: GenerationConfig) -> tuple[TextMetric, ...]:
    """Share of answers whose last number is right."""
    return (exact_match(language),)


def check(language: str) -> None:
    """Numbers of every language can be read."""


TASK = GenerationTask(
    name="mgsm",
    prompt=prompt,
    embedded=None,
    files=files,
    parse=parse,
    layout=layout,
    check=check,
    metrics=metrics,
    stop=lambda config: ("\n\n",) if config.math_steps else ("\n",),
    shown=shown,
)
