"""`afp submit`: one job to a study whatever happens to requests and answers, its log, and the study's own exit code."""

import asyncio
import http.server
import io
import json
import os
import signal
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_jobs import FakeDashboard, FakeJob, dashboard

from afp_ray.errors import ConfigError
from afp_ray.execution import job_client
from afp_ray.ledger import study_hash
from services import cli
from services.schemas import RESULT_MARK, JobResult, StudyStatus
from services.studies import load

STATUS = StudyStatus(
    name="demo", state="complete", trials=2, counts={"DONE": 2}, objective="mean", direction="maximize", folder="/x"
)
SUMMARY = "12:00:00  CLOSED    demo  complete  [2/2 done]\nbest     demo: afp\n"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDashboard]:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", os.devnull)
    monkeypatch.setattr(job_client, "_FIRST_PAUSE_S", 0.01)
    with dashboard() as server:
        yield server


def job_id() -> str:
    return f"afp-demo-{study_hash(load('demo'))}"


def result_line(code: int) -> str:
    return RESULT_MARK + JobResult(exit_code=code, status=STATUS).model_dump_json() + "\n"


def submit(fake: FakeDashboard, *options: str) -> int:
    return cli.main(["submit", "demo", "--address", fake.address, *options])


def test_a_study_is_one_job_with_the_study_alone_and_no_secret(
    fake: FakeDashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-7f3a")
    assert submit(fake, "--detach", "--json", "--storage", "/shared/runs", "--set", "runtime.concurrency=2") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["submission_id"], answer["state"], answer["exit_code"]) == (job_id(), "submitted", None)
    job = fake.jobs[job_id()]
    assert job.entrypoint == "afp run study.json --storage /shared/runs"
    (package,) = fake.packages.values()
    with zipfile.ZipFile(io.BytesIO(package)) as file:
        (name,) = (name for name in file.namelist() if not name.endswith("/"))
        sent = json.loads(file.read(name))
    assert name.rpartition("/")[2] == "study.json"
    assert sent["runtime"]["concurrency"] == 2
    assert sent["name"] == "demo"
    assert "canary-7f3a" not in json.dumps([job.runtime_env, job.metadata, sent])


def test_the_projects_own_studies_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that `ray submit` ships runs in the home folder; a file that is really there goes first."""
    monkeypatch.chdir(tmp_path)
    assert load("search_spaces/demo.yaml") == load("demo")
    (tmp_path / "search_spaces").mkdir()
    (tmp_path / "search_spaces" / "demo.yaml").write_text("name: mine\n")
    assert load("search_spaces/demo.yaml").name == "mine"
    with pytest.raises(ConfigError, match="no such file"):
        load("search_spaces/none.yaml")


def test_what_is_sent_reads_as_the_same_study(fake: FakeDashboard, tmp_path: Path) -> None:
    from services.submission import pack

    pack(load("demo"), tmp_path)
    assert load(str(tmp_path / "study.json")) == load("demo")


def test_a_second_submission_attaches_and_prints_the_same_log(
    fake: FakeDashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(fake, "--detach") == 0
    fake.jobs[job_id()].log = SUMMARY
    fake.on_tail = lambda job: job.end(0, "last words\n" + result_line(0))
    capsys.readouterr()
    assert submit(fake) == 0
    out = capsys.readouterr().out
    assert "is already at work" in out
    assert "best     demo: afp" in out
    assert "last words" in out
    assert RESULT_MARK not in out
    assert len(fake.jobs) == fake.submissions == 1


def test_two_at_once_make_one_job(fake: FakeDashboard, tmp_path: Path) -> None:
    """Both see no job, and both submit: the cluster refuses one, which then finds the other's."""
    both = threading.Barrier(2)
    answers: dict[str, bool] = {}

    def once(who: str) -> None:
        jobs = job_client.RayJobs(fake.address)
        assert jobs.find("afp-demo-1") is None
        both.wait(10)
        answers[who] = jobs.submit("afp-demo-1", "true", working_dir=tmp_path, metadata={}, environment={})

    threads = [threading.Thread(target=once, args=(who,)) for who in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers.values()) == [False, True]
    assert len(fake.jobs) == 1


