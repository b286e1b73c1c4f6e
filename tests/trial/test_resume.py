"""A trial that is stopped or killed, in training or while it is scored, ends with the result of one that is not."""

import shutil
from pathlib import Path

import pytest
from trial_cases import kill, num_trainings, run, weights

from afp_ray.errors import TrainingInterruptedError
from afp_ray.records import TrialResult
from afp_ray.store import TrialPaths


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialResult, bytes]:
    """The result and the weights of a trial that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight")
    result = run(folder)
    return result, (TrialPaths(folder).checkpoint / "model.safetensors").read_bytes()


def test_a_trial_killed_in_training_goes_on_from_its_last_state(
    straight: tuple[TrialResult, bytes], tmp_path: Path
) -> None:
    kill(tmp_path, "train", 4)
    assert not TrialPaths(tmp_path).result.exists()
    result = run(tmp_path)
    assert result.training.resumed_from_step == 3
    assert result.hours(workers=1).training == pytest.approx(result.training.seconds / 3600), "of both attempts"
    assert result.scores == straight[0].scores
    assert weights(tmp_path) == straight[1]
    assert num_trainings(tmp_path) == 2
    assert not TrialPaths(tmp_path).states.exists(), "a result needs no states"


@pytest.fixture(scope="module")
def killed_in_scoring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial that was trained whole and killed before its scores were there."""
    folder = tmp_path_factory.mktemp("killed")
    kill(folder, "represent", 0)
    return folder


def test_a_trial_killed_while_it_is_scored_is_not_trained_again(
    straight: tuple[TrialResult, bytes], killed_in_scoring: Path, tmp_path: Path
) -> None:
    shutil.copytree(killed_in_scoring, tmp_path, dirs_exist_ok=True)
    paths = TrialPaths(tmp_path)
    assert paths.trained.is_file()
    result = run(tmp_path)
    assert num_trainings(tmp_path) == 1
    assert result.scores == straight[0].scores
    assert weights(tmp_path) == straight[1]
    assert result.training.tokens == straight[0].training.tokens
    assert result.training.gpu_hours > result.training.seconds / 3600, "the hours of both attempts"
    hours = result.hours(workers=1)
    assert hours.training == pytest.approx(result.training.seconds / 3600)
    assert hours.startup is not None and hours.evaluation > 0 and hours.startup > 0
    assert hours.training + hours.evaluation + hours.startup == pytest.approx(result.training.gpu_hours)
    assert not paths.states.exists()


def test_a_checkpoint_damaged_before_it_was_scored_is_made_again(
    straight: tuple[TrialResult, bytes], killed_in_scoring: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(killed_in_scoring, tmp_path, dirs_exist_ok=True)
    content = bytearray(weights(tmp_path))
    content[-1] ^= 1
    (TrialPaths(tmp_path).checkpoint / "model.safetensors").write_bytes(content)
    result = run(tmp_path)
    assert any("training goes on from its last state" in message for message in caplog.messages)
    assert result.training.resumed_from_step == 5
    assert weights(tmp_path) == straight[1]


def test_a_trial_stopped_on_request_says_so_and_goes_on(straight: tuple[TrialResult, bytes], tmp_path: Path) -> None:
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(TrainingInterruptedError) as stopped:
        run(tmp_path, stop=stop)
    assert stopped.value.step == 3
    result = run(tmp_path)
    assert result.training.resumed_from_step == 3
    assert weights(tmp_path) == straight[1]


def test_what_was_survived_is_a_warning_of_the_result(tmp_path: Path) -> None:
    with pytest.raises(TrainingInterruptedError):
        run(tmp_path, stop=lambda: True)
    (TrialPaths(tmp_path).states / "step-000001" / "model.safetensors").write_bytes(b"")
    result = run(tmp_path)
    assert result.training.resumed_from_step is None
    assert any(warning.startswith("the state of step 1 cannot be used") for warning in result.warnings)
