"""What the command line says and gives as exit code when it is stopped, doubled, changed, or when everything fails."""

import json
import os
import pty
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import fake_trials
import pytest
from fault_driver import SUPPORT, Nursery, Started, nursery
from oracle import Oracle, assert_nothing_left, assert_one_run_each, outcomes

from afp_ray.config import StudyConfig
from afp_ray.ledger import replay
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths

WAITS, DIVERGES = fake_trials.FAILS["waits"], fake_trials.FAILS["diverged"]


@pytest.fixture(scope="module")
def commands() -> Iterator[Nursery]:
    """Forks commands that have everything imported."""
    with nursery("fault_cli") as opened:
        yield opened


class Commands:
    """`afp` with fake trials on one storage, whose MLflow database has its schema."""

    def __init__(self, folder: Path, oracle: Oracle, commands: Nursery) -> None:
        self.storage = folder / "runs"
        self.file = folder / "study.yaml"
        self.database = oracle.empty_database(self.storage / "mlflow.db")
        self._commands = commands

    def study(self, rates: list[float], **fields: Any) -> None:
        """Write the study file: one arm per learning rate."""
        content = {"name": "fake", "compare": {"training.learning_rate": rates}, "seeds": [1], **fields}
        self.file.write_text(json.dumps({**content, "runtime": {"executor": "local"}}))

    def __call__(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output of a command whose standard input is at its end."""
        return self._commands.drive(*arguments, "--storage", self.storage)

    def started(self, *arguments: str) -> AbstractContextManager[Started]:
        """A command that runs; killed at the end of the block if it still does."""
        return self._commands.started(*arguments, "--storage", str(self.storage))


@pytest.fixture
def afp(tmp_path: Path, oracle: Oracle, commands: Nursery) -> Commands:
    return Commands(tmp_path, oracle, commands)


def wait_until_running(process: Started) -> None:
    while "RUNNING" not in (line := process.stdout.readline()):
        assert line, "it has ended"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_saves_and_says_how_to_continue(number: int, code: int, afp: Commands) -> None:
    afp.study([WAITS, 1e-4])
    with afp.started("run", str(afp.file)) as process:
        wait_until_running(process)
        process.send_signal(number)
        out = process.communicate("go on\n")
        assert process.returncode == code
    assert out.splitlines()[-1] == "saved; 1 of 2 trials done. Continue: afp resume fake"
    assert any(line.startswith("stopping: ") for line in out.splitlines())
    assert_one_run_each(
        "fake", replay(afp.storage / "fake" / "ledger.jsonl"), f"sqlite:///{afp.database}", parent="KILLED"
    )
    assert afp("resume", "fake")[0] == 0
    state = replay(afp.storage / "fake" / "ledger.jsonl")
    assert [(trial.status, trial.attempt) for trial in state.trials] == [(TrialStatus.DONE, 1)] * 2
    assert_one_run_each("fake", state, f"sqlite:///{afp.database}")
    assert_nothing_left(str(afp.storage))


def test_the_second_signal_ends_at_once(afp: Commands) -> None:
    afp.study([WAITS, 1e-4])
    with afp.started("run", str(afp.file)) as process:
        wait_until_running(process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.wait()
        assert process.returncode in (130, 143)
    (stopped,) = replay(afp.storage / "fake" / "ledger.jsonl").trials
    assert stopped.status is TrialStatus.CANCELLED
    assert afp("resume", "fake")[0] == 0
    state = replay(afp.storage / "fake" / "ledger.jsonl")
    assert [(trial.status, trial.attempt) for trial in state.trials] == [(TrialStatus.DONE, 2), (TrialStatus.DONE, 1)]
    assert_one_run_each("fake", state, f"sqlite:///{afp.database}")


def test_ctrl_c_on_a_terminal_is_answered_while_the_trial_goes_on(afp: Commands) -> None:
    afp.study([1e-4, WAITS, 2e-4])
    command = [sys.executable, "-m", "fault_cli", "run", str(afp.file), "--storage", str(afp.storage)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(SUPPORT)]), "TERM": "xterm"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(sys.executable, command, environment)
    shown = Shown(terminal)
    try:
        shown.until("1 of 3 done  1 running")
        asked = time.monotonic()
        os.write(terminal, b"\x03")
        shown.until("stopping: 1 trial to finish, about 0:01; Ctrl-C again stops now")
        assert time.monotonic() - asked < 2
        os.write(terminal, b"go on\n")
        shown.until("saved; 2 of 3 trials done. Continue: afp resume fake")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)


class Shown:
    """What a process has written on its terminal."""

    def __init__(self, terminal: int) -> None:
        self.terminal, self.text = terminal, ""

    def until(self, words: str, *, within_s: float = 60.0) -> None:
        """Read until the words have been shown; colours and cursor movements are left out."""
        end = time.monotonic() + within_s
        while words not in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text):
            assert time.monotonic() < end, self.text[-2000:]
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.text += os.read(self.terminal, 65536).decode(errors="replace")


def test_a_second_driver_ends_with_6_and_names_the_first(afp: Commands) -> None:
    afp.study([WAITS])
    with afp.started("run", str(afp.file)) as process:
        wait_until_running(process)
        code, err = afp("run", str(afp.file))
        assert code == 6
        assert f"pid {process.pid} on {os.uname().nodename}" in err
        process.communicate("go on\n")
        assert process.returncode == 0


def test_when_everything_fails_the_first_error_is_shown_once_and_nothing_is_best(afp: Commands) -> None:
    afp.study([DIVERGES], seeds=[1, 2, 3])
    code, out = afp("run", str(afp.file))
    assert code == 4
    assert out.count("failed   DIVERGED: diverged at step 7: loss is nan  x3") == 1
    assert "Traceback" not in out
    assert "best  " not in out
    assert afp("best", "fake")[0] == 2
    state = replay(afp.storage / "fake" / "ledger.jsonl")
    assert {(trial.status, trial.attempt) for trial in state.trials} == {(TrialStatus.FAILED, 1)}
    assert_one_run_each("fake", state, f"sqlite:///{afp.database}")


def contents(storage: Path) -> Mapping[Path, bytes]:
    """Every file that says something of a study, what MLflow shows of it too."""
    own = ("mlflow.db", "outbox.json", "mlflow.json")  # how far a projection is
    files = (path for path in sorted(storage.rglob("*")) if path.is_file() and not path.name.startswith(own))
    return {path.relative_to(storage): path.read_bytes() for path in files}


def test_another_version_of_a_library_is_refused_until_it_is_allowed(afp: Commands) -> None:
    afp.study([1e-4])
    assert afp("run", str(afp.file))[0] == 0
    ledger = afp.storage / "fake" / "ledger.jsonl"
    now = replay(ledger).packages["torch"]
    text = re.sub(r',"check":"[0-9a-f]{8}"', "", ledger.read_text())  # as a ledger of before there were checks
    ledger.write_text(text.replace(f'"torch":"{now}"', '"torch":"1.0"'))  # before an upgrade
    before = contents(afp.storage)
    for verb in (("run", str(afp.file)), ("resume", "fake")):
        code, err = afp(*verb)
        assert code == 2
        assert f"packages.torch: 1.0 -> {now}" in err
        assert "--allow-drift" in err
    assert contents(afp.storage) == before
    assert afp("resume", "fake", "--allow-drift")[0] == 0
    assert replay(ledger).packages["torch"] == now
    assert f"drift: packages.torch: 1.0 -> {now}" in ledger.read_text()


def test_another_study_of_the_same_name_overwrites_nothing(afp: Commands) -> None:
    afp.study([1e-4])
    assert afp("run", str(afp.file))[0] == 0
    before = contents(afp.storage)
    assert any(path.name == "study.json" and path.parts[0] == "mlartifacts" for path in before)
    afp.study([2e-4])
    code, err = afp("run", str(afp.file))
    assert code == 2
    assert "compare.training.learning_rate: [0.0001] -> [0.0002]" in err
    assert contents(afp.storage) == before
    code, _ = afp("run", str(afp.file), "--allow-drift")
    assert code == 0
    lines = [json.loads(line) for line in (afp.storage / "fake" / "ledger.jsonl").read_text().splitlines()]
    assert lines[len(lines) - 5]["state"] == "OPENED"
    assert lines[len(lines) - 5]["note"].startswith("drift: compare.training.learning_rate")
    kept = StudyConfig.model_validate_json(StudyPaths(afp.storage, "fake").study.read_bytes())
    assert kept.compare["training.learning_rate"] == (2e-4,)
    assert set(outcomes(replay(afp.storage / "fake" / "ledger.jsonl"))) > {
        line["trial_id"] for line in lines[: len(lines) - 5] if line["trial_id"]
    }
