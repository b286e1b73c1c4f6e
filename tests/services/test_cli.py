"""The command line: exit codes, JSON, errors with a place and a fix, and nothing written before the checks."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fabricate import fabricate, leave_running, make_study

from afp_ray.errors import DataError, ModelError, StudyLockedError, UnavailableError
from afp_ray.execution.stop import heed_stop_file, request_stop
from afp_ray.ledger import Ledger
from afp_ray.planning.check import Checked
from afp_ray.records import StudyState, TrialRecord, TrialStatus
from afp_ray.store import StudyPaths
from services import cli
from services.edge import show_error
from services.output import exit_code_of_study
from services.studies import find, storage_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


def afp(*arguments: str, storage: Path | None = None) -> int:
    return cli.main([*arguments, *(["--storage", str(storage)] if storage else [])])


def record(status: str) -> TrialRecord:
    return TrialRecord(
        trial_id="a", arm="afp", seed=0, role="search", status=TrialStatus(status), attempt=1, config={}, planned_at=0.0
    )


@pytest.mark.parametrize(
    ("closed", "statuses", "code"),
    [
        ("complete", ["DONE", "DONE"], 0),
        ("complete", ["DONE", "FAILED"], 3),
        ("complete", ["FAILED"], 4),
        ("complete", [], 4),
        ("budget: gpu_hours: 2 of 1 are spent", ["DONE"], 5),
        ("interrupted: SIGINT", ["DONE"], 130),
        ("interrupted: SIGTERM", ["DONE"], 143),
    ],
)
def test_a_study_that_ended_has_its_exit_code(closed: str, statuses: list[str], code: int) -> None:
    state = StudyState(name="x", closed=closed, trials=tuple(record(status) for status in statuses))
    assert exit_code_of_study(state) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("m", fix="f"), 2),
        (DataError("d"), 2),
        (StudyLockedError("driven by pid 1"), 6),
        (UnavailableError("away"), 75),
    ],
)
def test_an_error_has_its_exit_code(error: Any, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert show_error(error) == code
    assert "Traceback" not in capsys.readouterr().err
    assert show_error(error, as_json=True) == code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (StudyLockedError("held by pid 7", "mine"), "afp resume mine --attach"),
        (UnavailableError("no cluster"), "try again later"),
    ],
)
def test_an_error_that_names_no_fix_is_shown_with_one(error: Any, fix: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_error(error)
    assert fix in capsys.readouterr().err.splitlines()[-1]
    show_error(error, as_json=True)
    assert fix in json.loads(capsys.readouterr().out)["error"]["fix"]


def test_best_as_json_is_the_answer_of_the_package(finished: StudyPaths, capsys: pytest.CaptureFixture[str]) -> None:
    from afp_ray.comparison import best

    assert afp("best", "demo", "--json", storage=finished.storage) == 0
    assert json.loads(capsys.readouterr().out) == best(finished).model_dump(mode="json")


@pytest.mark.parametrize(
    "verb", [["status"], ["status", "demo"], ["best", "demo"], ["compare", "demo"], ["stop", "demo"]]
)
def test_every_verb_answers_in_text_and_in_json(
    finished: StudyPaths, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert afp(*verb, storage=finished.storage) == 0
    text = capsys.readouterr()
    assert "demo" in text.out
    assert text.err == ""
    assert afp(*verb, "--json", storage=finished.storage) == 0
    json.loads(capsys.readouterr().out)


def test_the_storage_comes_from_the_environment(
    finished: StudyPaths, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AFP_STORAGE", str(finished.storage))
    assert afp("status", "demo") == 0
    assert "5 of 6 done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["best", "dmeo"], "there is no study 'dmeo'"),
        (["bst", "demo"], "did you mean: afp best demo"),
        (["best", "demo", "--metric", "xcop"], "'xcop' is not known"),
        (["best", "demo", "--under", "gpu_hours"], "is no limit"),
        (["compare", "demo", "--format", "pdf"], "format 'pdf' is not known"),
        (["run", "nowhere.yaml"], "there is no such file"),
        (["plan", "dmo"], "there is no study file 'dmo'"),
        (["resume", "nothing"], "there is no study 'nothing'"),
        (["serve", "--host", "0.0.0.0"], "can be reached from other machines"),
        (["best"], "Missing argument"),
        (["status", "../../etc"], "there is no study"),
    ],
)
def test_a_mistake_ends_with_2_and_a_fix(
    finished: StudyPaths, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert afp(*arguments, storage=finished.storage) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_a_wrong_study_file_shows_its_line_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: mine\nfixed:\n  loss.temperature: -1\n")
    assert afp("run", str(file), storage=tmp_path / "runs") == 2
    shown = capsys.readouterr().err
    assert f"error  {file}:3:21  loss.temperature = -1 is not > 0\n        1 | name: mine" in shown
    assert not (tmp_path / "runs").exists()


def test_checks_come_before_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> None:
        raise ModelError("there is no model", where="model.name", fix="give a folder")

    monkeypatch.setattr("afp_ray.planning.check.check_trial", refuse)
    file = tmp_path / "study.yaml"
    file.write_text("name: mine\ncompare: {method: [base, afp]}\n")
    assert afp("run", str(file), "--executor", "local", storage=tmp_path / "runs") == 2
    assert "there is no model" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def fake_drive(paths: StudyPaths, closed: str) -> Any:
    """Stands for the driver: replays the finished study and says how it ended."""

    def drive(study: Any, _: StudyPaths, *, on_event: Any, on_end: Any, **options: Any) -> StudyState:
        from afp_ray.ledger import replay
        from afp_ray.records import LedgerEvent

        state = replay(paths.ledger).model_copy(update={"closed": closed})
        trial = state.trials[0]
        for notify in on_event:
            notify(LedgerEvent(time=0, trial_id=None, state="OPENED", attempt=1), state)
            notify(LedgerEvent(time=1, trial_id=trial.trial_id, state="DONE", attempt=1, objective=0.5), state)
        on_end(state)
        return state

    return drive


def test_a_run_prints_its_events_and_ends_with_table_best_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path)
    monkeypatch.setattr("afp_ray.study.check_study", lambda study: Checked())
    monkeypatch.setattr("afp_ray.study.run", fake_drive(paths, "complete"))
    assert afp("resume", "demo", storage=tmp_path) == 3  # one trial failed
    out = capsys.readouterr().out
    for words in (
        "OPENED",
        "DONE",
        "verdict",
        "better than base",
        f"best     {paths.name}: afp",
        str(paths.report),
        "mlflow server",
    ):
        assert words in out
    assert paths.report.is_file()
    assert paths.comparison("tex").is_file()


def test_an_interrupted_run_says_how_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path)
    monkeypatch.setattr("afp_ray.study.check_study", lambda study: Checked())
    monkeypatch.setattr("afp_ray.study.run", fake_drive(paths, "interrupted: SIGINT"))
    assert afp("resume", "demo", storage=tmp_path) == 130
    assert "saved; 5 of 6 trials done. Continue: afp resume demo" in capsys.readouterr().out


def test_a_run_as_json_is_one_document_a_line_then_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path)
    monkeypatch.setattr("afp_ray.study.check_study", lambda study: Checked())
    monkeypatch.setattr("afp_ray.study.run", fake_drive(paths, "complete"))
    assert afp("resume", "demo", "--json", storage=tmp_path) == 3
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("state") for line in lines[:2]] == ["OPENED", "DONE"]
    assert lines[-1]["exit_code"] == 3


def test_an_unexpected_error_ends_with_1_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("services.commands.status.all_statuses", lambda storage: 1 / 0)
    assert afp("status") == 1
    shown = capsys.readouterr().err
    assert "unexpected ZeroDivisionError" in shown
    assert "Traceback" not in shown
    file = Path(shown.split("the traceback is in ")[1].strip())
    assert "ZeroDivisionError" in file.read_text()
    file.unlink()


def test_the_state_of_a_study_is_read_when_its_driver_is_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path, closed=None)
    leave_running(paths)
    assert afp("status", "demo", storage=tmp_path) == 0
    out = capsys.readouterr().out
    assert "demo  dead" in out
    assert "continue: afp resume demo" in out


def test_stop_signals_a_driver_on_this_machine_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = fabricate(tmp_path)
    assert request_stop(paths) is None
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr("afp_ray.execution.stop.os.kill", lambda pid, number: sent.append((pid, number)))
    with Ledger.open(paths, make_study()):
        asked = request_stop(paths)
        assert asked is not None
        assert asked["pid"] == os.getpid()
        assert sent == [(os.getpid(), signal.SIGTERM)]
        assert not paths.stop.exists()
        monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
        request_stop(paths)  # a driver on another machine finds the file
        assert paths.stop.exists()
        assert len(sent) == 1


def test_the_stop_file_becomes_a_request(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    paths.stop.write_text("old")
    asked: list[str] = []
    with heed_stop_file(paths, SimpleNamespace(request=asked.append)):
        assert not paths.stop.exists()  # what an earlier driver did not hear is no request to this one
        paths.stop.write_text("now")
        until = time.monotonic() + 10
        while not asked and time.monotonic() < until:
            pass
    assert asked == ["afp stop"]


def test_studies_that_ship_are_found_by_name() -> None:
    assert find("demo") == ROOT / "search_spaces" / "demo.yaml"


def cpu_of_children() -> float:
    """Seconds of processor time of the processes that this one has waited for: no load of the machine enters."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    for name, (_, line) in cli.COMMANDS.items():
        assert cli.load_command(name).help.partition("\n\n")[0] == line, name


