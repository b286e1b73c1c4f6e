"""The bridge between Tune and the driver, without Ray processes: what it keeps Tune from keeping."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from afp_ray.config import RuntimeConfig, TrainingRuntime, TrialConfig
from afp_ray.execution.tune_bridge import JobBridge
from afp_ray.records import Job, Work, WorkerGroup

GROUP = WorkerGroup(cpus_per_worker=1, gpus_per_worker=0, start_s=None)


def test_ended_trials_leave_tunes_list_and_others_stay() -> None:
    queue: Any = SimpleNamespace()
    bridge = JobBridge(queue, Any, runtime=RuntimeConfig(), group=GROUP, patience_s=1)  # type: ignore[arg-type]
    trials: list[Any] = [SimpleNamespace(is_finished=lambda: True) for _ in range(40)]
    running = SimpleNamespace(is_finished=lambda: False)
    trials.append(running)
    bridge.on_step_end(1, trials)
    assert len(trials) == 41  # few enough to be left alone
    trials += [SimpleNamespace(is_finished=lambda: True) for _ in range(40)]
    bridge.on_step_end(2, trials)
    assert trials == [running]


def test_work_crosses_to_another_process_whatever_its_folder_is_called() -> None:
    config = TrialConfig().model_dump(mode="json")
    job = Job(trial_id="t", role="confirm", arm="afp", seed=1, config=config)
    folder = Path(os.fsdecode(b"/runs/\xff"))
    work = Work(
        run_trial="m:f", job=job, folder=folder, cwd=folder, runtime=TrainingRuntime(), num_threads=2, token="t",
        hub=(("m", None, "c", "f"),), group=GROUP,
    )  # fmt: skip
    assert Work.from_json(work.to_json()) == work
