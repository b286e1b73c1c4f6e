"""Answers that take a while to compute, kept until anything that they were computed from changes.

They lie in the user's cache and can be removed at any time. A file counts as unchanged by its size and its time, and
an answer is kept only once all its files have been left alone for a moment, since a time alone is too coarse.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

import afp_ray
from afp_ray.cache import cache_folder, evict
from afp_ray.config import canonical_json
from afp_ray.errors import UnavailableError
from afp_ray.ledger import replay
from afp_ray.ledger.state import SETTLED_S
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths, write_atomic

logger = logging.getLogger(__name__)

MAX_BYTES = 100e6
"""Of all answers that are kept; limits may be asked in any number of ways."""
Answer = TypeVar("Answer", bound=BaseModel)
Mark = list[int] | None
"""Size and time of a file; null where there is none."""
_locks: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
"""Of the questions that are being answered; a lock that nobody holds is gone."""
_locks_lock = threading.Lock()


def _lock_of(file: Path) -> threading.Lock:
    with _locks_lock:
        return _locks.setdefault(file, threading.Lock())


def cached_answer(
    paths: StudyPaths, question: Mapping[str, Any], compute: Callable[[], Answer], model: type[Answer]
) -> Answer:
    """The answer to a question about one study: the kept one, or else `compute()`, which is then kept.

    Args:
        paths: the study; its ledger, its file, and what its scored trials have on disk are what an answer depends on.
        question: what was asked, as JSON, the kind of answer included.
        compute: gives the answer; what it raises is not kept.
        model: what an answer is.
    """
    asked = json.dumps({"folder": str(paths.folder), **question}, sort_keys=True)
    file = cache_folder("answers") / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"
    lock = _lock_of(file)
    with lock:  # however many ask at once, one computes
        return _answer(paths, file, compute, model)


def _answer(paths: StudyPaths, file: Path, compute: Callable[[], Answer], model: type[Answer]) -> Answer:
    found = _read(file, model)
    if found is not None:
        return found
    started = time.time()
    before = _marks([paths.study, paths.ledger])
    answer = compute()
    marks = _marks([paths.study, paths.ledger, *_files_of(paths)])
    newest = max((mark[1] for mark in marks.values() if mark), default=0) / 1e9
    if before.items() <= marks.items() and started - newest > SETTLED_S:
        content = {"code": _code(), "files": marks, "answer": answer.model_dump(mode="json")}
        try:
            write_atomic(file, json.dumps(content, ensure_ascii=False))
            evict(file, MAX_BYTES)
        except UnavailableError as error:
            logger.debug("an answer was not kept: %s", error)
    return answer


def _read(file: Path, model: type[Answer]) -> Answer | None:
    try:
        content = from_json(file.read_bytes())
        if content["code"] != _code() or content["files"] != _marks(map(Path, content["files"])):
            return None
        return model.model_validate_json(json.dumps(content["answer"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
        return None


def _files_of(paths: StudyPaths) -> Iterable[Path]:
    """What the trials that were scored on the test split have on disk."""
    for trial in replay(paths.ledger).trials:
        if trial.status is TrialStatus.DONE and "test" in trial.splits:
            place = paths.trial(trial.trial_id)
            yield from (place.result, place.checkpoint, *(place.predictions_of(split) for split in trial.splits))


def _marks(files: Iterable[Path]) -> dict[str, Mark]:
    return {str(file): mark_of(file) for file in files}


def mark_of(file: Path) -> Mark:
    """Size and time of a file, which change with its content unless both changes fall into one tick of the clock."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


@lru_cache(maxsize=1)
def _code() -> str:
    """Changes with the package's own files: other code may answer otherwise."""
    root = Path(afp_ray.__file__).parent
    return hashlib.sha256(canonical_json(_marks(sorted(root.rglob("*.py")))).encode()).hexdigest()
