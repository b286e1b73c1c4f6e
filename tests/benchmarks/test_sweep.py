"""The sweep's benchmark: both sides train and score the same, and every process that they start is counted."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import peers_sweep, sweep
from benchmarks.fixed_cost import SCORING, STEPS, WHOLE, run_trials
from benchmarks.sweep import TINY, CpuWatch, Ran, are_equal, prepare, trial_config

RATE = 1e-3


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    prepare(tmp_path, TINY)
    return tmp_path


def test_the_peers_train_on_our_rows_in_our_order_to_the_same_loss(work: Path) -> None:
    from afp_ray.records import Host, TrialRequest
    from afp_ray.trial.run import run_trial

    request = TrialRequest(config=trial_config(TINY, RATE), trial_id="ours", splits=("validation",))
    result = run_trial(request, work / "ours", Host(device="cpu", num_threads=1, caches_scores=False))
    assert result is not None
    theirs = peers_sweep.run_trial(peers_sweep.tokenize(peers_sweep.read_work(work)), RATE)
    assert theirs["loss"] == pytest.approx(result.training.instruction_loss, abs=sweep.LOSS_LIMIT)
    assert theirs["accuracy"] == pytest.approx(sweep._accuracy(result), abs=1e-9)


def test_the_parts_of_a_trial_add_up_to_less_than_the_whole(work: Path) -> None:
    first, second = run_trials([trial_config(TINY, rate) for rate in (RATE, 2 * RATE)])
    for parts in (first, second):
        assert min(parts[STEPS], parts[SCORING], parts["load"], parts["checkpoint"]) > 0
        assert sum(seconds for part, seconds in parts.items() if part != WHOLE) < parts[WHOLE]


def test_different_losses_or_accuracies_are_not_equal() -> None:
    def ran(loss: float, accuracy: float, rate: float = RATE) -> Ran:
        return Ran(1.0, 1.0, 1.0, {rate: loss}, {rate: accuracy})

    assert are_equal(ran(2.0, 0.5), ran(2.0005, 0.505))
    assert not are_equal(ran(2.0, 0.5), ran(2.01, 0.5))
    assert not are_equal(ran(2.0, 0.5), ran(2.0, 0.55))
    assert not are_equal(ran(2.0, 0.5), ran(2.0, 0.5, rate=2 * RATE))


def test_the_time_of_marked_processes_is_counted_whoever_started_them() -> None:
    watch = CpuWatch("mine")
    code = "import time\nwhile time.process_time() < 0.3: pass\nprint('spent', flush=True)\ninput()"
    marks = ("mine", "another")
    own, other = (
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, sweep._MARK: mark},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for mark in marks
    )
    for process in (own, other):
        assert process.stdout is not None
        process.stdout.readline()
    watch.look()
    started = time.perf_counter()
    watch.look()
    assert time.perf_counter() - started < 5
    for process in (own, other):
        process.communicate(b"\n")
    assert 0.25 <= watch.seconds < 0.6
