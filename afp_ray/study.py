"""The second arrow, `StudyConfig -> StudyState`: what must hold, what it would do, and the run itself."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from afp_ray.config import StudyConfig
from afp_ray.errors import ModelError, StudyChangedError, StudyLockedError, UnavailableError
from afp_ray.execution import Driver, Executor, LocalExecutor, StopRequest
from afp_ray.execution.base import RUN_TRIAL
from afp_ray.execution.notify import tell_end
from afp_ray.execution.stop import heed_stop_file
from afp_ray.ledger import CLOSED, OPENED, Ledger, Replayer, follow, holder, replay
from afp_ray.ledger.agreement import require_same
from afp_ray.planning.check import Checked, cached_fingerprints, check_study, refusals
from afp_ray.planning.effects import Spreads
from afp_ray.planning.plan import plan_study, planned_trials
from afp_ray.records import LedgerEvent, OnEvent, StudyState
from afp_ray.records.plans import StudyPlan
from afp_ray.redaction import redact
from afp_ray.remote import RemoteStudy
from afp_ray.search import StudySearch, measure_of, prior_studies
from afp_ray.store import StudyPaths, url_of
from afp_ray.tracking.background import BackgroundProjector
from afp_ray.tracking.location import tracking_uri

PUSH_EVERY_S = 20.0
"""Seconds between two pushes of a study whose storage is a URL."""
POLL_S = 0.5
"""Seconds between two looks at the ledger of another driver."""
CLOSE_S = 20.0
"""Seconds that the last projection into MLflow may take; what it lacks then is shown by `afp sync`."""


def check(study: StudyConfig) -> Checked:
    """Refuse what would fail once the study runs; starts and writes nothing.

    Raises: UserError for the first thing that would fail.
    """
    return check_study(study)


def plan(study: StudyConfig, storage: Path, *, probe: bool = False, spreads: Spreads | None = None) -> StudyPlan:
    """Check the study, count its work and estimate its cost; writes nothing.

    Args:
        study: what would be run.
        storage: its finished trials tell what a trial costs.
        probe: run a few steps of the study's kinds of trials now, in this process, and go by them instead.
        spreads: what differences to base will vary by; null takes those of a finished study.
    Raises: UserError for the first thing that would fail.
    """
    return plan_study(study, storage, check(study), probe=probe, spreads=spreads)


def run(
    study: StudyConfig,
    paths: StudyPaths,
    *,
    unloadable: Mapping[str, ModelError] = MappingProxyType({}),
    address: str | None = None,
    allow_drift: bool = False,
    on_event: Sequence[OnEvent] = (),
    on_end: Callable[[StudyState], object] = lambda _: None,
    stop: StopRequest | None = None,
) -> StudyState:
    """Run or continue a study whose checks have passed, and project it into MLflow on the way.

    Args:
        study: what to run, `runtime.executor` included.
        paths: where it lives.
        unloadable: by arm, why its model cannot be loaded: its trials fail with that.
        address: of a running Ray cluster; None takes RAY_ADDRESS, else starts one here.
        allow_drift: go on although the study differs from what ran before.
        on_event: called after every event of the ledger.
        on_end: called once the study is closed, before the last projection, which takes the report along.
        stop: for whoever shows that a stop was asked for; SIGINT, SIGTERM and `afp stop` ask through it.
    Returns: the state when the driver ended.
    Raises: StudyLockedError, StudyChangedError, UnavailableError, UserError.
    """
    search = StudySearch(
        study,
        cached_fingerprints(study, unloadable),
        prior=prior_studies(study, paths.storage),
        refused=refusals(unloadable),
    )
    executor = _executor(study, address)
    projector = BackgroundProjector.to_mlflow(study, paths, tracking_uri(study.runtime.tracking_uri, paths.storage))
    stop = stop or StopRequest()
    num_trials = planned_trials(study, unloadable)
    is_ours, problem = False, ""
    try:
        with _pushed(paths, stop) as push, heed_stop_file(paths, stop):
            with Ledger.open(paths, study, allow_drift=allow_drift, num_trials=num_trials) as ledger:
                is_ours = True
                state = Driver(
                    study,
                    ledger,
                    search=search,
                    measure=measure_of(study),
                    run_trial=RUN_TRIAL,
                    on_event=[*on_event, lambda *_: projector.submit(), push],
                    stop=stop,
                ).run(executor)
            on_end(state)
        projector.submit()
        return state
    except StudyChangedError:
        raise  # what was refused must not show in the runs of what was run
    except BaseException as error:
        problem = redact(f"{type(error).__name__}: {error}")
        if paths.ledger.is_file() and holder(paths) is None:  # nobody drives it now: no run may stay RUNNING
            projector.submit()
        raise
    finally:
        if is_ours and study.runtime.notify is not None:
            tell_end(study.runtime.notify, paths, error=problem)
        projector.close(deadline_s=CLOSE_S)


def _executor(study: StudyConfig, address: str | None) -> Executor:
    if study.runtime.executor == "local":
        return LocalExecutor()
    from afp_ray.execution.ray_executor import RayExecutor  # Ray takes a second to import

    return RayExecutor(study.runtime, address=address)


@contextmanager
def _pushed(paths: StudyPaths, stop: StopRequest) -> Iterator[OnEvent]:
    """Pull a study whose storage is a URL, push it after the events that are passed on, and as a whole at the end."""
    url = url_of(paths.storage)
    if url is None:
        yield lambda *_: None
        return

    def end_at_once(reason: str) -> None:
        stop.request(reason)
        stop.request(reason)  # twice is at once: another machine runs these trials now

    remote = RemoteStudy(url, paths, on_conflict=end_at_once)
    remote.pull(with_weights=True)
    pusher = BackgroundProjector(
        lambda: remote, study=paths.name, interval_s=PUSH_EVERY_S, shows_in=redact(url), later="afp resume"
    )
    try:
        yield lambda *_: pusher.submit()
    finally:
        pusher.close(deadline_s=threading.TIMEOUT_MAX)  # a push is not begun while another is under way
        if holder(paths) is None:  # else another driver of this machine has the study, and pushes it
            try:
                remote.project(is_last=True)
            except UnavailableError as error:
                hint = f"nothing is lost: {paths.folder} has it, and `afp resume {paths.name}` here pushes it"
                raise UnavailableError(f"{error}; {hint}") from error


def run_or_follow(
    study: StudyConfig,
    paths: StudyPaths,
    run_it: Callable[[], StudyState],
    *,
    on_event: Sequence[OnEvent] = (),
    say: Callable[[str], None] = lambda _: None,
    poll_s: float = POLL_S,
) -> StudyState:
    """Run the study, or follow who runs it until that driver has closed it or is dead.

    Args:
        study: what we would run.
        paths: where it lives.
        run_it: runs or continues the study; raises StudyLockedError while another driver holds it.
        on_event: called after every event that the other driver writes; `run_it` tells its own.
        say: called with a line for the user whenever another driver takes part.
        poll_s: seconds between two looks at the ledger.
    Returns: the state at the end, whoever drove.
    Raises: StudyChangedError when the other driver runs another study of that name; what `run_it` raises.
    """
    while True:
        start = _size(paths.ledger)
        try:
            return run_it()
        except StudyLockedError as error:
            if paths.study.is_file() and require_same(paths, study).budget != study.budget:
                say(f"the driver of {paths.name} goes on with its own budget; this one's counts if it takes over")
            say(f"{error}; following it")
        try:
            state = follow_driver(paths, start=start, on_event=on_event, poll_s=poll_s)
        except KeyboardInterrupt:
            say(f"no longer following {paths.name}, which goes on; to stop it: afp stop {paths.name}")
            raise
        if state is not None:
            return state
        say(f"the driver of {paths.name} ended without a word; taking the study over")


def follow_driver(
    paths: StudyPaths, *, start: int = 0, on_event: Sequence[OnEvent] = (), poll_s: float = POLL_S
) -> StudyState | None:
    """Read a ledger along with its driver until the driver is gone.

    Args:
        paths: the study.
        start: byte of the ledger from which events are told.
        on_event: called for every event from there on.
        poll_s: seconds between two looks.
    Returns: the state, once the study is closed; None when its driver ended without closing it.
    Raises: DataError for a line that is damaged.
    """
    replayer = Replayer(paths.name)
    is_closed = False
    while True:
        is_held = holder(paths) is not None  # asked first, so that the last words of a driver are read
        if _size(paths.ledger) < replayer.offset:  # a torn tail was cut
            replayer, start = Replayer(paths.name), max(start, replayer.offset)
        try:
            for content, line in follow(paths.ledger, replayer.offset):
                offset, num_stale = replayer.offset, replayer.num_stale
                replayer.apply(content)
                replayer.count(line)
                if offset < start or replayer.num_stale > num_stale:
                    continue
                event = LedgerEvent.model_validate(content)
                is_closed = event.state == CLOSED or (is_closed and event.state != OPENED)
                for callback in on_event:
                    callback(event, replayer.state())
        except ValueError:
            replay(paths.ledger)  # names the damaged line, and how to set it aside
            raise
        if not is_held:
            return replayer.state() if is_closed else None
        time.sleep(poll_s)


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
