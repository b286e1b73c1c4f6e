"""A training that was stopped, killed or damaged ends with the weights of one that was not, bit for bit."""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo_workers import run_workers
from resume_cases import NUM_STEPS, WORKER_CASES, Run, compare_with_workers, differ, kill_at, numbers

from afp_ray.errors import DivergedError, TrainingInterruptedError
from afp_ray.training import state
from afp_ray.training.curves import Record

CASES: dict[str, dict[str, Any]] = {
    "plain with dropout": {},
    "gradient accumulation": {"micro": 1},
    "bf16 autocast": {"training": {"precision": "bf16"}},
    "terms in turns": {"loss": {"schedule": "alternate"}},
    "bf16 weights, stochastic": {"family": "llama", "training": {"precision": "bf16_resident"}},
    "bf16 weights, compensated": {
        "family": "llama",
        "training": {"precision": "bf16_resident", "rounding": "compensated"},
    },
    "updates in the backward pass": {"micro": 2, "training": {"optimizer_in_backward": True, "max_grad_norm": None}},
    "queue of negatives": {"loss": {"negatives": "queue", "queue_size": 10, "queue_momentum": 0.9}},
    "pairs in chunks": {"runtime": {"pair_chunk_size": 1}},
    "every layer": {"loss": {"layer": "all"}},
    "adapters with dropout": {"family": "llama", "training": {"lora": {"rank": 2, "dropout": 0.1}}},
    "attention alone": {"family": "llama", "training": {"trainable": "attention"}},
}


def killed_in_a_step(folder: Path) -> None:
    """Train, and be killed after thirteen steps."""
    Run(folder, runtime={"checkpoint_every_s": 1e-9}).go(on_step=kill_at(13))


def killed_in_writing(folder: Path) -> None:
    """Train, and be killed in writing the state of the twelfth step."""
    save_file = state.save_file

    def killed(tensors: Any, path: Path) -> None:
        save_file(tensors, path)
        if "step-000012" in str(path) and path.name == "optimizer.safetensors":
            os.kill(os.getpid(), signal.SIGKILL)

    state.save_file = killed
    Run(folder, runtime={"checkpoint_every_s": 1e-9}).go()


def compared(rank: int, folder: Path) -> dict[str, Any]:
    """What a worker of two finds."""
    return compare_with_workers(folder, rank=rank, world_size=2)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Processes of one thread are compared with this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The default case, never stopped."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = Run(tmp_path_factory.mktemp("straight"))
    run.go()
    torch.set_num_threads(threads)
    return run


def states_of(run: Run) -> list[str]:
    return sorted(path.name for path in run.paths.states.iterdir()) if run.paths.states.is_dir() else []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_ten_steps_and_ten_more_are_twenty(case: dict[str, Any], tmp_path: Path) -> None:
    straight, parted = Run(tmp_path / "straight", **case), Run(tmp_path / "parted", **case)
    whole = straight.go()
    assert parted.go(stop_after=10) is None
    assert states_of(parted) == ["step-000010"]
    rest = parted.go()
    assert not differ(straight.weights, parted.weights)
    assert numbers(straight.listener) == numbers(parted.listener)
    assert [done for _, done, _ in parted.listener.calls] == list(range(1, NUM_STEPS + 1))
    assert whole is not None
    assert rest is not None
    assert (whole.resumed_from_step, rest.resumed_from_step) == (None, 10)
    other = {"seconds", "gpu_hours", "training_hours", "peak_memory_bytes", "resumed_from_step"}
    assert whole.model_dump(exclude=other) == rest.model_dump(exclude=other)
    assert rest.seconds > rest.gpu_hours * 3600 > 0


def test_stopping_after_every_few_steps_changes_nothing(straight: Run, tmp_path: Path) -> None:
    run = Run(tmp_path)
    for step in (1, 2, 9, 19):
        assert run.go(stop_after=step) is None
    assert run.go() is not None
    assert not differ(straight.weights, run.weights)


