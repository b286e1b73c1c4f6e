"""Draws the live view of a study: its arms with those that are over, what runs with its losses, report and tracking."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from services.schemas import ArmStatus, RunningTrial, StudyStatus

SHORT_ID = 8
"""Digits of a trial's id that are shown: commands take the first ones too."""
WIDE, WIDER, WIDEST = 72, 100, 128
"""Terminal columns from which more of a trial is shown."""
_SHOWN_NAMES = {
    "contrastive_loss": "contrastive",
    "instruction_loss": "instruction",
    "gradient_norm": "gradient norm",
    "tokens_per_s": "tokens/s",
}
"""Names of metrics as the table has them; the first two are losses in nats."""


def drawing(status: StudyStatus, *, clocks: str, last: Text, report: str, size: tuple[int, int]) -> Group:
    """The live view: how far the study is, its arms, what runs, and where report and tracking are.

    Args:
        status: of the study.
        clocks: time since the start, and what is left.
        last: the line on how to stop, or that it is stopping.
        report: file that the study will leave.
        size: columns and lines of the terminal; wide ones show more, and what does not fit in height is counted.
    """
    width, height = size
    counts = status.counts
    head = f"{status.name}  {counts['DONE']} of {status.expected} done  {len(status.running)} running"
    head += f"  {counts['FAILED']} failed" if counts["FAILED"] else ""
    lines: list[RenderableType] = [
        Text(f"{head}   {status.gpu_hours:.2f} device-hours   {clocks}", style="bold", overflow="fold")
    ]
    if status.best_arm is not None:
        best = f"best so far  {status.best_arm}  {status.objective} {status.best_objective:.4f} on validation"
        lines.append(Text(best, overflow="fold"))
    room = max(4, height - 9)
    num_running = min(len(status.running), max(2, room // 2))
    lines += [*_arm_lines(status.arms, num_rows=max(2, room - num_running)), Text()]
    lines.append(_running_table(status.running[:num_running], width))
    if hidden := len(status.running) - num_running:
        lines.append(Text(f"and {hidden} more that run", style="dim"))
    lag = status.tracking
    behind = "in sync" if lag is None else f"{lag.events} events behind{f': {lag.reason}' if lag.reason else ''}"
    lines.append(Text(f"tracking {behind}   report {report}, written at the end", style="dim", overflow="fold"))
    return Group(*lines, last)


def _table(width: int) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2 if width >= WIDER else 1, 0, 0))


def _arm_lines(arms: Sequence[ArmStatus], *, num_rows: int) -> list[RenderableType]:
    """Every arm that has trials, those that are over too."""
    table = _table(WIDER)
    for name in ("arm", "done", "running", "failed", "best on validation"):
        table.add_column(name, justify="left" if name == "arm" else "right", no_wrap=name != "arm", overflow="fold")
    for arm in arms[:num_rows]:
        best = "-" if arm.best_objective is None else f"{arm.best_objective:.4f}"
        table.add_row(arm.arm, str(arm.done), str(arm.running), str(arm.failed), best)
    hidden = len(arms) - num_rows
    return [table, *([Text(f"and {hidden} more arms", style="dim")] if hidden > 0 else [])]


def _running_table(trials: Sequence[RunningTrial], width: int) -> Table:
    """Trials at work; the losses by name, more of the step in a wide terminal."""
    metrics = ["contrastive_loss", "instruction_loss"]
    metrics += ["gradient_norm", "tokens_per_s"] if width >= WIDEST else []
    table = _table(width)
    columns = ["arm", "seed", "stage", "done", *(_SHOWN_NAMES[name] for name in metrics), "time", "left"]
    columns = ["trial", *columns] if width >= WIDE else [name for name in columns if name not in ("seed", "time")]
    for name in columns:
        justify: Literal["left", "right"] = "left" if name in ("trial", "arm", "stage", "done") else "right"
        table.add_column(name, justify=justify, no_wrap=name != "arm", overflow="fold")
    for trial in trials:
        cells = _cells(trial, metrics, has_bar=width >= WIDER)
        table.add_row(*(cells[name] for name in columns))
    return table


def _cells(trial: RunningTrial, metrics: Sequence[str], *, has_bar: bool) -> dict[str, str]:
    share = trial.done / trial.total if trial.total else 0.0
    done = f"{100 * share:3.0f} %" if trial.total else "-"
    if has_bar and trial.total:
        done = "█" * int(10 * share) + "·" * (10 - int(10 * share)) + f" {done}"
    cells = {
        "trial": trial.trial_id[:SHORT_ID],
        "arm": trial.arm,
        "seed": str(trial.seed),
        "stage": trial.stage or "starts",
        "done": done,
        "time": clock(trial.seconds),
        "left": clock(trial.left_s) if trial.left_s is not None else "-",
    }
    for name in metrics:
        value = trial.metrics.get(name)
        digits = 0 if name == "tokens_per_s" else 2
        cells[_SHOWN_NAMES[name]] = "-" if value is None else f"{value:.{digits}f}"
    return cells


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
