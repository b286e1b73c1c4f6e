"""Fake trials for the execution tests: no training, but the same files, promises and ways to fail as real ones.

What a trial does hangs on its learning rate, which no real code reads here: see `run`.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

from afp_ray.config import TrainingRuntime, TrialConfig
from afp_ray.errors import DataError, DivergedError, TrainingInterruptedError
from afp_ray.records import Host, Score, TrainingSummary, TrialRequest, TrialResult
from afp_ray.store import TrialPaths, write_json

_KINDS = ("diverged", "bug", "data", "oom", "dies_once", "dies", "nan", "waits", "preempted_twice", "oom_whole")
FAILS = {kind: 0.9 + place / 100 for place, kind in enumerate(_KINDS)}
"""Learning rates that make a trial fail in that way, or wait for a line on its standard input."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def objective(result: TrialResult) -> float:
    """The validation score of a fake trial; not a number where the trial says so."""
    if result.config["training"]["learning_rate"] == FAILS["nan"]:
        return math.nan
    return next(score.value for score in result.scores if score.split == "validation")


def score_of(config: TrialConfig, steps: int | None = None) -> float:
    """Best at temperature 0.05 and layer 2, a little different at each seed; less of it before the last step."""
    distance = abs(math.log(config.loss.temperature / 0.05)) + abs(config.loss.layer - 2)
    share = 1.0 if steps is None else steps / config.training.max_steps
    return (1 / (1 + distance) + 0.001 * config.seed) * (0.5 + 0.5 * share)


def steps_of(folder: Path) -> list[tuple[int, int]]:
    """Spans of steps that a fake trial trained, one for each time that it began or went on."""
    path = folder / "spans.jsonl"
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def run(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """Train (write a line), keep a checkpoint, score what is missing; or fail as the learning rate says."""
    paths, config, splits = TrialPaths(folder), request.config, request.splits
    folder.mkdir(parents=True, exist_ok=True)
    host.reporter.report("train", 0, 1)
    stored = TrialResult.model_validate_json(paths.result.read_bytes()) if paths.result.exists() else None
    if stored is None:
        with paths.training_calls.open("a") as file:
            file.write(json.dumps({"time": time.time(), "pid": os.getpid()}) + "\n")
        _fail_as_asked(config, paths, host.runtime)
        if request.until is not None or paths.states.exists():
            paused = _train_to_rung(request, paths)
            host.fence()
            if paused is not None:
                write_json(paths.rung(paused.until.rung), paused.model_dump(mode="json"))  # type: ignore[union-attr]
                return paused
        paths.checkpoint.mkdir(exist_ok=True)
        (paths.checkpoint / "model.safetensors").write_bytes(request.trial_id.encode())
    else:
        assert set(splits) <= set(stored.splits) or paths.checkpoint.is_dir(), "scored again without a checkpoint"
    done = dict.fromkeys([*(stored.splits if stored else ()), *splits])
    result = TrialResult(
        trial_id=request.trial_id,
        config=config.model_dump(mode="json"),
        splits=tuple(done),
        scores=tuple(
            Score(task="fake", language="th", split=split, metric="accuracy", value=score_of(config), n=1)
            for split in done
        ),
        training=TrainingSummary(steps=1, gpu_hours=0.5),
        checkpoint="checkpoint",
    )
    host.reporter.report("train", 1, 1)
    host.fence()
    write_json(paths.result, result.model_dump(mode="json"))
    return result


def run_in_group(request: TrialRequest, folder: Path, host: Host) -> TrialResult | None:
    """As `run`, in a process group: every worker adds its rank plus one, and only the first writes."""
    import torch
    import torch.distributed as dist

    total = torch.tensor([float(dist.get_rank() + 1)])
    dist.all_reduce(total)
    if request.config.training.learning_rate == FAILS["diverged"] and dist.get_rank() == 1:
        raise DivergedError(7, "loss is nan")
    dist.barrier()
    if dist.get_rank() > 0:
        return None
    (folder / "sum_of_ranks.txt").write_text(str(total.item()))
    return run(request, folder, host)


def _train_to_rung(request: TrialRequest, paths: TrialPaths) -> TrialResult | None:
    """Go on from the steps that are done; a paused result at a rung, None at the end."""
    config, until = request.config, request.until
    state = paths.states / "steps"
    done = int(state.read_text()) if state.exists() else 0
    unit = {"steps": 1, "rows": config.rows_per_step, "tokens": 100}[until.unit] if until else 1
    end = min(config.training.max_steps, math.ceil(until.amount / unit)) if until else config.training.max_steps
    with (paths.folder / "spans.jsonl").open("a") as file:
        file.write(json.dumps([done, end]) + "\n")
    paths.states.mkdir(exist_ok=True)
    state.write_text(str(end))
    if until is None or end == config.training.max_steps:
        return None
    score = Score(task="fake", language="th", split="validation", metric="accuracy", value=score_of(config, end), n=1)
    return TrialResult(
        trial_id=request.trial_id,
        status="PAUSED",
        until=until,
        config=config.model_dump(mode="json"),
        splits=("validation",),
        scores=(score,),
        training=TrainingSummary(steps=end, gpu_hours=0.5 * end / config.training.max_steps),
    )


def _fail_as_asked(config: TrialConfig, paths: TrialPaths, runtime: TrainingRuntime) -> None:
    rate = config.training.learning_rate
    if rate == FAILS["diverged"]:
        raise DivergedError(7, "loss is nan")
    if rate == FAILS["bug"]:
        raise ZeroDivisionError("division by zero")
    if rate == FAILS["data"]:
        raise DataError("no rows", where="corpus.tsv:3")
    if rate == FAILS["oom"] or (rate == FAILS["oom_whole"] and runtime.micro_batch_size is None):
        raise OutOfMemoryError("no memory left on the device")
    if rate == FAILS["waits"]:
        sys.stdin.readline()
    num_calls = len(paths.training_calls.read_text().splitlines())
    if rate == FAILS["preempted_twice"] and num_calls <= 2:
        raise TrainingInterruptedError(3)
    if rate == FAILS["dies"] or (rate == FAILS["dies_once"] and num_calls == 1):
        os.kill(os.getpid(), signal.SIGKILL)
