"""Shows a study while it runs: a live table on a terminal, one line per event otherwise; and that it is stopping."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from afp_ray.execution.stop import StopRequest
from afp_ray.records import LedgerEvent, StudyState, TrialRecord, TrialStatus
from afp_ray.reporter import Pace
from afp_ray.store import StudyPaths
from services.output import note, say, say_json_text
from services.schemas import StudyStatus
from services.status import is_at_work, status_of
from services.views.live_table import SHORT_ID, clock, drawing
from services.views.terminal import console

REFRESH_S = 0.5
POLL_S = 0.1
"""Seconds until Ctrl-C is answered, at most."""
_LEGEND = "search: a configuration is tried on validation; confirm: the chosen one is trained at every seed and tested"


class StopWatch:
    """Says once that a study is stopping, and once that it stops now, as soon as it was asked to.

    Args:
        stop: what is asked.
        tell: called with the line, from a thread.
        state: the study as it is; None before its first event.
    """

    def __init__(self, stop: StopRequest, tell: Callable[[str], None], state: Callable[[], StudyState | None]) -> None:
        self._stop, self._tell, self._state = stop, tell, state
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="stop-watch", daemon=True)

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, with what was asked last still told."""
        self._over.set()
        self._thread.join(5)

    def _watch(self) -> None:
        told = 0
        is_over = False
        while not is_over:
            is_over = self._over.wait(POLL_S)
            asked = 2 if self._stop.is_now else 1 if self._stop.is_requested else 0
            if asked > told:
                told = asked
                self._tell(stopping_line(self._stop, self._state()))


def stopping_line(stop: StopRequest, state: StudyState | None) -> str:
    """What still has to end, about how long that takes, and how to end it at once."""
    if stop.is_now:
        return "stopping now: what runs is cut off, and what has finished is saved"
    at_work = [trial for trial in state.trials if is_at_work(trial)] if state is not None else []
    if not at_work:
        return "stopping: no trial runs, saving"
    left_s = _longest_left(state.trials if state is not None else (), at_work, now=time.time())
    about = f", about {clock(left_s)}" if left_s is not None else ""
    again = "Ctrl-C again stops now" if stop.reason == "SIGINT" else f"asked by {stop.reason}; Ctrl-C stops now"
    return f"stopping: {len(at_work)} trial{'s' if len(at_work) != 1 else ''} to finish{about}; {again}"


def _longest_left(trials: Sequence[TrialRecord], at_work: Sequence[TrialRecord], *, now: float) -> float | None:
    """Seconds until the last trial at work ends, by the mean of those of its arm that ended; None with none yet."""
    took: dict[str, list[float]] = {}
    for trial in trials:
        if trial.status is TrialStatus.DONE and trial.started_at is not None and trial.ended_at is not None:
            took.setdefault(trial.arm, []).append(trial.ended_at - trial.started_at)
    every = [seconds for of_arm in took.values() for seconds in of_arm]
    if not every:
        return None
    left = []
    for trial in at_work:
        seconds = took.get(trial.arm, every)
        left.append(sum(seconds) / len(seconds) - (now - (trial.started_at or now)))
    return max(1.0, *left)


def event_line(event: LedgerEvent, state: StudyState, *, note: str = "") -> str:
    """One event as one line: time, state, what, and how far the whole study is."""
    at = time.strftime("%H:%M:%S", time.localtime(event.time))
    if event.trial_id is None:
        words = [f"{at}  {event.state:<9} {state.name}"]
        words += [f"{state.expected} trials; {_LEGEND}"] if event.state == "OPENED" and state.num_trials else []
        return "  ".join([*words, *([event.note] if event.note else [])])
    trial = state.trial(event.trial_id)
    arm, seed = (trial.arm, trial.seed) if trial else (event.arm, event.seed)
    done = sum(other.status is TrialStatus.DONE for other in state.trials)
    words = [f"{at}  {event.state:<9} {event.trial_id[:SHORT_ID]}  {arm} seed {seed}"]
    if event.role:
        words.append(event.role)
    if event.objective is not None:
        words.append(f"objective {event.objective:.4f}")
    if event.attempt > 1:
        words.append(f"attempt {event.attempt}")
    if event.failure is not None:
        words.append(f"{event.failure.failure_class}: {event.failure.message}")
    words += [text for text in (event.note, note) if text]
    return "  ".join([*words, f"[{done} of {state.expected} done]"])


