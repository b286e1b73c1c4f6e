"""Shows a study while it runs: a live table on a terminal, one line per event otherwise."""

import threading
import time
from collections.abc import Mapping

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from afp_ray.records import LedgerEvent, StudyState, TrialStatus
from afp_ray.reporter import Pace
from afp_ray.store import StudyPaths
from services.output import note, say, say_json_text
from services.schemas import RunningTrial, StudyStatus
from services.status import status_of
from services.views.terminal import console

REFRESH_S = 0.5


def event_line(event: LedgerEvent, state: StudyState, num_expected: int) -> str:
    """One event as one line: time, state, what, and how far the study is of `num_expected` trials."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    if event.trial_id is None:
        return f"{clock}  {event.state:<9} {state.name}{f'  {event.note}' if event.note else ''}"
    trial = state.trial(event.trial_id)
    arm, seed = (trial.arm, trial.seed) if trial else (event.arm, event.seed)
    done = sum(other.status is TrialStatus.DONE for other in state.trials)
    words = [f"{clock}  {event.state:<9} {event.trial_id}  {arm} seed {seed}"]
    if event.role:
        words.append(event.role)
    if event.objective is not None:
        words.append(f"objective {event.objective:.4f}")
    if event.attempt > 1:
        words.append(f"attempt {event.attempt}")
    if event.failure is not None:
        words.append(f"{event.failure.failure_class}: {event.failure.message}")
    if event.note:
        words.append(event.note)
    return "  ".join([*words, f"[{done}/{max(num_expected, len(state.trials))} done]"])


class LineProgress:
    """Prints every event; as a JSON line where asked."""

    def __init__(self, num_expected: int, *, as_json: bool) -> None:
        self.num_expected, self.as_json = num_expected, as_json
        self._pace = Pace()

    def __enter__(self) -> "LineProgress":
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def __call__(self, event: LedgerEvent, state: StudyState) -> None:
        """Print one event."""
        if self.as_json:
            say_json_text(event.model_dump_json(exclude_none=True, exclude={"config"}))
            return
        done = sum(trial.status is TrialStatus.DONE for trial in state.trials)
        left_s = self._pace.left_s("study", done, max(self.num_expected, len(state.trials)))
        eta = f"  eta {clock(left_s)}" if left_s else ""
        say(event_line(event, state, self.num_expected) + eta)


class LiveProgress:
    """Redraws a table of the study twice a second; failures scroll by above it."""

    def __init__(self, paths: StudyPaths, num_expected: int) -> None:

        self.paths, self.num_expected = paths, num_expected
        self._pace = Pace()
        self._state: StudyState | None = None
        self._console = console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._redraw, name="live-table", daemon=True)
        self._started = time.monotonic()

    def __enter__(self) -> "LiveProgress":
        """Start drawing."""
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing and take the table away."""
        self._over.set()
        self._thread.join(5)
        self._live.stop()

    def __call__(self, event: LedgerEvent, state: StudyState) -> None:
        """Take note of an event."""
        self._state = state
        if event.failure is not None:
            self._console.print(event_line(event, state, self.num_expected))

    def _redraw(self) -> None:
        while not self._over.wait(REFRESH_S):
            if self._state is None or not self.paths.study.is_file():
                continue
            try:
                status = status_of(self.paths, self._state)
                self._live.update(self._table(status), refresh=True)
            except (OSError, ValueError) as error:  # a table that cannot be drawn must not end a study
                note(f"the table could not be drawn: {error}")
                return

    def _table(self, status: StudyStatus) -> Group:

        counts = status.counts
        expected = max(self.num_expected, status.trials)
        head = f"{status.name}  {counts['DONE']}/{expected} done  {len(status.running)} running"
        head += f"  {counts['FAILED']} failed" if counts["FAILED"] else ""
        head += f"   {status.gpu_hours:.2f} device-hours   {self._clocks(counts['DONE'], expected)}"
        lines: list[Text | Table] = [Text(head, style="bold")]
        if status.best_arm is not None:
            lines.append(
                Text(f"best so far  {status.best_arm}  {status.objective} {status.best_objective:.4f} on validation")
            )
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "arm", "seed", "stage", "progress", "loss", "time", "eta"):
            table.add_column(name, style="dim" if name == "trial" else "")
        for trial in status.running[:20]:
            table.add_row(*_running_row(trial))
        lines.append(table)
        lines.append(Text("Ctrl-C stops after the running trials and saves; twice stops at once", style="dim"))
        return Group(*lines)

    def _clocks(self, done: int, expected: int) -> str:
        """Time since the start, and what is left at the pace of the trials that ended since then."""
        elapsed = clock(time.monotonic() - self._started)
        left_s = self._pace.left_s("study", done, expected)
        return elapsed if left_s is None else f"{elapsed}   eta {clock(left_s)}"


def _running_row(trial: RunningTrial) -> list[str]:
    share = trial.done / trial.total if trial.total else 0.0
    bar = "█" * int(10 * share) + "·" * (10 - int(10 * share))
    losses = [f"{value:.2f}" for name, value in trial.metrics.items() if "loss" in name]
    progress = f"{bar} {100 * share:3.0f} %" if trial.total else ""
    return [
        trial.trial_id[:8],
        trial.arm,
        str(trial.seed),
        trial.stage or "starts",
        progress,
        " ".join(losses) or "-",
        clock(trial.seconds),
        clock(trial.left_s) if trial.left_s is not None else "",
    ]


class LineReporter:
    """A `Reporter` that says once in a while how far a trial is."""

    def __init__(self, interval_s: float = 5.0) -> None:
        self._interval_s, self._said_at, self._stage = interval_s, 0.0, ""
        self._pace = Pace()

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Print the stage, unless it was printed within the interval."""
        now, left_s = time.monotonic(), self._pace.left_s(stage, done, total)
        if stage == self._stage and now - self._said_at < self._interval_s:
            return
        self._stage, self._said_at = stage, now
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        eta = f"  eta {clock(left_s)}" if left_s else ""
        note(f"{stage} {done}/{total}{eta}  {numbers}".rstrip())


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
