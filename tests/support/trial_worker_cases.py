"""Trials of two workers: scored together, trained before, failing on one of them; and the same alone."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import trial_cases

from afp_ray.config import TrainingRuntime, TrialConfig, nest
from afp_ray.errors import AfpError, UnavailableError
from afp_ray.evaluation.generation import TextGenerator
from afp_ray.evaluation.score_cache import ScoreCache
from afp_ray.evaluation.scoring import ContinuationScorer
from afp_ray.methods import pins
from afp_ray.records import TrialResult
from afp_ray.training import checkpoint

SPLITS = ("validation", "test")
TRAINED: dict[str, tuple[dict[str, Any], TrainingRuntime]] = {
    "whole": ({}, TrainingRuntime()),
    "sharded": ({}, TrainingRuntime(sharding="full")),
    "adapters": ({"training.lora": {"rank": 2}}, TrainingRuntime()),
}
"""Fields and runtime of what is trained before it is scored."""


def trial(method: str = "base", **fields: Any) -> TrialConfig:
    """A short trial whose scoring takes choices, texts and demonstrations."""
    small = {
        "method": method,
        "data.languages": ["zh"],
        "data.num_pairs": 60,
        "data.num_instructions": 40,
        "training.max_steps": 2,
        "training.batch_size": 4,
        "training.learning_rate": 1e-3,
        "evaluation.tasks": ["xcopa", "translation"],
        "evaluation.shots": [0, 1],
        "evaluation.demo_seeds": [0, 1],
        "evaluation.limit": 10,
        "evaluation.generation.max_new_tokens": 4,
        "evaluation.generation.directions": ["translation"],
        "evaluation.representation.num_pairs": 10,
    }
    return TrialConfig.model_validate(nest({**small, **fields, **pins(method)}))


def run(config: TrialConfig, folder: Path, **options: Any) -> TrialResult | None:
    """The trial in this process, or as one worker of the group that it is in."""
    return trial_cases.run_on_cpu(config, folder, *SPLITS, **options)


class Counted:
    """Counts what this process scores, writes and keeps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.numbers = {"choices": 0, "texts": 0, "asked": 0, "kept": 0}
        for owner, method, name in (
            (ContinuationScorer, "_score_requests", "choices"),
            (TextGenerator, "_write_all", "texts"),
            (ScoreCache, "find", "asked"),
            (ScoreCache, "keep", "kept"),
        ):
            patch.setattr(owner, method, self._counting(getattr(owner, method), name))

    def _counting(self, work: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(held: Any, units: Any, *arguments: Any, **options: Any) -> Any:
            self.numbers[name] += 1 if name in ("asked", "kept") else len(units)
            return work(held, units, *arguments, **options)

        return counted


def count(work: Callable[[], TrialResult | None]) -> tuple[TrialResult | None, Mapping[str, int]]:
    """What `work` gives, and what this process did for it."""
    with pytest.MonkeyPatch.context() as patch:
        counted = Counted(patch)
        return work(), counted.numbers


def in_group(rank: int, place: str) -> dict[str, Any]:
    """Results and counts of one worker of two; trials lie in folders of `place`."""
    folder = Path(place)
    found: dict[str, Any] = {
        name: count(lambda name=name: run(trial(), folder / name))
        for name in ("cold", "warm")  # type: ignore[misc]
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AFP_CACHE_SCORES", "0")
        found["off"] = count(lambda: run(trial(), folder / "off"))
    for name, (fields, runtime) in TRAINED.items():
        found[name] = run(trial("afp", **fields), folder / name, runtime=runtime)
    found["scoring fails"] = _failing(rank, 1, ContinuationScorer, "_score_requests", folder / "failing")
    found["after it"] = run(_failing_trial(), folder / "failing")
    found["saving fails"] = _failing(rank, 0, checkpoint, "save_checkpoint", folder / "unsaved")
    found["other weights"] = _with_other_weights(rank, folder / "other")
    return found


def _failing_trial() -> TrialConfig:
    return trial("afp", **{"seed": 7, "evaluation.representation": None, "evaluation.shots": [0]})


def _failing(rank: int, where: int, owner: Any, name: str, folder: Path) -> tuple[str, str]:
    """Kind and text of the error of a trial one of whose workers finds the disk gone."""

    def fail(*_: Any, **__: Any) -> None:
        raise UnavailableError("the disk is gone")

    with pytest.MonkeyPatch.context() as patch:
        if rank == where:
            patch.setattr(owner, name, fail)
        return _error(lambda: run(_failing_trial(), folder))


def _with_other_weights(rank: int, folder: Path) -> tuple[str, str]:
    """The error of a trial whose second worker has loaded another model."""
    from afp_ray.models import load

    whole = load.load_model

    def altered(*arguments: Any, **options: Any) -> Any:
        loaded = whole(*arguments, **options)
        with torch.no_grad():
            next(loaded.model.parameters()).view(-1)[0] += rank
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_model", altered)
        return _error(lambda: run(trial(), folder))


def _error(work: Callable[[], object]) -> tuple[str, str]:
    try:
        work()
    except AfpError as error:
        return type(error).__name__, str(error)
    return "", ""
