"""The trials of a study as Optuna studies in a journal file, one per arm, for whatever reads Optuna's storage.

The file is a projection of the ledger: it can be deleted and written again at any time, nothing is read back from it,
and writing it again brings it up to date without doubling a trial. A trial that Optuna holds as finished and that has
changed since, for instance because it was tried again, has its arm's study written anew, as Optuna reopens none. What
is new is appended at once, so that ten thousand trials take seconds and a dashboard that is open sees them.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from afp_ray.config import StudyConfig
from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.records import TrialRecord, TrialStatus
from afp_ray.search.arms import Arm
from afp_ray.search.objectives import finished_base
from afp_ray.search.optuna_trials import frozen_trial, seen
from afp_ray.search.sampling import update_trial
from afp_ray.search.space import distributions

OWNER = "afp_ray_study"
"""User attribute of the Optuna studies that were written from a ledger: the study's name."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What was written.

    Attributes:
        studies: names of the Optuna studies, one per arm that has trials.
        num_trials: trials that they hold now.
        num_changed: of them those added or changed this time.
        num_left_out: trials whose parameters are no point of their arm's space.
    """

    studies: tuple[str, ...]
    num_trials: int
    num_changed: int
    num_left_out: int


def write_mirror(
    file: Path,
    study: StudyConfig,
    arms: Sequence[Arm],
    trials: Sequence[TrialRecord],
    *,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
) -> Mirrored:
    """Bring the Optuna studies of a study in `file` up to date.

    Args:
        file: journal file, made where there is none.
        study: gives objectives and constraints.
        arms: its arms.
        trials: its trials in the order in which they were planned.
        attributes: shown beside a trial, by its id, for instance where its run is tracked.
    Raises: ConfigError when the file holds something else, UnavailableError when it cannot be written.
    """
    require_journal(file)
    by_arm: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    total = Mirrored((), 0, 0, 0)
    with _quiet(file):
        journal = _Batch(file)
        storage = JournalStorage(journal)
        for arm in arms:
            trials_of_arm = by_arm.get(arm.name, [])
            if trials_of_arm:
                base, space = finished_base(arm, arms, by_arm), distributions(arm.tune)
                wanted = [
                    _wanted(study, arm, trial, base, space, (attributes or {}).get(trial.trial_id))
                    for trial in trials_of_arm
                ]
                total = _project(storage, study, arm, [frozen for frozen in wanted if frozen is not None], total)
                total = replace(total, num_left_out=total.num_left_out + wanted.count(None))
        journal.write()
    return total


def require_journal(file: Path) -> None:
    """Refuse a file that holds something other than Optuna's journal.

    Raises: ConfigError naming the file.
    """
    if not file.parent.is_dir():
        raise ConfigError(f"there is no folder {file.parent}", where="--optuna", fix="make it, or name another file")
    if not file.exists() or (file.is_file() and file.stat().st_size == 0):
        return
    try:
        with file.open("rb") as lines:
            first = json.loads(lines.readline(1_000_000))
        is_journal = isinstance(first, dict) and {"op_code", "worker_id"} <= set(first)
    except (OSError, ValueError):
        is_journal = False
    if not is_journal:
        raise ConfigError(f"{file} is no journal of Optuna", where="--optuna", fix="name another file")


class _Batch(BaseJournalBackend):  # type: ignore[misc]  # Optuna's classes are untyped here
    """A journal whose new lines are held until they are written, all at once."""

    def __init__(self, file: Path) -> None:
        _drop_half_line(file)
        self._file = JournalFileBackend(str(file))
        self._lines: list[dict[str, Any]] = list(self._file.read_logs(0))
        self._num_written = len(self._lines)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        """Lines of the file and those that are held."""
        return self._lines[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Hold lines, as they will be read back."""
        self._lines += json.loads(json.dumps(logs))

    def write(self) -> None:
        """Append what is held to the file."""
        if len(self._lines) > self._num_written:
            self._file.append_logs(self._lines[self._num_written :])
            self._num_written = len(self._lines)


def _drop_half_line(file: Path) -> None:
    """Cut off what a kill left of a last line; it would spoil the next one."""
    content = file.read_bytes() if file.exists() else b""
    if not content.endswith(b"\n") and content:
        with file.open("r+b") as lines:
            lines.truncate(content.rfind(b"\n") + 1)


