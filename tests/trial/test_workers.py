"""A trial of two workers gives what one gives: scores, predictions and kept answers, each having scored about half."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from gloo_workers import run_workers
from trial_worker_cases import SPLITS, TRAINED, count, in_group, run, trial

from afp_ray.records import TrialResult
from afp_ray.store import TrialPaths

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the trials."""
    return tmp_path_factory.mktemp("trials")


@pytest.fixture(scope="module")
def found(place: Path) -> Found:
    """What each of two workers ends with, trial after trial."""
    return run_workers(in_group, place, str(place), AFP_CACHE=str(place / "cache"))


@pytest.fixture(scope="module")
def alone(place: Path) -> tuple[TrialResult, dict[str, int]]:
    """The same trial in one process, which scores everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AFP_CACHE_SCORES", "0")
        result, counts = count(lambda: run(trial(), place / "alone"))
    assert result is not None
    return result, dict(counts)


def require_equal_predictions(folder: Path, other: Path, *, exactly: bool) -> None:
    """The same rows in the same order; log-likelihoods to the rounding of another batch, or bit for bit."""
    for split in SPLITS:
        left, right = (pq.read_table(TrialPaths(one).predictions_of(split)) for one in (folder, other))
        assert left.num_rows > 50
        if exactly:
            assert left.equals(right)
            continue
        name = "log_likelihoods"
        assert left.drop([name]).equals(right.drop([name]))
        for ours, theirs in zip(left[name].to_pylist(), right[name].to_pylist(), strict=True):
            assert ours == (None if theirs is None else pytest.approx(theirs, abs=1e-4))


@pytest.mark.parametrize("name", ["cold", "warm", "off"])
def test_scores_and_predictions_are_those_of_one_process(
    found: Found, alone: tuple[TrialResult, dict[str, int]], place: Path, name: str
) -> None:
    result, nothing = (worker[name][0] for worker in found)
    assert nothing is None, "one worker alone has the result"
    assert result.scores == alone[0].scores
    assert result.layers == alone[0].layers
    assert result.warnings == alone[0].warnings
    assert result.fingerprints == alone[0].fingerprints
    require_equal_predictions(place / name, place / "alone", exactly=False)


def test_what_was_kept_is_found_bit_for_bit(found: Found, place: Path) -> None:
    require_equal_predictions(place / "warm", place / "cold", exactly=True)
    require_equal_predictions(place / "off", place / "cold", exactly=True)


@pytest.mark.parametrize("name", ["cold", "off"])
def test_each_worker_scores_about_half(found: Found, alone: tuple[TrialResult, dict[str, int]], name: str) -> None:
    first, second = (worker[name][1] for worker in found)
    for what in ("choices", "texts"):
        together = first[what] + second[what]
        assert 0.8 * alone[1][what] < together <= alone[1][what], "every example once, but for cells that repeat one"
        assert together == alone[1][what] > 40 or name == "cold"
        assert 0.3 < first[what] / together < 0.7


def test_the_first_worker_alone_reads_and_writes_the_cache(found: Found, place: Path) -> None:
    cold, warm, off = (found[0][name][1] for name in ("cold", "warm", "off"))
    assert cold["asked"] == warm["asked"] >= cold["kept"] > 0
    assert warm["kept"] == warm["choices"] == warm["texts"] == 0
    assert off["asked"] == off["kept"] == 0
    assert all(found[1][name][1][what] == 0 for name in ("cold", "warm", "off") for what in ("asked", "kept"))
    assert found[1]["warm"][1]["choices"] == found[1]["warm"][1]["texts"] == 0
    assert len(list((place / "cache" / "scores").glob("*.parquet"))) >= cold["kept"]


@pytest.mark.parametrize("name", TRAINED)
def test_what_was_trained_is_whole_on_every_worker(found: Found, place: Path, name: str) -> None:
    """Its checkpoint scores alone as it was scored together."""
    result = found[0][name]
    assert found[1][name] is None
    config = trial(**{"model.name": str(TrialPaths(place / name).checkpoint)})
    again = run(config, place / f"{name}-alone", caches_scores=False)
    assert again is not None
    assert (result.training.steps, result.training.workers) == (2, 2)
    assert result.training.training_hours == pytest.approx(2 * result.training.seconds / 3600)
    assert 0 < result.training.evaluation_hours < result.training.gpu_hours - result.training.training_hours
    assert (result.scores, result.layers) == (again.scores, again.layers)
    assert result.layers != found[0]["cold"][0].layers, "training moved it"
    require_equal_predictions(place / name, place / f"{name}-alone", exactly=False)


def test_a_worker_that_fails_in_scoring_stops_the_trial_which_then_goes_on(found: Found, place: Path) -> None:
    assert found[1]["scoring fails"] == ("UnavailableError", "the disk is gone")
    assert found[0]["scoring fails"] == ("ElsewhereFailedError", "worker 1 failed: UnavailableError: the disk is gone")
    assert found[0]["after it"].scores
    assert found[1]["after it"] is None
    ran = found[0]["after it"].training
    assert (ran.workers, ran.training_hours) == (2, pytest.approx(2 * ran.seconds / 3600)), "of the attempt before"
    assert ran.gpu_hours > ran.training_hours + ran.evaluation_hours
    calls = TrialPaths(place / "failing").training_calls.read_text().splitlines()
    assert len(calls) == 1, "what was trained is not trained again"


def test_a_checkpoint_that_cannot_be_written_stops_all_workers(found: Found, place: Path) -> None:
    assert found[0]["saving fails"] == ("UnavailableError", "the disk is gone")
    assert found[1]["saving fails"] == ("ElsewhereFailedError", "worker 0 failed: UnavailableError: the disk is gone")
    assert not TrialPaths(place / "unsaved").result.exists()


def test_workers_with_different_weights_refuse_to_score_together(found: Found, place: Path) -> None:
    for worker in found:
        kind, text = worker["other weights"]
        assert kind == "DataError"
        assert "differ in the weights" in text
        assert "shared path" in text
    assert not TrialPaths(place / "other").result.exists()
