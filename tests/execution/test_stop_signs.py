"""Workers learn that their attempt was given up, and that their machine goes away."""

from pathlib import Path

import pytest

from afp_ray.errors import SupersededError
from afp_ray.execution import stop_signs
from afp_ray.execution.stop_signs import StopSigns, claim
from afp_ray.store import TrialPaths


@pytest.fixture(autouse=True)
def always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signs, "POLL_S", 0.0)


def test_the_attempt_that_holds_the_claim_goes_on(tmp_path: Path) -> None:
    claim(TrialPaths(tmp_path / "t"), attempt=2, token="a")
    signs = StopSigns(tmp_path / "t", attempt=2, token="a")
    assert not signs()
    signs.require_current()


@pytest.mark.parametrize(("attempt", "token"), [(3, "a"), (2, "b")])
def test_a_later_attempt_or_another_driver_ends_it(tmp_path: Path, attempt: int, token: str) -> None:
    signs = StopSigns(tmp_path / "t", attempt=2, token="a")
    claim(TrialPaths(tmp_path / "t"), attempt=attempt, token=token)
    with pytest.raises(SupersededError, match=f"attempt 2 of t was given up; attempt {attempt} has"):
        signs()
    with pytest.raises(SupersededError):
        signs.require_current()


def test_a_claim_that_cannot_be_read_ends_it_too(tmp_path: Path) -> None:
    claim(TrialPaths(tmp_path), attempt=1, token="a")
    TrialPaths(tmp_path).attempt.write_text("{")
    with pytest.raises(SupersededError, match="cannot be read"):
        StopSigns(tmp_path, attempt=1, token="a").require_current()


def test_what_nobody_claimed_is_free(tmp_path: Path) -> None:
    claim(TrialPaths(tmp_path), attempt=1, token="a")
    StopSigns(tmp_path, attempt=5, token="").require_current()
    StopSigns(tmp_path / "elsewhere", attempt=5, token="b").require_current()


def test_a_notice_asks_to_save_and_end(tmp_path: Path) -> None:
    is_announced = False
    signs = StopSigns(tmp_path, attempt=1, token="a", notice=lambda: is_announced)
    assert not signs()
    is_announced = True
    assert signs()


def test_the_file_system_is_not_asked_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_signs, "POLL_S", 60.0)
    asked: list[int] = []
    signs = StopSigns(tmp_path, attempt=1, token="a", notice=lambda: bool(asked.append(1)))
    assert not any(signs() for _ in range(1000))
    assert not asked
