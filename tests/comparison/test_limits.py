"""The study's constraints hold for what is called best, whether an arm was searched or not."""

from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, make_study

from afp_ray.comparison import best
from afp_ray.config import StudyConfig
from afp_ray.errors import DataError
from afp_ray.store import StudyPaths


def limited(storage: Path, **limit: Any) -> StudyPaths:
    study = StudyConfig.model_validate({**make_study().model_dump(), "constraints": [limit]})
    return fabricate(storage, study=study, accuracy={"base": 0.5, "mcl": 0.45, "afp": 0.7})


def test_the_best_arm_is_the_best_of_those_that_keep_the_limits(tmp_path: Path) -> None:
    assert best(limited(tmp_path, metric="pivot_mean", max_drop=0.01)).arm == "afp"
    below = best(limited(tmp_path / "max", metric="mean", max=0.6))
    assert below.arm == "base"
    (told,) = [warning for warning in below.warnings if "left out" in warning]
    assert told.startswith("afp is left out: mean 0.") and told.endswith("is above 0.6 on validation")
    dropped = best(limited(tmp_path / "drop", metric="alignment", max_drop=0.02))
    assert any(warning.startswith("mcl is left out: alignment drops by 0.05") for warning in dropped.warnings)


def test_where_no_arm_keeps_a_limit_none_is_best(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        best(limited(tmp_path, metric="mean", min=0.99))
    assert "no arm keeps the constraints of the study" in caught.value.problem
    assert caught.value.problem.count("is below 0.99") == 3


def test_what_was_not_measured_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="xstorycloze was not measured"):
        best(limited(tmp_path, metric="xstorycloze", min=0.1))
