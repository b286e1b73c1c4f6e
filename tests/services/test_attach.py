"""Following another driver's study: its events as they come, its end as ours, and its place when it dies."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_trials
import pytest
from executor_suite import make_study, num_trainings, run
from fabricate import fabricate

from afp_ray.config import StudyConfig
from afp_ray.errors import DataError, StudyChangedError, StudyLockedError
from afp_ray.execution import LocalExecutor
from afp_ray.ledger import replay
from afp_ray.planning.check import Checked
from afp_ray.records import LedgerEvent, StudyState
from afp_ray.store import StudyPaths
from afp_ray.study import follow_driver, run_or_follow
from services import cli
from services.output import note
from services.schemas import RESULT_MARK, JobResult

SUPPORT = Path(__file__).parent.parent / "support"
RATES = [1e-5, fake_trials.FAILS["waits"], 2e-5]
FIELDS = {"compare": {"training.learning_rate": RATES}, "tune": {}, "seeds": [1]}


@contextmanager
def driver(storage: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver in its own process whose second trial waits for a line, once it has come to it."""
    path = os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])
    process = subprocess.Popen(
        [sys.executable, str(SUPPORT / "fault_driver.py"), str(storage), json.dumps(FIELDS)],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        for _ in range(2):  # the second trial waits
            while not process.stdout.readline().startswith("RUNNING"):
                assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.communicate()


def follow_from(
    storage: Path, once_locked: Callable[[], None], *, study: StudyConfig | None = None
) -> tuple[StudyState, list[LedgerEvent]]:
    """Try to drive; `once_locked` is called when the study was found in other hands. The state and the events told."""
    told: list[LedgerEvent] = []
    study = study or make_study(**FIELDS)

    def drive() -> StudyState:
        try:
            return run(study, storage, LocalExecutor(), on_event=[lambda event, _: told.append(event)])
        except StudyLockedError:
            once_locked()
            raise

    state = run_or_follow(
        study,
        StudyPaths(storage, "fake"),
        drive,
        on_event=[lambda event, _: told.append(event)],
        say=note,
        poll_s=0.01,
    )
    return state, told


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def test_the_other_drivers_end_is_ours(tmp_path: Path) -> None:
    with driver(tmp_path) as process:
        state, told = follow_from(tmp_path, lambda: go_on(process))
        assert process.wait(20) == 0
    assert state == replay(tmp_path / "fake/ledger.jsonl")
    assert state.closed == "complete"
    assert [event.state for event in told] == ["DONE", "PLANNED", "RUNNING", "DONE", "CLOSED"]  # nothing from before
    assert set(num_trainings(tmp_path).values()) == {1}


def test_a_driver_that_dies_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    with driver(tmp_path) as process:

        def kill() -> None:
            process.kill()
            process.wait()

        state, told = follow_from(tmp_path, kill)
    assert state.closed == "complete"
    assert state.driver_attempt == 2
    assert [event.state for event in told].count("OPENED") == 1
    trainings = num_trainings(tmp_path)
    assert sorted(trainings.values()) == [1, 1, 2]  # only the one that was running
    assert "taking the study over" in capsys.readouterr().err


def test_a_study_that_was_stopped_is_not_taken_over(tmp_path: Path) -> None:
    with driver(tmp_path) as process:

        def stop() -> None:
            process.send_signal(signal.SIGTERM)
            go_on(process)

        state, _ = follow_from(tmp_path, stop)
        process.wait(20)
    assert state.closed == "interrupted: SIGTERM"
    assert state.driver_attempt == 1


def test_a_close_of_before_is_no_end(tmp_path: Path) -> None:
    """A driver that died before it wrote a word leaves the CLOSED of the one before it: nobody has ended the study."""
    study = make_study(**{**FIELDS, "compare": {"training.learning_rate": RATES[:1]}})
    run(study, tmp_path, LocalExecutor())
    paths = StudyPaths(tmp_path, "fake")
    assert follow_driver(paths, start=paths.ledger.stat().st_size, poll_s=0.01) is None
    ended = follow_driver(paths, poll_s=0.01)
    assert ended is not None
    assert ended.closed == "complete"


def test_another_study_of_that_name_is_not_followed(tmp_path: Path) -> None:
    with driver(tmp_path) as process, pytest.raises(StudyChangedError, match="seeds"):
        follow_from(tmp_path, lambda: go_on(process), study=make_study(**{**FIELDS, "seeds": [2]}))


def test_a_follower_with_another_budget_writes_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = StudyPaths(tmp_path, "fake").study
    with driver(tmp_path) as process:
        before = kept.read_bytes()
        state, _ = follow_from(
            tmp_path, lambda: go_on(process), study=make_study(**{**FIELDS, "budget": {"trials": 4, "gpu_hours": 7.0}})
        )
        assert process.wait(20) == 0
    assert state.closed == "complete"
    assert kept.read_bytes() == before
    assert "goes on with its own budget" in capsys.readouterr().err


def test_a_ray_job_follows_and_ends_with_a_line_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path, "made")
    state = replay(paths.ledger)
    tries: list[int] = []

    def drive(*_: object, **__: object) -> StudyState:
        tries.append(1)
        if len(tries) == 1:
            raise StudyLockedError("study made is already being driven by pid 1 on host")
        return state

    monkeypatch.setattr("afp_ray.study.run", drive)
    monkeypatch.setattr("afp_ray.study.check_study", lambda study: Checked())
    arguments = ["run", str(paths.study), "--storage", str(tmp_path), "--executor", "local"]
    assert cli.main(arguments) == 6
    tries.clear()
    capsys.readouterr()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code = cli.main(arguments)
    last = capsys.readouterr().out.splitlines()[-1]
    result = JobResult.model_validate_json(last.removeprefix(RESULT_MARK))
    assert code == result.exit_code
    assert len(tries) == 2
    assert result.best is not None
    assert result.best.study == result.status.name == "made"


def test_a_follower_names_a_line_that_was_altered(tmp_path: Path) -> None:
    run(make_study(**FIELDS), tmp_path, LocalExecutor())
    paths = StudyPaths(tmp_path, "fake")
    lines = paths.ledger.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace('"attempt":1', '"attempt":7')
    paths.ledger.write_text("".join(lines))
    with pytest.raises(DataError, match=r"ledger\.jsonl:3.*its checksum is another one"):
        follow_driver(paths)
