"""The ablation table as Markdown, LaTeX, CSV, JSON and for a terminal; accuracies in percent, differences in points."""

import csv
import io
from collections.abc import Callable, Sequence

from afp_ray.records import (
    ArmRow,
    Comparison,
    DeviceHours,
    Difference,
    MajorityRow,
    ParetoPoint,
    RepresentationRow,
    TableCell,
    signed_points,
)
from services.reports.grid import (
    FAMILY,
    Grid,
    escape_latex,
    escape_markdown,
    grid_latex,
    grid_markdown,
    interval,
    mark,
    percent,
    plain,
    plain_grid,
    to_terminal,
)
from services.reports.published import LEGEND, published_csv, published_lines

__all__ = [
    "FORMATS",
    "MARKS",
    "Grid",
    "ablation_grid",
    "cell_grid",
    "cost_legend",
    "cost_words",
    "escape_latex",
    "finding_grids",
    "pareto_grid",
    "representation_grid",
    "to_terminal",
]

MARKS = f"† p < 0.05 after Holm, ‡ p < 0.01: paired test over contents and seeds, against base; {FAMILY}"
DEMONSTRATIONS = "± demonstrations"
EFFECTS = "What each component adds: arms that differ in it, in points, Holm over this table"
IMPORTANCES = "Which searched field told the best tenth of the trials from all (PED-ANOVA), Holm over this table"
COSTS = "training of one trial in device-hours, with all else apart (budget.gpu_hours counts both)"
FRONT = "on the front nothing is as good and as cheap"


def ablation_grid(comparison: Comparison) -> Grid:
    """Arms by language (mean over tasks and shots), with the means and the verdict's numbers.

    The last column, where several sets of demonstrations were drawn, is the mean over cells of what they make differ.
    """
    languages = sorted({cell.language for arm in comparison.arms for cell in arm.cells})
    header = ["arm", "seeds", *languages, "mean", "pivot mean", "mean - base", "interval", "p (Holm)"]
    has_deviations = any(_deviation_over_demonstrations(arm) is not None for arm in comparison.arms)
    header += [DEMONSTRATIONS] if has_deviations else []
    values = [
        [_language_mean(arm, code) for code in languages] + [_mean(arm.mean), _mean(arm.pivot_mean)]
        for arm in comparison.arms
    ]
    best = [_highest([row[column] for row in values]) for column in range(len(languages) + 2)]
    rows, marks = [], []
    if comparison.majority is not None:
        rows.append(_majority_line(comparison.majority, languages) + ["-"] * has_deviations)
        marks.append([False] * len(header))
    for arm, numbers in zip(comparison.arms, values, strict=True):
        delta = arm.mean.vs_base if arm.mean else None
        shown = [percent(value) for value in numbers]
        shown[-2] += mark(delta)
        over_demonstrations = [percent(_deviation_over_demonstrations(arm))] if has_deviations else []
        rows.append([arm.arm, str(arm.n_seeds), *shown, *_delta_columns(delta), *over_demonstrations])
        marks.append(
            [
                False,
                False,
                *(value is not None and value == top for value, top in zip(numbers, best, strict=True)),
                *[False] * (3 + has_deviations),
            ]
        )
    return Grid(header, rows, marks)


def _deviation_over_demonstrations(arm: ArmRow) -> float | None:
    """Mean over the cells that have one; None where none has."""
    found = [cell.demo_deviation for cell in arm.cells if cell.demo_deviation is not None]
    return sum(found) / len(found) if found else None


def _majority_line(row: MajorityRow, languages: Sequence[str]) -> list[str]:
    """The majority baseline as a line of the ablation table; - where a task of the language has no choices."""
    shown = []
    for code in languages:
        own = [cell.mean for cell in row.cells if cell.language == code]
        shown.append(percent(sum(own) / len(own)) if own and row.mean is not None else "-")
    return ["majority", "-", *shown, percent(row.mean), percent(row.pivot_mean), "-", "-", "-"]


