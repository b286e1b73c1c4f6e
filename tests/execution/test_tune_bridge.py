"""The bridge between Tune and the driver, without Ray processes: what it keeps Tune from keeping."""

from types import SimpleNamespace
from typing import Any

from afp_ray.config import RuntimeConfig
from afp_ray.execution.tune_bridge import JobBridge
from afp_ray.records import WorkerGroup

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
