"""A comparison as Markdown, LaTeX, CSV and JSON; accuracies in percent, differences in points, but for CSV and JSON."""

import csv
import io
import re
from collections.abc import Callable

from afp_ray.records import (
    Comparison,
)
from services.views.grid import Grid
from services.views.pictures import file_name, real_minus
from services.views.published import LEGEND, published_csv, published_lines
from services.views.tables import MARKS, ablation_grid, cell_grid, finding_grids, measured, representation_grid


def to_markdown(comparison: Comparison) -> str:
    """The tables and verdicts as Markdown."""
    parts = [
        f"# {', '.join(comparison.studies)}",
        *([escape_markdown(comparison.headline.text)] if comparison.headline is not None else []),
        _caption(comparison),
        grid_markdown(ablation_grid(comparison)),
        MARKS,
    ]
    if comparison.verdicts:
        parts.append("\n".join(f"- {escape_markdown(line)}" for line in comparison.verdicts))
    for title, grid in finding_grids(comparison):
        parts += [
            f"## {title.partition(':')[0].partition(' (')[0].partition(';')[0]}",
            f"{title}.",
            grid_markdown(grid),
        ]
    if comparison.representation:
        parts += ["## Sentence representations", grid_markdown(representation_grid(comparison.representation))]
    parts += ["## Every task, language and number of shots", grid_markdown(cell_grid(comparison))]
    if comparison.published:
        parts += ["## Published tables beside ours", f"In percent; {LEGEND}."]
        parts += [
            part
            for words, grid in published_lines(comparison)
            for part in (escape_markdown(words), grid_markdown(grid))
        ]
    if warnings := [line for line in comparison.warnings if line not in comparison.verdicts]:
        parts.append("\n".join(f"- warning: {escape_markdown(line)}" for line in warnings))
    return "\n\n".join(parts) + "\n"


def to_latex(comparison: Comparison) -> str:
    """The ablation table, and each published one beside ours, as LaTeX `table`s (booktabs)."""
    caption = f"{', '.join(comparison.studies)}. {_caption(comparison)} {MARKS}."
    label = f"tab:{file_name(*comparison.studies)}"
    parts = [grid_latex(ablation_grid(comparison), caption, label)]
    others = [(f"{title}.", grid) for title, grid in finding_grids(comparison)]
    others += [(f"{words} In percent; {LEGEND}.", grid) for words, grid in published_lines(comparison)]
    parts += [grid_latex(grid, words, f"{label}-{number}") for number, (words, grid) in enumerate(others, start=2)]
    return "\n".join(parts)


def to_csv(comparison: Comparison) -> str:
    """One line per arm and cell, numbers as they are (accuracy in [0, 1])."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["arm", "n_seeds", "task", "language", "shots", "mean", "delta", "low", "high", "p", "p_holm", "n"]
    writer.writerow([*head, "demo_deviation"])
    if comparison.majority is not None:
        for cell in comparison.majority.cells:
            writer.writerow(["majority", "", cell.task, cell.language, "", cell.mean, *[""] * 7])
    for arm in comparison.arms:
        for cell in (*(mean for mean in (arm.mean, arm.pivot_mean) if mean), *arm.cells):
            delta = cell.vs_base
            low, high = delta.ci95 if delta and delta.ci95 else ("", "")
            numbers = [delta.delta, low, high, _blank(delta.p), _blank(delta.p_holm), delta.n] if delta else [""] * 6
            tail = [*numbers, _blank(cell.demo_deviation)]
            name = (
                f"'{arm.arm}" if arm.arm.startswith(("=", "+", "-", "@")) else arm.arm
            )  # no formula for a spreadsheet
            writer.writerow([name, arm.n_seeds, cell.task, cell.language, _blank(cell.shots), cell.mean, *tail])
    writer.writerows([*row, "", "", "", "", "", ""] for row in published_csv(comparison))
    return out.getvalue()


def to_json(comparison: Comparison) -> str:
    """The whole comparison."""
    return comparison.model_dump_json(indent=2) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {"md": to_markdown, "tex": to_latex, "csv": to_csv, "json": to_json}


def _caption(comparison: Comparison) -> str:
    base = f"differences to {comparison.base}" if comparison.base else "no base to compare with"
    chosen = f"configurations chosen to {comparison.objective}"
    numbers = measured(comparison)
    return f"{numbers[0].upper()}{numbers[1:]} in % on {comparison.split}, mean over seeds; {base}; {chosen}."


def _blank(value: float | int | None) -> float | int | str:
    return "" if value is None else value


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
    "−": "$-$",
    "±": r"$\pm$",
}


def grid_markdown(grid: Grid) -> str:
    """The table as Markdown; the best value of a column is bold."""
    lines = ["| " + " | ".join(map(escape_markdown, grid.header)) + " |", "|" + " --- |" * len(grid.header)]
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = [
            f"**{escape_markdown(c)}**" if mark else escape_markdown(c) for c, mark in zip(row, marks, strict=True)
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def grid_latex(grid: Grid, caption: str, label: str) -> str:
    """The table as a LaTeX `table` (booktabs) with its caption and label; the best value of a column is bold."""
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_cell_latex, grid.header)) + r" \\", r"\midrule"]
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = [
            rf"\textbf{{{_cell_latex(cell)}}}" if mark else _cell_latex(cell)
            for cell, mark in zip(row, marks, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_cell_latex(caption)}}}"]
    return "\n".join([*lines, rf"\label{{{label}}}", r"\end{table}"]) + "\n"


def _cell_latex(text: str) -> str:
    return escape_latex(real_minus(text))


def escape_latex(text: str) -> str:
    """`text` with everything that LaTeX reads as a command made harmless."""
    return "".join(_LATEX.get(char, char) for char in text if char.isprintable())


def escape_markdown(text: str) -> str:
    """`text` with everything that Markdown reads as a mark made harmless."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)
