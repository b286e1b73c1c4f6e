"""What commands say of scores at the ends of the scale: intervals with a width that stay on it, and agree with p."""

import json
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate, make_study

from afp_ray.comparison import best, compare
from afp_ray.comparison.wording import points, sentence
from afp_ray.records import Difference, signed_points
from afp_ray.store import StudyPaths
from services import cli

ACCURACY = {"base": 0.93, "mcl": 1.1, "afp": 1.1}
"""The planted noise is at most 0.05, so that both trained arms answer everything right."""


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"), accuracy=ACCURACY, with_failure=False)


def asked(paths: StudyPaths, capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    capsys.readouterr()
    assert cli.main([*command, paths.name, "--storage", str(paths.storage), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_perfect_score_has_an_interval_that_ends_at_one(
    perfect: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    score = asked(perfect, capsys, "best")["score"]
    low, high = score["ci95"]
    assert score["mean"] == high == 1
    assert 0.9 < low < 0.97


def test_every_interval_stays_on_the_scale_and_agrees_with_its_p_value(
    perfect: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    table = asked(perfect, capsys, "compare")
    found = [cell["vs_base"] for arm in table["arms"] for cell in (arm["mean"], arm["pivot_mean"], *arm["cells"])]
    found = [delta for delta in found if delta is not None]
    assert found
    for delta in found:
        for name, p in (("ci95", "p"), ("ci95_holm", "p_holm")):
            low, high = delta[name]
            assert -1 <= low < high <= 1
            assert (low <= 0 <= high) == (delta[p] >= 0.05)


def test_two_perfect_arms_differ_by_nothing_within_a_width(perfect: StudyPaths) -> None:
    behind = best(perfect).runner_up
    assert behind is not None and behind.behind is not None
    assert (behind.behind.delta, behind.behind.p) == (0, 1)
    assert behind.behind.ci95 is not None
    low, high = behind.behind.ci95
    assert low == -high and 0.01 < high < 0.1


def test_few_contents_get_words_instead_of_an_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fabricate as fabricated

    many = fabricated.predictions
    monkeypatch.setattr(fabricated, "predictions", lambda *args, **kwargs: many(*args, **kwargs, rows=4))
    paths = fabricate(tmp_path, accuracy={"base": 0.5, "mcl": 0.6, "afp": 0.8}, with_failure=False)
    found = asked(paths, capsys, "best")
    words = "no interval: 4 contents, and 6 are needed"
    assert found["score"]["ci95"] is None and found["score"]["note"] == words
    assert cli.main(["best", paths.name, "--storage", str(paths.storage)]) == 0
    assert words in capsys.readouterr().out
    assert all(words in row.verdict for row in compare(paths).arms if not row.is_base)


def test_retrieval_of_one_seed_has_an_interval_over_its_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path, seeds=(0,), accuracy={"base": 0.5, "mcl": 0.6, "afp": 0.98}, with_failure=False)
    found = asked(paths, capsys, "best", "--metric", "retrieval@1")["score"]
    assert found["mean"] == pytest.approx(0.98)
    assert 0.85 < found["ci95"][0] < 0.95 < 0.98 < found["ci95"][1] <= 1


def test_arms_below_the_majority_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Every fabricated question has its first choice right, so that the majority is right throughout.
    paths = fabricate(tmp_path, study=make_study(), with_failure=False)
    told = asked(paths, capsys, "compare")
    for place in ("every arm scores", "xcopa: every arm scores", "xnli: every arm scores"):
        (line,) = [one for one in told["warnings"] if one.startswith(place)]
        assert "below the majority (100.0 %): the best, afp, has " in line
        assert line in told["verdicts"]
    assert cli.main(["compare", paths.name, "--storage", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("xnli: every arm scores below the majority") == 1


def test_differences_read_as_sentences() -> None:
    untested = Difference(delta=0.03, test="none: no per-example values")
    assert sentence("afp", untested) == "afp differs by +3.0 points to base, not tested"
    assert sentence("afp", None) == "afp was not compared with base"
    tested = Difference(delta=-0.0001, ci95=(-0.02, 0.02), p=0.9, p_holm=1.0, ci95_holm=(-0.03, 0.03))
    assert points(tested) == "0.0 points [-3.0, +3.0]", "the interval that agrees with the p-value that is shown"
    assert (signed_points(-0.0004), signed_points(0.0006), signed_points(-0.1)) == ("0.0", "+0.1", "-10.0")