@pytest.mark.parametrize(
    "faults, submissions", [(["500"], 2), (["503", "500", "refused"], 4), (["lost"], 1), (["refused"], 2)]
)
def test_a_cluster_in_trouble_is_asked_again_with_the_same_id(
    fake: FakeDashboard, faults: list[str], submissions: int, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.faults = list(faults)
    assert submit(fake, "--detach", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "submitted"  # ours, although its answer was lost
    assert list(fake.jobs) == [job_id()]
    assert fake.submissions == submissions


def test_a_cluster_that_stays_away_is_75(
    fake: FakeDashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job_client.RayJobs.__init__, "__kwdefaults__", {"patience_s": 0.05})
    fake.faults = ["500"] * 100
    assert submit(fake, "--detach") == 75
    assert "does not answer" in capsys.readouterr().err
    assert not fake.jobs


def test_a_completed_study_is_shown_and_not_run_again(fake: FakeDashboard, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(fake, "--detach") == 0
    fake.jobs[job_id()].end(0, "trained\n" + SUMMARY + result_line(0))
    capsys.readouterr()
    assert submit(fake) == 0
    out = capsys.readouterr().out
    assert "nothing runs again" in out
    assert "best     demo: afp" in out
    assert "trained" not in out
    assert submit(fake, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["state"], answer["exit_code"], answer["status"]["name"]) == ("complete", 0, "demo")
    assert fake.submissions == 1


def test_a_failed_or_stopped_job_gets_a_successor(fake: FakeDashboard) -> None:
    assert submit(fake, "--detach") == 0
    fake.jobs[job_id()].end(75)
    assert submit(fake, "--detach") == 0
    fake.jobs[f"{job_id()}-2"].status = "STOPPED"
    assert submit(fake, "--detach") == 0
    assert submit(fake, "--detach") == 0  # the third runs
    assert list(fake.jobs) == [job_id(), f"{job_id()}-2", f"{job_id()}-3"]


@pytest.mark.parametrize("code", [0, 3, 4, 5, 6, 130])
def test_the_exit_code_is_the_studys_own(fake: FakeDashboard, code: int) -> None:
    fake.on_submit = lambda job: job.end(code, SUMMARY)
    assert submit(fake) == code


def test_a_stopped_job_and_a_lost_one_say_how_to_go_on(fake: FakeDashboard, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(job: FakeJob) -> None:
        job.status = "STOPPED"

    def lose(job: FakeJob) -> None:
        job.end(-9)

    for change, code in ((stop, 143), (lose, 75)):
        fake.jobs.clear()
        fake.on_submit = change
        assert submit(fake) == code
        assert "the same command continues the study" in capsys.readouterr().err


def test_a_log_that_breaks_off_goes_on_where_it_was(fake: FakeDashboard, capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(f"line {number}\n" for number in range(50))
    fake.cut_tail_after = 123
    fake.on_submit = lambda job: setattr(job, "log", text)
    fake.on_tail = lambda job: job.end(0, result_line(0))
    assert submit(fake) == 0
    assert fake.tails >= 2
    assert text in capsys.readouterr().out


def test_another_storage_is_refused(fake: FakeDashboard, capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(fake, "--detach", "--storage", "/a") == 0
    assert submit(fake, "--detach", "--storage", "/b") == 2
    assert "has run this study under /a" in capsys.readouterr().err


def test_ctrl_c_detaches_and_leaves_the_job(
    fake: FakeDashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job_client.RayJobs, "follow", interrupt)
    assert submit(fake) == 130
    captured = capsys.readouterr()
    assert f"stop     ray job stop {job_id()}" in captured.out
    assert "goes on. the same command again follows it" in captured.err
    assert f"ray job stop {job_id()} --address {fake.address}" in captured.err
    assert fake.jobs[job_id()].status == "RUNNING"


@pytest.mark.parametrize("ends_with", ["an error", "nothing"])
def test_ctrl_c_is_heard_though_closing_the_connection_hides_it(
    ends_with: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tail(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(60)
        except BaseException:
            if ends_with == "an error":
                raise RuntimeError("the connection is closing") from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(job_client.RayJobs, "_tail", tail)
    with pytest.raises(KeyboardInterrupt):
        job_client.RayJobs("http://127.0.0.1:1").follow("afp-a", lambda _: None)
    assert signal.getsignal(signal.SIGINT) is before


def test_the_token_is_shown_to_a_cluster_that_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake: FakeDashboard, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.token = "s3cret-token"
    assert submit(fake, "--detach") == 2
    assert "~/.ray/auth_token" in capsys.readouterr().err
    file = tmp_path / "token"
    file.write_text("s3cret-token\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    assert submit(fake, "--detach") == 0
    assert "s3cret-token" not in json.dumps([fake.jobs[job_id()].runtime_env, fake.jobs[job_id()].metadata])
    monkeypatch.setenv("RAY_AUTH_TOKEN", "another")
    assert submit(fake, "--detach") == 2
    assert "refuses ours" in capsys.readouterr().err


def test_the_address_given_wins_over_rays_variables(fake: FakeDashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    assert submit(fake, "--detach") == 0
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


def test_an_open_cluster_elsewhere_is_refused_unless_allowed(
    fake: FakeDashboard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from afp_ray.execution import cluster_auth

    monkeypatch.setattr(cluster_auth, "is_loopback", lambda host: False)
    assert submit(fake, "--detach") == 2
    assert "RAY_AUTH_MODE=token" in capsys.readouterr().err
    assert not fake.jobs
    assert submit(fake, "--detach", "--allow-open-cluster") == 0
    assert fake.jobs[job_id()].entrypoint == "afp run study.json --allow-open-cluster"


def test_files_that_the_study_names_travel_with_it(
    fake: FakeDashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "en-zh.tsv").write_text("a\tb\n")
    (tmp_path / "other.txt").write_text("not named")
    study = tmp_path / "mine.yaml"
    study.write_text("name: mine\nfixed:\n  data.sources: [{kind: tsv, path: 'corpus/{source}-{target}.tsv'}]\n")
    assert cli.main(["submit", "mine.yaml", "--address", fake.address, "--detach"]) == 0, capsys.readouterr().err
    (package,) = fake.packages.values()
    with zipfile.ZipFile(io.BytesIO(package)) as file:
        names = {name.partition("/")[2] for name in file.namelist() if not name.endswith("/")}
    assert {name for name in names if "en-zh" in name}
    assert not {name for name in names if "other" in name}
    study.write_text("name: mine\nfixed:\n  data.sources: [{kind: tsv, path: ../x.tsv}]\n")
    (tmp_path.parent / "x.tsv").write_text("a\tb\n")
    assert cli.main(["submit", "mine.yaml", "--address", fake.address, "--detach"]) == 2
    assert "outside the current folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [("--set", "runtime.tracking_uri=http://me:canary-7f3a@mlflow"), ("--storage", "s3://me:canary-7f3a@bucket/runs")],
)
def test_a_secret_is_not_sent(
    fake: FakeDashboard, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(fake, "--detach", *options) == 2
    said = capsys.readouterr()
    assert "holds a password" in said.err
    assert "canary-7f3a" not in said.out + said.err
    assert not fake.jobs and not fake.packages


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"{}"])
def test_a_server_that_is_no_dashboard_is_told(answer: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:
            """Stay quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            assert cli.main(["submit", "demo", "--address", f"http://127.0.0.1:{server.server_address[1]}"]) == 2
        finally:
            server.shutdown()
            thread.join()
    assert "is no Ray dashboard" in capsys.readouterr().err


def test_an_address_that_is_no_dashboard_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "demo", "--address", "127.0.0.1:6379"]) == 2
    assert "http://HOST:PORT" in capsys.readouterr().err
