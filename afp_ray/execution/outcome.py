"""What becomes of a job, as JSON, and the class of every error that ends one."""

import errno
import traceback
from typing import Final

from afp_ray.config.base import StrictModel
from afp_ray.errors import (
    AfpError,
    ConfigError,
    DivergedError,
    ModelError,
    StorageError,
    TrainingInterruptedError,
    UnavailableError,
    UserError,
)
from afp_ray.evaluation.incomplete import IncompleteError
from afp_ray.records import Failure, FailureClass, TrialResult
from afp_ray.redaction import redact

_OUT_OF_MEMORY: Final = frozenset({"OutOfMemoryError", "MemoryError"})
_LOST: Final = frozenset(
    {
        "ActorDiedError",
        "ActorUnavailableError",
        "NodeDiedError",
        "ObjectLostError",
        "OwnerDiedError",
        "RayActorError",
        "WorkerCrashedError",
        "WorkerGroupStartupFailedError",
        "WorkerGroupStartupTimeoutError",
        "WorkerHealthCheckFailedError",
        "WorkerHealthCheckTimeoutError",
    }
)
_TAKEN_AWAY: Final = frozenset({"PreemptionError"})
_REFUSED: Final = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
)
_MAX_MESSAGE = 500


class Outcome(StrictModel):
    """Either a result or a failure."""

    result: TrialResult | None = None
    failure: Failure | None = None


class WorkerFailedError(AfpError):
    """A worker of a group failed; carries the failure as JSON, since an error of any class may not be picklable."""


def failure_of(error: BaseException) -> Failure:
    """Classify what a trial raised.

    Classes are told by name where their library is not loaded here: an out-of-memory error of torch or Ray is OOM,
    a lost worker, node or object is INFRA. A disk that is full or refuses is STORAGE, whoever met it.
    """
    if isinstance(error, WorkerFailedError):
        return Failure.model_validate_json(str(error))
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(error, AfpError):
        message = f"{type(error).__name__}: {message}"
    return Failure(
        failure_class=_class_of(error),
        message=redact(message)[:_MAX_MESSAGE],  # in this order: half a secret shows no form
        traceback="".join(traceback.format_exception(error)),
        step=error.step if isinstance(error, DivergedError) else None,
    )


def _class_of(error: BaseException) -> FailureClass:
    if isinstance(error, IncompleteError) and isinstance(error.__cause__, Exception):
        return _class_of(error.__cause__)
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, DivergedError):
        return FailureClass.DIVERGED
    if names & _OUT_OF_MEMORY:
        return FailureClass.OOM
    if isinstance(error, ConfigError | ModelError):
        return FailureClass.CONFIG
    if isinstance(error, UserError):
        return FailureClass.DATA
    if isinstance(error, TrainingInterruptedError) or names & _TAKEN_AWAY:
        return FailureClass.PREEMPTED
    if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _REFUSED):
        return FailureClass.STORAGE
    if isinstance(error, UnavailableError) or names & _LOST:
        return FailureClass.INFRA
    return FailureClass.BUG


def lost_worker(text: str) -> Failure:
    """The failure of a job whose process is gone; `text` is what the cluster says about it."""
    is_memory = "OutOfMemoryError" in text or "running low on memory" in text
    first = next((line.strip() for line in text.splitlines() if line.strip()), "the worker died")
    return Failure(
        failure_class=FailureClass.OOM if is_memory else FailureClass.INFRA,
        message=redact(first)[:_MAX_MESSAGE],
        traceback=text,
    )


def worst(failures: list[Failure]) -> Failure:
    """The failure that explains the others: when one worker stops, its peers fail for want of it."""
    order = [
        FailureClass.DIVERGED,
        FailureClass.OOM,
        FailureClass.CONFIG,
        FailureClass.DATA,
        FailureClass.STORAGE,
        FailureClass.PREEMPTED,
        FailureClass.INFRA,
        FailureClass.BUG,
    ]
    return min(failures, key=lambda failure: order.index(failure.failure_class))