@contextmanager
def _quiet(file: Path) -> Iterator[None]:
    """Without Optuna's talk; a disk that refuses in our words."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except OSError as error:
        raise UnavailableError(f"cannot write {file}: {error}") from error
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"the journal {file} cannot be read: {error}", where="--optuna", fix="delete it; it is written again"
        ) from error
    finally:
        optuna.logging.set_verbosity(verbosity)


def _wanted(
    study: StudyConfig,
    arm: Arm,
    trial: TrialRecord,
    base: TrialRecord | None,
    space: Mapping[str, BaseDistribution],
    attributes: Mapping[str, str] | None,
) -> FrozenTrial | None:
    """The trial as Optuna is to hold it, under the times of the ledger."""
    shown = seen(study, trial, base)
    if trial.status is TrialStatus.PLANNED:
        shown = replace(shown, state=TrialState.WAITING)
    notes: dict[str, Any] = {
        "trial_id": trial.trial_id,
        "seed": trial.seed,
        "role": trial.role,
        "status": str(trial.status),
        "gpu_hours": trial.gpu_hours,
        **trial.values,
        **(attributes or {}),
    }
    if trial.failure is not None:
        notes["failure"] = f"{trial.failure.failure_class}: {trial.failure.message}"[:1000]
    frozen = frozen_trial(shown, trial, arm.tune, space, notes)
    if frozen is not None and shown.state is not TrialState.WAITING:
        started = trial.started_at or trial.planned_at
        frozen.datetime_start = datetime.fromtimestamp(started)
        if shown.state.is_finished():
            frozen.datetime_complete = datetime.fromtimestamp(max(started, trial.ended_at or started))
    return frozen


def _project(
    storage: BaseStorage, study: StudyConfig, arm: Arm, wanted: Sequence[FrozenTrial], total: Mirrored
) -> Mirrored:
    """Bring one arm's Optuna study up to date; written anew where a trial that it holds as finished has changed."""
    name = f"{study.name}/{arm.name}"
    opened = _open(storage, study, name)
    held = opened.get_trials(deepcopy=False)
    ids = [trial.user_attrs.get("trial_id") for trial in held]
    is_other = ids != [trial.user_attrs["trial_id"] for trial in wanted[: len(held)]]
    if is_other or any(
        held_trial.state.is_finished() and not _is_same(held_trial, trial)
        for held_trial, trial in zip(held, wanted, strict=False)
    ):
        optuna.delete_study(study_name=name, storage=storage)
        opened, held = _open(storage, study, name), []
    num_changed = 0
    for held_trial, trial in zip(held, wanted, strict=False):
        if not _is_same(held_trial, trial):
            _update(storage, held_trial, trial)
            num_changed += 1
    for trial in wanted[len(held) :]:
        opened.add_trial(trial)
        num_changed += 1
    return replace(
        total,
        studies=(*total.studies, name),
        num_trials=total.num_trials + len(wanted),
        num_changed=total.num_changed + num_changed,
    )


def _open(storage: BaseStorage, study: StudyConfig, name: str) -> Study:
    """The Optuna study of that name, made where there is none.

    Raises: ConfigError when it is not one of ours.
    """
    directions = [goal.direction for goal in study.objective.goals]
    studies = {summary.study_name: summary for summary in storage.get_all_studies()}
    if name in studies:
        theirs = studies[name]
        if theirs.user_attrs.get(OWNER) != study.name:
            raise ConfigError(f"the file has an Optuna study {name!r} of its own", fix="name another file")
        if [direction.name.lower() for direction in theirs.directions] == directions:
            return optuna.load_study(study_name=name, storage=storage)
        optuna.delete_study(study_name=name, storage=storage)
    made = optuna.create_study(study_name=name, storage=storage, directions=directions)
    made.set_metric_names([goal.metric for goal in study.objective.goals])
    made.set_user_attr(OWNER, study.name)
    return made


def _is_same(held: FrozenTrial, wanted: FrozenTrial) -> bool:
    return (
        held.state is wanted.state
        and held.values == wanted.values
        and held.params == wanted.params
        and held.intermediate_values == wanted.intermediate_values
        and held.constraints == wanted.constraints
        and held.user_attrs == wanted.user_attrs
    )


def _update(storage: BaseStorage, held: FrozenTrial, wanted: FrozenTrial) -> None:
    """Bring an unfinished trial up to date, its state last since Optuna closes a finished one."""
    for name, value in wanted.user_attrs.items():
        if held.user_attrs.get(name) != value:
            storage.set_trial_user_attr(held._trial_id, name, value)
    if held.state is TrialState.WAITING and wanted.state is not TrialState.WAITING:
        storage.set_trial_state_values(held._trial_id, TrialState.RUNNING)
    update_trial(storage, held._trial_id, wanted)
