"""A trial that another study finished is found without looking through the other study's trials."""

import os
from pathlib import Path

import pytest

from afp_ray.execution import adoption
from afp_ray.records import Job, TrainingSummary, TrialResult
from afp_ray.store import StudyPaths, write_json

NUM_TRIALS = 1_000


def finish(paths: StudyPaths, trial_id: str) -> None:
    """A finished trial of a study, as it lies on disk."""
    result = TrialResult(
        trial_id=trial_id, config={}, splits=("validation",), scores=(), layers=(),
        training=TrainingSummary(steps=1, tokens=1, seconds=1.0, gpu_hours=0.1),
        predictions={}, fingerprints={}, environment={}, seconds=1.0,
    )  # fmt: skip
    write_json(paths.trial(trial_id).result, result.model_dump(mode="json"))


def num_looks(monkeypatch: pytest.MonkeyPatch, paths: StudyPaths, trial_id: str) -> tuple[int, bool]:
    """How often the disk is asked for one job, and whether a result was found."""
    calls = []
    job = Job(trial_id=trial_id, arm="afp", seed=1, role="search", config={}, params={})
    with monkeypatch.context() as patch:
        for name in ("stat", "scandir", "listdir", "open"):
            real = getattr(os, name)
            patch.setattr(os, name, lambda *given, _real=real, **more: (calls.append(1), _real(*given, **more))[1])
        found = adoption.find_result(paths, job.trial_id, job.splits)
    return len(calls), found is not None


def test_looking_for_a_result_does_not_grow_with_the_trials_of_siblings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    ours = StudyPaths(tmp_path, "ours")
    siblings = [StudyPaths(tmp_path, name) for name in ("first", "second", "third")]
    for study in (ours, *siblings):
        study.folder.mkdir()
        study.ledger.touch()
    finish(siblings[1], "f" * 16)
    before, is_found = num_looks(monkeypatch, ours, "f" * 16)
    assert is_found
    assert before >= 2 * len(siblings)  # the looks are counted indeed
    for number in range(NUM_TRIALS):
        finish(siblings[number % 3], f"{number:016x}")
    after, is_found = num_looks(monkeypatch, ours, "f" * 16)
    assert is_found
    assert after == before
    missing, is_found = num_looks(monkeypatch, ours, "e" * 16)
    assert not is_found
    assert missing <= before
    adopted = adoption.adopt(
        ours, Job(trial_id=f"{NUM_TRIALS - 1:016x}", arm="a", seed=1, role="search", config={}, params={})
    )
    assert adopted is not None
    assert adopted[1].endswith("first")
