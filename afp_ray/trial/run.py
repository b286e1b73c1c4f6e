"""The one arrow, `TrialConfig -> TrialResult`: where data, model, training and evaluation meet."""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afp_ray import __version__
from afp_ray.config import SPLITS, Split, TrainingRuntime, TrialConfig
from afp_ray.errors import ModelError
from afp_ray.evaluation import run as evaluation
from afp_ray.evaluation.score_cache import is_caching_wanted
from afp_ray.evaluation.workers import Workers
from afp_ray.records import TrainingSummary, TrialResult, Until
from afp_ray.reporter import Reporter
from afp_ray.store import TrialPaths, read_result, write_json
from afp_ray.training.costs import with_costs
from afp_ray.training.option_conflicts import check_together
from afp_ray.trial.check import fingerprints
from afp_ray.trial.prepare import tokenized_rows
from afp_ray.trial.score import score_splits

if TYPE_CHECKING:  # torch comes with these; checking a study must not wait for it
    from afp_ray.models.load import LoadedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Run:
    """What the stages of one trial share."""

    config: TrialConfig
    trial_id: str
    paths: TrialPaths
    reporter: Reporter
    runtime: TrainingRuntime
    device: str
    workers: Workers
    stop: Callable[[], bool] | None
    until: Until | None
    fence: Callable[[], None]

    @property
    def rank(self) -> int:
        """Place of this worker."""
        return self.workers.rank

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return self.workers.number


def import_libraries() -> None:
    """Import all that a trial needs, so that no later import is a slow one."""
    import afp_ray.models.load
    import afp_ray.training.loop  # noqa: F401


def run_trial(
    config: TrialConfig,
    *,
    trial_id: str,
    folder: Path,
    splits: Sequence[str],
    reporter: Reporter,
    device: str = "auto",
    runtime: TrainingRuntime | None = None,
    num_threads: int | None = None,
    stop: Callable[[], bool] | None = None,
    until: Until | None = None,
    fence: Callable[[], None] = lambda: None,
    keep_scores: bool = True,
) -> TrialResult | None:
    """Train and score one configuration; what `folder` already holds is not done again.

    Inside a process group every worker calls this alike: all train, all score a part, the first writes.

    Args:
        config: the resolved trial.
        trial_id: its content address.
        folder: the trial's own folder; `result.json` is durable there before this returns.
        splits: "validation", "test" or both; only those that a stored result lacks are scored.
        reporter: hears of progress.
        device: "auto" takes a GPU where there is one.
        runtime: memory, checkpoints and watching; nothing there changes a score. None takes the defaults.
        num_threads: torch threads; None leaves torch's choice.
        stop: asked at every step of training; true saves what is done, for a later attempt to go on with.
        until: train to this rung alone and score validation there; the result is PAUSED, and the next call goes on from
            the state that this one leaves. A training that ends before the rung gives an ordinary result.
        fence: called before a checkpoint or result is written; raises when this attempt may write no more.
        keep_scores: take what the very same weights answered before from the cache, and keep what they answer now;
            `AFP_CACHE_SCORES=0` says no for all.
    Returns: the result, None on workers other than the first.
    Raises: IncompleteError when a task cannot be scored in a language; the other scores are in `incomplete.json` then.
        UserError for bad input, DivergedError, TrainingInterruptedError when `stop` said so, whatever torch raises.
    """
    started = time.perf_counter()
    import_libraries()
    import torch

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    workers = Workers(*_worker())
    rank, world_size = workers.rank, workers.number
    if device == "auto":
        device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    paths, runtime = TrialPaths(folder), runtime or TrainingRuntime()
    keeps = keep_scores and is_caching_wanted()
    run = _Run(config, trial_id, paths, reporter, runtime, device, workers, stop, until, fence)
    paused = read_rung(paths, until)
    if paused is not None:
        return paused if rank == 0 else None
    stored = read_result(run.paths.result) if run.paths.result.is_file() else None
    if stored is not None and set(splits) <= set(stored.splits):
        return stored if rank == 0 else None
    check_together(config.loss, config.training, runtime, num_workers=world_size)
    loaded, summary = _trained_model(run, stored)
    is_paused = summary.steps < config.training.max_steps
    wanted: list[Split] = ["validation"] if is_paused else [split for split in SPLITS if split in splits]
    try:
        scored = score_splits(
            config, loaded, wanted, paths=paths, stored=stored, reporter=reporter, workers=workers, keep_scores=keeps
        )
    except evaluation.IncompleteError as error:
        if rank == 0:
            fence()
            write_json(paths.incomplete, error.found.model_dump(mode="json"))
        raise
    if scored is None:
        return None
    before = _last_rung(paths) if stored is None else None
    seconds = time.perf_counter() - started
    result = TrialResult(
        trial_id=trial_id,
        status="PAUSED" if is_paused else "DONE",
        until=until if is_paused else None,
        config=config.model_dump(mode="json"),
        splits=scored.splits,
        scores=scored.scores,
        layers=scored.layers,
        training=with_costs(summary, stored, before, seconds=seconds, scoring_s=scored.seconds, workers=world_size),
        checkpoint=paths.checkpoint.name if paths.checkpoint.is_dir() else None,
        predictions={} if is_paused else dict(scored.predictions),
        fingerprints=fingerprints(config),
        environment=_environment(device),
        seconds=seconds + sum(known.seconds for known in (stored, before) if known is not None),
        warnings=tuple(dict.fromkeys([*summary.notes, *scored.warnings])),
    )
    fence()
    paths.incomplete.unlink(missing_ok=True)
    if is_paused and until is not None:
        write_json(paths.rung(until.rung), result.model_dump(mode="json"))
        return result
    write_json(paths.result, result.model_dump(mode="json"))
    shutil.rmtree(paths.states, ignore_errors=True)
    return result


