"""Real trials, tiny ones, whose driver is killed again and again: each goes on from its checkpoint, bit for bit."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from executor_suite import num_trainings
from fault_driver import Nursery, nursery
from oracle import Oracle

from afp_ray.config import StudyConfig
from afp_ray.ledger import replay
from afp_ray.records import FailureClass, StudyState, TrialResult, TrialStatus
from afp_ray.store import StudyPaths, read_incomplete

pytestmark = pytest.mark.slow
KILLS = [("train", 4), ("represent", 0), ("train", 2), ("train", 5), ("evaluate", 1), ("represent", 0)]
"""What the driver that is killed has just reported, one driver after another."""


@pytest.fixture(scope="module")
def real() -> Iterator[Nursery]:
    with nursery("fault_real") as opened:
        yield opened


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    from fault_real import make_study

    return make_study()


@pytest.fixture(scope="module")
def runner(real: Nursery) -> Callable[[StudyConfig, Path], StudyState]:
    def run_real(study: StudyConfig, storage: Path) -> StudyState:
        code, output = real.drive(storage, {})
        assert code == 0, output
        return replay(StudyPaths(storage, study.name).ledger)

    return run_real


def results(storage: Path) -> dict[str, TrialResult]:
    files = (storage / "real" / "trials").glob("*/result.json")
    return {path.parent.name: TrialResult.model_validate_json(path.read_bytes()) for path in files}


def weights(storage: Path) -> dict[str, bytes]:
    files = (storage / "real" / "trials").glob("*/checkpoint/model.safetensors")
    return {path.parent.parent.name: path.read_bytes() for path in files}


def test_each_trial_goes_on_from_its_checkpoint(
    study: StudyConfig,
    real: Nursery,
    runner: Callable[[StudyConfig, Path], StudyState],
    oracle: Oracle,
    tmp_path: Path,
) -> None:
    from afp_ray.planning.check import cached_fingerprints

    num_kills = 0
    for stage, done in KILLS:
        code, output = real.drive(tmp_path, {}, stage, str(done))
        if code == 0:
            break
        assert code == -signal.SIGKILL, output
        num_kills += 1
    assert num_kills == len(KILLS)
    runner(study, tmp_path)
    straight = runner(study, tmp_path / "straight")
    fingerprint = cached_fingerprints()
    state = oracle(study, tmp_path, max_repeated=num_kills, undisturbed=straight, fingerprint=fingerprint)
    assert {trial.status for trial in state.trials} == {TrialStatus.DONE}
    assert sum(num_trainings(tmp_path, "real").values()) == 2 + 3, "a kill in scoring repeats no training"
    steps = [result.training.resumed_from_step for result in results(tmp_path).values()]
    assert sorted(step or 0 for step in steps) == [3, 4]
    for trial_id, result in results(tmp_path / "straight").items():
        assert results(tmp_path)[trial_id].scores == result.scores
    assert weights(tmp_path) == weights(tmp_path / "straight")


def test_a_loss_that_explodes_ends_its_trial_at_once_and_keeps_nothing_bad(real: Nursery, tmp_path: Path) -> None:
    fields = {"compare": {"training.learning_rate": [1e-3, 1000.0]}, "tune": {}}
    code, output = real.drive(tmp_path, fields)
    assert code == 0, output
    paths = StudyPaths(tmp_path, "real")
    well, ill = replay(paths.ledger).trials
    assert well.status is TrialStatus.DONE
    assert (ill.status, ill.attempt) == (TrialStatus.FAILED, 1)
    assert ill.failure is not None
    assert ill.failure.failure_class is FailureClass.DIVERGED
    assert ill.failure.step is not None and 0 < ill.failure.step < 5
    assert f"diverged at step {ill.failure.step}: " in ill.failure.message
    folder = paths.trial(ill.trial_id)
    assert not folder.checkpoint.exists() and not folder.states.exists() and not folder.result.exists()


def test_a_language_that_cannot_be_scored_leaves_the_others_and_enters_no_mean(real: Nursery, tmp_path: Path) -> None:
    """No mean over fewer languages is ever compared; the training is kept for when the sample can be scored."""
    code, output = real.drive(tmp_path, {"tune": {}}, "", "0", "tr")
    assert code == 0, output
    (failed,) = replay(StudyPaths(tmp_path, "real").ledger).trials
    assert (failed.status, failed.objective) == (TrialStatus.FAILED, None)
    assert failed.failure is not None and failed.failure.failure_class is FailureClass.BUG
    assert "no mean" in failed.failure.message
    assert "xcopa/tr on validation: ZeroDivisionError: a sample of tr" in failed.failure.message
    folder = StudyPaths(tmp_path, "real").trial(failed.trial_id)
    assert not folder.result.exists()
    found = read_incomplete(folder)
    assert found is not None
    missing = [(one.task, one.language, one.split) for one in found.missing]
    assert missing == [("xcopa", "tr", "validation"), ("xcopa", "tr", "test")]
    assert {(one.task, one.language) for one in found.scores} == {("xcopa", "en"), ("xcopa", "zh")}
    assert json.loads(folder.trained.read_bytes())["steps"] == 6
    assert "fault_real.py" in folder.failure(1).read_text()