def effect_grid(comparison: Comparison) -> Grid:
    """What each component adds, with its interval and verdict."""
    header = ["component", "with", "without", "points", "interval", "p (Holm)", "in words"]
    rows = []
    for effect in comparison.effects:
        p = effect.difference.p if effect.difference.p_holm is None else effect.difference.p_holm
        gain = "adds" if effect.difference.delta > 0 else "takes"
        words = "not tested" if p is None else "not distinguishable" if p >= 0.05 else gain
        if effect.also_differ:
            words += f"; also differ in {', '.join(effect.also_differ)}"
        rows.append([effect.component, effect.with_arm, effect.without_arm, *_delta_columns(effect.difference), words])
    return plain_grid(header, rows)


def importance_grid(comparison: Comparison) -> Grid:
    """How much each searched field mattered in each arm."""
    header = ["arm", "field", "trials", "share, %", "95 % interval", "p (Holm)", "in words"]
    rows = [
        [
            one.arm,
            one.field,
            str(one.n_trials),
            percent(one.share),
            f"[{100 * one.ci95[0]:.0f}, {100 * one.ci95[1]:.0f}]",
            "< 0.001" if one.p < 0.001 else f"{one.p:.3f}",
            "not distinguishable" if one.p >= 0.05 else "mattered",
        ]
        for one in comparison.importances
    ]
    return plain_grid(header, rows)


def pareto_grid(points: Sequence[ParetoPoint]) -> Grid:
    """Score and device-hours of every arm, cheapest first; no front where costs are not compared."""
    has_startup = any(point.hours is not None and point.hours.startup is not None for point in points)
    has_front = all(point.is_on_front is not None for point in points)
    apart = ["evaluation", "start-up"] if has_startup else ["evaluation and start-up"]
    header = ["arm", "score, %", "training, device-hours", *apart, *(["front"] if has_front else [])]
    rows = []
    for point in points:
        hours = point.hours or DeviceHours(training=point.gpu_hours, evaluation=0.0)
        rows.append([point.arm, percent(point.score), _hours(hours.training), _hours(hours.evaluation)])
        if has_startup:
            rows[-1].append("in evaluation" if hours.startup is None else _hours(hours.startup))
        if has_front:
            rows[-1].append("yes" if point.is_on_front else "no")
    return plain_grid(header, rows)


def cost_legend(cost_note: str) -> str:
    """What costs are, and what the front is or why there is none."""
    return f"{COSTS}; {cost_note or FRONT}"


def cost_words(hours: DeviceHours) -> str:
    """What one trial cost, its training first."""
    apart = (
        f"evaluation {_hours(hours.evaluation)}, start-up {_hours(hours.startup)}"
        if hours.startup is not None
        else None
    )
    return f"training {_hours(hours.training)}; {apart or f'evaluation and start-up {_hours(hours.evaluation)}'}"


def _hours(value: float) -> str:
    """Hours to four digits, and never with an exponent: 0.00003 is a tenth of a second."""
    return f"{value:.4g}" if value == 0 or value >= 0.001 else f"{value:.5f}"


def finding_grids(comparison: Comparison) -> list[tuple[str, Grid]]:
    """Title and table of components, searched fields, and quality against cost; those that there are."""
    found = []
    if comparison.effects:
        found.append((EFFECTS, effect_grid(comparison)))
    if comparison.importances:
        found.append((IMPORTANCES, importance_grid(comparison)))
    if len(comparison.pareto) > 1:
        found.append((f"Mean score against cost: {cost_legend(comparison.cost_note)}", pareto_grid(comparison.pareto)))
    return found


