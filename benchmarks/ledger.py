"""The ledger of a study of 10,000 trials: an event, `afp status`, `afp best`, and forty at once who ask `afp serve`.

Each figure is in seconds or megabytes and stands against a promise, which is its `peer`; `ratio` is the promise over
ours. The study is generated: 10,000 searched trials, and four arms confirmed with three seeds, each with 100 scores
(five tasks in twenty languages) and the answers behind them. `ledger.plain_write_s` is what the disk alone takes for a
commit, and `ledger.best_first_s` the question that nobody has asked before, whose intervals are drawn from the answers.
`service.*_40_s` are forty first requests for one answer at the same time, by the clock, so on an idle machine, and
`service.peak_mb` is the most memory that the service has had after all of them.
"""

import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from afp_ray.config import CHOICE_TASKS, StudyConfig, TrialConfig, nest
from afp_ray.evaluation.predictions import Prediction, write_predictions
from afp_ray.languages import LANGUAGES
from afp_ray.ledger import Ledger, snapshot, state
from afp_ray.methods import METHODS
from afp_ray.records import LedgerEvent, Score, TrainingSummary, TrialResult
from afp_ray.store import StudyPaths, write_json
from benchmarks.figures import Figure, Scale, run
from services.answers import best_answer, comparison_answer
from services.status import status_of

COMMIT_S, STATUS_S, BEST_S = 0.005, 0.2, 0.1
ASKERS, SERVICE_S, SERVICE_MB = 40, 10.0, 500.0
ARMS = ("base", "mcl", "cit", "afp")
SEEDS = (0, 1, 2)
NUM_LANGUAGES = 20
ROWS = 20
_FINGERPRINTS = {"model": "m" * 16, "data": "d" * 16, "evaluation": "e" * 16, "heldout": "h" * 16}


def main(arguments: list[str] | None = None) -> int:
    """Measure and give the exit code: 7 when a promise is broken."""
    return run(measure, __doc__, arguments)


def measure(scale: Scale) -> list[Figure]:
    """Generate a study, and time its driver's commits and its readers' questions."""
    num_trials, num_languages = (200, 2) if scale.is_tiny else (10_000, NUM_LANGUAGES)
    with tempfile.TemporaryDirectory(prefix="afp_ledger_") as folder:
        os.environ["AFP_CACHE"] = str(Path(folder) / "cache")
        paths = generate(Path(folder) / "runs", num_trials, num_languages)
        commits = measure_commits(paths, 50 if scale.is_tiny else 500)
        settle(paths)
        alone = [*measure_status(paths, scale.rounds), *measure_best(paths, scale.rounds)]
        return [*commits, *alone, *measure_service(paths)]


