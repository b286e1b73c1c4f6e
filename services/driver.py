"""Carries a study out for the command line: checks first, then search, executor and projections are put together."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from afp_ray.config import ModelConfig, StudyConfig, TrialConfig, canonical_json
from afp_ray.config.trial import NO_MODEL
from afp_ray.errors import ModelError, StorageError, StudyChangedError, UnavailableError, UserError
from afp_ray.ledger import holder, replay
from afp_ray.records import Failure, FailureClass, OnEvent, StudyState, TrialResult, TrialStatus
from afp_ray.redaction import redact
from afp_ray.remote import ask_to_stop, keeping
from afp_ray.store import StudyPaths, write_atomic
from afp_ray.tracking.location import require_tracking, tracking_uri
from services.searching import measured, search_of

if TYPE_CHECKING:
    from afp_ray.search.arms import Arm

MAX_MESSAGE = 500
"""Characters of a failure's message that the ledger keeps."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What the checks of a study found.

    Attributes:
        lines: what was checked, one line each.
        unloadable: by arm, why its model cannot be loaded; the other arms can run.
    """

    lines: tuple[str, ...] = ()
    unloadable: Mapping[str, ModelError] = field(default_factory=dict)


def check_study(study: StudyConfig) -> Checked:
    """Check every arm as far as possible without starting anything; writes nothing.

    Returns: what was checked, and the arms whose model cannot be loaded.
    Raises: UserError for the first thing that would fail once it runs, an arm with a model of its own aside.
    """
    from afp_ray.comparison.published import check_published
    from afp_ray.evaluation.objective import check_metric
    from afp_ray.models.describe import describe
    from afp_ray.search import asked_metrics, make_arms
    from afp_ray.search.arms import ends_of
    from afp_ray.search.objectives import require_base
    from afp_ray.training.option_conflicts import check_lengths, check_together
    from afp_ray.trial.run import check_trial

    check_published(study.published)
    require_tracking(study.runtime.tracking_uri, Path())
    arms = make_arms(study)
    require_base(study, arms)
    limited = [limit.metric for limit in study.constraints]
    places = {metric: "constraints" if metric in limited else "objective.also" for metric in asked_metrics(study)}
    places[study.objective.metric] = "objective.metric"
    num_workers = study.runtime.num_workers
    seen: dict[str, ModelError | None] = {}
    unloadable: dict[str, ModelError] = {}
    for arm in arms:
        for config in ends_of(arm, study.seeds[0]):
            key = _what_is_checked(config)
            if key in seen:
                if (known := seen[key]) is not None:
                    unloadable[arm.name] = known
                continue
            seen[key] = None
            pivot = config.data.pivot
            for metric, where in places.items():
                check_metric(metric, config.evaluation, languages=config.evaluated_languages, pivot=pivot, where=where)
            try:
                check_together(config.loss, config.training, study.runtime, num_workers=num_workers)
                check_trial(config)
                check_lengths(describe(config.model).lengths.longest_plain, config.training, study.runtime)
            except UserError as error:
                if isinstance(error, ModelError) and not _searches_models(arm):
                    seen[key] = unloadable[arm.name] = error
                    continue
                raise type(error)(
                    error.problem, where=error.where or f"arm {arm.name}", allowed=error.allowed, fix=error.fix
                ) from error
    _require_a_model(arms, unloadable)
    num_checked = len(arms) - len(unloadable)
    count = f"{num_checked} arm{'s' if num_checked != 1 else ''}"
    line = f"{count}: configuration, model, training data, evaluation rows and objective are there"
    return Checked((line,), unloadable)


def _searches_models(arm: "Arm") -> bool:
    """Whether trials of one arm have models of their own, so that one of them says nothing of the others."""
    return any(name.startswith("model.") for name in arm.tune)


def _require_a_model(arms: "Sequence[Arm]", unloadable: Mapping[str, ModelError]) -> None:
    """Refuse a study none of whose models can be loaded: it would have nothing to compare."""
    if len(unloadable) == len(arms):
        raise unloadable[arms[0].name]


def fetch_models(
    study: StudyConfig, unloadable: Mapping[str, ModelError], *, on_fetch: Callable[[str], None] = lambda _: None
) -> dict[str, ModelError]:
    """Bring the hub models of a study into this machine's cache, once for all its trials.

    Args:
        study: checked.
        unloadable: arms whose model is not asked for again.
        on_fetch: hears the name of every model that comes from a hub, before it is asked for.
    Returns: `unloadable` and the arms whose model is neither cached nor to be had.
    Raises: ModelError where that are all arms, or an arm that searches models.
    """
    from afp_ray.models.describe import local_folder
    from afp_ray.models.hub import fetch
    from afp_ray.search import make_arms
    from afp_ray.search.arms import ends_of

    found, lost, arms = dict(unloadable), dict[ModelConfig, ModelError | None](), make_arms(study)
    for arm in arms:
        for model in {config.model: None for config in ends_of(arm, study.seeds[0]) if arm.name not in unloadable}:
            if model not in lost:
                lost[model] = None
                try:
                    if local_folder(model) is None:
                        on_fetch(model.name)
                        fetch(model)
                except ModelError as error:
                    if _searches_models(arm):
                        raise
                    lost[model] = error
            if (known := lost[model]) is not None:
                found[arm.name] = known
    _require_a_model(arms, found)
    return found


def require_not_begun(paths: StudyPaths, unloadable: Mapping[str, ModelError]) -> None:
    """Refuse to give up an arm that has run: its trials are there, and it is the model that has gone.

    Raises: ModelError of the first such arm.
    """
    if not unloadable or not paths.ledger.is_file():
        return
    for record in replay(paths.ledger).trials:
        if record.arm in unloadable and record.status not in (TrialStatus.FAILED, TrialStatus.CANCELLED):
            error = unloadable[record.arm]
            raise ModelError(
                f"{error.problem}; trials of arm {record.arm} have run with it",
                where=error.where,
                allowed=error.allowed,
                fix=error.fix,
            )


def _what_is_checked(config: TrialConfig) -> str:
    """The part of a trial that `check_trial` looks at, so that arms alike are checked once."""
    content = config.model_dump(mode="json")
    training = content["training"]
    is_trained = training["max_steps"] > 0
    has_contrast = config.loss.contrastive_weight > 0
    content["data"].pop("seed")
    layer = config.loss.layer if has_contrast else 0
    return canonical_json(
        [
            content["model"],
            content["data"],
            content["evaluation"],
            is_trained,
            layer,
            content["loss"]["negatives"],
            training,
        ]
    )


def cached_fingerprints(
    study: StudyConfig | None = None, unloadable: Collection[str] = ()
) -> Callable[[TrialConfig], Mapping[str, str]]:
    """`trial.fingerprints`, read once per model, data sources and evaluation: a search asks for it at every draw.

    Args:
        study: gives the models of `unloadable`.
        unloadable: arms whose model cannot be loaded; every trial with it has the fingerprints `NO_MODEL`.
    """
    from afp_ray.trial.run import fingerprints

    lost = _models_of(study, unloadable) if study is not None and unloadable else frozenset()
    known: dict[str, Mapping[str, str]] = {}

    def lookup(config: TrialConfig) -> Mapping[str, str]:
        if config.model in lost:
            return NO_MODEL
        content = config.model_dump(mode="json", include={"model", "data", "evaluation"})
        data = content["data"]
        for name in ("num_pairs", "num_instructions", "translation_share"):
            data[name] = data[name] > 0  # decides which files are read; how much of them does not
        for name in ("cross_probability", "direction_probability", "seed"):
            data.pop(name)
        key = canonical_json([content, config.training.max_steps > 0])
        if key not in known:
            known[key] = fingerprints(config)
        return known[key]

    return lookup


def _models_of(study: StudyConfig, names: Collection[str]) -> frozenset[ModelConfig]:
    from afp_ray.search import make_arms
    from afp_ray.search.arms import ends_of

    arms = [arm for arm in make_arms(study) if arm.name in names]
    return frozenset(config.model for arm in arms for config in ends_of(arm, study.seeds[0]))


def _as_failure(error: ModelError) -> Failure:
    place = f" ({error.where})" if error.where else ""
    message = f"{error.problem}{place}; {error.fix}" if error.fix else f"{error.problem}{place}"
    return Failure(failure_class=FailureClass.CONFIG, message=redact(message)[:MAX_MESSAGE], traceback=str(error))


def drive(
    study: StudyConfig,
    paths: StudyPaths,
    *,
    address: str | None = None,
    python: str | None = None,
    allow_drift: bool = False,
    unloadable: Mapping[str, ModelError] = MappingProxyType({}),
    on_event: Sequence[OnEvent] = (),
    on_end: Callable[[StudyState], object] = lambda _: None,
) -> StudyState:
    """Run or continue a study whose checks have passed, and project it into MLflow on the way.

    Args:
        study: what to run, `runtime.executor` included.
        paths: where it lives.
        address: of a running Ray cluster; None takes RAY_ADDRESS, else starts one here.
        python: command that the workers of one that starts here are started with; None is this interpreter.
        allow_drift: go on although the study differs from what ran before.
        unloadable: by arm, why its model cannot be loaded: its trials fail with that.
        on_event: called after every event of the ledger.
        on_end: called once the study is closed, before the last projection, which takes the report along.
    Returns: the state when the driver ended.
    Raises: StudyLockedError, StudyChangedError, UnavailableError, UserError.
    """
    from afp_ray.evaluation.objective import objective_value
    from afp_ray.execution import LocalExecutor, StopRequest, run_study
    from afp_ray.execution.base import Executor
    from afp_ray.tracking.background import BackgroundProjector

    def objective(result: TrialResult) -> float:
        return objective_value(result.scores, study.objective.metric, pivot=result.config["data"]["pivot"])

    executor: Executor = LocalExecutor()
    if study.runtime.executor == "ray":
        from afp_ray.execution.ray_executor import RayExecutor

        executor = RayExecutor(study.runtime, address=address, python=python)
    projector = BackgroundProjector.to_mlflow(study, paths, tracking_uri(study.runtime.tracking_uri, paths.storage))
    stop = StopRequest()
    try:
        with _kept(paths, stop), _stop_file(paths, stop):
            state = run_study(
                study,
                paths,
                search=search_of(study, paths.storage, cached_fingerprints(study, unloadable), unloadable=unloadable),
                executor=executor,
                objective=objective,
                values=measured(study),
                refused={arm: _as_failure(error) for arm, error in unloadable.items()},
                on_event=[*on_event, lambda *_: projector.submit()],
                stop=stop,
                allow_drift=allow_drift,
            )
            on_end(state)
        projector.submit()
        return state
    except StudyChangedError:
        raise  # what was refused must not show in the runs of what was run
    except BaseException:
        if paths.ledger.is_file() and holder(paths) is None:  # nobody drives it now: no run may stay RUNNING
            projector.submit()
        raise
    finally:
        projector.close(deadline_s=20.0)


def _kept(paths: StudyPaths, stop: Any) -> AbstractContextManager[None]:
    """Hold and push a study whose storage is a URL."""

    def lost(reason: str) -> None:
        stop.request(reason)
        stop.request(reason)  # twice is at once: another machine runs these trials now

    return keeping(paths, on_lost=lost, on_stop=lambda: stop.request("afp stop"))


@contextmanager
def _stop_file(paths: StudyPaths, stop: Any) -> Iterator[None]:
    """Turn the file that `afp stop` leaves, from any machine that shares the storage, into a request to stop."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(1.0):
            if paths.stop.exists():
                paths.stop.unlink(missing_ok=True)
                stop.request("afp stop")

    if paths.stop.exists() and holder(paths) is None:
        try:
            paths.stop.unlink(missing_ok=True)  # left by a request that came after the last driver had ended
        except OSError as error:
            raise StorageError(f"cannot remove {paths.stop}: {error}") from error
    watcher = threading.Thread(target=watch, name="stop-file", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()


def request_stop(paths: StudyPaths) -> dict[str, Any] | None:
    """Ask the driver of a study to end; it starts nothing new and lets running trials finish.

    Returns: who was asked; None when nobody drives the study.
    Raises: UnavailableError when the request cannot be written.
    """
    driver = holder(paths)
    if driver is None:
        return ask_to_stop(paths)
    write_atomic(paths.stop, json.dumps({"time": time.time()}) + "\n")
    if driver.get("host") == socket.gethostname() and isinstance(driver.get("pid"), int):
        try:
            os.kill(driver["pid"], signal.SIGTERM)
        except OSError:
            return driver  # another user's process, or in another container: the file is enough
        paths.stop.unlink(missing_ok=True)  # one request is heard; two would stop running trials at once
    return driver


def sync(study: StudyConfig, paths: StudyPaths) -> tuple[int, str]:
    """Make MLflow show the ledger, every run of it; returns the number of runs changed and the tracking URI.

    Raises: UnavailableError when MLflow cannot be reached; the outbox then says why.
    """
    from afp_ray.tracking.outbox import note_failure
    from afp_ray.tracking.projector import MlflowProjector

    uri = tracking_uri(study.runtime.tracking_uri, paths.storage)
    projector = MlflowProjector(study, paths, uri, verify=True)
    try:
        return projector.project(), redact(uri)
    except ModuleNotFoundError as error:
        reason = f"MLflow at {redact(uri)} needs the Python package {error.name}; pip install {error.name}"
        note_failure(projector.outbox, reason)
        raise UnavailableError(reason) from error
    except UnavailableError as error:
        note_failure(projector.outbox, str(error))
        raise
