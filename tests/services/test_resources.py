"""CPUs, GPUs and workers that a study asks for: said by plan and doctor, and refused by run before Ray starts."""

import json
from pathlib import Path

import pytest
from staged import NoProjection

from afp_ray.config import RuntimeConfig
from afp_ray.execution import cluster
from afp_ray.planning import resources
from services import cli

STUDY = """name: greedy
fixed:
  training.max_steps: 0
  evaluation.tasks: [xcopa]
  evaluation.limit: 4
  evaluation.representation: null
compare: {{method: [base]}}
runtime: {runtime}
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two CPUs and no GPU; Ray must not start."""
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(resources, "num_cpus", lambda: 2)
    monkeypatch.setattr(resources, "num_gpus", lambda: 0)
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)

    def started(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(cluster, "start_local", started)


def write(folder: Path, runtime: str) -> str:
    file = folder / "study.yaml"
    file.write_text(STUDY.format(runtime=runtime), "utf-8")
    return str(file)


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        ("{gpus_per_worker: 8}", "a trial needs 8 GPUs, and this machine has 0"),
        ("{gpus_per_worker: 0.5}", "a trial needs 0.5 GPUs, and this machine has 0"),
        ("{executor: local, gpus_per_worker: 1}", "a trial needs 1 GPUs, and this machine has 0"),
        ("{executor: local, cpus_per_worker: 64}", "a trial needs 64 CPUs, and this machine has 2"),
        ("{cpus_per_worker: 3}", "a trial needs 3 CPUs, and this machine has 2"),
        (
            "{workers_per_trial: 100000}",
            "a trial needs 100,000 CPUs (100,000 workers with 1 each), and this machine has 2",
        ),
        (
            "{workers_per_trial: 8, cpus_per_worker: 4, gpus_per_worker: 1}",
            "a trial needs 32 CPUs (8 workers with 4 each), and this machine has 2; a trial needs 8 GPUs (8 workers "
            "with 1 each), and this machine has 0",
        ),
    ],
)
def test_what_the_machine_lacks_is_said_and_refused(
    runtime: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write(tmp_path, runtime)
    assert cli.main(["plan", study]) == 0
    assert f"WARN   {words}; give the --address of a" in capsys.readouterr().out
    assert cli.main(["run", study]) == 2
    refused = capsys.readouterr().err
    assert f"error  runtime  {words}" in refused
    assert "allowed  2 CPUs and 0 GPUs for all workers" in refused
    assert not (tmp_path / "runs").exists()
    cli.main(["doctor", study, "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert "WARN" in {checks["cpu"]["verdict"], checks["gpu"]["verdict"]}


def test_of_a_cluster_it_is_said_that_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    study = write(tmp_path, "{workers_per_trial: 8, gpus_per_worker: 1}")
    assert cli.main(["plan", study]) == 0
    shown = capsys.readouterr().out
    assert "WARN" not in shown
    assert "looked for on the cluster 127.0.0.1:6399 when the study connects to it" in shown
    assert cli.main(["run", study]) == 75  # nobody listens there; nothing of this machine was refused


def test_a_complete_study_is_shown_on_any_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write(tmp_path, "{executor: local, cpus_per_worker: 2}")
    assert cli.main(["run", study]) == 0
    monkeypatch.setattr(resources, "num_cpus", lambda: 1)
    assert cli.main(["run", study]) == 0


def test_the_local_executor_has_one_worker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resources.lacking_here(RuntimeConfig(executor="local", workers_per_trial=8)) == ""
    assert cli.main(["plan", write(tmp_path, "{executor: local, workers_per_trial: 8}")]) == 0
    assert "executor local trains in this process alone, not in 8 workers" in capsys.readouterr().out
    assert cli.main(["plan", write(tmp_path, "{executor: local, workers_per_trial: 8, sharding: full}")]) == 0


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("training.learning_rate", "1.0e+308", "<= 1000"),
        ("training.batch_size", "1000000000000", "<= 1000000"),
        ("training.pair_batch_size", "1000000000000", "<= 1000000"),
        ("training.max_steps", "1000000000000", "<= 1000000000"),
        ("training.max_length", "1000000000000", "<= 10000000"),
        ("training.weight_decay", "1.0e+308", "<= 1000"),
        ("training.lora.rank", "1000000000000", "<= 65536"),
        ("loss.temperature", "1.0e+308", "<= 1e+06"),
        ("loss.instruction_weight", "1.0e+308", "<= 1e+06"),
        ("loss.queue_size", "1000000000000", "<= 100000000"),
        ("data.num_pairs", "1000000000000", "<= 1000000000"),
        ("data.num_instructions", "1000000000000", "<= 1000000000"),
        ("evaluation.generation.max_new_tokens", "1000000000000", "<= 1000000"),
        ("evaluation.shots", "[1000000000000]", "from 0 to 10000"),
    ],
)
def test_an_absurd_value_is_refused_at_its_line(
    field: str, value: str, allowed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"name: absurd\nfixed:\n  {field}: {value}\ncompare: {{method: [base, afp]}}\n", "utf-8")
    for verb in ("plan", "run"):
        assert cli.main([verb, str(file)]) == 2
        refused = capsys.readouterr().err
        assert f"{file}:3" in refused
        assert allowed in refused


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workers_per_trial", "1000000000"),
        ("gpus_per_worker", "1000000000"),
        ("cpus_per_worker", "1000000000"),
        ("concurrency", "1000000000"),
        ("hang_s", "1.0e+308"),
        ("grace_s", "1.0e+308"),
        ("micro_batch_size", "1000000000"),
    ],
)
def test_an_absurd_runtime_is_refused_at_its_line(
    field: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"name: absurd\ncompare: {{method: [base]}}\nruntime:\n  {field}: {value}\n", "utf-8")
    assert cli.main(["plan", str(file)]) == 2
    refused = capsys.readouterr().err
    assert f"{file}:4" in refused
    assert "<= " in refused
