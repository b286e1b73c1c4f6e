"""Studies as jobs of a real cluster with a token: `ray job submit -- afp run ...` and `afp submit`, both twice."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from plugin_site import install
from ray_heads import ARMS, OVERRIDES, PATIENCE_S, ROOT, Head, best_configuration, expected_configuration, ray_head

from afp_ray.execution.job_client import RayJobs
from afp_ray.ledger import replay
from afp_ray.records import TrialStatus
from afp_ray.store import StudyPaths, read_result

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(PATIENCE_S + 100)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    site = install(tmp_path_factory.mktemp("site"))  # a package with plug-ins, as on every node of a cluster
    with ray_head(tmp_path_factory.mktemp("head"), site) as found:
        yield found


def start(head: Head, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=ROOT, env=dict(head.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ray_job(head: Head, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "job",
        *arguments[:1],
        "--address",
        head.address,
        *arguments[1:],
    ]


def afp_submit(head: Head, *options: str, overrides: Sequence[str] = OVERRIDES) -> list[str]:
    return ["afp", "submit", "demo", "--address", head.address, *overrides, *options]


def ask_to_stop(head: Head, job_id: str) -> None:
    """What `ray job stop` does."""
    token = head.environment["RAY_AUTH_TOKEN"]
    url = f"{head.address}/api/jobs/{job_id}/stop"
    request = urllib.request.Request(url, method="POST", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.status == 200


def assert_complete(storage: Path) -> None:
    """All arms are done, and nothing was trained twice."""
    paths = StudyPaths(storage, "demo")
    state = replay(paths.ledger)
    assert state.closed == "complete"
    assert {trial.arm for trial in state.trials} == ARMS
    assert {trial.status for trial in state.trials} == {TrialStatus.DONE}
    for trial in state.trials:
        calls = paths.trial(trial.trial_id).training_calls
        assert not calls.exists() or len(calls.read_text().splitlines()) == 1


def test_a_study_that_is_two_ray_jobs_runs_once(head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The later job follows the earlier one's ledger, and both end well with the same configuration."""
    command = ["afp", "run", "search_spaces/demo.yaml", "--storage", str(tmp_path / "job"), *OVERRIDES]
    submit = ray_job(head, "submit", "--working-dir", ".", "--", *command)
    outputs = []
    jobs = [start(head, *submit) for _ in range(2)]
    for job in jobs:
        out, err = job.communicate(timeout=PATIENCE_S)
        assert job.returncode == 0, out + err
        assert "succeeded" in out + err
        outputs.append(out)
    assert Counter("following it" in out for out in outputs) == {True: 1, False: 1}
    results = [next(line for line in out.splitlines() if line.startswith("result ")) for out in outputs]
    first, second = (json.loads(line.removeprefix("result "))["best"]["config"] for line in results)
    assert_complete(tmp_path / "job")
    assert replay(StudyPaths(tmp_path / "job", "demo").ledger).driver_attempt == 1
    expected = expected_configuration(tmp_path / "run", capsys)
    assert best_configuration(tmp_path / "job", capsys) == first == second == expected


def test_a_study_that_is_submitted_twice_is_one_job(
    head: Head, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the same time, and once more afterwards."""
    both = [start(head, *afp_submit(head, "--json")) for _ in range(2)]
    answers = []
    for process in both:
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, out + err
        assert "CLOSED    demo  complete" in err
        answers.append(json.loads(out))
    later = start(head, *afp_submit(head))
    out, err = later.communicate(timeout=100)
    assert later.returncode == 0, out + err
    assert "nothing runs again" in out
    assert "best     demo" in out
    assert Counter(answer["state"] for answer in answers) == {"submitted": 1, "attached": 1}
    assert len({answer["submission_id"] for answer in answers}) == 1
    storage = head.home / "afp_ray" / "runs"  # of the cluster, since none was given
    assert_complete(storage)
    expected = expected_configuration(tmp_path, capsys)
    assert best_configuration(storage, capsys) == expected
    assert [answer["best"]["config"] for answer in answers] == [expected, expected]


def test_a_job_that_is_stopped_drains_and_is_continued(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.environment["RAY_AUTH_TOKEN"])
    overrides = [*OVERRIDES, "--set", "seeds=[0,1,2]", "--set", "runtime.concurrency=1"]
    submit = afp_submit(head, "--storage", str(tmp_path), overrides=overrides)
    attached = start(head, *submit)
    assert attached.stdout is not None
    job_id = attached.stdout.readline().split()[1]
    for line in attached.stdout:
        if "  RUNNING  " in line:
            break
    attached.send_signal(signal.SIGINT)  # detaches, and leaves the job alone
    _, err = attached.communicate(timeout=60)
    assert attached.returncode == 130
    assert "goes on" in err
    state = replay(StudyPaths(tmp_path, "demo").ledger)
    assert state.closed is None
    ask_to_stop(head, job_id)
    paths = StudyPaths(tmp_path, "demo")
    while replay(paths.ledger).closed is None:
        time.sleep(0.2)
    stopped = replay(paths.ledger)
    assert stopped.closed == "interrupted: SIGTERM"  # it was heard, not cut off
    assert TrialStatus.RUNNING not in {trial.status for trial in stopped.trials}
    job = RayJobs(head.address).find(job_id)
    while job is not None and not job.is_over:  # Ray looks at its process now and then
        time.sleep(0.2)
        job = RayJobs(head.address).find(job_id)
    again = start(head, *submit)
    out, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, out + err
    assert f"{job_id}-2 submitted" in out
    assert_complete(tmp_path)


def test_plug_ins_of_the_nodes_serve_in_a_job_and_in_the_processes_of_its_trials(head: Head, tmp_path: Path) -> None:
    study = {
        "name": "plugged",
        "objective": {"metric": "colours"},
        "fixed": {
            "data.languages": ["zh", "sw"],
            "data.num_pairs": 60,
            "training.max_steps": 2,
            "training.batch_size": 4,
            "evaluation.tasks": ["colours"],
            "evaluation.representation": None,
        },
        "compare": {"method": ["base", "mean_align"]},
    }
    file = tmp_path / "plugged.yaml"
    file.write_text(json.dumps(study), "utf-8")
    storage = tmp_path / "runs"
    submit = start(head, "afp", "submit", str(file), "--address", head.address, "--storage", str(storage))
    out, err = submit.communicate(timeout=PATIENCE_S)
    assert submit.returncode == 0, out + err
    paths = StudyPaths(storage, "plugged")
    state = replay(paths.ledger)
    assert state.packages["plugin afp-example"] == "1.0"
    assert {(trial.arm, trial.status) for trial in state.trials} == {
        ("base", TrialStatus.DONE),
        ("mean_align", TrialStatus.DONE),
    }
    for trial in state.trials:
        assert read_result(paths.trial(trial.trial_id).result).environment["plugin afp-example"] == "1.0"
