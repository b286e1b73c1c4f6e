"""Optuna studies written from a ledger: exact, never doubled, and opened by optuna-dashboard itself."""

import json
import math
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from search_cases import TWO_GOALS, Played, make_study

from afp_ray.errors import ConfigError
from afp_ray.records import TrialRecord, TrialStatus
from afp_ray.search.optuna_export import OWNER, Mirrored, write_mirror

LIMIT = [{"metric": "pivot_mean", "max_drop": 0.1}]


def write(file: Path, played: Played, **options: Any) -> Mirrored:
    return write_mirror(file, played.study, played.search.arms, tuple(played.records.values()), **options)


def read(file: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=storage(file))


def storage(file: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(file)))


def content(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Every trial of every study but for the ids that the storage gives."""
    return {
        name: [
            (one.number, one.state, one.values, one.params, one.intermediate_values, one.user_attrs, one.constraints)
            for one in read(file, name).get_trials()
        ]
        for name in optuna.get_all_study_names(storage(file))
    }


def test_every_trial_is_there_with_its_values_state_and_parameters(tmp_path: Path) -> None:
    played = Played(make_study(objective=TWO_GOALS, constraints=LIMIT, budget={"trials": 5})).run()
    file = tmp_path / "optuna.log"
    runs = {trial_id: {"mlflow_run_id": f"run-{trial_id}"} for trial_id in played.records}
    written = write(file, played, attributes=runs)
    assert written == Mirrored(("s/base", "s/afp"), len(played.records), len(played.records), 0)
    theirs = read(file, "s/afp")
    assert [direction.name for direction in theirs.directions] == ["MAXIMIZE", "MAXIMIZE"]
    assert theirs.metric_names == ["mean", "pivot_mean"]
    ours = [record for record in played.records.values() if record.arm == "afp"]
    for record, trial in zip(ours, theirs.get_trials(), strict=True):
        assert trial.state is TrialState.COMPLETE
        assert trial.values == [record.objective, record.values["pivot_mean"]]
        assert {name: json.loads(v) if isinstance(v, str) else v for name, v in trial.params.items()} == record.params
        shown = {"trial_id": record.trial_id, "seed": record.seed, "role": record.role, "status": "DONE"}
        assert trial.user_attrs.items() >= {**shown, "mlflow_run_id": f"run-{record.trial_id}"}.items()
        (over,) = trial.constraints.values()
        assert over == pytest.approx(0.9 - record.values["pivot_mean"])  # base has 1.0


def test_writing_again_changes_nothing_and_writing_later_adds_what_is_new(tmp_path: Path) -> None:
    played = Played(make_study(budget={"trials": 6}))
    file, fresh = tmp_path / "optuna.log", tmp_path / "fresh.log"
    while job := played.take():
        written = write(file, played)
        assert written.num_trials == len(played.records)
        assert write(file, played) == Mirrored(written.studies, len(played.records), 0, 0)
        played.finish(job)
    write(file, played)
    write(fresh, played)
    assert content(file) == content(fresh)


def test_a_trial_goes_through_its_states_in_one_place(tmp_path: Path) -> None:
    played = Played(make_study(compare={"method": ["afp"]}))
    job, file = played.take(), tmp_path / "optuna.log"
    assert job

    def mirrored(**fields: Any) -> optuna.trial.FrozenTrial:
        played.put(played.records[job.trial_id].model_copy(update=fields))
        write(file, played)
        (trial,) = read(file, "s/afp").get_trials()
        return trial

    assert mirrored(status=TrialStatus.PLANNED).state is TrialState.WAITING
    running = mirrored(status=TrialStatus.RUNNING, started_at=1e9)
    paused = mirrored(status=TrialStatus.PAUSED, rungs=(0.25,))
    assert (running.state, paused.state) == (TrialState.RUNNING, TrialState.RUNNING)
    assert paused.intermediate_values == {0: 0.25}
    pruned = mirrored(status=TrialStatus.PRUNED, rungs=(0.25, 0.5), ended_at=1e9 + 60)
    assert (pruned.state, pruned.value, pruned.intermediate_values) == (TrialState.PRUNED, 0.5, {0: 0.25, 1: 0.5})
    again = mirrored(status=TrialStatus.RUNNING)  # taken up again, which Optuna knows of no finished trial
    assert again.state is TrialState.RUNNING
    assert mirrored(status=TrialStatus.DONE, objective=math.nan).state is TrialState.FAIL
    done = mirrored(status=TrialStatus.DONE, objective=0.75, ended_at=1e9 + 60)
    assert (done.state, done.value) == (TrialState.COMPLETE, 0.75)
    assert done.duration is not None
    assert done.duration.total_seconds() == 60


def test_a_trial_of_another_space_is_counted_and_left_out(tmp_path: Path) -> None:
    played = Played(make_study(budget={"trials": 3})).run()
    first = next(record for record in played.records.values() if record.role == "search")
    played.put(first.model_copy(update={"params": {**first.params, "loss.layer": 99}}))
    written = write(tmp_path / "optuna.log", played)
    assert written.num_left_out == 1
    assert written.num_trials == len(played.records) - 1


def test_a_file_of_something_else_is_never_written_to(tmp_path: Path) -> None:
    played = Played(make_study(budget={"trials": 2})).run()
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to have a header of its own\n" * 20)
    other = tmp_path / "mlflow.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE runs (id TEXT)")
    connection.close()
    table = tmp_path / "rows.jsonl"
    table.write_text('{"a": 1}\n')
    for file in (text, other, table, tmp_path, tmp_path / "nowhere" / "optuna.log"):
        before = file.read_bytes() if file.is_file() else None
        with pytest.raises(ConfigError) as caught:
            write(file, played)
        assert caught.value.fix
        assert (file.read_bytes() if file.is_file() else None) == before


def test_a_line_that_a_kill_cut_short_is_written_again(tmp_path: Path) -> None:
    played = Played(make_study(budget={"trials": 3})).run()
    file, fresh = tmp_path / "optuna.log", tmp_path / "fresh.log"
    write(file, played)
    write(fresh, played)
    file.write_bytes(file.read_bytes()[:-40])
    assert write(file, played).num_changed == 1
    assert content(file) == content(fresh)


def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    played = Played(make_study(budget={"trials": 2})).run()
    file = tmp_path / "optuna.log"
    write(file, played)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b"spoilt\n", *lines[2:]]))
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        write(file, played)
    assert "delete it" in caught.value.fix


def test_an_optuna_study_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "optuna.log"
    theirs = optuna.create_study(study_name="s/afp", storage=storage(file))
    theirs.add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(ConfigError, match="of its own"):
        write(file, Played(make_study(compare={"method": ["afp"]}, budget={"trials": 2})).run())
    assert [trial.value for trial in read(file, "s/afp").get_trials()] == [1.0]


def test_optuna_dashboard_shows_the_arms_and_their_trials(tmp_path: Path) -> None:
    played = Played(make_study(objective=TWO_GOALS, budget={"trials": 4})).run()
    file = tmp_path / "optuna.log"
    write(file, played)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), str(file)]
    log = (tmp_path / "dashboard.log").open("wb")
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref"],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    try:
        answer = ask(f"http://127.0.0.1:{port}/api/studies", server)
        shown = {one["study_name"]: one for one in answer["study_summaries"]}
        assert set(shown) == {"s/base", "s/afp"}
        detail = ask(f"http://127.0.0.1:{port}/api/studies/{shown['s/afp']['study_id']}", server)
        assert detail["directions"] == ["maximize", "maximize"]
        ours = [record for record in played.records.values() if record.arm == "afp"]
        assert [trial["values"] for trial in detail["trials"]] == [expected(record) for record in ours]
        assert {trial["state"] for trial in detail["trials"]} == {"Complete"}
        attributes = [{one["key"]: one["value"] for one in trial["user_attrs"]} for trial in detail["trials"]]
        assert [one["trial_id"] for one in attributes] == [record.trial_id for record in ours]
    finally:
        server.terminate()
        server.wait(30)
        log.close()
    assert read(file, "s/afp").user_attrs[OWNER] == "s"


def expected(record: TrialRecord) -> list[float | None]:
    return [record.objective, record.values["pivot_mean"]]


def ask(url: str, server: "subprocess.Popen[bytes]") -> Any:
    """What the server answers, as soon as it does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, "the dashboard has ended"
            assert time.monotonic() < deadline, "the dashboard does not answer"
            server_is_up(server)


def server_is_up(server: "subprocess.Popen[bytes]") -> None:
    """Give the server a moment; returns early when it ends."""
    try:
        server.wait(0.2)
    except subprocess.TimeoutExpired:
        return
