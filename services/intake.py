"""Takes studies in over HTTP: checks what was sent, has a driver started once, and asks drivers to stop once."""

import asyncio
import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig
from afp_ray.config.load import load_study
from afp_ray.errors import ConfigError, StudyChangedError, UserError
from afp_ray.execution.stop import request_stop
from afp_ray.ledger import holder, replay, study_hash
from afp_ray.ledger.agreement import require_same
from afp_ray.search import make_arms
from afp_ray.store import StudyPaths
from services.drivers import LocalDriver, StartDriver, StartedDriver
from services.permissions import require_permitted
from services.problems import RefusedError
from services.service_schemas import Stopped, Submitted
from services.status import status_of

MAX_BYTES = 256 * 1024
"""Of a study; the largest that ship have three thousand."""
START_S = 25.0
"""A driver that has not begun or refused its study by then goes on without being waited for."""
MAX_KEYS = 1000
_POLL_S = 0.2
_BODY = "body.json"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a submitted study may do, and who runs it.

    Attributes:
        start: starts a driver.
        folders: that its files may lie in.
        trusts: whether it may do all that the service's user may.
    """

    start: StartDriver = LocalDriver
    folders: Sequence[Path] = ()
    trusts: bool = False


DEFAULT_RULES = Rules()


@dataclass(slots=True)
class _Begun:
    """A driver that this service has started."""

    study: StudyConfig
    driver: StartedDriver
    num_before: int
    """Drivers that the study had before."""


@dataclass(slots=True)
class _Kept:
    """What a request with a key was answered."""

    digest: str
    answer: asyncio.Future[Submitted] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Intake:
    """Begins and stops the studies of one storage.

    Args:
        storage: folder of the studies.
        rules: what a study may do, and who runs it.
    """

    def __init__(self, storage: Path, rules: Rules) -> None:
        self._storage, self._rules = storage, rules
        self._begun: dict[str, _Begun] = {}
        self._asked: dict[str, Any] = {}
        self._keys: OrderedDict[tuple[str, str], _Kept] = OrderedDict()
        self._lock = asyncio.Lock()

    async def submit(self, body: bytes, *, key: str | None, caller: str) -> Submitted:
        """Begin or continue a study, unless it is at work or complete; the same again changes nothing.

        Args:
            body: the study as JSON.
            key: of the request; a second one with it gets the answer of the first.
            caller: whose key it is.
        Raises: RefusedError for what is no study (422); ConfigError for a study that may not run here or whose driver
            refuses it; StudyChangedError for another study of that name.
        """
        if key is None:
            return await self._submit(body)
        digest = hashlib.sha256(body).hexdigest()
        kept = self._keys.get((caller, key))
        if kept is not None:
            if kept.digest != digest:
                raise ConfigError("this Idempotency-Key came with another study before", where="Idempotency-Key")
            return await asyncio.shield(kept.answer)
        kept = self._keys[caller, key] = _Kept(digest)
        try:
            answer = await self._submit(body)
        except BaseException as error:
            del self._keys[caller, key]  # what failed may be tried again with it
            kept.answer.set_exception(error if isinstance(error, Exception) else UserError("the request was given up"))
            kept.answer.exception()  # nobody need wait for it
            raise
        kept.answer.set_result(answer)
        while len(self._keys) > MAX_KEYS:
            self._keys.popitem(last=False)
        return answer

    async def _submit(self, body: bytes) -> Submitted:
        study = await asyncio.to_thread(read_study_of, body)
        if not self._rules.trusts:
            require_permitted(study, self._rules.folders)
        paths = StudyPaths(self._storage, study.name)
        async with self._lock:  # two that send the same at once start one driver
            state, begun = await asyncio.to_thread(self._ensure, study, paths)
        if begun is not None:
            state = await self._wait(begun, paths, state)
        return await asyncio.to_thread(_answer, study, paths, state, begun.driver.job if begun else None)

    def _ensure(self, study: StudyConfig, paths: StudyPaths) -> tuple[str, _Begun | None]:
        """What becomes of a study, and its driver where that has not begun it yet."""
        begun = self._begun.get(study.name)
        if paths.study.is_file():
            require_same(paths, study)
        if holder(paths) is not None:
            return "running", None
        if begun is not None and begun.driver.exit_code() is None:
            if study_hash(begun.study) != study_hash(study):
                raise StudyChangedError(
                    f"another study named {study.name} is just being started", fix="give this one another name"
                )
            return "starting", begun
        state = replay(paths.ledger)
        if state.is_complete:
            return "complete", None
        begun = self._begun[study.name] = _Begun(study, self._rules.start(study, paths), state.driver_attempt)
        return "started", begun

    async def _wait(self, begun: _Begun, paths: StudyPaths, state: str) -> str:
        """Until the driver holds the study, has ended, or takes long.

        Raises: ConfigError with what the driver says, where it ended before that.
        """
        driver = begun.driver
        until = asyncio.get_running_loop().time() + START_S
        while asyncio.get_running_loop().time() < until:
            code = await asyncio.to_thread(driver.exit_code)
            if await asyncio.to_thread(holder, paths) is not None:
                return state
            if code is not None:
                if replay(paths.ledger).driver_attempt > begun.num_before:
                    return state  # it has begun and ended meanwhile
                raise await asyncio.to_thread(driver.refusal)
            await asyncio.sleep(_POLL_S)
        return "starting"

    async def stop(self, name: str, find: Callable[[], StudyPaths], *, now: bool) -> Stopped:
        """Ask the driver of a study to end; asking again changes nothing, unless it is to end at once.

        Args:
            name: of the study.
            find: its paths; raises where there is no such study.
            now: not to wait for running trials.
        Raises: NotFoundError; UnavailableError.
        """
        async with self._lock:
            begun = self._begun.get(name)
            is_begun = StudyPaths(self._storage, name).ledger.is_file()
            if not is_begun and begun is not None and await asyncio.to_thread(begun.driver.exit_code) is None:
                await asyncio.to_thread(begun.driver.end)
                return Stopped(study=name, asked={"driver": "starting"})
            return await asyncio.to_thread(self._stop, find(), now)

    def _stop(self, paths: StudyPaths, now: bool) -> Stopped:
        driver = holder(paths)
        if driver is not None and (self._asked.get(paths.name) != driver or now):
            request_stop(paths)  # a second request would end running trials, which a repeated DELETE must not
        self._asked[paths.name] = driver
        return Stopped(study=paths.name, asked=driver)


def read_study_of(body: bytes) -> StudyConfig:
    """The study that a body says.

    Raises: RefusedError with the place of the mistake.
    """
    with tempfile.TemporaryDirectory(prefix="afp-body-") as folder:
        file = Path(folder) / _BODY
        file.write_bytes(body)
        try:
            study = load_study(file)
            make_arms(study)
        except UserError as error:
            names = {str(file): "body", f"{folder}{os.sep}": ""}
            problem, where = (_renamed(text, names) for text in (error.problem, error.where))
            detail = f"{where}: {problem}" if where else problem
            raise RefusedError(
                422, "no study", detail=detail, allowed=error.allowed, fix=_renamed(error.fix, names)
            ) from error
    return study


def _renamed(text: str, names: dict[str, str]) -> str:
    for name, shown in names.items():
        text = text.replace(name, shown)
    return text


def _answer(study: StudyConfig, paths: StudyPaths, state: str, job: str | None) -> Submitted:
    status = status_of(paths) if paths.ledger.is_file() else None
    return Submitted.model_validate(
        {"study": study.name, "study_hash": study_hash(study), "state": state, "job": job, "status": status}
    )
