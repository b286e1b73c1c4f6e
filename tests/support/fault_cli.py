"""The command `afp` in a process of its own, with fake trials in the place of real ones."""

import functools
import sys

import afp_ray.execution
import afp_ray.tracking.projector  # seconds, which a nursery pays once
import services.reports.page  # noqa: F401
from afp_ray.execution import run_study
from afp_ray.tracking import background
from services import cli, driver, running


def main(*arguments: str) -> int:
    """Run the command line; what it checks and fingerprints of real trials is left out."""
    afp_ray.execution.run_study = functools.partial(run_study, run_trial="fake_trials:run")  # type: ignore[assignment]
    driver.cached_fingerprints = lambda *_: lambda config: {}  # type: ignore[assignment]
    running.check_study = lambda study: driver.Checked()
    background.START_S = 0.0  # fake studies would be over before MLflow is asked for the first time
    return cli.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
