"""Which trials of a ledger are open, and the job that a restart owes each of them."""

from afp_ray.records import FailureClass, Job, Role, TrialRecord, TrialStatus


def is_open(record: TrialRecord) -> bool:
    """Whether the trial, or its test job, was planned and has not ended."""
    return record.test_pending or not record.status.is_terminal


def opened(record: TrialRecord, job: Job) -> TrialRecord:
    """A reopened trial, as if it had just been planned."""
    if job.role == "test":
        return record.model_copy(update={"test_pending": True})
    return record.model_copy(update={"status": TrialStatus.PLANNED, "attempt": job.attempt, "failure": None})


def job_again(record: TrialRecord) -> Job | None:
    """The job that a restart owes a trial: left open, cancelled, or lost with its machine; None for every other."""
    is_lost = record.failure is not None and record.failure.failure_class is FailureClass.INFRA
    if record.status is TrialStatus.DONE:
        if not record.test_pending and not is_lost:
            return None
        role: Role = "test"
    elif record.status in (TrialStatus.PLANNED, TrialStatus.RUNNING, TrialStatus.CANCELLED) or is_lost:
        role = record.role
    else:
        return None
    return Job(
        trial_id=record.trial_id,
        arm=record.arm,
        seed=record.seed,
        role=role,
        config=record.config,
        params=record.params,
        attempt=record.attempt + (record.status in (TrialStatus.RUNNING, TrialStatus.CANCELLED) or is_lost),
    )