@pytest.mark.parametrize(("train", "last"), [(killed_in_a_step, 12), (killed_in_writing, 11)])
def test_a_killed_training_goes_on(train: Callable[[Path], None], last: int, straight: Run, tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=train, args=(tmp_path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    run = Run(tmp_path)
    summary = run.go()
    assert summary is not None
    assert summary.resumed_from_step == last
    assert not differ(straight.weights, run.weights)
    assert not list(run.paths.states.glob(".*"))
    steps = [json.loads(line)["step"] for line in run.paths.curve.read_text().splitlines()]
    assert steps == list(range(1, NUM_STEPS + 1))


def test_workers_go_on_together(tmp_path: Path) -> None:
    first, second = run_workers(compared, tmp_path / "workers", tmp_path)
    for name in WORKER_CASES:
        for found in (first[name], second[name]):
            assert found["differ"] == []
            assert found["losses"]
            assert found["resumed"] == 10
            assert found["cosines"] == 10, "gradients are compared in every second step"
        assert not differ(first[name]["weights"], second[name]["weights"])
        assert first[name]["numbers"] == second[name]["numbers"], "all workers see the same metrics"
    alone = Run(tmp_path / "alone", **{**WORKER_CASES["sharded"], "runtime": {}})
    alone.go()
    for found, expected in zip(first["sharded"]["numbers"][:5], numbers(alone.listener)[:5], strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-4), "shares give the numbers of the whole"
    assert first["diverged"] == second["diverged"] == 0, "a weight of one worker alone is no number"


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_damaged_state_is_passed_over_for_the_one_before(
    name: str, how: str, straight: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    run.go(stop_after=6)
    run.go(stop_after=12)
    assert states_of(run) == ["step-000006", "step-000012"]
    damage(run.paths.states / "step-000012" / name, how)
    summary = run.go()
    assert summary is not None
    assert summary.resumed_from_step == 6
    assert not differ(straight.weights, run.weights)
    (note,) = summary.notes
    assert note.startswith("the state of step 12 cannot be used and was passed over")
    assert name in note or name == "manifest.json"
    assert note in caplog.messages


def test_when_all_states_are_damaged_training_begins_again(straight: Run, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(stop_after=6)
    run.go(stop_after=12)
    for step in ("step-000006", "step-000012"):
        damage(run.paths.states / step / "model.safetensors", "flip")
    run.listener.calls.clear()
    summary = run.go()
    assert summary is not None
    assert summary.resumed_from_step is None
    assert [note.split(" cannot")[0] for note in summary.notes] == ["the state of step 12", "the state of step 6"]
    assert not differ(straight.weights, run.weights)


def test_what_was_passed_over_is_told_by_the_attempt_after_the_next(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(stop_after=6)
    run.go(stop_after=12)
    damage(run.paths.states / "step-000012" / "state.json", "truncate")
    run.go(stop_after=14)
    summary = run.go()
    assert summary is not None
    assert summary.resumed_from_step == 14
    assert len(summary.notes) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"trial_id": "other"}, "trial"),
        ({"seed": 4}, "seed"),
        ({"training": {"learning_rate": 2e-3}}, "training"),
        ({"loss": {"temperature": 0.1}}, "loss"),
        ({"family": "llama"}, "weights"),
    ],
)
def test_the_state_of_another_run_is_not_used(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    Run(tmp_path / "run").go(stop_after=10)
    arguments = {key: change[key] for key in change if key in ("trial_id", "seed")}
    fields = {key: change[key] for key in change if key not in arguments}
    run, fresh = Run(tmp_path / "run", **fields), Run(tmp_path / "fresh", **fields)
    summary = run.go(**arguments)
    assert summary is not None
    assert summary.notes == (f"the state of step 10 is of another run and was passed over: {named} differs",)
    fresh.go(**arguments)
    assert not differ(run.weights, fresh.weights)


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_states_are_kept(keep: int, tmp_path: Path) -> None:
    run = Run(tmp_path, runtime={"checkpoint_every_s": 1e-9, "keep_last": keep})
    seen: list[list[str]] = []
    run.go(on_step=lambda step: seen.append(states_of(run)))
    assert seen[0] == []
    assert states_of(run) == [f"step-{step:06d}" for step in range(NUM_STEPS - keep, NUM_STEPS)]
    assert max(map(len, seen)) == keep


def test_no_state_is_written_where_none_is_asked_for(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(stop=None)
    assert states_of(run) == []
    rare = Run(tmp_path, runtime={"checkpoint_every_s": 3600.0})
    rare.go()
    assert states_of(rare) == []


def test_a_disk_that_is_too_full_costs_the_state_alone(
    straight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 10, 10))
    run = Run(tmp_path, runtime={"checkpoint_every_s": 1e-9})
    summary = run.go()
    assert summary is not None
    assert states_of(run) == []
    assert "MiB are free" in summary.notes[0]
    assert not differ(straight.weights, run.weights)


def test_old_states_make_room_for_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, runtime={"checkpoint_every_s": 1e-9, "keep_last": 3})
    run.go(stop_after=3)
    assert len(states_of(run)) == 3

    def disk_usage(path: Path) -> Any:
        free = 10**9 if len(states_of(run)) < 2 else 10
        return shutil._ntuple_diskusage(10**9, 10**9 - free, free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    run.go(stop_after=4)
    assert states_of(run) == ["step-000003", "step-000004"]


def test_a_disk_that_refuses_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    run.go(stop_after=5)
    whole = {path: path.read_bytes() for path in run.paths.states.rglob("*") if path.is_file()}

    def refused(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "save_file", refused)
    run.go(stop_after=10)
    assert {path: path.read_bytes() for path in run.paths.states.rglob("*") if path.is_file()} == whole


def test_the_states_of_a_diverged_training_are_gone(tmp_path: Path) -> None:
    run = Run(
        tmp_path,
        family="llama",
        training={"learning_rate": 1e30, "warmup_ratio": 0},
        runtime={"checkpoint_every_s": 1e-9},
    )
    with pytest.raises(DivergedError):
        run.go()
    assert run.listener.calls, "some steps were done and saved"
    assert states_of(run) == []


def test_halved_sizes_stay_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from afp_ray.training.step import TrainingStep

    backward, largest = TrainingStep.backward, []

    def short_of_memory(self: Any, batch: Any, **options: Any) -> Any:
        largest.append(max(len(rows.input_ids) for rows in batch.instructions))
        if largest[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backward(self, batch, **options)

    straight = Run(tmp_path / "straight", runtime={"micro_batch_size": 2, "pair_chunk_size": 2})
    straight.go()
    monkeypatch.setattr(TrainingStep, "backward", short_of_memory)
    run = Run(tmp_path / "run")
    run.go(stop_after=10)
    assert largest == [4] + [2] * 10
    summary = run.go()
    assert largest == [4] + [2] * 20, "the second attempt does not try what did not fit"
    assert summary is not None
    assert (summary.micro_batch_size, summary.pair_chunk_size, summary.num_halvings) == (2, 2, 1)
    assert summary.notes[0].startswith("memory ran out in step 0")
    assert not differ(straight.weights, run.weights)


def test_an_interruption_crosses_a_process() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(TrainingInterruptedError(7)))
    assert error.step == 7
    assert "step 7" in str(error)


def test_sums_come_back_as_they_were() -> None:
    record = Record(20, torch.device("cpu"), period=1)
    other = Record(20, torch.device("cpu"), period=1)
    other.restore(4, json.loads(json.dumps(record.state())))
    assert other.state()["sums"] == record.state()["sums"]
    assert other.summary(1.0, steps=4).resumed_from_step == 4


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 4), (4, 2)])
def test_hours_are_those_of_the_workers_of_each_attempt(
    monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    monkeypatch.setattr("afp_ray.training.curves.world_size", lambda: before)
    state = json.loads(json.dumps(Record(20, torch.device("cpu"), period=1).state()))
    assert state["hours"] == pytest.approx(before * state["seconds"] / 3600)
    state |= {"seconds": 1800.0, "hours": before * 0.5}
    monkeypatch.setattr("afp_ray.training.curves.world_size", lambda: after)
    record = Record(20, torch.device("cpu"), period=1)
    record.restore(10, state)
    summary = record.summary(5400.0, steps=20)
    assert (summary.gpu_hours, summary.training_hours) == (before * 0.5, pytest.approx(before * 0.5 + after * 1.0))
    assert summary.seconds == 5400.0


def test_two_states_whose_folders_were_swapped_are_passed_over(straight: Run, tmp_path: Path) -> None:
    """Each is whole by its manifest; only its own step tells."""
    run = Run(tmp_path)
    run.go(stop_after=6)
    run.go(stop_after=12)
    older, newer = (run.paths.states / step for step in ("step-000006", "step-000012"))
    older.rename(tmp_path / "aside")
    newer.rename(older)
    (tmp_path / "aside").rename(newer)
    summary = run.go()
    assert summary is not None
    assert summary.resumed_from_step is None
    assert [note.split(",")[1] for note in summary.notes] == [" was moved", " was moved"]
    assert not differ(straight.weights, run.weights)
