"""Short trials end to end: a study of ours, against Ray Tune and against plain Optuna, both with HF's Trainer.

Eight trials and 24, each with its floor: the more trials there are, the less a start counts that both sides pay once.

The trials search the learning rate of the embedded model on instructions of the embedded corpus. All contenders train
on the same rows in the same order, with the same batches, steps, optimizer and schedule; ours packs rows, the peers pad
them, so that losses agree to rounding. All score the same choices of the same questions. Ours does more: checkpoints,
per-example predictions, a report, MLflow, and the test split of the best trial. Times are those of whole processes from
their start to their end, on one thread a trial; CPU seconds are of all processes that a contender started. `equal` says
that the loss of every trial differs by at most 1e-3 and the mean accuracy by at most a hundredth.

`sweep.fixed_s_per_trial` is what a trial costs beyond its steps and its scoring once its process has run another one,
in CPU seconds, against the promise. `sweep.gap_s_per_trial` is what Ray and the driver add between two trials.

Usage: PYTHONPATH=. python benchmarks/sweep.py [--tiny] [--rounds N] [--trials NUMBER ...]
"""

import argparse
import compileall
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig, TrialConfig, nest
from afp_ray.data.order import BatchOrder
from afp_ray.data.tokens import JOINT
from afp_ray.evaluation.questions import render_cells
from afp_ray.ledger import replay
from afp_ray.methods import pins
from afp_ray.models.describe import EMBEDDED_FOLDER
from afp_ray.records import TrialResult, TrialStatus
from afp_ray.store import StudyPaths
from afp_ray.trial.prepare import draw_rows, read_candidates
from benchmarks.figures import Figure, Scale, run
from benchmarks.fixed_cost import fixed_seconds

METHOD = "cit"
LOWEST_RATE, HIGHEST_RATE = 1e-4, 2e-3
FLOORS = {8: 2.3, 24: 4.0}
"""Smallest ratio of wall times of Ray Tune and ours that is promised, by the number of trials."""
AT_ONCE = 2
FIXED_S = 0.1
LOSS_LIMIT, ACCURACY_LIMIT = 1e-3, 0.01
_MARK = "AFP_SWEEP_RUN"
_POLL_S = 0.2


@dataclass(frozen=True)
class Size:
    """How large the trials are."""

    num_trials: int
    steps: int
    batch_size: int
    examples: int


def full(num_trials: int) -> Size:
    """Trials that take the Ray peer 8 to 9 seconds each on two idle cores, more than half of it fixed."""
    return Size(num_trials, steps=30, batch_size=16, examples=40)


TINY = Size(num_trials=2, steps=4, batch_size=4, examples=2)


@dataclass(frozen=True)
class Ran:
    """What one contender took and gave.

    Attributes:
        wall_s, cpu_s: of all its processes.
        without_start_s: wall seconds from the beginning of the first trial.
        losses, accuracies: by learning rate.
    """

    wall_s: float
    cpu_s: float
    without_start_s: float
    losses: Mapping[float, float]
    accuracies: Mapping[float, float]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 7 when a floor is missed or the results differ."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--trials", type=int, nargs="+", default=list(FLOORS), choices=list(FLOORS))
    own, others = parser.parse_known_args(arguments)
    return run(lambda scale: measure(scale, own.trials), __doc__, others)


