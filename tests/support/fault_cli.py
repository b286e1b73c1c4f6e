"""The command `afp` in a process of its own, with fake trials in the place of real ones."""

import sys

import afp_ray.planning.plan
import afp_ray.study
import afp_ray.tracking.projector  # seconds, which a nursery pays once
import services.views.html  # noqa: F401
from afp_ray.planning.check import Checked
from afp_ray.tracking import background
from services import cli


def main(*arguments: str) -> int:
    """Run the command line; what it checks and fingerprints of real trials is left out."""
    afp_ray.study.RUN_TRIAL = "fake_trials:run"
    for module in (afp_ray.study, afp_ray.planning.plan):
        module.cached_fingerprints = lambda *_: lambda config: {}
    afp_ray.study.check_study = lambda study: Checked()
    background.START_S = 0.0  # fake studies would be over before MLflow is asked for the first time
    return cli.main(list(arguments))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
