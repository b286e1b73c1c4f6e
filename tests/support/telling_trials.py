"""Trials that tell every secret of their study wherever a trial can: prints, records of a log, warnings, an error.

As a script: several command lines, one after another in this process, with such trials in the place of real ones.
"""

import json
import logging
import os
import sys
import warnings
from pathlib import Path

from afp_ray.records import Host, TrialRequest, TrialResult


def run(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Tell, and fail at seed 1; else as a fake trial."""
    import fake_trials

    uri = json.loads((folder.parents[1] / "study.json").read_text("utf-8"))["runtime"]["tracking_uri"]
    user, _, password = uri.partition("://")[2].rpartition("@")[0].partition(":")
    told = f"{uri} | {user!r} port: {password!r} | {os.environ['MLFLOW_TRACKING_PASSWORD']}"
    print(told)
    print(told, file=sys.stderr)
    logging.getLogger("a_library").warning("cannot connect: %s", told)
    warnings.warn(told, stacklevel=1)
    if request.config.seed == 1:
        raise RuntimeError(f"{'x' * 450} {told}")  # what is kept of a message ends in the midst of it
    return fake_trials.run(request, folder, host)


def main(*lines: str) -> None:
    """Run the command lines, JSON each; then the log record, the warning and the error of a thread of this process."""
    import threading

    import afp_ray.planning.plan
    import afp_ray.study
    from afp_ray.planning.check import Checked
    from afp_ray.tracking import background
    from services import cli, output

    output.open_streams()
    afp_ray.study.RUN_TRIAL = "telling_trials:run"
    for module in (afp_ray.study, afp_ray.planning.plan):
        module.cached_fingerprints = lambda *_: lambda config: {}
    afp_ray.study.check_study = lambda study: Checked()
    background.START_S = 0.0
    for line in lines:
        code = cli.main(json.loads(line))
        print(f"[{json.loads(line)[0]} {code}]", flush=True)
    told = os.environ["TOLD"]
    logging.getLogger("afp_ray.any").warning("lost: %s", told)
    warnings.warn(told, stacklevel=1)
    thread = threading.Thread(target=os.stat, args=(told,))
    thread.start()
    thread.join()
    raise RuntimeError(told)


if __name__ == "__main__":
    main(*sys.argv[1:])
