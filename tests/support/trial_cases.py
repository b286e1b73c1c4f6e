"""A small trial on the embedded data that is run, stopped or killed."""

import multiprocessing
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from afp_ray.config import TrainingRuntime, TrialConfig, nest
from afp_ray.methods import pins
from afp_ray.records import Host, TrialRequest, TrialResult, Until
from afp_ray.reporter import SilentReporter
from afp_ray.store import TrialPaths
from afp_ray.trial.run import run_trial

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
    """Run the trial in a process of its own that is killed at a report."""
    options = {"reporter": Killer(stage, done), "runtime": OFTEN}
    process = multiprocessing.get_context("fork").Process(target=run, args=(folder,), kwargs=options)
    process.start()
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
