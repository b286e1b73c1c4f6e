"""Published tables beside ours, as text: one table for each model of theirs, one line a cell."""

from collections.abc import Sequence

from afp_ray.records import Comparison, PaperCell, PaperRow, PaperTable, signed_points
from services.views.grid import FAMILY, Grid, interval, mark_of, percent, plain_grid

LEGEND = f"differences to the own base in brackets, means with 95 % intervals; {FAMILY}; - where there is no score"


def published_grid(table: PaperTable, *, shared_only: bool = False) -> Grid:
    """Cells by arm: what the paper has and what we have, base first; `shared_only` leaves out what we do not score."""
    header = [f"{table.metric}, %"]
    for row in table.rows:
        header += [f"{row.name}: paper", f"ours ({row.arm})" if row.arm not in (None, row.name) else "ours"]
    cells = [[row.cells[index] for row in table.rows] for index in range(len(table.rows[0].cells))]
    shown = [row for row in cells if not shared_only or any(cell.ours is not None for cell in row)]
    lines = [[_cell_name(row[0]), *_values(row)] for row in shown]
    means = [row.mean for row in table.rows]
    rows = [*_amounts(table.rows), *lines, [_mean_name(table), *_values(means)]]
    return plain_grid(header, rows, joined=range(2, len(header), 2))


def _amounts(rows: Sequence[PaperRow]) -> list[list[str]]:
    """What each row was trained on, theirs and ours, where either is known."""
    pairs = [("translation pairs", "num_pairs"), ("instructions", "num_instructions")]
    lines = []
    for words, name in pairs:
        values = [(getattr(row, name), getattr(row, f"our_{name}")) for row in rows]
        if any(value is not None for both in values for value in both):
            lines.append([words, *("-" if value is None else f"{value:,}" for both in values for value in both)])
    return lines


def claims_grid(table: PaperTable) -> Grid:
    """Each sentence of the paper, its number, and the difference of our two arms."""
    rows = []
    for claim in table.claims:
        ours = "-"
        if claim.ours is not None:
            bracket = f" {interval(claim.ci95)}" if claim.ci95 else ""
            ours = f"{signed_points(claim.ours)}{mark_of(claim.p)}{bracket} ({claim.arm} to {claim.other})"
        rows.append([claim.text, "-" if claim.paper is None else signed_points(claim.paper), ours])
    return plain_grid(["the paper says", "paper", "ours"], rows)


def caption(table: PaperTable) -> str:
    """What is compared, and which model the paper's rows are most likely of."""
    likely = "is" if table.confidence == "high" else "is most likely"
    if not table.rows:
        models = f"Ours is {table.our_model}."
    elif not table.is_known:
        models = (
            f"Which model the paper's rows are of is not known ({table.reason}); ours is {table.our_model}: compare "
            "the differences, not the levels."
        )
    elif table.is_same_model:
        models = f"The paper's model {likely} {table.model} ({table.confidence} confidence), as is ours."
    else:
        models = (
            f"The paper's model {likely} {table.model} ({table.confidence} confidence: {table.reason}); ours is "
            f"{table.our_model}, another model: compare the differences, not the levels."
        )
    return " ".join(filter(None, [f"{table.table}, {table.title} ({table.source}).", models, table.note]))


def published_lines(comparison: Comparison, *, shared_only: bool = False) -> list[tuple[str, Grid]]:
    """Caption and table of everything published that the studies name; what a paper says in words comes last."""
    lines = []
    for table in comparison.published:
        if table.rows:
            lines.append((caption(table), published_grid(table, shared_only=shared_only)))
        if table.claims:
            words = f"{table.table}, in the paper's own words." if table.rows else caption(table)
            lines.append((words, claims_grid(table)))
    return lines


def published_csv(comparison: Comparison) -> list[list[object]]:
    """The published values in the columns of the other rows: arm, seeds, task, language, shots, mean, difference."""
    return [
        [f"paper {table.table} {table.model} {row.name}", "", cell.task, cell.language, cell.shots, cell.paper, delta]
        for table in comparison.published
        for row in table.rows
        for cell in row.cells
        for delta in ["" if cell.paper_vs_base is None else cell.paper_vs_base]
    ]


def _cell_name(cell: PaperCell) -> str:
    return f"{cell.task}/{cell.language}/{cell.shots}"


def _mean_name(table: PaperTable) -> str:
    shared = max(sum(cell.ours is not None for cell in row.cells) for row in table.rows)
    return f"mean of {shared} shared cell{'s' if shared != 1 else ''}" if shared else "mean of the paper's cells"


def _values(cells: Sequence[PaperCell]) -> list[str]:
    texts = []
    for cell in cells:
        theirs = percent(cell.paper)
        if cell.paper_vs_base is not None:
            theirs += f" ({signed_points(cell.paper_vs_base)})"
        ours = percent(cell.ours)
        if cell.vs_base is not None:
            ends = cell.ci95_holm or cell.ci95
            bracket = f" {interval(ends)}" if ends else ""
            ours += f"{mark_of(cell.p)} ({signed_points(cell.vs_base)}{bracket})"
        texts += [theirs, ours]
    return texts
