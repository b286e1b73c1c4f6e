"""Keeps answers that take a while to compute, under a name made of the question and of all files behind the answer.

A file counts by its size and its time. An answer is kept only once all its files have been left alone for a moment,
since a time alone is too coarse.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

import afp_ray
from afp_ray.cache import CacheRefusedError, cache_folder, evict, mark_used, storing, write_whole
from afp_ray.config import canonical_json
from afp_ray.ledger import replay
from afp_ray.ledger.state import SETTLED_S
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths

logger = logging.getLogger(__name__)

MAX_BYTES = 100e6
"""Of all answers that are kept; limits may be asked in any number of ways."""
Answer = TypeVar("Answer", bound=BaseModel)


def cached_answer(
    paths: StudyPaths, question: Mapping[str, Any], compute: Callable[[], Answer], model: type[Answer]
) -> Answer:
    """The answer to a question about one study: from the cache, or else `compute()`, which is then kept.

    Args:
        paths: the study; its ledger, its file, and what its scored trials have on disk are what an answer depends on.
        question: what was asked, as JSON, the kind of answer included.
        compute: gives the answer; what it raises is not kept.
        model: what an answer is.
    """
    now = time.time()
    marks = {str(file): mark_of(file) for file in _files_of(paths)}
    if now - max((mark[1] for mark in marks.values() if mark), default=0) / 1e9 <= SETTLED_S:
        return compute()
    # A file that changes while the answer is computed has another mark afterwards: under this name nobody asks again.
    name = canonical_json({"code": _code(), "files": marks, "folder": str(paths.folder), "question": dict(question)})
    path = cache_folder("answers") / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.json"
    answer = _read(path, model)
    if answer is not None:
        mark_used(path)
        return answer
    answer = compute()
    text = json.dumps(answer.model_dump(mode="json"), ensure_ascii=False)
    try:
        with storing():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda partial: _write(partial, text))
            evict(path, MAX_BYTES)
    except CacheRefusedError as error:
        logger.debug("an answer was not kept: %s", error)
    return answer


def _read(path: Path, model: type[Answer]) -> Answer | None:
    try:
        checksum, _, text = path.read_text("utf-8").partition("\n")
        return model.model_validate_json(text) if checksum == _checksum(text) else None
    except (OSError, ValueError, ValidationError):
        return None


def _write(path: Path, text: str) -> None:
    path.write_text(f"{_checksum(text)}\n{text}", "utf-8")


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _files_of(paths: StudyPaths) -> Iterator[Path]:
    """The study, and what the trials that were scored on the test split have on disk."""
    yield from (paths.study, paths.ledger)
    for trial in replay(paths.ledger).trials:
        if trial.status is TrialStatus.DONE and "test" in trial.splits:
            files = paths.trial(trial.trial_id)
            yield from (files.result, files.checkpoint, *(files.predictions_of(split) for split in trial.splits))


def mark_of(file: Path) -> list[int] | None:
    """Size and time of a file, which change with its content unless both changes fall into one tick of the clock.

    Returns: None where there is none.
    """
    try:
        status = os.stat(file)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


@lru_cache(maxsize=1)
def _code() -> list[Any]:
    """Changes with the package's own files: other code may answer otherwise."""
    return [[str(file), mark_of(file)] for file in sorted(Path(afp_ray.__file__).parent.rglob("*.py"))]
