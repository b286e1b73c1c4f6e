"""What a trial costs beyond its steps and its scoring, once its process has run another one; and where that goes."""

import importlib
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from afp_ray.config import TrialConfig, trial_id
from afp_ray.records import Host, TrialRequest

STEPS, SCORING, WHOLE = "steps", "scoring", "whole"
PARTS = {
    ("afp_ray.training.loop", "_Loop._take_step"): STEPS,
    ("afp_ray.trial.score", "evaluate_tasks"): SCORING,
    ("afp_ray.evaluation.representation", "measure_representation"): SCORING,
    ("afp_ray.models.load", "load_model"): "load",
    ("afp_ray.training.checkpoint", "save_checkpoint"): "checkpoint",
    ("afp_ray.trial.run", "tokenized_rows"): "rows",
}
"""Functions whose time is told apart."""


def fixed_seconds(configs: Sequence[TrialConfig]) -> float:
    """Median CPU seconds of the trials after the first that are neither steps nor scoring."""
    return statistics.median(parts[WHOLE] - parts[STEPS] - parts[SCORING] for parts in run_trials(configs)[1:])


def run_trials(configs: Sequence[TrialConfig]) -> list[dict[str, float]]:
    """Run trials one after another in this process; CPU seconds of each as a whole and of its parts."""
    from afp_ray.trial.check import fingerprints
    from afp_ray.trial.run import run_trial

    costs = []
    with tempfile.TemporaryDirectory(prefix="afp_fixed_") as folder, timed_parts() as spent:
        for config in configs:
            spent.clear()
            started = time.process_time()
            identity = trial_id(config, fingerprints(config))
            request = TrialRequest(config=config, trial_id=identity, splits=("validation",))
            run_trial(request, Path(folder) / identity, Host(device="cpu", num_threads=1, caches_scores=False))
            costs.append({**dict.fromkeys((STEPS, SCORING), 0.0), **spent, WHOLE: time.process_time() - started})
    return costs


@contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """CPU seconds by part, while the block runs."""
    spent: dict[str, float] = defaultdict(float)
    with ExitStack() as stack:
        for (module, name), part in PARTS.items():
            stack.enter_context(patch(f"{module}.{name}", _timed(_find(module, name), part, spent)))
        yield spent


def _find(module: str, name: str) -> Callable[..., Any]:
    target: Any = importlib.import_module(module)
    for part in name.split("."):
        target = getattr(target, part)
    return target  # type: ignore[no-any-return]


def _timed(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[part] += time.process_time() - started

    return timed