def measure(scale: Scale, numbers: Sequence[int]) -> list[Figure]:
    """All figures of the sweep; at a toy size those without Ray.

    Args:
        scale: of the benchmark.
        numbers: of trials, each a sweep against Ray Tune of its own.
    """
    smallest = TINY if scale.is_tiny else full(min(numbers))
    for package in ("afp_ray", "services", "benchmarks"):  # as the peers' packages were when they were installed
        compileall.compile_dir(package, quiet=1)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="afp_sweep_") as name:
        folder = Path(name)
        os.environ["AFP_CACHE"] = str(folder / "cache")
        for number in [] if scale.is_tiny else numbers:
            prepare(folder, full(number))
            figures += _against(folder, f"{number}_trials", "ray", floor=FLOORS[number], rounds=scale.rounds)
            between = gap(StudyPaths(folder / "runs-ray", "sweep"))
            figures.append(Figure(f"sweep.{number}_trials.gap_s_per_trial", between, None, None))
        prepare(folder, smallest)
        figures += _against(folder, f"{smallest.num_trials}_trials", "optuna", floor=None, rounds=1)
        fixed = fixed_seconds([trial_config(smallest, rate) for rate in learning_rates(smallest.num_trials)])
        figures.append(Figure("sweep.fixed_s_per_trial", fixed, FIXED_S, FIXED_S / fixed, floor=1.0))
    sys.stderr.write(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    return figures


def _against(folder: Path, sweep: str, peer: str, *, floor: float | None, rounds: int) -> list[Figure]:
    """Both in turn, as often as asked: a shared machine changes its speed from minute to minute."""
    executor, name = ("ray", "ray_tune") if peer == "ray" else ("local", "optuna")
    pairs: list[tuple[Ran, Ran]] = []
    for number in range(rounds):
        pairs.append((run_ours(folder, executor), run_peer(folder, peer)))
        mine, theirs = pairs[-1]
        ratio = theirs.wall_s / mine.wall_s
        sys.stderr.write(
            f"{sweep} {peer} {number + 1}/{rounds}: {mine.wall_s:.1f} and {theirs.wall_s:.1f} s, {ratio:.2f}x\n"
        )
    equal = all([are_equal(mine, theirs) for mine, theirs in pairs])
    kinds = [("wall_s", floor), ("cpu_s", None), ("without_start_s", None)]
    return [_figure(f"sweep.{sweep}.{name}_{kind}", kind, pairs, limit, equal) for kind, limit in kinds]


def _figure(name: str, kind: str, pairs: Sequence[tuple[Ran, Ran]], floor: float | None, equal: bool) -> Figure:
    values = [(getattr(mine, kind), getattr(theirs, kind)) for mine, theirs in pairs]
    own, peer = (statistics.median(column) for column in zip(*values, strict=True))
    return Figure(name, own, peer, statistics.median(theirs / mine for mine, theirs in values), floor, equal)


def are_equal(mine: Ran, theirs: Ran) -> bool:
    """Whether two contenders trained and scored the same."""
    if mine.losses.keys() != theirs.losses.keys():
        return False
    furthest = max(abs(loss - theirs.losses[rate]) for rate, loss in mine.losses.items())
    means = [statistics.mean(ran.accuracies.values()) for ran in (mine, theirs)]
    sys.stderr.write(f"losses within {furthest:.1e} nats, mean accuracies {means[0]:.4f} and {means[1]:.4f}\n")
    return furthest <= LOSS_LIMIT and abs(means[0] - means[1]) <= ACCURACY_LIMIT


def learning_rates(number: int) -> list[float]:
    """At equal ratios between the lowest and the highest."""
    step = (HIGHEST_RATE / LOWEST_RATE) ** (1 / (number - 1))
    return [float(f"{LOWEST_RATE * step**index:.3g}") for index in range(number)]


def study_fields(size: Size) -> dict[str, Any]:
    """What all trials share, by dotted name."""
    return {
        "method": METHOD,
        "model.name": "embedded",
        "data.pivot": "en",
        "data.languages": ["zh", "th", "tr", "sw"],
        "data.num_instructions": size.steps * size.batch_size,
        "training.batch_size": size.batch_size,
        "training.max_steps": size.steps,
        "training.max_length": 96,
        "training.schedule": "constant",
        "training.warmup_ratio": 0.0,
        "evaluation.tasks": ["xnli", "pawsx", "xcopa", "xstorycloze"],
        "evaluation.limit": size.examples,
        "evaluation.representation": None,
    }


def trial_config(size: Size, learning_rate: float) -> TrialConfig:
    """One of the trials."""
    fields = {**study_fields(size), **pins(METHOD), "training.learning_rate": learning_rate}
    return TrialConfig.model_validate(nest(fields))


def prepare(folder: Path, size: Size) -> None:
    """Write the study for ours, and for the peers the rows in the order of our batches and the questions."""
    rates = learning_rates(size.num_trials)
    study = StudyConfig(
        name="sweep",
        fixed=study_fields(size),
        tune={"training.learning_rate": {"choices": rates}},
        sampler={"name": "grid"},
        budget={"trials": size.num_trials},
        runtime={"concurrency": AT_ONCE},
    )
    (folder / "study.json").write_text(study.model_dump_json())
    config = trial_config(size, rates[0])
    rows = draw_rows(config, read_candidates(config)).instructions
    order = BatchOrder([()] * len(rows), batch_size=size.batch_size, seed=config.seed, name="instructions")
    taken = [rows[index] for step in range(size.steps) for index in order.rows(step)]
    work = {
        "folder": str(folder),
        "model": str(EMBEDDED_FOLDER),
        "learning_rates": rates,
        "steps": size.steps,
        "batch_size": size.batch_size,
        "max_length": config.training.max_length,
        "at_once": AT_ONCE,
        "rows": [{"prompt": row.prompt, "joint": JOINT, "response": row.response} for row in taken],
        "questions": list(_questions(config)),
    }
    (folder / "work.json").write_text(json.dumps(work))


def _questions(config: TrialConfig) -> Sequence[dict[str, Any]]:
    cells = (
        cell
        for task in config.evaluation.tasks
        for language in config.evaluated_languages
        for cell in render_cells(task, config.evaluation, language=language, pivot="en", split="validation")
    )
    return [
        {"choices": example.question.choices, "gold": example.question.gold}
        for cell in cells
        for example in cell.examples
    ]


def run_ours(folder: Path, executor: str) -> Ran:
    """`afp run` in a process of its own, with everything that it does for its users."""
    storage = folder / f"runs-{executor}"
    shutil.rmtree(storage, ignore_errors=True)  # of the last round
    command = ["-m", "services.cli", "run", str(folder / "study.json"), "--executor", executor]
    # Kept scores are left out: another contender of ours may have asked the very same weights before.
    wall, cpu, began = _timed([*command, "--storage", str(storage)], {"AFP_CACHE_SCORES": "0"})
    paths = StudyPaths(storage, "sweep")
    trials = [trial for trial in replay(paths.ledger).trials if trial.status is TrialStatus.DONE]
    results = [TrialResult.model_validate_json(paths.trial(trial.trial_id).result.read_bytes()) for trial in trials]
    first = min(trial.started_at or began for trial in trials)
    return Ran(
        wall,
        cpu,
        began + wall - first,
        {result.config["training"]["learning_rate"]: result.training.instruction_loss or 0.0 for result in results},
        {result.config["training"]["learning_rate"]: _accuracy(result) for result in results},
    )


def _accuracy(result: TrialResult) -> float:
    """Over all questions of the validation split."""
    scores = [score for score in result.scores if score.split == "validation" and score.metric == "accuracy"]
    return sum(score.value * score.n for score in scores) / sum(score.n for score in scores)


def run_peer(folder: Path, name: str) -> Ran:
    """One of `benchmarks/peers_sweep.py` in a process of its own."""
    wall, cpu, began = _timed(["benchmarks/peers_sweep.py", name, str(folder)], {})
    found = json.loads((folder / f"{name}.json").read_text())
    return Ran(
        wall,
        cpu,
        began + wall - min(trial["started"] for trial in found),
        {trial["learning_rate"]: trial["loss"] for trial in found},
        {trial["learning_rate"]: trial["accuracy"] for trial in found},
    )


def gap(paths: StudyPaths) -> float:
    """Median seconds between the end of a trial and the next one's start, and around its own work, on a warm actor."""
    trials = sorted(replay(paths.ledger).trials, key=lambda trial: trial.started_at or 0.0)
    ends = sorted(trial.ended_at or 0.0 for trial in trials)
    gaps = []
    for trial in trials[AT_ONCE:]:
        result = TrialResult.model_validate_json(paths.trial(trial.trial_id).result.read_bytes())
        if trial.role != "search" or len(result.splits) > 1 or not trial.started_at or not trial.ended_at:
            continue
        freed = max((end for end in ends if end <= trial.started_at), default=trial.started_at)
        gaps.append(trial.ended_at - freed - result.seconds)
    return statistics.median(gaps)


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float, float]:
    """Run Python; wall seconds, CPU seconds of all its descendants, and when it began.

    Raises: RuntimeError with the end of its output when it fails.
    """
    mark = uuid.uuid4().hex
    given = {**os.environ, **environment, _MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    began, started = time.time(), time.perf_counter()
    with tempfile.TemporaryFile("w+") as output, CpuWatch(mark) as watch:
        done = subprocess.run(
            [sys.executable, *command], env=given, stdout=output, stderr=subprocess.STDOUT, check=False
        )
        wall = time.perf_counter() - started
        output.seek(0)
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}:\n{output.read()[-4000:]}")
    return wall, watch.seconds, began


class CpuWatch:
    """CPU seconds of every process that carries a mark in its environment, whoever its parent is.

    Processes are looked at a few times a second; what one spends after the last look at it is not seen.
    """

    def __init__(self, mark: str) -> None:
        self._mark = f"{_MARK}={mark}".encode()
        self._over = threading.Event()
        self._marked: dict[tuple[str, str], bool] = {}
        self._spent: dict[tuple[str, str], float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def seconds(self) -> float:
        """Of all processes so far."""
        return sum(self._spent.values())

    def __enter__(self) -> "CpuWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            self.look()

    def look(self) -> None:
        """Look at every process once."""
        tick = os.sysconf("SC_CLK_TCK")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                process = (entry.name, fields[19])  # a number is used again, but not with the same time of start
                if not self._marked.get(process):
                    self._marked[process] = self._mark in (entry / "environ").read_bytes()
            except OSError:
                continue  # it has ended, or is another user's
            if self._marked[process]:
                self._spent[process] = (int(fields[11]) + int(fields[12])) / tick


if __name__ == "__main__":
    sys.exit(main())
