"""The one arrow, `TrialConfig -> TrialResult`: where data, model, training and evaluation meet."""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from afp_ray import __version__
from afp_ray.config import SPLITS, Split, TrialConfig
from afp_ray.errors import ModelError
from afp_ray.evaluation import run as evaluation
from afp_ray.evaluation.cell_scoring import ScoringHost
from afp_ray.evaluation.score_cache import ScoreCache, is_caching_wanted
from afp_ray.evaluation.workers import Workers
from afp_ray.languages import declare
from afp_ray.plugins import used_packages
from afp_ray.records import Host, TrainingSummary, TrialRequest, TrialResult, Until
from afp_ray.store import TrialPaths, read_result, write_json
from afp_ray.training.costs import with_costs
from afp_ray.training.option_conflicts import check_together
from afp_ray.trial.check import fingerprints
from afp_ray.trial.prepare import tokenized_rows
from afp_ray.trial.score import TrialScores, score_splits

if TYPE_CHECKING:  # torch comes with these; checking a study must not wait for it
    from afp_ray.data.batches import TrainingBatches
    from afp_ray.models.load import LoadedModel

logger = logging.getLogger(__name__)


def import_libraries() -> None:
    """Import all that a trial needs, so that no later import is a slow one."""
    import afp_ray.models.load
    import afp_ray.training.loop  # noqa: F401


