"""The executor that runs trials one after another in this process, without Ray."""

from afp_ray.execution.base import JobQueue
from afp_ray.execution.outcome import Outcome
from afp_ray.execution.worker import run_job
from afp_ray.records import Job


class LocalExecutor:
    """Runs jobs here; a second request to stop breaks into the running trial."""

    def run(self, queue: JobQueue) -> None:
        """Run every job of `queue` in order."""
        while isinstance(job := queue.next_job(), Job):
            queue.started(job)
            queue.check()
            with queue.stop.interruptible():  # never while the ledger is written
                outcome = run_job(queue.work(job))
            queue.ended(job, Outcome.model_validate_json(outcome or "{}"))
