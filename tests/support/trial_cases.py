"""A small trial on the embedded data that is run, stopped or killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afp_ray.config import TrainingRuntime, TrialConfig, nest
from afp_ray.methods import pins
from afp_ray.records import Host, TrialRequest, TrialResult, Until
from afp_ray.reporter import SilentReporter
from afp_ray.store import TrialPaths
from afp_ray.trial.run import run_trial

SUPPORT = Path(__file__).parent
CONFIG = TrialConfig.model_validate(
    nest(
        {
            "method": "afp",
            "data.languages": ["zh", "tr"],
            "data.num_pairs": 200,
            "data.num_instructions": 60,
            "training.max_steps": 6,
            "training.batch_size": 4,
            "training.learning_rate": 1e-3,
            "evaluation.tasks": ["xcopa"],
            "evaluation.limit": 12,
            "evaluation.representation.num_pairs": 20,
            **pins("afp"),
        }
    )
)
OFTEN = TrainingRuntime(checkpoint_every_s=1e-9)
KILLED = """
import sys
from pathlib import Path
from trial_cases import Killer, OFTEN, run
run(Path(sys.argv[1]), reporter=Killer(sys.argv[2], int(sys.argv[3])), runtime=OFTEN)
"""


class Killer(SilentReporter):
    """Ends the process at one report, as a kill would."""

    def __init__(self, stage: str, done: int) -> None:
        self.at = (stage, done)

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        if (stage, done) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run_on_cpu(
    config: TrialConfig, folder: Path, *splits: str, until: Until | None = None, **host: Any
) -> TrialResult | None:
    """Run a trial on one thread.

    Args:
        config: the trial.
        folder: of the trial.
        splits: to score; validation where none is named.
        until: rung to stop at.
        host: further fields of `Host`.
    """
    content = {"config": config, "trial_id": "t", "splits": splits or ("validation",), "until": until}
    fields = {"device": "cpu", "num_threads": 1, **host}
    return run_trial(TrialRequest.model_validate(content), folder, Host(**fields))


def run(folder: Path, **options: Any) -> TrialResult:
    result = run_on_cpu(CONFIG, folder, **options)
    assert result is not None
    return result


def num_trainings(folder: Path) -> int:
    return len(TrialPaths(folder).training_calls.read_text().splitlines())


def weights(folder: Path) -> bytes:
    return (TrialPaths(folder).checkpoint / "model.safetensors").read_bytes()


def kill(folder: Path, stage: str, done: int) -> None:
    paths = os.pathsep.join([str(SUPPORT.parents[1]), str(SUPPORT), os.environ.get("PYTHONPATH", "")])
    done_process = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), stage, str(done)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done_process.returncode == -signal.SIGKILL, done_process.stderr
