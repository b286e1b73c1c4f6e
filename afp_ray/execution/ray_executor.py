"""The executor that runs jobs on a Ray cluster: Ray Tune's warm actors, each training through Ray Train.

Tune schedules and keeps actors alive; what runs next comes from the driver through a searcher, and what became of it
goes back the same way. Nothing of Tune's own state is kept.
"""

import gc
import logging
import shutil
import tempfile
import warnings
from typing import TYPE_CHECKING

from afp_ray.config import RuntimeConfig
from afp_ray.execution.base import JobQueue
from afp_ray.execution.cluster import connected, guarded, head_patience_s, num_trials_at_once
from afp_ray.execution.placement import free_leaked_groups
from afp_ray.execution.preemption import cluster_watch
from afp_ray.execution.stop import StopNowError
from afp_ray.records import Job, WorkerGroup

if TYPE_CHECKING:
    from ray.tune import PlacementGroupFactory


class RayExecutor:
    """Runs jobs on the cluster at an address, or on one that is started for the study.

    Args:
        runtime: workers per trial, their resources, and how many trials run at once.
        address: of a running cluster; None takes RAY_ADDRESS, and without that starts one here.
    """

    def __init__(self, runtime: RuntimeConfig, *, address: str | None = None) -> None:
        self.runtime, self.address = runtime, address

    def run(self, queue: JobQueue) -> None:
        """Run every job of `queue`; Ray is not started when there is none.

        Raises: ConfigError when no trial can ever fit, UnavailableError when there is no cluster.
        """
        first = queue.next_job()
        if not isinstance(first, Job):
            return
        with connected(self.address) as is_own:
            queue.stop.listen()  # Ray has put its own handler in place
            cluster_watch()
            free_leaked_groups()
            at_once = num_trials_at_once(self.runtime, is_own=is_own)
            patience_s = head_patience_s(is_own=is_own)
            folder = tempfile.mkdtemp(prefix="afp-tune-")
            try:
                with guarded(patience_s):
                    self._fit(queue, first, at_once=at_once, folder=folder, patience_s=patience_s)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _fit(self, queue: JobQueue, first: Job, *, at_once: int, folder: str, patience_s: float) -> None:
        gc.disable()  # what is imported stays: the collector need not look at it now, nor later, 0.1 s a time
        from ray import tune

        from afp_ray.execution.trainable import JobTrainable
        from afp_ray.execution.tune_bridge import JobBridge, LeaveTuneError, LedgerSearcher

        gc.freeze()
        gc.enable()
        bridge = JobBridge(queue, first, runtime=self.runtime, group=self._group(), patience_s=patience_s)
        tuner = tune.Tuner(
            tune.with_resources(JobTrainable, self._resources()),
            tune_config=tune.TuneConfig(
                search_alg=LedgerSearcher(bridge),
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=at_once,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(name="study", storage_path=folder, verbose=0, callbacks=[bridge]),
        )
        for name in ("ray.tune", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # failures of trials are told by the driver
        left: BaseException | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tuner.fit()
        except (StopNowError, LeaveTuneError) as error:
            left = bridge.error or error
        del tuner
        if left is not None and not bridge.is_head_silent:
            bridge.kill_actors()
            left = left.with_traceback(None)  # its frames keep Tune alive, and Tune what it had reserved
            gc.collect()
        if left is not None:
            raise left
        if bridge.error is not None:
            raise bridge.error

    def _resources(self) -> "PlacementGroupFactory":
        """What Tune reserves: the worker itself, or next to nothing for an actor that only waits for its group."""
        from ray.tune import PlacementGroupFactory

        if self.runtime.workers_per_trial > 1:
            return PlacementGroupFactory([{"CPU": 0, "memory": 1}])  # one byte: CPUs stay free for the workers
        bundle = {"CPU": self.runtime.cpus_per_worker}
        if self.runtime.gpus_per_worker > 0:
            bundle["GPU"] = self.runtime.gpus_per_worker
        return PlacementGroupFactory([bundle])

    def _group(self) -> WorkerGroup:
        runtime = self.runtime
        return WorkerGroup(
            num_workers=runtime.workers_per_trial,
            cpus_per_worker=runtime.cpus_per_worker,
            gpus_per_worker=runtime.gpus_per_worker,
            start_s=runtime.start_s,
        )
