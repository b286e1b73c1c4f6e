"""Projects a study into the files of other programs."""

import shlex
from pathlib import Path

from afp_ray.ledger import replay
from afp_ray.store import StudyPaths, read_study
from afp_ray.tracking.location import read_runs
from services.schemas import OptunaExport


def export_optuna(paths: StudyPaths, file: Path) -> OptunaExport:
    """Bring the Optuna studies of a study in a journal file up to date with its ledger.

    Raises: ConfigError when the file holds something else, UnavailableError when it cannot be written.
    """
    from afp_ray.search import make_arms
    from afp_ray.search.optuna_export import write_mirror

    study = read_study(paths)
    runs = read_runs(paths)
    shown = {
        trial_id: {"mlflow_run_id": str(run), "mlflow_tracking_uri": str(runs.get("tracking_uri", ""))}
        for trial_id, run in runs.get("runs", {}).items()
    }
    written = write_mirror(file, study, make_arms(study), replay(paths.ledger).trials, attributes=shown)
    return OptunaExport(
        file=str(file),
        studies=written.studies,
        trials=written.num_trials,
        changed=written.num_changed,
        left_out=written.num_left_out,
        open_with=f"optuna-dashboard {shlex.quote(str(file))} --host 127.0.0.1",
    )