def read_rung(paths: TrialPaths, until: Until | None) -> TrialResult | None:
    """The stored result of a trial at a rung; None when there is none yet, or the trial has gone on to its end."""
    if until is None or paths.result.is_file() or not paths.rung(until.rung).is_file():
        return None
    result = read_result(paths.rung(until.rung))
    return result if result.until == until else None


def _last_rung(paths: TrialPaths) -> TrialResult | None:
    """The result of the highest rung at which the trial was paused, or None."""
    number = 0
    while paths.rung(number).is_file():
        number += 1
    return read_result(paths.rung(number - 1)) if number else None


def _worker() -> tuple[int, int]:
    """Rank and number of workers; (0, 1) outside a process group."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _trained_model(run: _Run, stored: TrialResult | None) -> tuple["LoadedModel", TrainingSummary]:
    """The model to score, the same on every worker: the stored checkpoint, or one that is trained now and saved."""
    from afp_ray.training.checkpoint import require_checkpoint_space, save_checkpoint
    from afp_ray.training.loop import train

    config, paths = run.config, run.paths
    run.reporter.report("load", 0, 1)
    with run.workers.together():
        loaded, summary = _loaded_model(run, stored)
        run.workers.require_equal(summary is None, "what they find in the folder of the trial")
        if summary is not None:
            return loaded, summary
        if run.rank == 0:
            require_checkpoint_space(loaded.model, paths.checkpoint)
        batches = _training_batches(run, loaded)
    if run.rank == 0:
        _record_training_call(paths)
    summary = train(
        loaded.model,
        batches,
        loss=config.loss,
        training=config.training,
        reporter=run.reporter,
        device=run.device,
        seed=config.seed,
        runtime=run.runtime,
        paths=paths,
        trial_id=run.trial_id,
        stop=run.stop,
        is_rung=_is_rung(config, run.until) if run.until else None,
    )
    summary = summary.model_copy(update={"dropped_tokens": batches.dropped_tokens})
    if summary.steps < config.training.max_steps:
        return loaded, summary
    with run.workers.together():
        if run.rank == 0:
            run.fence()
            save_checkpoint(loaded.model, loaded.tokenizer, paths.checkpoint)
            finished = summary.model_copy(update={"gpu_hours": summary.training_hours})
            write_json(paths.trained, finished.model_dump(mode="json"))
    return loaded, summary


def _loaded_model(run: _Run, stored: TrialResult | None) -> tuple["LoadedModel", TrainingSummary | None]:
    """A model that needs no training, with what its training did; the model to train and None otherwise."""
    from afp_ray.models.load import load_model
    from afp_ray.training.checkpoint import verify_checkpoint

    config, paths = run.config, run.paths
    kept = config.model.model_copy(update={"name": str(paths.checkpoint), "revision": None})
    if stored is not None and config.training.max_steps > 0:
        if not paths.checkpoint.is_dir():
            raise ModelError(
                f"the checkpoint of trial {stored.trial_id} is gone",
                where=str(paths.checkpoint),
                fix="remove the trial's folder to train it again, or keep it with runtime.keep_checkpoints: all",
            )
        verify_checkpoint(paths.checkpoint)
        return load_model(kept, device=run.device, cache=None), stored.training
    trained = _finished_training(paths)
    if trained is not None:
        return load_model(kept, device=run.device, cache=None), trained
    loaded = load_model(config.model, device=run.device)
    return loaded, TrainingSummary(steps=0, training_hours=0.0) if config.training.max_steps == 0 else None


def _is_rung(config: TrialConfig, until: Until) -> Callable[[int, int], bool]:
    """Whether a training has reached `until`, from its steps and tokens."""
    counts: dict[str, Callable[[int, int], int]] = {
        "steps": lambda steps, _: steps,
        "rows": lambda steps, _: steps * config.rows_per_step,
        "tokens": lambda _, tokens: tokens,
    }
    count = counts[until.unit]
    return lambda steps, tokens: count(steps, tokens) >= until.amount


def _finished_training(paths: TrialPaths) -> TrainingSummary | None:
    """What an attempt that was killed while it scored had trained, if its checkpoint is whole."""
    from afp_ray.training.checkpoint import verify_checkpoint

    if not paths.trained.is_file():
        return None
    try:
        verify_checkpoint(paths.checkpoint)
    except ModelError as error:
        logger.warning("training goes on from its last state: %s", error.problem)
        return None
    return TrainingSummary.model_validate_json(paths.trained.read_bytes())


def _training_batches(run: _Run, loaded: "LoadedModel") -> Any:
    from afp_ray.data.batches import TrainingBatches

    config = run.config
    pairs, instructions = tokenized_rows(config, loaded)
    return TrainingBatches(
        pairs,
        instructions,
        loaded.tokenizer,
        batch_size=config.training.batch_size,
        pair_batch_size=config.training.num_pairs_per_step,
        max_length=config.training.max_length,
        seed=config.seed,
        rank=run.rank,
        world_size=run.world_size,
        micro_batch_size=run.runtime.micro_batch_size,
    )


def _record_training_call(paths: TrialPaths) -> None:
    """Append a line each time that training really starts, so that anybody can count what was repeated."""
    paths.folder.mkdir(parents=True, exist_ok=True)
    with paths.training_calls.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), "pid": os.getpid()}) + "\n")


def _environment(device: str) -> dict[str, str]:
    """Versions and device that a score may depend on in its last digits."""
    import torch
    import transformers

    name = (
        torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or platform.machine()
    )
    return {
        "afp_ray": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"{device.split(':')[0]} {name}",
        "threads": str(torch.get_num_threads()),
    }
