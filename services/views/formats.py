"""A comparison as Markdown, LaTeX, CSV and JSON; accuracies in percent, differences in points, but for CSV and JSON."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import stdev

from afp_ray.config import flatten
from afp_ray.records import Comparison
from services.views.blocks import task_grid, tasks_of
from services.views.grid import Grid
from services.views.pictures import file_name, real_minus
from services.views.published import LEGEND, published_csv, published_lines
from services.views.tables import MARKS, ablation_grid, cell_grid, finding_grids, measured, representation_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """What a table shows, and what it is called.

    Attributes:
        task: whose scores are shown alone; None shows the ablation table and all that goes with it.
        has_std: whether the standard deviation over seeds stands behind each mean.
        caption: of the first LaTeX table, as LaTeX; None says what the table shows.
        label: what LaTeX refers to it by; None takes the names of the studies and the task.
    """

    task: str | None = None
    has_std: bool = False
    caption: str | None = None
    label: str | None = None


WHOLE = TableOptions()
"""Everything, in the words of this module."""


def to_markdown(comparison: Comparison, options: TableOptions = WHOLE) -> str:
    """The tables and verdicts as Markdown, or the table of one task."""
    if options.task is not None:
        grid = task_grid(comparison, options.task, has_std=options.has_std)
        return f"{escape_markdown(caption(comparison, options))}\n\n{grid_markdown(grid)}\n"
    parts = [
        f"# {', '.join(comparison.studies)}",
        *([escape_markdown(comparison.headline.text)] if comparison.headline is not None else []),
        _caption(comparison),
        grid_markdown(ablation_grid(comparison, has_std=options.has_std)),
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


def to_latex(comparison: Comparison, options: TableOptions = WHOLE) -> str:
    """The ablation table and all others, or the table of one task, as LaTeX `table`s (booktabs)."""
    label = options.label or f"tab:{file_name(*comparison.studies, options.task or '')}"
    words = options.caption or _cell_latex(caption(comparison, options))
    if options.task is not None:
        return grid_latex(task_grid(comparison, options.task, has_std=options.has_std), words, label)
    parts = [grid_latex(ablation_grid(comparison, has_std=options.has_std), words, label)]
    others = [(f"{title}.", grid) for title, grid in finding_grids(comparison)]
    others += [(f"{words} In percent; {LEGEND}.", grid) for words, grid in published_lines(comparison)]
    for number, (title, grid) in enumerate(others, start=2):
        parts.append(grid_latex(grid, _cell_latex(title), f"{label}-{number}"))
    return "\n".join(parts)


def to_csv(comparison: Comparison, options: TableOptions = WHOLE) -> str:
    """One line per arm and cell, numbers as they are (accuracy in [0, 1]); asked for, with deviations over seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["arm", "n_seeds", "task", "language", "shots", "mean", "delta", "low", "high", "p", "p_holm", "n"]
    head += ["demo_deviation", *(["seed_deviation"] if options.has_std else [])]
    writer.writerow(head)
    if comparison.majority is not None:
        for cell in comparison.majority.cells:
            if options.task in (None, cell.task):
                writer.writerow(["majority", "", cell.task, cell.language, "", cell.mean, *[""] * (len(head) - 6)])
    for arm in comparison.arms:
        for cell in (*(mean for mean in (arm.mean, arm.pivot_mean) if mean), *arm.cells):
            if options.task not in (None, cell.task):
                continue
            delta = cell.vs_base
            low, high = delta.ci95 if delta and delta.ci95 else ("", "")
            numbers = [delta.delta, low, high, _blank(delta.p), _blank(delta.p_holm), delta.n] if delta else [""] * 6
            tail = [*numbers, _blank(cell.demo_deviation)]
            if options.has_std:
                tail.append(stdev(cell.by_seed) if len(cell.by_seed) > 1 else "")
            name = (
                f"'{arm.arm}" if arm.arm.startswith(("=", "+", "-", "@")) else arm.arm
            )  # no formula for a spreadsheet
            writer.writerow([name, arm.n_seeds, cell.task, cell.language, _blank(cell.shots), cell.mean, *tail])
    if options.task is None:
        writer.writerows([*row, *[""] * (len(head) - len(row))] for row in published_csv(comparison))
    return out.getvalue()


def to_json(comparison: Comparison, options: TableOptions = WHOLE) -> str:
    """The whole comparison, whatever the options."""
    return comparison.model_dump_json(indent=2) + "\n"


FORMATS: dict[str, Callable[[Comparison, TableOptions], str]] = {
    "md": to_markdown,
    "tex": to_latex,
    "csv": to_csv,
    "json": to_json,
}


def caption(comparison: Comparison, options: TableOptions) -> str:
    """What the first table shows, in the plain words that stand below a table of a paper."""
    numbers = measured(comparison)
    of = f" of {options.task}" if options.task else f", mean of {', '.join(tasks_of(comparison))}"
    seeds = max(arm.n_seeds for arm in comparison.arms)
    means = "mean and standard deviation" if options.has_std else "mean"
    over = f"{means} over {seeds} seeds" if seeds > 1 else "one seed"
    lines = [f"{numbers[0].upper()}{numbers[1:]} in % on the {comparison.split} split{of}, by language; {over}."]
    if options.task is None:
        pivot = flatten(comparison.arms[0].config).get("data.pivot", "")
        lines.append(f"The mean leaves out the pivot language {pivot}.")
    if comparison.base:
        test = "paired test over contents and seeds, Holm-corrected"
        lines.append(f"\u2020 p < 0.05, \u2021 p < 0.01 against {comparison.base} ({test}).")
        if options.task is None:
            lines.append("Intervals of differences are at the level of that test.")
    return " ".join([*lines, "Bold: best of the column."])


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
    """The table as a LaTeX `table` (booktabs); `caption` is LaTeX, and the best value of a column is bold."""
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_cell_latex, grid.header)) + r" \\", r"\midrule"]
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = [
            rf"\textbf{{{_cell_latex(cell)}}}" if mark else _cell_latex(cell)
            for cell, mark in zip(row, marks, strict=True)
        ]
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}"]
    return "\n".join([*lines, rf"\label{{{label}}}", r"\end{table}"]) + "\n"


def _cell_latex(text: str) -> str:
    return escape_latex(real_minus(text))


def escape_latex(text: str) -> str:
    """`text` with everything that LaTeX reads as a command made harmless."""
    return "".join(_LATEX.get(char, char) for char in text if char.isprintable())


def escape_markdown(text: str) -> str:
    """`text` with everything that Markdown reads as a mark made harmless."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)
