"""MLflow away, slow, broken, locked, raced, edited or of another version: the study shows whole and once in the end."""

import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricate import fabricate, leave_running
from tcp_proxy import tcp_proxy

from afp_ray.config import StudyConfig
from afp_ray.errors import UnavailableError
from afp_ray.ledger import Ledger, replay
from afp_ray.store import StudyPaths
from afp_ray.tracking import background
from afp_ray.tracking.background import BackgroundProjector
from afp_ray.tracking.location import default_uri
from afp_ray.tracking.outbox import lag
from afp_ray.tracking.projector import sync
from afp_ray.tracking.schema import mlflow_revisions
from services.status import status_of
from services.views.text import show_status

ROOT = Path(__file__).parents[2]
OWN = ("afp.digest",)
FAULTS = ("refuse", "black-hole", "reset", "500", "429", "503", "close-in-body", "lose-answer")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait before the first projection: what is tested here begins with it."""
    monkeypatch.setattr(background, "START_S", 0.0)


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database without a run, which no process holds open."""
    file = tmp_path_factory.mktemp("schema") / "mlflow.db"
    code = "import sys; import afp_ray.tracking.projector; from mlflow import MlflowClient; "
    code += "MlflowClient(tracking_uri=sys.argv[1]).search_experiments()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, f"sqlite:///{file}"], cwd=ROOT, check=True, timeout=120)
    return file


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, schema: Path) -> Iterator[int]:
    """The port of a real MLflow server on 127.0.0.1."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(schema, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=os.environ | quiet, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: is_up(port), 120)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it would wait for connections that clients keep
        process.wait(30)


def is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def until(is_so: Callable[[], bool], seconds: float) -> None:
    """Wait for something that another thread or process does."""
    end, event = time.monotonic() + seconds, threading.Event()
    while not is_so():
        assert time.monotonic() < end, "it took too long"
        event.wait(0.02)


def study_of(paths: StudyPaths, uri: str | None = None) -> StudyConfig:
    study = StudyConfig.model_validate_json(paths.study.read_bytes())
    return study.model_copy(update={"runtime": study.runtime.model_copy(update={"tracking_uri": uri})})


def small(storage: Path, name: str = "demo") -> StudyPaths:
    """A study of one finished trial, one failed and one that a killed driver left running."""
    paths = fabricate(storage, name, methods=("afp",), seeds=(0,))
    leave_running(paths)
    return paths


def client_of(uri: str) -> Any:
    import afp_ray.tracking.projector  # noqa: F401, I001
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def runs_of(paths: StudyPaths, uri: str) -> list[Any]:
    client = client_of(uri)
    experiment = client.get_experiment_by_name(paths.name)
    return list(client.search_runs([experiment.experiment_id], max_results=1000)) if experiment else []


def shown(paths: StudyPaths, uri: str) -> list[str]:
    """What MLflow shows of a study but for ids and places, which are the database's own."""
    client, found = client_of(uri), []
    for run in runs_of(paths, uri):
        tags = {key: value for key, value in run.data.tags.items() if key not in OWN}
        files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
        inputs = sorted(item.dataset.name for item in run.inputs.dataset_inputs)
        found.append(repr((run.info.status, sorted(tags.items()), run.data.params, run.data.metrics, files, inputs)))
    return sorted(found)


def assert_shown(paths: StudyPaths, uri: str, reference: list[str]) -> None:
    """Every trial once, none running, and the same as where nothing went wrong."""
    runs = runs_of(paths, uri)
    ids = sorted(run.data.tags.get("afp.trial_id", "") for run in runs)
    assert ids == sorted(["", *(trial.trial_id for trial in replay(paths.ledger).trials)])
    assert "RUNNING" not in {run.info.status for run in runs}
    assert shown(paths, uri) == reference
    behind = lag(paths, is_driven=False)
    assert (behind.events, behind.reason) == (0, None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, schema: Path) -> list[str]:
    """What MLflow shows of the small study when nothing goes wrong."""
    storage = tmp_path_factory.mktemp("reference")
    shutil.copy(schema, storage / "mlflow.db")
    paths = small(storage)
    sync(study_of(paths), paths)
    return shown(paths, default_uri(storage))


@pytest.fixture
def paths(tmp_path: Path, schema: Path) -> StudyPaths:
    shutil.copy(schema, tmp_path / "mlflow.db")
    return small(tmp_path)


# --- row 19: a server that is away, slow or broken -----------------------------------------------------------------


def wipe(port: int, paths: StudyPaths) -> None:
    """Take the study off the server, so that the next test finds none."""
    client = client_of(f"http://127.0.0.1:{port}")
    experiment = client.get_experiment_by_name(paths.name)
    if experiment is not None:
        client.rename_experiment(experiment.experiment_id, f"{paths.name}-{experiment.experiment_id}-{time.time_ns()}")


