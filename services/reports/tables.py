"""The ablation table as Markdown, LaTeX, CSV, JSON and for a terminal; accuracies in percent, differences in points."""

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afp_ray.records import ArmRow, Comparison, Difference, RepresentationRow, TableCell

if TYPE_CHECKING:
    from rich.table import Table

MARKS = "† p < 0.05 after Holm, ‡ p < 0.01: paired permutation over contents, against base"
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
}


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text: the column names, the rows, and the marks of the best value of each column."""

    header: list[str]
    rows: list[list[str]]
    is_best: list[list[bool]]


def ablation_grid(comparison: Comparison) -> Grid:
    """Arms by language (mean over tasks and shots), with the means and the verdict's numbers."""
    languages = sorted({cell.language for arm in comparison.arms for cell in arm.cells})
    header = ["arm", "seeds", *languages, "mean", "pivot mean", "mean - base", "95 % interval", "p (Holm)"]
    values = [
        [_language_mean(arm, code) for code in languages] + [_mean(arm.mean), _mean(arm.pivot_mean)]
        for arm in comparison.arms
    ]
    best = [_highest([row[column] for row in values]) for column in range(len(languages) + 2)]
    rows, marks = [], []
    for arm, numbers in zip(comparison.arms, values, strict=True):
        delta = arm.mean.vs_base if arm.mean else None
        shown = [_percent(value) for value in numbers]
        shown[-2] += _mark(delta)
        rows.append([arm.arm, str(arm.n_seeds), *shown, *_delta_columns(delta)])
        marks.append(
            [
                False,
                False,
                *(value is not None and value == top for value, top in zip(numbers, best, strict=True)),
                False,
                False,
                False,
            ]
        )
    return Grid(header, rows, marks)


def cell_grid(comparison: Comparison) -> Grid:
    """Every cell: arms by task, language and shots."""
    keys = sorted({(c.task, c.language, c.shots or 0) for arm in comparison.arms for c in arm.cells})
    header = ["arm", *(f"{task}/{language}/{shots}" for task, language, shots in keys)]
    rows, marks = [], []
    found = [{(c.task, c.language, c.shots or 0): c for c in arm.cells} for arm in comparison.arms]
    best = [_highest([cells[key].mean if key in cells else None for cells in found]) for key in keys]
    for arm, cells in zip(comparison.arms, found, strict=True):
        row, mark = [arm.arm], [False]
        for key, top in zip(keys, best, strict=True):
            cell = cells.get(key)
            row.append(_percent(cell.mean) + _mark(cell.vs_base) if cell else "-")
            mark.append(cell is not None and cell.mean == top)
        rows.append(row)
        marks.append(mark)
    return Grid(header, rows, marks)


def representation_grid(rows: Sequence[RepresentationRow]) -> Grid:
    """Retrieval, alignment and uniformity of each arm, before and after, mean over languages."""
    header = ["arm", "layer", "retrieval@1", "before", "alignment", "before", "uniformity", "before"]
    shown = []
    for row in rows:
        if row.language:
            continue
        before = row.before or (None, None, None)
        shown.append(
            [
                row.arm,
                f"{row.layer} {row.pooling}",
                _percent(row.retrieval_at_1),
                _percent(before[0]),
                _plain(row.alignment),
                _plain(before[1]),
                _plain(row.uniformity),
                _plain(before[2]),
            ]
        )
    return Grid(header, shown, [[False] * len(header) for _ in shown])


def to_markdown(comparison: Comparison) -> str:
    """The tables and verdicts as Markdown."""
    parts = [f"# {', '.join(comparison.studies)}", _caption(comparison), _markdown(ablation_grid(comparison)), MARKS]
    if comparison.verdicts:
        parts.append("\n".join(f"- {_escape_markdown(line)}" for line in comparison.verdicts))
    if comparison.representation:
        parts += ["## Sentence representations", _markdown(representation_grid(comparison.representation))]
    parts += ["## Every task, language and number of shots", _markdown(cell_grid(comparison))]
    if comparison.warnings:
        parts.append("\n".join(f"- warning: {_escape_markdown(line)}" for line in comparison.warnings))
    return "\n\n".join(parts) + "\n"


