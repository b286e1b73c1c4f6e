"""A thousand trials leave their driver as light as two hundred did: memory, open files and CPU a trial are flat."""

import os
from pathlib import Path

import pytest

from afp_ray.store import StudyPaths
from benchmarks import soak


@pytest.mark.slow
def test_a_thousand_trials_leave_the_driver_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the 50 ms of each, which are no work; the benchmark has them."""
    monkeypatch.setattr(soak, "TRIAL_S", 0.0)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the disk's time is not this process's
    study = soak.make_study(1_000)
    watch = soak.soak(study, tmp_path, soak.make_executor(study))
    assert len(watch.cpu) == 1_001, "and one test job"
    assert watch.handles[-1] == watch.handles[200]
    assert (watch.memory[-1] - watch.memory[200]) / 800 < 16_000  # bytes a trial: its record, its file names, its point
    # The least of several pieces: what else a machine does makes some of them slower, and none faster.
    pieces = [(start, (watch.cpu[start + 50] - watch.cpu[start]) / 50) for start in range(100, 950, 50)]
    first, last = min(cost for start, cost in pieces if start < 400), min(cost for start, cost in pieces if start > 600)
    assert last < 1.5 * first, f"{first:.4f} s of CPU a trial at the start, {last:.4f} at the end"


@pytest.mark.parametrize("on_ray", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.ray])])
def test_the_benchmark_trains_each_trial_once(
    on_ray: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if on_ray:
        request.getfixturevalue("shared_cluster")
    monkeypatch.setattr(soak, "TRIAL_S", 0.0)
    study = soak.make_study(30, on_ray=on_ray)
    watch = soak.soak(study, tmp_path, soak.make_executor(study))
    figures = {figure.name: figure for figure in watch.figures(30, "x")}
    assert figures["soak.x.open_files"].ours == watch.handles[-1]
    assert figures["soak.x.cpu_per_trial_s"].ours > 0
    assert len(watch.commits) == 3 * 31 + 2
    calls = list(StudyPaths(tmp_path, "soak").trials.glob("*/training_calls.jsonl"))
    assert len(calls) == 30
