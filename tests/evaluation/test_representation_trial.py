"""What a trial leaves of its representations, for drawings that are made without it."""

from pathlib import Path

import pytest
from trial_cases import run_on_cpu

from afp_ray.config import TrialConfig, nest
from afp_ray.evaluation.projection import SentenceStates, read_states
from afp_ray.methods import pins
from afp_ray.records import TrialResult
from afp_ray.store import TrialPaths

FIELDS = {
    "data.languages": ["zh", "tr"],
    "data.num_pairs": 64,
    "data.num_instructions": 16,
    "training.max_steps": 2,
    "training.batch_size": 4,
    "evaluation.tasks": [],
    "evaluation.representation.num_pairs": 8,
}


def run(method: str, folder: Path, *splits: str) -> TrialResult:
    config = TrialConfig.model_validate(nest({"method": method, **FIELDS, **pins(method)}))
    result = run_on_cpu(config, folder, *splits)
    assert result is not None
    return result


def kept(folder: Path, split: str) -> SentenceStates:
    found = read_states(TrialPaths(folder).representation_of(split))
    assert found is not None
    return found


def reported(result: TrialResult, split: str) -> dict[str, float]:
    return {
        score.language: score.value for score in result.scores if (score.split, score.metric) == (split, "retrieval@1")
    }


def test_every_layer_has_every_measure_and_the_states_are_those_that_are_reported(tmp_path: Path) -> None:
    result = run("base", tmp_path, "validation", "test")
    assert len(result.layers) == 2 * 2 * 3 * 2  # splits, languages, layers, poolings
    assert all(None not in row.model_dump().values() for row in result.layers)
    for split in ("validation", "test"):
        states = kept(tmp_path, split)
        own = [row for row in result.layers if (row.split, row.layer, row.pooling) == (split, *states.headline)]
        assert {row.language: row.retrieval_at_1 for row in own} == reported(result, split)
        assert states.retrieval is not None and len(states.retrieval.contents) == 2 * 8
        for row in (row for row in result.layers if row.split == split):
            found = states.retrieval.found[row.layer, row.pooling]
            of_language = [share for share, code in zip(found, states.retrieval.languages) if code == row.language]  # noqa: B905
            assert sum(of_language) / 2 / 8 == pytest.approx(row.retrieval_at_1)
        assert sorted(set(states.languages)) == ["en", "tr", "zh"]
        assert len(states.axes) == 3 * 2


def test_a_test_split_that_comes_later_is_kept_at_the_layer_of_validation(tmp_path: Path) -> None:
    run("mcl", tmp_path / "parts", "validation")
    later = run("mcl", tmp_path / "parts", "test")
    at_once = run("mcl", tmp_path / "whole", "validation", "test")
    assert later.layers == at_once.layers
    for split in ("validation", "test"):
        files = [TrialPaths(tmp_path / name).representation_of(split).read_bytes() for name in ("parts", "whole")]
        assert files[0] == files[1]


def test_any_trial_can_be_drawn_in_the_axes_of_base(tmp_path: Path) -> None:
    run("base", tmp_path / "base", "validation")
    run("mcl", tmp_path / "mcl", "validation")
    base, other = kept(tmp_path / "base", "validation"), kept(tmp_path / "mcl", "validation")
    assert base.languages == other.languages
    drawn = base.axes[other.headline].project(other.states)
    assert drawn.shape == base.points[other.headline].shape
    # Two steps move little: the cloud stays where base has it, though the trial is in a folder of its own.
    assert abs(drawn - base.points[other.headline]).mean() < 0.2 * abs(base.points[other.headline]).mean()
