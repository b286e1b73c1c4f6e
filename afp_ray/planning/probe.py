"""Measures what trials cost before any was run: a few steps and a few examples of each kind, here and now.

Nothing of a probe is kept but the tokens of its rows, which the first trial then finds ready.
"""

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from afp_ray.config import DIRECTIONS, TrainingRuntime, TrialConfig, canonical_json
from afp_ray.errors import ConfigError
from afp_ray.evaluation.prompts import generation_languages, load_direction
from afp_ray.evaluation.questions import load_rows
from afp_ray.evaluation.tasks import choice_task
from afp_ray.planning.costs import Measured, evaluation_key, step_key
from afp_ray.records import Host, TrialRequest
from afp_ray.trial.run import run_trial

NUM_STEPS = 6
"""Steps of a probe; the first one warms up and does not count."""
NUM_EXAMPLES = 16
"""Examples of each cell that a probe scores."""


class Marks:
    """A `Reporter` that keeps when it was told what."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def report(self, stage: str, done: int, total: int, metrics: Mapping[str, float] = {}) -> None:
        """Note the time."""
        self.times.setdefault(stage, []).append(time.perf_counter())

    def spans(self, stage: str) -> list[float]:
        """Seconds between two reports of a stage."""
        return [after - before for before, after in itertools.pairwise(self.times.get(stage, []))]


def probe_trials(
    configs: Sequence[TrialConfig], *, on_gpu: bool, num_threads: int, runtime: TrainingRuntime | None = None
) -> list[Measured]:
    """Run the beginning of one trial of each kind in this process.

    Args:
        configs: trials of a study, one of each arm; those that cost alike are probed once.
        on_gpu: whether the study's trials take a GPU.
        num_threads: torch threads.
        runtime: how the study's workers train; a probe is one worker, whose weights are whole.
    Raises: ConfigError when they take a GPU and there is none here; UserError for what a trial would fail with.
    """
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                "the trials take a GPU and this machine has none, so a probe here would tell nothing",
                where="--probe",
                fix="run it where the trials will run, or leave it out",
            )
    chosen: dict[str, TrialConfig] = {}
    for config in sorted(configs, key=lambda config: -config.training.max_steps):
        step = step_key(config) if config.training.max_steps > 0 else ""
        is_scored = any(evaluation_key(other) == evaluation_key(config) for other in chosen.values())
        if step or not is_scored:
            chosen.setdefault(canonical_json([step, evaluation_key(config)]), config)
    asked = (runtime or TrainingRuntime()).model_copy(update={"sharding": "none", "profile_steps": 0})
    return [_probe(config, num_threads=num_threads, runtime=asked, on_gpu=on_gpu) for config in chosen.values()]


def _probe(config: TrialConfig, *, num_threads: int, runtime: TrainingRuntime, on_gpu: bool) -> Measured:
    training, evaluation = config.training, config.evaluation
    limit = min(NUM_EXAMPLES, evaluation.limit or NUM_EXAMPLES)
    small = config.model_copy(
        update={
            "training": training.model_copy(update={"max_steps": min(NUM_STEPS, training.max_steps)}),
            "evaluation": evaluation.model_copy(update={"limit": limit}),
        }
    )
    marks = Marks()
    with tempfile.TemporaryDirectory(prefix="afp-probe-") as folder:
        started = time.perf_counter()
        request = TrialRequest(config=small, trial_id="probe", splits=("validation",))
        # An answer that is found in the cache instead of computed would cost nothing.
        host = Host(reporter=marks, num_threads=num_threads, caches_scores=False, runtime=runtime)
        with _device_memory(on_gpu) as reserved:
            result = run_trial(request, Path(folder), host)
        seconds = time.perf_counter() - started
    assert result is not None, "a process alone gives the result itself"
    steps = marks.spans("train")
    cells = marks.spans("evaluate")
    cells = [statistics.median(cells), *cells] if cells else []
    grown = sum(span * more for span, more in zip(cells, _growth(config, limit), strict=True)) if cells else 0.0
    return Measured(
        config=config,
        step_s=statistics.mean(steps) if steps else None,
        rest_s=max(0.0, seconds - result.training.seconds - sum(cells)) + grown,
        num_scorings=1,
        peak_bytes=result.training.peak_memory_bytes or None,
        reserved_bytes=reserved[0] if reserved else None,
    )


@contextlib.contextmanager
def _device_memory(on_gpu: bool) -> Iterator[list[int]]:
    """The most that the allocator of this process held of the card, known after the block; empty without a GPU."""
    reserved: list[int] = []
    if not on_gpu:
        yield reserved
        return
    import torch

    torch.cuda.empty_cache()  # what an earlier probe left would count as this one's
    torch.cuda.reset_peak_memory_stats()
    yield reserved
    reserved.append(torch.cuda.max_memory_reserved())


def _growth(config: TrialConfig, limit: int) -> list[float]:
    """By how many times the examples of each cell outnumber those that were scored, in the order of scoring."""
    evaluation = config.evaluation
    side, spoken = generation_languages(evaluation, languages=config.evaluated_languages, pivot=config.data.pivot)
    found: list[float] = []
    for task in (*evaluation.tasks, *evaluation.own_tasks):
        if task in evaluation.choice_tasks:
            codes = evaluation.languages_of(task, config.evaluated_languages)
            rows = [load_rows(choice_task(task, evaluation), evaluation.data_dir, code) for code in codes]
        else:
            named = [
                (name, code) for name in DIRECTIONS[task] if name in evaluation.directions for code in spoken[name]
            ]
            rows = [load_direction(name, evaluation, language=code, pivot=side) for name, code in named]
        for part in rows:
            number = len(part.splits["validation"])
            growth = min(number, evaluation.limit or number) / min(number, limit)
            found += [growth] * sum(len(evaluation.demo_seeds) if shots else 1 for shots in evaluation.shots)
    return found
