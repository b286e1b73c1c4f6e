"""Answers that are kept: the same as computed ones, and computed again once anything behind them has changed."""

import os
from pathlib import Path

import pytest
from fabricate import fabricate

from afp_ray.errors import ConfigError, DataError
from afp_ray.ledger import Ledger
from afp_ray.store import StudyPaths
from services import answer_cache, answers
from services.answers import best_answer


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """One entry each time that the best configuration is really computed; caches of its own."""
    found: list[int] = []
    best = answers.best

    def counted(*arguments: object, **options: object) -> object:
        found.append(1)
        return best(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(answers, "best", counted)
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    return found


def settle(paths: StudyPaths, ago_s: int = 100) -> None:
    """Let the files of a study look as if they had been left alone for a while."""
    now = paths.study.stat().st_mtime
    for path in paths.folder.rglob("*"):
        os.utime(path, (now - ago_s, now - ago_s))


def test_a_kept_answer_is_the_computed_one(tmp_path: Path, calls: list[int]) -> None:
    paths = fabricate(tmp_path)
    settle(paths)
    computed = best_answer(tmp_path, "demo")
    assert best_answer(tmp_path, "demo") == computed
    assert len(calls) == 1
    other = best_answer(tmp_path, "demo", language="sw", under={"gpu_hours": 1.0})
    assert other != computed
    assert best_answer(tmp_path, "demo", language="sw", under={"gpu_hours": 1.0}) == other
    assert len(calls) == 2


def test_what_an_answer_is_made_from_makes_it_anew(tmp_path: Path, calls: list[int]) -> None:
    paths = fabricate(tmp_path)
    settle(paths)
    first = best_answer(tmp_path, "demo")
    result = paths.trial(first.trials[0]).result
    result.write_text(result.read_text().replace('"seconds": 720.0', '"seconds": 7200.0'))
    settle(paths, 90)
    assert best_answer(tmp_path, "demo").gpu_hours > first.gpu_hours
    Ledger.open(paths).close("complete")
    settle(paths, 80)
    best_answer(tmp_path, "demo")
    assert len(calls) == 3
    paths.trial(first.trials[0]).predictions_of("test").unlink()
    with pytest.raises(DataError, match="the predictions cannot be read"):
        best_answer(tmp_path, "demo")


def test_answers_of_files_that_may_still_change_are_not_kept(tmp_path: Path, calls: list[int]) -> None:
    fabricate(tmp_path)
    assert best_answer(tmp_path, "demo") == best_answer(tmp_path, "demo")
    assert len(calls) == 2


def test_other_code_and_damaged_files_answer_anew(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = fabricate(tmp_path)
    settle(paths)
    first = best_answer(tmp_path, "demo")
    (file,) = (tmp_path / "cache" / "answers").iterdir()
    file.write_bytes(file.read_bytes()[:-20])
    assert best_answer(tmp_path, "demo") == first
    assert len(calls) == 2
    monkeypatch.setattr(answer_cache, "_code", lambda: "another version")
    assert best_answer(tmp_path, "demo") == first
    assert len(calls) == 3


def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, calls: list[int]) -> None:
    fabricate(tmp_path)
    with pytest.raises(ConfigError, match="gpu_hours=nan is no limit"):
        best_answer(tmp_path, "demo", under={"gpu_hours": float("nan")})
