"""Finds results that are on disk already, in this study or a sibling, and removes checkpoints nobody needs."""

import json
import logging
import os
import shutil
import time
from pathlib import Path

from afp_ray.errors import DataError, StorageError
from afp_ray.records import ADOPTED_FROM, Job, TrialResult
from afp_ray.store import StudyPaths, TrialPaths, list_studies, read_result, write_atomic, write_json

logger = logging.getLogger(__name__)


def find_result(paths: StudyPaths, trial_id: str, splits: tuple[str, ...]) -> tuple[TrialResult, StudyPaths] | None:
    """A stored result that covers `splits`, and the study whose folder it lies in; this study is looked at first.

    Args:
        paths: the study that asks; its siblings are the studies under the same storage.
        trial_id: content address of the trial.
        splits: what must have been scored.
    Returns: None when no folder has such a result.
    """
    for study in _with_siblings(paths, trial_id):
        result = _read(study.trial(trial_id).result, trial_id)
        if result is not None and set(splits) <= set(result.splits):
            return result, study
    return None


def adopt(paths: StudyPaths, job: Job) -> tuple[TrialResult, str] | None:
    """Take over a stored result for `job`.

    A sibling's trial that lacks a split but still has its checkpoint is brought here too, so that only scoring is left.

    Returns: the result and the note of its DONE event; None when the job has to run.
    """
    trial = paths.trial(job.trial_id)
    if job.until is not None and not trial.result.exists():
        paused = _read(trial.rung(job.until.rung), job.trial_id)
        if paused is not None and paused.until == job.until:
            return paused, "adopted"
    stored = find_result(paths, job.trial_id, job.splits)
    if stored is not None:
        result, study = stored
        if study.folder == paths.folder:
            return result, "adopted"
        _bring(study.trial(job.trial_id), paths.trial(job.trial_id))
        return result, f"{ADOPTED_FROM}{study.name}"
    if not paths.trial(job.trial_id).result.exists():
        for study in _with_siblings(paths, job.trial_id):
            there = study.trial(job.trial_id)
            if _read(there.result, job.trial_id) is not None and there.checkpoint.is_dir():
                _bring(there, paths.trial(job.trial_id))
                break
    return None


def _with_siblings(paths: StudyPaths, trial_id: str) -> list[StudyPaths]:
    siblings = [study for study in list_studies(paths.storage) if study.folder != paths.folder]
    return [study for study in (paths, *siblings) if study.trial(trial_id).result.is_file()]


def _read(path: Path, trial_id: str) -> TrialResult | None:
    if not path.exists():
        return None
    try:
        result = read_result(path)
    except DataError as error:
        logger.warning("passed over %s: %s", path, error.problem)
        return None
    return result if result.trial_id == trial_id else None


def _bring(source: TrialPaths, target: TrialPaths) -> None:
    """Link a finished trial's files into `target`, its result last, so that a kill leaves a trial without a result."""
    files = [source.config]
    for folder in (source.checkpoint, source.predictions, source.representation):
        files += sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        for path in files:
            if path.is_file():
                _link(path, target.folder / path.relative_to(source.folder))
    except OSError as error:
        raise StorageError(f"cannot bring {source.folder} to {target.folder}: {error}") from error
    write_atomic(target.result, source.result.read_bytes())


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def set_aside(trial: TrialPaths) -> None:
    """Rename the folder of a trial that is run again, so that nothing of it is taken for what it is now.

    Raises: StorageError when the disk refuses.
    """
    aside = trial.folder.with_name(f"{trial.folder.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        if trial.folder.exists():
            os.replace(trial.folder, aside)
    except OSError as error:
        raise StorageError(f"cannot set {trial.folder} aside: {error}") from error


def remove_checkpoint(trial: TrialPaths) -> None:
    """Delete a trial's checkpoint; its result says so first, so that no reader finds half of one."""
    if not trial.checkpoint.is_dir():
        return
    try:
        content = json.loads(trial.result.read_bytes())
        write_json(trial.result, {**content, "checkpoint": None})
    except (OSError, ValueError, TypeError) as error:
        logger.warning("kept %s: its result cannot be read (%s)", trial.checkpoint, str(error).splitlines()[0])
        return
    shutil.rmtree(trial.checkpoint, ignore_errors=True)