def run_trial(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Train and score one configuration; what `folder` already holds is not done again.

    Inside a process group every worker calls this alike: all train, all score a part, the first writes.

    Args:
        request: the configuration, its id, and the splits to score.
        folder: the trial's own folder; `result.json` is durable there before this returns.
        host: where the trial runs, and who hears of it.
    Returns: the result, None on workers other than the first.
    Raises: IncompleteError when a task cannot be scored in a language; the other scores are in `incomplete.json` then.
        UserError for bad input, DivergedError, TrainingInterruptedError when `host.stop` said so, whatever torch
        raises.
    """
    started = time.perf_counter()
    declare(request.config.data.declared)
    run = _set_up(request, folder, host)
    paths, workers = run.paths, run.workers
    stored = read_result(paths.result) if paths.result.is_file() else None
    if stored is not None and set(request.splits) <= set(stored.splits):
        return stored if workers.is_first else None
    if (paused := read_rung(paths, request.until)) is not None:
        return paused if workers.is_first else None
    config = request.config
    check_together(config.loss, config.training, run.host.runtime, num_workers=workers.number)
    loaded, summary = _trained_model(run, stored)
    scores = _scores(run, loaded, stored, is_paused=_is_paused(config, summary))
    if scores is None:
        return None
    result = _result(run, summary, scores, stored, started=started)
    _write(run, result)
    return result


@dataclass(frozen=True, slots=True)
class _Run:
    """What the stages of one trial share.

    Attributes:
        request: as `run_trial` was given it.
        paths: the files of the trial.
        host: with "auto" and the environment resolved.
        workers: those of the trial, of which this process is one.
    """

    request: TrialRequest
    paths: TrialPaths
    host: Host
    workers: Workers

    @property
    def config(self) -> TrialConfig:
        """What is trained and scored."""
        return self.request.config


def _set_up(request: TrialRequest, folder: Path, host: Host) -> _Run:
    """Import what a trial needs, give torch its threads, and settle what the host leaves open."""
    caches = host.caches_scores and is_caching_wanted()  # a bad setting is refused before anything is trained
    import_libraries()
    import torch

    if host.num_threads is not None:
        torch.set_num_threads(host.num_threads)
    device = host.device
    if device == "auto":
        device = f"cuda:{torch.cuda.current_device()}" if torch.cuda.is_available() else "cpu"
    host = replace(host, device=device, caches_scores=caches)
    return _Run(request, TrialPaths(folder), host, Workers(*_worker()))


def _is_paused(config: TrialConfig, summary: TrainingSummary) -> bool:
    """Whether the training ended at a rung, before its last step."""
    return summary.steps < config.training.max_steps


def _scores(run: _Run, loaded: "LoadedModel", stored: TrialResult | None, *, is_paused: bool) -> TrialScores | None:
    """Score what is asked for and `stored` lacks; None on workers other than the first.

    A paused trial is scored on validation alone, whatever was asked: it may never be chosen by what test says.
    """
    host, paths = run.host, run.paths
    cache = ScoreCache(loaded.model, loaded.tokenizer) if host.caches_scores else None
    scoring = ScoringHost(host.reporter, cache, run.workers, captures_decoding=host.runtime.decoding == "graph")
    splits: list[Split] = ["validation"] if is_paused else [name for name in SPLITS if name in run.request.splits]
    try:
        return score_splits(run.config, loaded, splits, paths=paths, stored=stored, host=scoring)
    except evaluation.IncompleteError as error:
        if run.workers.is_first:
            host.fence()
            write_json(paths.incomplete, error.report.model_dump(mode="json"))
        raise


def _result(
    run: _Run, summary: TrainingSummary, scores: TrialScores, stored: TrialResult | None, *, started: float
) -> TrialResult:
    """Join scores, costs, fingerprints and environment; what an earlier attempt or rung took counts too."""
    config, is_paused = run.config, _is_paused(run.config, summary)
    rung = _last_rung(run.paths) if stored is None else None
    seconds = time.perf_counter() - started
    training = with_costs(summary, stored, rung, seconds=seconds, scoring_s=scores.seconds, workers=run.workers.number)
    return TrialResult(
        trial_id=run.request.trial_id,
        status="PAUSED" if is_paused else "DONE",
        until=run.request.until if is_paused else None,
        config=config.model_dump(mode="json"),
        splits=scores.splits,
        scores=scores.scores,
        layers=scores.layers,
        training=training,
        checkpoint=run.paths.checkpoint.name if run.paths.checkpoint.is_dir() else None,
        predictions={} if is_paused else dict(scores.predictions),
        fingerprints=fingerprints(config),
        environment=_environment(run.host.device) | used_packages(run.config.model_dump(mode="json")),
        seconds=seconds + sum(earlier.seconds for earlier in (stored, rung) if earlier is not None),
        warnings=tuple(dict.fromkeys([*summary.notes, *scores.warnings])),
    )


def _write(run: _Run, result: TrialResult) -> None:
    """Make the result durable, as `rung-<n>.json` where the trial is paused; a finished one loses its states."""
    paths = run.paths
    run.host.fence()
    paths.incomplete.unlink(missing_ok=True)
    if result.until is not None:
        write_json(paths.rung(result.until.rung), result.model_dump(mode="json"))
        return
    write_json(paths.result, result.model_dump(mode="json"))
    shutil.rmtree(paths.states, ignore_errors=True)


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
    from afp_ray.training.checkpoint import require_checkpoint_space

    run.host.reporter.report("load", 0, 1)
    with run.workers.together():
        loaded, summary = _loaded_model(run, stored)
        run.workers.require_equal(summary is None, "what they find in the folder of the trial")
        if summary is not None:
            return loaded, summary
        if run.workers.is_first:
            require_checkpoint_space(loaded.model, run.paths.checkpoint)
        batches = _training_batches(run, loaded)
    summary = _train(run, loaded, batches)
    if not _is_paused(run.config, summary):
        _save(run, loaded, summary)
    return loaded, summary


def _train(run: _Run, loaded: "LoadedModel", batches: "TrainingBatches") -> TrainingSummary:
    """Train the model in place."""
    from afp_ray.training.loop import TrainingRequest, train

    config, until = run.config, run.request.until
    if run.workers.is_first:
        _record_training_call(run.paths)
    request = TrainingRequest(
        config.loss,
        config.training,
        seed=config.seed,
        trial_id=run.request.trial_id,
        is_rung=_is_rung(config, until) if until else None,
    )
    summary = train(loaded.model, batches, request, run.host, paths=run.paths)
    return summary.model_copy(update={"dropped_tokens": batches.dropped_tokens})


def _save(run: _Run, loaded: "LoadedModel", summary: TrainingSummary) -> None:
    """Write `checkpoint/`, and that it is whole; the first worker does, and all wait for it."""
    from afp_ray.training.checkpoint import save_checkpoint

    with run.workers.together():
        if run.workers.is_first:
            run.host.fence()
            save_checkpoint(loaded.model, loaded.tokenizer, run.paths.checkpoint)
            finished = summary.model_copy(update={"gpu_hours": summary.training_hours})
            write_json(run.paths.trained, finished.model_dump(mode="json"))


def _loaded_model(run: _Run, stored: TrialResult | None) -> tuple["LoadedModel", TrainingSummary | None]:
    """A model that needs no training, with what its training did; the model to train and None otherwise."""
    from afp_ray.models.load import load_model
    from afp_ray.training.checkpoint import verify_checkpoint

    config, paths = run.config, run.paths
    saved = config.model.model_copy(update={"name": str(paths.checkpoint), "revision": None})
    if stored is not None and config.training.max_steps > 0:
        if not paths.checkpoint.is_dir():
            raise ModelError(
                f"the checkpoint of trial {stored.trial_id} is gone",
                where=str(paths.checkpoint),
                fix="remove the trial's folder to train it again, or keep it with runtime.keep_checkpoints: all",
            )
        verify_checkpoint(paths.checkpoint)
        return load_model(saved, device=run.host.device, cache=None), stored.training
    trained = _finished_training(paths)
    if trained is not None:
        return load_model(saved, device=run.host.device, cache=None), trained
    loaded = load_model(config.model, device=run.host.device)
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


def _training_batches(run: _Run, loaded: "LoadedModel") -> "TrainingBatches":
    """The rows of this worker, step by step."""
    from afp_ray.data.batches import Batching, TrainingBatches

    config = run.config
    pairs, instructions = tokenized_rows(config, loaded)
    batching = Batching(
        batch_size=config.training.batch_size,
        max_length=config.training.max_length,
        seed=config.seed,
        pair_batch_size=config.training.num_pairs_per_step,
        micro_batch_size=run.host.runtime.micro_batch_size,
    )
    workers = run.workers
    return TrainingBatches(
        pairs, instructions, loaded.tokenizer, batching, rank=workers.rank, world_size=workers.number
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
