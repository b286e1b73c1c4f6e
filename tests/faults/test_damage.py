"""Files of finished trials that are lost or altered, and lines of the ledger that are: noticed, named, and mended."""

import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afp_ray.ledger import replay
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths
from services import cli

NAME = "small"
STUDY = """
name: small
fixed: {data.languages: [zh], data.num_pairs: 16, data.num_instructions: 0, training.max_steps: 2,
  training.batch_size: 4, evaluation.tasks: [xcopa], evaluation.limit: 8, evaluation.representation.num_pairs: 4}
compare: {method: [base, mcl]}
seeds: [0, 1]
runtime: {executor: local}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    (folder / "study.yaml").write_text(STUDY)
    assert cli.main(["run", str(folder / "study.yaml"), "--storage", str(folder / "runs")]) == 0
    return folder / "runs"


@pytest.fixture
def paths(finished: Path, tmp_path: Path) -> StudyPaths:
    shutil.copytree(finished, tmp_path / "runs")
    return StudyPaths(tmp_path / "runs", NAME)


def afp(verb: str, paths: StudyPaths, *options: str) -> int:
    return cli.main([verb, NAME, "--storage", str(paths.storage), *options])


def best(paths: StudyPaths, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert afp("best", paths, "--json") == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return {key: answer[key] for key in ("arm", "config", "score", "vs_base", "trials")}


def trained(paths: StudyPaths) -> dict[str, int]:
    """How often each trial has begun to train."""
    calls = paths.trials.glob("*/training_calls.jsonl")
    return {file.parent.name: len(file.read_text().splitlines()) for file in calls}


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return edit


def better(result: dict[str, Any]) -> None:
    for score in result["scores"]:
        score["value"] = 0.99


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "result cut": ("result.json", lambda file: file.write_bytes(file.read_bytes()[:100])),
    "result gone": ("result.json", Path.unlink),
    "result empty": ("result.json", lambda file: file.write_bytes(b"")),
    "result a folder": ("result.json", as_folder),
    "result altered": ("result.json", edited(better)),
    "predictions cut": ("predictions/test.parquet", lambda file: file.write_bytes(file.read_bytes()[:50])),
    "predictions gone": ("predictions/test.parquet", Path.unlink),
    "predictions altered": ("predictions/validation.parquet", lambda file: file.write_bytes(file.read_bytes() + b" ")),
    "folder gone": ("", shutil.rmtree),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_finished_trial_that_is_damaged_is_named_and_run_again(
    kind: str, paths: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    before, calls = best(paths, capsys), trained(paths)
    trial = next(record for record in replay(paths.ledger).trials if record.arm == "mcl")
    name, damage = DAMAGES[kind]
    damage(paths.trial(trial.trial_id).folder / name)
    if kind != "predictions altered":  # of validation, which chooses nothing here
        assert afp("best", paths) == 2
        said = capsys.readouterr().err
        assert trial.trial_id in said
        assert f"afp resume {NAME}" in said
    assert afp("resume", paths) == 0
    assert best(paths, capsys) == before
    again = trained(paths)
    untouched = {key: number for key, number in calls.items() if key != trial.trial_id}
    assert {key: again[key] for key in untouched} == untouched  # nothing whole is trained again
    state = replay(paths.ledger)
    assert state.trial(trial.trial_id).attempt == 2  # type: ignore[union-attr]
    assert {record.status for record in state.trials} == {TrialStatus.DONE}
    assert afp("resume", paths) == 0
    assert trained(paths) == again


def test_a_whole_study_is_left_as_it_is(paths: StudyPaths) -> None:
    calls, ledger = trained(paths), [record.attempt for record in replay(paths.ledger).trials]
    assert afp("resume", paths) == 0
    assert trained(paths) == calls
    assert [record.attempt for record in replay(paths.ledger).trials] == ledger


def garbled(lines: list[bytes]) -> None:
    lines[3] = b"\x00garbage" + lines[3][9:]


def lost(lines: list[bytes]) -> None:
    del lines[1]


def swapped(lines: list[bytes]) -> None:
    lines[1], lines[2] = lines[2], lines[1]


def altered(lines: list[bytes]) -> None:
    place = next(number for number, line in enumerate(lines) if b'"DONE"' in line)
    lines[place] = lines[place].replace(b'"objective":0.', b'"objective":0.9')


def endless(lines: list[bytes]) -> None:
    line = json.loads(lines[3])
    del line["check"]
    lines[3] = json.dumps(line).replace(str(line["time"]), "1e400").encode()


@pytest.mark.parametrize("damage", [garbled, lost, swapped, altered, endless])
@pytest.mark.parametrize("verb", ["status", "best", "compare", "resume"])
def test_a_damaged_line_of_the_ledger_is_named_with_a_remedy_that_works(
    damage: Callable[[list[bytes]], None], verb: str, paths: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    before, calls = best(paths, capsys), trained(paths)
    lines = paths.ledger.read_bytes().split(b"\n")
    damage(lines)
    paths.ledger.write_bytes(b"\n".join(lines))
    assert afp(verb, paths) == 2
    said = capsys.readouterr().err
    assert "ledger.jsonl:" in said
    assert f"afp resume {NAME} --repair" in said
    if verb != "resume":
        return
    whole = paths.ledger.read_bytes()
    assert afp("resume", paths, "--repair") == 0
    assert best(paths, capsys) == before
    assert trained(paths) == calls  # results on disk are taken over
    (kept,) = paths.folder.glob("ledger.jsonl.damaged-*")
    assert kept.read_bytes() == whole


def test_who_may_read_what(paths: StudyPaths) -> None:
    """Files for colleagues follow the umask, here of the tests' own process; study.json may hold a password."""
    mode = {file.name: stat.S_IMODE(file.stat().st_mode) for file in paths.folder.rglob("*") if file.is_file()}
    shared = mode["ledger.jsonl"]
    for name in ("report.html", "comparison.md", "comparison.json", "result.json", "config.json", "test.parquet"):
        assert mode[name] == shared, name
    assert mode["model.safetensors"] == shared
    assert mode["study.json"] == 0o600