class LineProgress:
    """Prints every event; as a JSON line where asked. What is planned is told with its start.

    Args:
        as_json: print events as JSON.
        stop: says on a line that the study is stopping, within the block of a `with`.
    """

    def __init__(self, *, as_json: bool, stop: StopRequest | None = None) -> None:
        self.as_json = as_json
        self._pace = Pace()
        self._state: StudyState | None = None
        self._notes: dict[str, str] = {}
        self._watch = StopWatch(stop, note if as_json else say, lambda: self._state) if stop else None

    def __enter__(self) -> Self:
        """Itself."""
        if self._watch is not None:
            self._watch.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """End watching for a stop."""
        if self._watch is not None:
            self._watch.__exit__()

    def __call__(self, event: LedgerEvent, state: StudyState) -> None:
        """Print one event."""
        self._state = state
        if self.as_json:
            say_json_text(event.model_dump_json(exclude_none=True, exclude={"config"}))
            return
        if event.state == TrialStatus.PLANNED and event.trial_id is not None:
            self._notes[event.trial_id] = event.note
            return
        done = sum(trial.status is TrialStatus.DONE for trial in state.trials)
        left_s = self._pace.left_s("study", done, state.expected)
        eta = f"  eta {clock(left_s)}" if left_s and event.trial_id else ""
        say(event_line(event, state, note=self._notes.pop(event.trial_id or "", "")) + eta)


class LiveProgress:
    """Redraws a table of the study twice a second; failures scroll by above it.

    Args:
        paths: the study.
        stop: says at once that the study is stopping.
    """

    def __init__(self, paths: StudyPaths, stop: StopRequest) -> None:
        self.paths = paths
        self._pace = Pace()
        self._state: StudyState | None = None
        self._stopping = ""
        self._console = console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._over, self._changed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._redraw, name="live-table", daemon=True)
        self._watch = StopWatch(stop, self._tell_stopping, lambda: self._state)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        """Start drawing."""
        self._live.start()
        self._thread.start()
        self._watch.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Stop drawing and take the table away."""
        self._watch.__exit__()
        self._over.set()
        self._changed.set()
        self._thread.join(5)
        self._live.stop()

    def __call__(self, event: LedgerEvent, state: StudyState) -> None:
        """Take note of an event."""
        self._state = state
        if event.failure is not None:
            self._console.print(event_line(event, state))

    def _tell_stopping(self, line: str) -> None:
        self._stopping = line
        self._changed.set()

    def _redraw(self) -> None:
        while not self._over.is_set():
            if self._state is not None and self.paths.study.is_file():
                try:
                    self._live.update(self._drawing(status_of(self.paths, self._state)), refresh=True)
                except (OSError, ValueError) as error:  # a table that cannot be drawn must not end a study
                    note(f"the table could not be drawn: {error}")
                    return
            self._changed.wait(REFRESH_S)
            self._changed.clear()

    def _drawing(self, status: StudyStatus) -> Group:
        expected = max(status.expected, status.trials)
        last = self._stopping or "Ctrl-C stops after the running trials and saves; twice stops at once"
        return drawing(
            status,
            clocks=self._clocks(status.counts["DONE"], expected),
            last=Text(last, style="bold" if self._stopping else "dim"),
            report=str(self.paths.report),
            size=(self._console.width, self._console.height),
        )

    def _clocks(self, done: int, expected: int) -> str:
        """Time since the start, and what is left at the pace of the trials that ended since then."""
        elapsed = clock(time.monotonic() - self._started)
        left_s = self._pace.left_s("study", done, expected)
        return elapsed if left_s is None else f"{elapsed}   eta {clock(left_s)}"


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
