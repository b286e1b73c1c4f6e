"""What a trial scored that could not score everything: every number there is, and no mean."""

from collections.abc import Iterable

from afp_ray.records import IncompleteScores, TrialRecord, TrialStatus
from afp_ray.store import StudyPaths, read_incomplete
from services.reports.grid import Grid, percent, plain_grid

MISSING = "missing"


def incomplete_grids(paths: StudyPaths, trials: Iterable[TrialRecord]) -> dict[str, Grid]:
    """The scores of failed trials that could not score everything, by id of the trial."""
    failed = (trial.trial_id for trial in trials if trial.status is TrialStatus.FAILED)
    found = {trial_id: read_incomplete(paths.trial(trial_id)) for trial_id in failed}
    return {trial_id: incomplete_grid(scores) for trial_id, scores in found.items() if scores is not None}


def incomplete_grid(found: IncompleteScores) -> Grid:
    """Main metrics in percent: tasks at their splits and shots down, languages across."""
    values: dict[tuple[str, str, int, str], float] = {
        (one.task, one.split, one.shots, one.language): one.value for one in found.scores if one.is_main
    }
    lacking: dict[tuple[str, str, str], None] = {(one.task, one.split, one.language): None for one in found.missing}
    languages = list(dict.fromkeys([*(key[-1] for key in values), *(cell[-1] for cell in lacking)]))
    rows = sorted({key[:3] for key in values} | {(task, split, 0) for task, split, _ in _unseen(values, lacking)})
    cells = [
        [
            f"{task} {split} {shots}-shot",
            *(
                MISSING if (task, split, language) in lacking else percent(values.get((task, split, shots, language)))
                for language in languages
            ),
        ]
        for task, split, shots in rows
    ]
    return plain_grid(["task", *languages], cells)


def _unseen(
    values: Iterable[tuple[str, str, int, str]], lacking: Iterable[tuple[str, str, str]]
) -> Iterable[tuple[str, str, str]]:
    """What lacks and has no row of its own, since its task was scored in no language at all."""
    seen = {(task, split) for task, split, _, _ in values}
    return (cell for cell in lacking if cell[:2] not in seen)
