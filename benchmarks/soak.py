"""A thousand trials through one driver, which has to stay as light at the end as it was at the start.

Each trial lasts 50 ms and does nothing. What was after a thousand trials is `ours`, what was after two hundred `peer`,
and `ratio` is peer over ours: 1 is flat. CPU seconds are those of the driver's process for one trial, over the last two
hundred and over those from the hundredth to the three hundredth. The ledger's commit and `afp status` stand against
their promises, which are their `peer` then. With `--ray` the trials run on warm actors of a local cluster.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from afp_ray.config import StudyConfig
from afp_ray.execution import Driver, Executor, LocalExecutor
from afp_ray.ledger import Ledger, state
from afp_ray.records import (
    Host,
    LedgerEvent,
    Score,
    StudyState,
    TrainingSummary,
    TrialRequest,
    TrialResult,
    TrialStatus,
)
from afp_ray.search import StudySearch
from afp_ray.store import StudyPaths, TrialPaths, write_json
from benchmarks.figures import Figure, Scale, run
from services.status import status_of

COMMIT_S, STATUS_S = 0.005, 0.2
TRIAL_S = 0.05
FLAT = 0.8
"""Floor of a ratio that should be 1: a quarter more at the end is no noise."""
RUN_TRIAL = "benchmarks.soak:run_trial"


def main(arguments: list[str] | None = None) -> int:
    """Measure and give the exit code: 7 when something grows or a promise is broken."""
    given = sys.argv[1:] if arguments is None else arguments
    on_ray = "--ray" in given
    return run(lambda scale: measure(scale, on_ray=on_ray), __doc__, [word for word in given if word != "--ray"])


def measure(scale: Scale, *, on_ray: bool = False) -> list[Figure]:
    """Run the study and compare its end with its start."""
    num_trials = 50 if scale.is_tiny else 1_000
    with tempfile.TemporaryDirectory(prefix="afp_soak_") as folder:
        study = make_study(num_trials, on_ray=on_ray)
        watch = soak(study, Path(folder), make_executor(study))
        paths = StudyPaths(folder, study.name)
        return [*watch.figures(num_trials, "ray" if on_ray else "local"), _status(paths)]


def make_study(num_trials: int, *, on_ray: bool = False) -> StudyConfig:
    """Random search of one arm, of so many trials altogether."""
    return StudyConfig.model_validate(
        {
            "name": "soak",
            "compare": {"method": ["afp"]},
            "seeds": [0],
            "tune": {"loss.temperature": {"low": 0.01, "high": 0.5, "log": True}},
            "sampler": {"name": "random"},
            "budget": {"trials": num_trials},
            "runtime": {"executor": "ray" if on_ray else "local"},
        }
    )


def make_executor(study: StudyConfig) -> Executor:
    """The executor that the study names."""
    if study.runtime.executor == "ray":
        from afp_ray.execution.ray_executor import RayExecutor

        root = str(Path(__file__).resolve().parent.parent)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        return RayExecutor(study.runtime)
    return LocalExecutor()


@dataclass
class Watch:
    """What the driver's process was like, after every finished trial.

    Attributes:
        cpu: its CPU seconds so far.
        memory: resident bytes.
        handles: open files.
        wall: seconds on a clock.
        commits: seconds of every commit of the ledger.
    """

    cpu: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    commits: list[float] = field(default_factory=list)

    def look(self, event: LedgerEvent, _: StudyState) -> None:
        """Note how the process is when a trial is done."""
        if event.state == TrialStatus.DONE:
            self.cpu.append(time.process_time())
            self.wall.append(time.perf_counter())
            self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
            self.handles.append(len(os.listdir("/proc/self/fd")))

    def figures(self, num_trials: int, name: str) -> list[Figure]:
        """Start and end of each."""
        part = num_trials // 5
        starts = slice(part // 2, part // 2 + part)
        cpu = [(row[-1] - row[0]) / (len(row) - 1) for row in (self.cpu[starts], self.cpu[-part:])]
        wall = [(row[-1] - row[0]) / (len(row) - 1) for row in (self.wall[starts], self.wall[-part:])]
        commits = statistics.median(self.commits)
        return [
            _flat(f"soak.{name}.cpu_per_trial_s", cpu[1], cpu[0]),
            _flat(f"soak.{name}.memory_bytes", self.memory[-1], self.memory[part]),
            _flat(f"soak.{name}.open_files", self.handles[-1], self.handles[part]),
            Figure(f"soak.{name}.beside_the_trial_s", wall[1] - TRIAL_S, wall[0] - TRIAL_S, None),
            Figure("soak.commit_s", commits, COMMIT_S, COMMIT_S / commits, floor=1.0),
        ]


def soak(study: StudyConfig, storage: Path, executor: Executor) -> Watch:
    """Run the study and watch this process."""
    watch = Watch()
    append = Ledger.append

    def timed(self: Ledger, event: LedgerEvent) -> None:
        started = time.perf_counter()
        append(self, event)
        watch.commits.append(time.perf_counter() - started)

    Ledger.append = timed  # type: ignore[method-assign]
    try:
        with Ledger.open(StudyPaths(storage, study.name), study) as ledger:
            state = Driver(
                study,
                ledger,
                search=StudySearch(study, lambda _: {}),
                measure=lambda result: (result.scores[0].value, {}),
                run_trial=RUN_TRIAL,
                on_event=[watch.look],
            ).run(executor)
    finally:
        Ledger.append = append  # type: ignore[method-assign]
    assert state.closed == "complete"
    assert all(trial.status is TrialStatus.DONE and trial.attempt == 1 for trial in state.trials)
    return watch


def run_trial(request: TrialRequest, folder: Path, host: Host) -> TrialResult:
    """A trial that lasts 50 ms, and leaves the files of a real one."""
    config, splits = request.config, request.splits
    time.sleep(TRIAL_S)
    with TrialPaths(folder).training_calls.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": time.time(), "pid": os.getpid()}) + "\n")
    value = 1 - abs(config.loss.temperature - 0.05)
    scores = [
        Score.model_validate(
            {"task": "none", "language": "th", "split": split, "metric": "accuracy", "value": value, "n": 1}
        )
        for split in splits
    ]
    training = TrainingSummary(steps=1, gpu_hours=TRIAL_S / 3600)
    result = TrialResult(
        trial_id=request.trial_id, config=config.model_dump(mode="json"), splits=splits, scores=tuple(scores),
        training=training, seconds=TRIAL_S,
    )  # fmt: skip
    host.fence()
    write_json(TrialPaths(folder).result, result.model_dump(mode="json"))
    return result


def _status(paths: StudyPaths) -> Figure:
    """`afp status` of the finished study, as if nobody had asked before."""
    seconds = []
    for _ in range(5):
        state._settled.cache_clear()
        started = time.process_time()
        status_of(paths)
        seconds.append(time.process_time() - started)
    taken = statistics.median(seconds)
    return Figure("soak.status_s", taken, STATUS_S, STATUS_S / taken, floor=1.0)


def _flat(name: str, end: float, start: float) -> Figure:
    return Figure(name, end, start, start / end, floor=FLAT)


if __name__ == "__main__":
    sys.exit(main())
