"""Drivers of a study of real trials, tiny ones, in processes of their own: to be killed in the midst of a training."""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

# Seconds, which a nursery pays once.
import pandas as pd  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import afp_ray.data.quality.filter
import afp_ray.evaluation.representation
import afp_ray.evaluation.scoring
import afp_ray.models.load
import afp_ray.training.loop  # noqa: F401
from afp_ray.config import StudyConfig
from afp_ray.errors import AfpError
from afp_ray.evaluation import run as evaluation_run
from afp_ray.execution import Driver, LocalExecutor
from afp_ray.ledger import Ledger
from afp_ray.planning.check import cached_fingerprints
from afp_ray.records import Host, StudyState, TrialRequest, TrialResult
from afp_ray.reporter import Reporter
from afp_ray.search import StudySearch, measure_of
from afp_ray.store import StudyPaths
from afp_ray.trial.run import run_trial

REFUSED = 75
_kill_at: list[tuple[str, int]] = []


def make_study(**fields: Any) -> StudyConfig:
    """Two trials of six steps on the embedded corpus and model, and the test split of the better one."""
    fixed = {
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
    }
    content = {
        "name": "real",
        "fixed": fixed,
        "seeds": [1],
        "tune": {"loss.temperature": {"low": 0.01, "high": 0.5, "log": True}},
        "budget": {"trials": 2},
        "runtime": {"executor": "local", "checkpoint_every_s": 1e-9},
    }
    content |= fields
    content["fixed"] = {name: value for name, value in fixed.items() if name not in content.get("compare", {})}
    return StudyConfig.model_validate(content)


def run(study: StudyConfig, storage: Path, **options: Any) -> StudyState:
    """Run or continue it here."""

    search = StudySearch(study, cached_fingerprints())
    parts = {"measure": measure_of(study), "run_trial": "fault_real:run_and_die"} | options
    with Ledger.open(StudyPaths(storage, study.name), study) as ledger:
        return Driver(study, ledger, search=search, **parts).run(LocalExecutor())


class _Killer:
    """Passes reports on, and ends the process as a kill would at the one that was asked for."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        self._reporter.report(stage, done, total, metrics)
        if (stage, done) in _kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """As `run_trial`, with a reporter that kills."""
    return run_trial(request, folder, replace(host, reporter=_Killer(host.reporter), caches_scores=False))


def main(storage: str, fields: str, stage: str = "", done: str = "0", broken: str = "") -> int:
    """Run the study of `fields` (JSON).

    Args:
        storage: where.
        fields: what differs from `make_study`.
        stage, done: report at which the process is killed; "" kills it nowhere.
        broken: language whose scoring raises.
    """
    import json

    torch.set_num_threads(1)
    if stage:
        _kill_at.append((stage, int(done)))
    if broken:
        _break_scoring(broken)
    try:
        state = run(make_study(**json.loads(fields)), Path(storage))
    except AfpError as error:
        sys.stdout.write(f"{type(error).__name__}: {error}\n")
        return REFUSED
    sys.stdout.write(f"{state.closed}\n")
    return 0


def _break_scoring(language: str) -> None:
    score_cell = evaluation_run._score_cell

    def broken(scoring: Any, cell: Any, *rest: Any) -> Any:
        if cell.language == language:
            raise ZeroDivisionError(f"a sample of {language} that nobody foresaw")
        return score_cell(scoring, cell, *rest)

    evaluation_run._score_cell = broken  # type: ignore[assignment]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
