"""A study that version 0.1 left on disk is read by this one: its answers, its trials and its ledger are the same."""

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services import cli

GOLDEN = Path(__file__).parent / "golden" / "studies"
NAME = "example"


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """The stored study: four arms on the embedded model, searched and confirmed at two seeds, without checkpoints."""
    with tarfile.open(GOLDEN / "example_0_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    answers: dict[str, Any] = json.loads((GOLDEN / "example_0_1.json").read_text("utf-8"))
    return answers


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """What a verb says in JSON."""
    assert cli.main([*arguments, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def fields(config: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Dotted name and value of every field."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= fields(value, f"{at}{name}.") if isinstance(value, Mapping) else {at + name: value}
    return flat


def test_an_earlier_ledger_replays(storage: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    status = answer(capsys, "status", NAME, "--storage", str(storage))
    assert {key: status[key] for key in expected["status"]} == expected["status"]


def test_an_earlier_study_has_the_same_best(
    storage: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    best = answer(capsys, "best", NAME, "--storage", str(storage))
    said = expected["best"]
    assert (best["arm"], best["trials"]) == (said["arm"], said["trials"])
    assert best["score"]["mean"] == pytest.approx(said["mean"])
    assert best["vs_base"]["delta"] == pytest.approx(said["delta"])
    assert fields(best["config"]) | fields(said["config"]) == fields(best["config"])  # later fields at their default


def test_an_earlier_study_has_the_same_table(
    storage: Path, expected: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    table = answer(capsys, "compare", NAME, "--storage", str(storage))
    assert {arm["arm"] for arm in table["arms"]} == set(expected["arms"])
    for arm in table["arms"]:
        said = expected["arms"][arm["arm"]]
        assert arm["trials"] == said["trials"]
        assert arm["validation"] == pytest.approx(said["validation"])
        cells = {f"{cell['task']}/{cell['language']}/{cell['shots']}": cell for cell in arm["cells"]}
        assert set(cells) == set(said["cells"])
        for name, (mean, delta) in said["cells"].items():
            assert cells[name]["mean"] == pytest.approx(mean)
            if delta is not None:
                assert cells[name]["vs_base"]["delta"] == pytest.approx(delta)


def test_trials_of_an_earlier_version_need_not_run_again(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = answer(capsys, "plan", str(storage / NAME / "study.json"), "--storage", str(storage))
    assert (plan["trials"], plan["finished"], [arm["left"] for arm in plan["arms"]]) == (9, 9, [0, 0, 0, 0])


def test_a_complete_earlier_study_is_shown_rather_than_continued(storage: Path) -> None:
    before = {path: path.read_bytes() for path in (storage / NAME / "trials").rglob("training_calls.jsonl")}
    assert before
    assert cli.main(["resume", NAME, "--storage", str(storage), "--allow-drift"]) == 0
    assert {path: path.read_bytes() for path in (storage / NAME / "trials").rglob("training_calls.jsonl")} == before