def measure_commits(paths: StudyPaths, count: int) -> list[Figure]:
    """Commits at the end of the long ledger, beside writes of as many bytes with nothing around them."""
    ours: list[float] = []
    disk: list[float] = []
    line = b"x" * 150 + b"\n"
    beside = os.open(paths.folder / "beside", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    with Ledger.open(paths) as ledger:
        last = ledger.state.trials[-1].trial_id
        for _ in range(count):
            event = LedgerEvent(time=time.time(), trial_id=last, state="RUNNING", attempt=1)
            ours.append(seconds_of(partial(ledger.append, event), time.perf_counter))
            disk.append(seconds_of(partial(_write, beside, line), time.perf_counter))
        is_equal = ledger.state == state.replay(paths.ledger)
        ledger.close("complete")
    os.close(beside)
    return [
        _promise("ledger.commit_s", statistics.median(ours), COMMIT_S, equal=is_equal),
        Figure("ledger.plain_write_s", statistics.median(disk), None, None),
    ]


def _write(handle: int, line: bytes) -> None:
    os.write(handle, line)
    os.fsync(handle)


def measure_status(paths: StudyPaths, rounds: int) -> list[Figure]:
    """`status` from the snapshot and from the ledger alone, each time as if it were the first."""
    answers = []

    def ask() -> None:
        state._settled.cache_clear()
        answers.append(status_of(paths))

    onward = median_of(ask, rounds)
    snapshot.path_of(paths.ledger).unlink(missing_ok=True)
    whole = median_of(ask, rounds)
    is_equal = all(answer == answers[0] for answer in answers)
    return [
        _promise("ledger.status_s", onward, STATUS_S, equal=is_equal),
        Figure("ledger.status_without_snapshot_s", whole, None, None),
    ]


def measure_best(paths: StudyPaths, rounds: int) -> list[Figure]:
    """`best` when nobody has asked before, and when somebody has."""

    def ask() -> object:
        state._settled.cache_clear()
        return best_answer(paths.storage, paths.name)

    computed = ask()
    again = median_of(ask, rounds)
    is_equal = ask() == computed
    kept = Path(os.environ["AFP_CACHE"]) / "answers"

    def ask_first() -> None:
        for file in kept.glob("*.json"):
            file.unlink()
        ask()

    return [
        _promise("ledger.best_s", again, BEST_S, equal=is_equal),
        Figure("ledger.best_first_s", median_of(ask_first, rounds), None, None),
    ]


def measure_service(paths: StudyPaths) -> list[Figure]:
    """Forty at once who ask a service for the table, the report and trials, and what its process takes."""
    expected = json.loads(comparison_answer(paths.storage, [paths.name]).model_dump_json())
    figures = []
    with serving(paths.storage) as (url, process):
        for name, address in (("comparison", "comparison"), ("report", "report"), ("trials", "trials?limit=1000")):
            started = time.perf_counter()
            with ThreadPoolExecutor(ASKERS) as askers:
                bodies = list(askers.map(body_of, [f"{url}/v1/studies/{paths.name}/{address}"] * ASKERS))
            seconds = time.perf_counter() - started
            is_equal = len(set(bodies)) == 1 and (name != "comparison" or json.loads(bodies[0]) == expected)
            figures.append(_promise(f"service.{name}_{ASKERS}_s", seconds, SERVICE_S, equal=is_equal))
        peak_mb = peak_bytes(process.pid) / 1e6
    return [*figures, Figure("service.peak_mb", peak_mb, SERVICE_MB, SERVICE_MB / peak_mb, floor=1.0)]


@contextmanager
def serving(storage: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """`afp serve` at an address of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "services.cli", "serve", "--port", str(port), "--storage", str(storage)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    try:
        until = time.monotonic() + 60
        while True:
            try:
                body_of(f"http://127.0.0.1:{port}/v1/health")
                break
            except URLError:
                if process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.terminate()
        process.wait()


def body_of(url: str) -> bytes:
    """What a service answers with; each time on a connection of its own."""
    with urlopen(url, timeout=120) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


def peak_bytes(pid: int) -> float:
    """The most memory that a process has had so far."""
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _promise(name: str, ours: float, promise: float, *, equal: bool) -> Figure:
    return Figure(name, ours, promise, promise / ours, floor=1.0, equal=equal)


def median_of(work: Callable[[], object], rounds: int) -> float:
    """Median CPU seconds of this process, which other processes do not stretch."""
    work()
    return statistics.median(seconds_of(work, time.process_time) for _ in range(rounds))


def seconds_of(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds that one call takes."""
    started = clock()
    work()
    return clock() - started


def generate(storage: Path, num_trials: int, num_languages: int) -> StudyPaths:
    """Write a finished study; its events are written at once, since only their number matters here."""
    languages = tuple(code for code in LANGUAGES if code != "en")[: num_languages - 1]
    fixed = {"data.languages": list(languages), "evaluation.tasks": list(CHOICE_TASKS), "training.max_steps": 5}
    study = StudyConfig(name="long", fixed=fixed, compare={"method": ARMS}, seeds=SEEDS)
    paths = StudyPaths(storage, study.name)
    Ledger.open(paths, study).close("complete")
    with paths.ledger.open("a", encoding="utf-8") as file:
        for event in searched(study, num_trials):
            file.write(_line(event))
        for arm in ARMS:
            for seed in SEEDS[:1] if arm == "base" else SEEDS:
                for event in confirmed(study, paths, arm, seed):
                    file.write(_line(event))
    Ledger.open(paths, study).close("complete")
    return paths


def _line(event: LedgerEvent) -> str:
    """As `Ledger.append` writes it."""
    return json.dumps(event.model_dump(mode="json", exclude_none=True), separators=(",", ":")) + "\n"


def searched(study: StudyConfig, count: int) -> Iterator[LedgerEvent]:
    """Events of trials of a search: planned, running, done."""
    configs = {arm: _config(study, arm, 0) for arm in ARMS}
    for number in range(count):
        arm, clock = ARMS[number % len(ARMS)], 1_700_000_000.0 + number
        temperature = 0.01 + number / (2 * count)
        config = {**configs[arm], "loss": {**configs[arm]["loss"], "temperature": temperature}}
        params = {"loss.temperature": temperature}
        yield _event("PLANNED", f"{number:016x}", clock, arm=arm, seed=0, role="search", config=config, params=params)
        yield _event("RUNNING", f"{number:016x}", clock + 0.1, role="search")
        done = {"objective": 0.3 + 0.4 * number / count, "splits": ("validation",), "gpu_hours": 0.25}
        yield _event("DONE", f"{number:016x}", clock + 0.9, role="search", **done)


def confirmed(study: StudyConfig, paths: StudyPaths, arm: str, seed: int) -> Iterator[LedgerEvent]:
    """Events and files of a trial that was scored on both splits."""
    trial_id, config = f"{arm:f>12}{seed:04d}", _config(study, arm, seed)
    folder = paths.trial(trial_id).folder
    languages = ("en", *config["data"]["languages"])
    scores: list[Score] = []
    splits = ("validation", "test")
    for split in splits:
        answers = list(_answers(arm, seed, split, languages))
        write_predictions(answers, paths.trial(trial_id).predictions_of(split))
        for place in range(0, len(answers), ROWS):
            cell = answers[place : place + ROWS]
            value = sum(bool(answer.correct) for answer in cell) / ROWS
            named = {"task": cell[0].task, "language": cell[0].language, "split": split, "metric": "accuracy"}
            scores.append(Score.model_validate({**named, "value": value, "n": ROWS}))
    result = TrialResult(
        trial_id=trial_id, config=config, splits=splits, scores=tuple(scores),
        training=TrainingSummary(steps=5, tokens=100, seconds=2.0, gpu_hours=0.25),
        predictions={split: f"predictions/{split}.parquet" for split in splits},
        fingerprints=_FINGERPRINTS, environment={}, seconds=3.0,
    )  # fmt: skip
    write_json(folder / "result.json", result.model_dump(mode="json"))
    clock = 1_700_100_000.0
    yield _event("PLANNED", trial_id, clock, arm=arm, seed=seed, role="confirm", config=config)
    yield _event("DONE", trial_id, clock + 1, role="confirm", objective=0.7, splits=splits, gpu_hours=0.25)


def _answers(arm: str, seed: int, split: str, languages: Sequence[str]) -> Iterator[Prediction]:
    share = 0.4 + 0.1 * ARMS.index(arm)
    for task in CHOICE_TASKS:
        for language in languages:
            for row in range(ROWS):
                content = f"{task}-{split}-{row}"
                is_right = random.Random(f"{arm}{seed}{content}{language}").random() < share  # noqa: S311
                chosen = 0 if is_right else 1
                yield Prediction(task, language, 0, 0, content, content, 0, chosen, is_right, (0.0, -1.0), "accuracy")


def _config(study: StudyConfig, method: str, seed: int) -> dict[str, Any]:
    fields = {**study.fixed, "method": method, "seed": seed, **METHODS[method]}
    return TrialConfig.model_validate(nest(fields)).model_dump(mode="json")


def _event(state: str, trial_id: str, clock: float, **fields: object) -> LedgerEvent:
    return LedgerEvent.model_validate({"time": clock, "trial_id": trial_id, "state": state, "attempt": 1, **fields})


def settle(paths: StudyPaths) -> None:
    """Let the study look as if it had been left alone for a minute."""
    then = time.time() - 60
    for path in paths.folder.rglob("*"):
        os.utime(path, (then, then))


if __name__ == "__main__":
    sys.exit(main())