def failure_of_sync(study: StudyConfig, paths: StudyPaths) -> str | None:
    """Why MLflow could not be brought up to date; None when it was."""
    try:
        sync(study, paths)
    except UnavailableError as error:
        return str(error)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_at_any_request_shows_every_trial_once_in_the_end(
    fault: str, server: int, tmp_path: Path, reference: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if fault == "black-hole" else "10")
    paths = small(tmp_path)
    wipe(server, paths)
    places = sorted(random.Random(fault).sample(range(1, 25), 3))
    with tcp_proxy(server) as proxy:
        study = study_of(paths, proxy.uri)
        num_failed = 0
        for passing in (0, *places):  # down at the start, then in the midst, each time a little further on
            proxy.begin(fault, passing=passing)
            begin = time.monotonic()
            failure = failure_of_sync(study, paths)
            assert time.monotonic() - begin < 30
            if failure is None:
                assert proxy.num_requests <= passing, "earlier attempts have left too little to fail at"
            else:
                num_failed += 1
                assert "MLflow at http" in failure
                assert lag(paths, is_driven=False).reason is not None
        assert num_failed >= 2
        proxy.begin("pass")
        sync(study, paths)
        assert_shown(paths, proxy.uri, reference)
        assert sync(study, paths)[0] == 0


@pytest.mark.slow
def test_a_slow_server_is_waited_for(server: int, tmp_path: Path, reference: list[str]) -> None:
    paths = small(tmp_path)
    wipe(server, paths)
    with tcp_proxy(server, mode="delay", delay_s=0.1) as proxy:
        sync(study_of(paths, proxy.uri), paths)
        proxy.begin("pass")
        assert shown(paths, proxy.uri) == reference


@pytest.mark.slow
def test_a_projector_goes_on_by_itself_when_the_server_is_back(
    server: int, tmp_path: Path, reference: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = small(tmp_path)
    wipe(server, paths)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    with tcp_proxy(server, mode="refuse") as proxy:
        projector = BackgroundProjector.to_mlflow(study_of(paths), paths, proxy.uri)
        projector.submit()
        until(lambda: projector.failure is not None, 60)
        behind = lag(paths, is_driven=False)
        assert behind.events == len(paths.ledger.read_bytes().splitlines())
        assert behind.trials == 3
        assert "MLflow at http" in str(behind.reason)
        proxy.mode = "pass"
        assert projector.close(60)
        assert shown(paths, proxy.uri) == reference


@pytest.mark.parametrize("fault", ["black-hole", "500"])
def test_the_end_of_a_study_waits_no_longer_than_its_deadline(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = small(tmp_path)
    with tcp_proxy(mode=fault) as proxy:
        projector = BackgroundProjector.to_mlflow(study_of(paths), paths, proxy.uri)
        projector.submit()
        until(lambda: proxy.num_requests > 0, 60)
        begin = time.monotonic()
        assert projector.close(0.2) is False
        assert time.monotonic() - begin < 5
    assert "afp sync demo" in caplog.text


@pytest.mark.slow
def test_a_request_that_hangs_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    paths = small(tmp_path)
    code = (
        "import sys, time\n"
        "from afp_ray.config import StudyConfig\n"
        "from afp_ray.store import StudyPaths\n"
        "from afp_ray.tracking.background import BackgroundProjector\n"
        "paths = StudyPaths(sys.argv[1], 'demo')\n"
        "study = StudyConfig.model_validate_json(paths.study.read_bytes())\n"
        "projector = BackgroundProjector.to_mlflow(study, paths, sys.argv[2])\n"
        "projector.submit()\n"
        "sys.stdin.readline()\n"
        "print(projector.close(0.2), flush=True)\n"
    )
    with tcp_proxy(mode="black-hole") as proxy:
        command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), proxy.uri]
        environment = {**os.environ, "MLFLOW_HTTP_REQUEST_TIMEOUT": "600"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        until(lambda: proxy.num_requests > 0, 60)
        begin = time.monotonic()
        out, _ = process.communicate("\n", timeout=60)
        assert out.strip() == "False"
        assert time.monotonic() - begin < 30
        assert process.returncode == 0
    assert paths.ledger.is_file()


def train(steps: int, after_step: Callable[[], None]) -> tuple[float, float]:
    """CPU seconds of this thread for a fixed piece of work, and for the longest `after_step`."""
    matrix = np.random.default_rng(0).normal(size=(160, 160))
    longest, cpu = 0.0, time.thread_time()
    for _ in range(steps):
        for _ in range(12):
            matrix = np.tanh(matrix @ matrix / 160)
        begin = time.thread_time()
        after_step()
        longest = max(longest, time.thread_time() - begin)
    return time.thread_time() - cpu, longest


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["black-hole", "500", "delay", "refuse"])
def test_training_costs_no_more_when_the_server_is_away(fault: str, tmp_path: Path) -> None:
    paths = small(tmp_path)
    with tcp_proxy(mode=fault, delay_s=0.5) as proxy:
        projector = BackgroundProjector.to_mlflow(study_of(paths), paths, proxy.uri)
        projector.submit()
        until(lambda: proxy.num_requests > 0 or projector.failure is not None, 60)  # imports are over
        plain, projecting, submits = [], [], []
        train(10, lambda: None)
        for _ in range(7):
            plain.append(train(25, lambda: None)[0])
            cpu, longest = train(25, projector.submit)
            projecting.append(cpu)
            submits.append(longest)
        projector.close(0.1)
    assert float(np.median(submits)) < 0.005
    # The least of equal pieces of work is the one that nothing else on the machine has slowed down.
    assert min(projecting) / min(plain) < 1.15  # 1.00 on a quiet machine


