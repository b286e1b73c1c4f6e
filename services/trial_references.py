"""Finds a finished trial by what a user writes: the first digits of its id, a study and an arm, or a study's best."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from afp_ray.comparison.confirmed import confirmed_records
from afp_ray.comparison.table import settings_apart
from afp_ray.config.fields import did_you_mean
from afp_ray.errors import DataError, UserError
from afp_ray.ledger import replay
from afp_ray.records import TrialRecord, TrialResult, TrialStatus
from afp_ray.store import StudyPaths, TrialPaths, list_studies, read_result, read_study
from services.studies import ID_DIGITS, listed, match_id, paths_of

BEST = "best"
"""What stands for the arm of the best confirmed configuration in `STUDY:best`."""


@dataclass(frozen=True, slots=True)
class StoredTrial:
    """A trial and the folder that holds it.

    Attributes:
        paths: the study that it is in; of one that ran by itself, the folder above `trials/`.
        trial_id: its whole id.
        record: what the ledger says of it; None where it ran without a study.
    """

    paths: StudyPaths
    trial_id: str
    record: TrialRecord | None

    @property
    def study(self) -> str | None:
        """Name of its study; None where it has none."""
        return self.paths.name if self.record is not None else None

    @property
    def files(self) -> TrialPaths:
        """Its files."""
        return self.paths.trial(self.trial_id)

    def result(self) -> TrialResult:
        """Its result.

        Raises: DataError when it is not finished, or its result cannot be read.
        """
        if self.record is not None and self.record.status is not TrialStatus.DONE and not self.files.result.is_file():
            raise DataError(
                f"trial {self.trial_id} is {self.record.status}, so it has no result",
                fix=f"see afp show {self.trial_id[:6]}, or afp status {self.paths.name}",
            )
        return read_result(self.files.result)


def find_trial(reference: str, storage: Path) -> StoredTrial:
    """The trial that `reference` stands for.

    Args:
        reference: first digits of an id that no other trial has; `STUDY:ARM` for the first seed of what is confirmed
            of an arm, else its best trial; `STUDY:ARM:SEED`; `STUDY:best`, or the name of a study alone.
        storage: folder of the studies. A trial that several studies share is taken from the first by name that ran it.
    Raises: UserError when no trial, or more than one, fits; the message says what there is.
    """
    study, colon, arm = reference.partition(":")
    if colon:
        return _of_arm(paths_of(storage, study), arm, storage)
    studies = list_studies(storage)
    if any(paths.name == reference for paths in studies):
        return _of_arm(paths_of(storage, reference), BEST, storage)
    alone = StudyPaths(storage.resolve().parent, storage.resolve().name)
    folders = _trial_folders([*studies, alone])
    if not any(identity.startswith(reference) for identity in folders):
        folders = _trials_of_ledgers(studies) | folders  # what failed before it began has no folder
    identity = match_id(reference, folders, where=str(storage), names=[paths.name for paths in studies])
    holders = folders[identity]
    for paths in holders:
        record = replay(paths.ledger).trial(identity) if paths is not alone else None
        if record is None or record.adopted_from is None:
            return StoredTrial(paths, identity, record)
    return StoredTrial(holders[0], identity, replay(holders[0].ledger).trial(identity))


def nearest_base(trial: StoredTrial, split: str) -> StoredTrial | None:
    """The finished base of the trial's study that shares most of its settings; None for a base, and without a study."""
    if trial.record is None or trial.record.config.get("method") == "base":
        return None
    config = trial.record.config
    bases = [
        record
        for record in replay(trial.paths.ledger).trials
        if record.config.get("method") == "base" and record.status is TrialStatus.DONE and split in record.splits
    ]
    base = min(bases, key=lambda record: settings_apart(config, record.config), default=None)
    return StoredTrial(trial.paths, base.trial_id, base) if base is not None else None


def _trial_folders(studies: Sequence[StudyPaths]) -> dict[str, list[StudyPaths]]:
    """The studies that hold a folder of each trial, by its id."""
    folders: dict[str, list[StudyPaths]] = {}
    for paths in studies:
        for folder in sorted(paths.trials.glob("*/")) if paths.trials.is_dir() else []:
            if ID_DIGITS.fullmatch(folder.name):
                folders.setdefault(folder.name, []).append(paths)
    return folders


def _trials_of_ledgers(studies: Sequence[StudyPaths]) -> dict[str, list[StudyPaths]]:
    """The studies that planned each trial, by its id."""
    planned: dict[str, list[StudyPaths]] = {}
    for paths in studies:
        for record in replay(paths.ledger).trials:
            planned.setdefault(record.trial_id, []).append(paths)
    return planned


def _of_arm(paths: StudyPaths, name: str, storage: Path) -> StoredTrial:
    """A trial of an arm, or of the best one."""
    records = replay(paths.ledger).trials
    if name == BEST:
        from services.answers import best_answer  # computes; an id is found without what it loads

        identity = best_answer(storage, paths.name).trials[0]
        return StoredTrial(paths, identity, next(record for record in records if record.trial_id == identity))
    arms = list(dict.fromkeys(record.arm for record in records))
    arm, _, seed = (name, "", "") if name in arms or ":" not in name else name.rpartition(":")
    own = [record for record in records if record.arm == arm]
    if not own:
        raise UserError(
            f"study {paths.name} has no arm {arm[:80]!r}",
            allowed=listed([*arms, BEST]),
            fix=did_you_mean(arm, [*arms, BEST]) or "give one of these",
        )
    chosen = confirmed_records(own, "validation") or [_leader(paths, own)]
    if not seed:
        return StoredTrial(paths, chosen[0].trial_id, chosen[0])
    for record in chosen:
        if str(record.seed) == seed:
            return StoredTrial(paths, record.trial_id, record)
    seeds = ", ".join(str(record.seed) for record in chosen)
    raise UserError(f"arm {arm} of {paths.name} has no seed {seed[:20]!r}", allowed=seeds, fix="give one of these")


def _leader(paths: StudyPaths, records: Sequence[TrialRecord]) -> TrialRecord:
    """The best trial of an arm of which nothing is confirmed; its last one where none has a score."""
    sign = 1 if read_study(paths).objective.direction == "maximize" else -1
    scored = [record for record in records if record.objective is not None and record.status is TrialStatus.DONE]
    return max(scored, key=lambda record: sign * (record.objective or 0.0), default=records[-1])