def to_latex(comparison: Comparison) -> str:
    """The ablation table as a LaTeX `table` (booktabs); the best value of a column is bold."""
    grid = ablation_grid(comparison)
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(escape_latex, grid.header)) + r" \\", r"\midrule"]
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = [
            rf"\textbf{{{escape_latex(cell)}}}" if mark else escape_latex(cell)
            for cell, mark in zip(row, marks, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    caption = escape_latex(f"{', '.join(comparison.studies)}. {_caption(comparison)} {MARKS}.")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_csv(comparison: Comparison) -> str:
    """One line per arm and cell, numbers as they are (accuracy in [0, 1])."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["arm", "n_seeds", "task", "language", "shots", "mean", "delta", "low", "high", "p", "p_holm", "n"])
    for arm in comparison.arms:
        for cell in (*(mean for mean in (arm.mean, arm.pivot_mean) if mean), *arm.cells):
            delta = cell.vs_base
            low, high = delta.ci95 if delta and delta.ci95 else ("", "")
            tail = [delta.delta, low, high, _blank(delta.p), _blank(delta.p_holm), delta.n] if delta else [""] * 6
            name = (
                f"'{arm.arm}" if arm.arm.startswith(("=", "+", "-", "@")) else arm.arm
            )  # no formula for a spreadsheet
            writer.writerow([name, arm.n_seeds, cell.task, cell.language, _blank(cell.shots), cell.mean, *tail])
    return out.getvalue()


def to_json(comparison: Comparison) -> str:
    """The whole comparison."""
    return comparison.model_dump_json(indent=2) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv, "json": to_json}


def to_terminal(grid: Grid, title: str) -> "Table":
    """A table for rich; nothing in it is read as markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(grid.header):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=index == 0)
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        table.add_row(*(Text(cell, style="bold" if mark else "") for cell, mark in zip(row, marks, strict=True)))
    return table


def escape_latex(text: str) -> str:
    """`text` with everything that LaTeX reads as a command made harmless."""
    return "".join(_LATEX.get(char, char) for char in text if char.isprintable())


def _caption(comparison: Comparison) -> str:
    base = f"differences to {comparison.base}" if comparison.base else "no base to compare with"
    chosen = f"configurations chosen to {comparison.objective}"
    return f"Accuracy in % on {comparison.split}, mean over seeds; {base}; {chosen}."


def _markdown(grid: Grid) -> str:
    lines = ["| " + " | ".join(map(_escape_markdown, grid.header)) + " |", "|" + " --- |" * len(grid.header)]
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = [
            f"**{_escape_markdown(c)}**" if mark else _escape_markdown(c) for c, mark in zip(row, marks, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def _language_mean(arm: ArmRow, language: str) -> float | None:
    """Mean over tasks of the mean over shots, as the objective takes it."""
    tasks: dict[str, list[float]] = {}
    for cell in arm.cells:
        if cell.language == language:
            tasks.setdefault(cell.task, []).append(cell.mean)
    means = [sum(values) / len(values) for values in tasks.values()]
    return sum(means) / len(means) if means else None


def _mean(cell: TableCell | None) -> float | None:
    return cell.mean if cell else None


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _delta_columns(delta: Difference | None) -> list[str]:
    if delta is None:
        return ["-", "-", "-"]
    interval = f"[{100 * delta.ci95[0]:+.1f}, {100 * delta.ci95[1]:+.1f}]" if delta.ci95 else "-"
    p = delta.p if delta.p_holm is None else delta.p_holm
    return [f"{100 * delta.delta:+.1f}", interval, "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"]


def _mark(delta: Difference | None) -> str:
    p = None if delta is None else delta.p if delta.p_holm is None else delta.p_holm
    return "" if p is None or p >= 0.05 else "‡" if p < 0.01 else "†"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _blank(value: float | int | None) -> float | int | str:
    return "" if value is None else value