def cell_grid(comparison: Comparison) -> Grid:
    """Every cell: arms by task, language and shots."""
    keys = sorted({(c.task, c.language, c.shots or 0) for arm in comparison.arms for c in arm.cells})
    header = ["arm", *(f"{task}/{language}/{shots}" for task, language, shots in keys)]
    rows, marks = [], []
    found = [{(c.task, c.language, c.shots or 0): c for c in arm.cells} for arm in comparison.arms]
    best = [_highest([cells[key].mean if key in cells else None for cells in found]) for key in keys]
    for arm, cells in zip(comparison.arms, found, strict=True):
        row, own = [arm.arm], [False]
        for key, top in zip(keys, best, strict=True):
            cell = cells.get(key)
            row.append(_with_deviation(cell) if cell else "-")
            own.append(cell is not None and cell.mean == top)
        rows.append(row)
        marks.append(own)
    return Grid(header, rows, marks)


def representation_grid(rows: Sequence[RepresentationRow]) -> Grid:
    """What was measured of each arm, before and after, mean over languages; older results lack the last two."""
    header = ["arm", "layer", "retrieval@1", "before", "alignment", "before", "uniformity", "before"]
    has_more = any(row.anisotropy is not None for row in rows)
    header += ["anisotropy (before)", "probe (before)"] if has_more else []
    shown = []
    for row in rows:
        if row.language:
            continue
        before = row.before or (None, None, None)
        shown.append(
            [
                row.arm,
                f"{row.layer} {row.pooling}",
                percent(row.retrieval_at_1),
                percent(before[0]),
                _plain(row.alignment),
                _plain(before[1]),
                _plain(row.uniformity),
                _plain(before[2]),
            ]
        )
        if has_more:
            shown[-1].append(_beside(_plain(row.anisotropy), _plain(row.anisotropy_before)))
            shown[-1].append(_beside(percent(row.language_probe), percent(row.language_probe_before)))
    return plain_grid(header, shown)


def to_markdown(comparison: Comparison) -> str:
    """The tables and verdicts as Markdown."""
    parts = [
        f"# {', '.join(comparison.studies)}",
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
    if told := [line for line in comparison.warnings if line not in comparison.verdicts]:
        parts.append("\n".join(f"- warning: {escape_markdown(line)}" for line in told))
    return "\n\n".join(parts) + "\n"


def to_latex(comparison: Comparison) -> str:
    """The ablation table, and each published one beside ours, as LaTeX `table`s (booktabs)."""
    caption = f"{', '.join(comparison.studies)}. {_caption(comparison)} {MARKS}."
    parts = [grid_latex(ablation_grid(comparison), caption)]
    parts += [grid_latex(grid, f"{title}.") for title, grid in finding_grids(comparison)]
    parts += [grid_latex(grid, f"{words} In percent; {LEGEND}.") for words, grid in published_lines(comparison)]
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
            shown = [delta.delta, low, high, _blank(delta.p), _blank(delta.p_holm), delta.n] if delta else [""] * 6
            tail = [*shown, _blank(cell.demo_deviation)]
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


TITLES = {"bleu": "BLEU", "rouge1": "ROUGE-1", "target_language_rate": "target-language rate"}
"""Main metrics as captions name them."""


def measured(comparison: Comparison) -> str:
    """The metrics of the cells."""
    names = {cell.metric for arm in comparison.arms for cell in arm.cells}
    return ", ".join(TITLES.get(name, name) for name in sorted(names)) or "accuracy"


def _with_deviation(cell: TableCell) -> str:
    """A cell's mean, its mark, and how far demonstration seeds lie apart."""
    spread = "" if cell.demo_deviation is None else f" ±{100 * cell.demo_deviation:.1f}"
    return percent(cell.mean) + mark(cell.vs_base) + spread


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
    p = delta.p if delta.p_holm is None else delta.p_holm
    return [
        signed_points(delta.delta),
        interval(delta.shown),
        "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
    ]


def _plain(value: float | None) -> str:
    return "-" if value is None else plain(value)


def _beside(after: str, before: str) -> str:
    return after if before == "-" else f"{after} ({before})"


def _blank(value: float | int | None) -> float | int | str:
    return "" if value is None else value
