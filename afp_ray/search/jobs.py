"""Which trials of a ledger are open, and the job that a restart owes each of them."""

from pydantic import ValidationError

from afp_ray.config import TrialConfig
from afp_ray.config.trial import NO_MODEL, trial_id
from afp_ray.records import FailureClass, Job, Role, TrialRecord, TrialStatus, Until


def is_running(record: TrialRecord) -> bool:
    """Whether the trial is planned or at work; a paused one is neither."""
    return record.status in (TrialStatus.PLANNED, TrialStatus.RUNNING)


def is_open(record: TrialRecord) -> bool:
    """Whether the trial, or its test job, was planned and has not ended; a paused one waits for nobody."""
    return record.test_pending or is_running(record)


def had_no_model(record: TrialRecord) -> bool:
    """Whether the trial failed because its model could not be loaded, before it was given to any worker."""
    if record.status is not TrialStatus.FAILED:
        return False
    try:
        return trial_id(TrialConfig.model_validate(record.config), NO_MODEL) == record.trial_id
    except ValidationError:
        return False


def opened(record: TrialRecord, job: Job) -> TrialRecord:
    """A reopened trial, as if it had just been planned."""
    if job.role == "test":
        return record.model_copy(update={"test_pending": True})
    again = {"attempt": job.attempt, "until": job.until, "num_halvings": job.num_halvings}
    return record.model_copy(update={**again, "status": TrialStatus.PLANNED, "failure": None})


def continued(record: TrialRecord, until: Until | None) -> Job:
    """The job that takes a paused trial on to `until`, or to its end: no new attempt, the same one goes on."""
    return Job(
        trial_id=record.trial_id,
        arm=record.arm,
        seed=record.seed,
        role=record.role,
        config=record.config,
        params=record.params,
        attempt=record.attempt,
        until=until,
        num_halvings=record.num_halvings,
    )


def job_again(record: TrialRecord) -> Job | None:
    """The job that a restart owes a trial: left open, cancelled, or lost with its machine; None for every other."""
    failure = record.failure.failure_class if record.failure is not None else None
    is_halved = failure is FailureClass.OOM and record.num_halvings == 0
    is_lost = failure in (FailureClass.INFRA, FailureClass.PREEMPTED, FailureClass.STORAGE) or is_halved
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
        until=record.until,
        num_halvings=max(record.num_halvings, int(is_halved)),
    )