def test_help_and_status_are_quick_and_load_nothing_heavy(finished: StudyPaths) -> None:
    heavy = {"torch", "ray", "optuna", "mlflow", "transformers", "fastapi", "numpy", "pyarrow"}
    for arguments in (["--help"], ["status", "demo", "--storage", str(finished.storage)]):
        code = f"import sys\nfrom services.cli import main\ncode = main({arguments!r})"
        code += "\nprint(*sys.modules)\nsys.exit(code)"
        seconds = []
        for _ in range(3):
            begin = cpu_of_children()
            done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
            seconds.append(cpu_of_children() - begin)
        assert done.returncode == 0, done.stderr
        assert not {name.partition(".")[0] for name in done.stdout.split()} & heavy
        assert min(seconds) < 2.0, "of processor time; half a second on an idle machine"


def test_the_process_ends_with_the_code_all_output_and_what_was_registered_for_its_end(tmp_path: Path) -> None:
    code = "import atexit, sys\nfrom services import cli\natexit.register(lambda: print('at the end'))\n"
    code += f"sys.argv = ['afp', 'status', 'none', '--storage', {str(tmp_path)!r}]\nprint('first')\ncli.command()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.splitlines()) == (2, ["first", "at the end"])
    assert done.stderr.startswith("error")


def test_a_closed_pipe_is_no_error(finished: StudyPaths) -> None:
    command = f"{sys.executable} -m services.cli best demo --json --storage {finished.storage} | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""


def test_a_ray_job_keeps_its_study_outside_the_folder_that_ray_throws_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    unpacked.mkdir(parents=True)
    monkeypatch.chdir(unpacked)
    monkeypatch.delenv("AFP_STORAGE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert storage_folder(None) == tmp_path / "home" / "afp_ray" / "runs"
    assert storage_folder("elsewhere") == Path("elsewhere")
    monkeypatch.chdir(tmp_path)
    assert storage_folder(None) == Path("runs")