# --- rows 20 to 23: the database ----------------------------------------------------------------------------------


def test_a_locked_database_is_waited_for(paths: StudyPaths, reference: list[str]) -> None:
    uri = default_uri(paths.storage)
    lock = sqlite3.connect(paths.storage / "mlflow.db", isolation_level=None, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(1.0, lambda: lock.execute("COMMIT"))
    release.start()
    sync(study_of(paths), paths)
    release.join()
    lock.close()
    assert_shown(paths, uri, reference)


def test_a_database_locked_for_longer_is_written_later(
    paths: StudyPaths, reference: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from afp_ray.tracking import connection

    monkeypatch.setattr(connection, "READ_S", 0.05)
    with sqlite3.connect(paths.storage / "mlflow.db", isolation_level=None) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError, match="another process holds it"):
            sync(study_of(paths), paths)
        assert "holds it" in str(lag(paths, is_driven=False).reason)
        lock.execute("COMMIT")
    lock.close()
    sync(study_of(paths), paths)
    assert_shown(paths, default_uri(paths.storage), reference)


@pytest.mark.slow
def test_four_processes_on_a_fresh_database_make_its_tables_once(tmp_path: Path) -> None:
    names = ["one", "two", "three", "four"]
    studies = [fabricate(tmp_path, name, methods=("afp",), seeds=(0,)) for name in names]
    client_of(default_uri(tmp_path / "elsewhere"))  # imported before the processes are made
    processes = [
        multiprocessing.get_context("fork").Process(target=sync, args=(study_of(paths), paths)) for paths in studies
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(200)
    assert [process.exitcode for process in processes] == [0] * 4
    for paths in studies:
        assert len(runs_of(paths, default_uri(tmp_path))) == 3
    assert not [file.name for file in tmp_path.iterdir() if file.name.endswith(".new")]


def test_a_deleted_run_comes_back_on_sync_with_a_warning(
    paths: StudyPaths, reference: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    uri = default_uri(paths.storage)
    sync(study_of(paths), paths)
    lost = next(run for run in runs_of(paths, uri) if run.info.status == "FINISHED" and "afp.trial_id" in run.data.tags)
    client_of(uri).delete_run(lost.info.run_id)
    assert sync(study_of(paths), paths)[0] == 1
    assert lost.data.tags["afp.trial_id"] in caplog.text
    assert_shown(paths, uri, reference)


@pytest.mark.parametrize("which", ["study", "experiment"])
def test_a_deleted_run_of_the_study_or_experiment_comes_back(
    which: str, paths: StudyPaths, reference: list[str]
) -> None:
    uri = default_uri(paths.storage)
    sync(study_of(paths), paths)
    runs, client = runs_of(paths, uri), client_of(uri)
    own = next(run for run in runs if run.data.tags["afp.kind"] == "study")
    if which == "study":
        client.delete_run(own.info.run_id)
    else:
        client.delete_experiment(own.info.experiment_id)
    sync(study_of(paths), paths)
    assert_shown(paths, uri, reference)
    runs = runs_of(paths, uri)
    assert sum(run.data.tags["afp.kind"] == "study" for run in runs) == 1


def test_a_run_deleted_while_the_driver_is_at_work_comes_back_by_itself(paths: StudyPaths) -> None:
    from afp_ray.tracking.projector import MlflowProjector

    uri = default_uri(paths.storage)
    with Ledger.open(paths, study_of(paths)) as ledger:
        projector = MlflowProjector(study_of(paths), paths, uri)
        projector.project()
        for run in runs_of(paths, uri):
            if run.info.status == "RUNNING":
                client_of(uri).delete_run(run.info.run_id)
        ledger.close("interrupted: SIGTERM")
    with pytest.raises(UnavailableError):
        projector.project()  # meets the deleted run, and looks at all of them the next time
    projector.project()
    assert len(runs_of(paths, uri)) == 4
    assert "RUNNING" not in {run.info.status for run in runs_of(paths, uri)}


def test_a_name_given_by_hand_is_kept(paths: StudyPaths, caplog: pytest.LogCaptureFixture) -> None:
    uri = default_uri(paths.storage)
    with Ledger.open(paths, study_of(paths)):
        sync(study_of(paths), paths)
        run = next(run for run in runs_of(paths, uri) if run.data.tags.get("afp.trial_id") == "a" * 16)
        client_of(uri).update_run(run.info.run_id, name="my favourite")
    client_of(uri).rename_experiment(run.info.experiment_id, "renamed")
    sync(study_of(paths), paths)
    again = client_of(uri).get_run(run.info.run_id)
    assert (again.info.run_name, again.info.status) == ("my favourite", "KILLED")
    assert "renamed to my favourite" in caplog.text
    assert runs_of(paths, uri) == []
    assert len(client_of(uri).search_runs([run.info.experiment_id])) == 4


@pytest.mark.parametrize("kind", ["older", "newer"])
def test_another_schema_stops_no_study_and_says_what_to_run(
    kind: str,
    paths: StudyPaths,
    reference: list[str],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    known, heads = mlflow_revisions()
    other = min(known - heads) if kind == "older" else "feedfeedfeed"
    stamp(paths, other)
    projector = BackgroundProjector.to_mlflow(study_of(paths), paths, default_uri(paths.storage))
    projector.submit()
    assert projector.close(60) is False
    command = "mlflow db upgrade sqlite:///" if kind == "older" else "pip install --upgrade mlflow"
    assert command in caplog.text
    assert command in str(lag(paths, is_driven=False).reason)
    show_status(status_of(paths))
    assert command in capsys.readouterr().out
    stamp(paths, *heads)
    sync(study_of(paths), paths)
    assert_shown(paths, default_uri(paths.storage), reference)
    assert status_of(paths).tracking is None


def stamp(paths: StudyPaths, revision: str) -> None:
    with sqlite3.connect(paths.storage / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (revision,))
    database.close()


# --- killed while projecting ---------------------------------------------------------------------------------------

CALLS = ("create_experiment", "set_experiment_tag", "create_run", "log_batch", "log_text", "log_inputs", "update_run")
CALLS += ("set_terminated",)


def project_and_die(paths: StudyPaths, nth: int, *, before: bool) -> bool:
    """Project in a child that kills itself around its nth write; whether it got that far."""
    child = os.fork()
    if child == 0:
        try:
            from mlflow import MlflowClient

            count = iter(range(10**6))

            def dying(call: Callable[..., Any]) -> Callable[..., Any]:
                def wrapped(*args: Any, **options: Any) -> Any:
                    place = next(count)
                    if before and place == nth:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = call(*args, **options)
                    if place == nth:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return result

                return wrapped

            for name in CALLS:
                setattr(MlflowClient, name, dying(getattr(MlflowClient, name)))
            sync(study_of(paths), paths)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.slow
def test_a_process_killed_while_projecting_leaves_nothing_that_sync_does_not_mend(
    paths: StudyPaths, reference: list[str]
) -> None:
    client_of(default_uri(paths.storage / "elsewhere"))  # imported before the children are made
    draws = random.Random(7)
    places = [draws.randrange(0, 24) for _ in range(6)]
    died = [project_and_die(paths, nth, before=bool(draws.getrandbits(1))) for nth in places]
    assert sum(died) >= 2
    sync(study_of(paths), paths)
    assert_shown(paths, default_uri(paths.storage), reference)


@pytest.mark.slow
def test_a_fresh_database_whose_maker_was_killed_is_made_whole(tmp_path: Path, schema: Path) -> None:
    paths = small(tmp_path)
    leftover = tmp_path / ".mlflow.db.1.new"  # as a kill in between leaves it
    leftover.write_bytes(schema.read_bytes()[:5000])
    assert not (tmp_path / "mlflow.db").exists()
    sync(study_of(paths), paths)
    assert len(runs_of(paths, default_uri(tmp_path))) == 4


def test_two_projectors_at_once_write_each_run_once(paths: StudyPaths, reference: list[str]) -> None:
    errors: list[BaseException] = []

    def project() -> None:
        try:
            sync(study_of(paths), paths)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=project) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_shown(paths, default_uri(paths.storage), reference)
