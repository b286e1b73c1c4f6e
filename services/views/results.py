"""The table of `afp eval`: a block per task, a column per language."""

import unicodedata
from collections.abc import Callable, Sequence

from services.output import say
from services.schemas import EvalAnswer, EvalCell
from services.views.grid import FAMILY, with_interval

_RAW = ("alignment", "uniformity")
"""Metrics that are no shares."""


def show_eval(answer: EvalAnswer) -> None:
    """Scores in percent with their standard error, and under them what they are read against."""
    for line in eval_lines(answer):
        say(line)
    for warning in answer.warnings:
        say(f"warning: {warning}")
    say(f"{answer.trial_id}  {answer.seconds:.1f} s   {answer.folder}")


def eval_lines(answer: EvalAnswer) -> list[str]:
    """The tables of all splits, as lines."""
    lines: list[str] = []
    for split in answer.splits:
        cells = [cell for cell in answer.cells if cell.split == split]
        languages = list(dict.fromkeys(cell.language for cell in cells))
        rows = [[split, *languages]]
        for task, shots, metric in dict.fromkeys((cell.task, cell.shots, cell.metric) for cell in cells):
            own = {
                cell.language: cell for cell in cells if (cell.task, cell.shots, cell.metric) == (task, shots, metric)
            }
            rows.append([f"{task}  {shots}-shot  {metric}"] + [""] * len(languages))
            rows += _block(answer, [own.get(language) for language in languages], metric)
        lines += [*aligned(rows), ""]
    if any(cell.published for cell in answer.cells):
        lines.append(
            "published: untrained checkpoints, lm-evaluation-harness, native prompts, 0 shots (baselines_0shot)"
        )
    if any(cell.vs_base for cell in answer.cells):
        lines.append(f"difference: points, paired; * p < 0.05 after Holm over the cells of the split; {FAMILY}")
    signed: dict[str, dict[str, None]] = {}
    for cell in answer.cells:
        if cell.signature:
            place = f"{cell.task}/{cell.language}"
            signed.setdefault(f"{cell.metric}  {cell.signature}", {})[place] = None
    lines += [f"{signature}  ({', '.join(places)})" for signature, places in signed.items()]
    return lines


def _block(answer: EvalAnswer, cells: Sequence[EvalCell | None], metric: str) -> list[list[str]]:
    """Rows of one task, number of shots and metric; a row without a value anywhere is left out."""
    base = str(answer.base_result.config["model"]["name"]) if answer.base_result is not None else ""

    def number(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:.3f}" if metric in _RAW else f"{100 * value:.1f}"

    def with_error(cell: EvalCell) -> str:
        error = f" ±{number(cell.standard_error)}" if cell.standard_error is not None else ""
        return number(cell.value) + error

    def deviation(cell: EvalCell) -> str:
        return f"±{number(cell.demo_deviation)}" if cell.demo_deviation is not None else ""

    rows: list[tuple[str, Callable[[EvalCell], str]]] = [
        (answer.model, with_error),
        ("over demonstrations", deviation),
        ("majority", lambda cell: number(cell.majority)),
        (base, lambda cell: number(cell.base)),
        ("difference", _difference),
    ]
    for name in dict.fromkeys(name for cell in cells if cell is not None for name in cell.published):
        rows.append((f"published {name}", lambda cell, name=name: number(cell.published.get(name))))  # type: ignore[misc]
    rows.append(("n", lambda cell: str(cell.n)))
    made = [[f"  {name}", *("" if cell is None else text(cell) for cell in cells)] for name, text in rows]
    return [row for row in made if any(row[1:])]


def _difference(cell: EvalCell) -> str:
    if cell.vs_base is None:
        return ""
    return with_interval(cell.vs_base) + ("*" if cell.vs_base.is_significant else "")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines whose columns begin at one place each, however long or wide a name is."""
    places = range(max(map(len, rows)))
    widths = [max(_width(row[place]) for row in rows if any(row[1:]) or place) for place in places]
    return [
        "  ".join(text + " " * (widths[place] - _width(text)) for place, text in enumerate(row)).rstrip()
        for row in rows
    ]


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )
