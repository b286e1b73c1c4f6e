"""What a trial is asked for, where it runs, and the form in which a driver sends both to the process of a worker."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from afp_ray.config import Split, TrainingRuntime, TrialConfig
from afp_ray.config.base import StrictModel
from afp_ray.records.trials import Job, Until
from afp_ray.reporter import Reporter, SilentReporter


class TrialRequest(StrictModel):
    """What one trial is asked for."""

    config: TrialConfig
    """Resolved: nothing in it is searched for any more."""
    trial_id: str
    """Content address of the configuration and of what it points to."""
    splits: tuple[Split, ...]
    """To score; those that a stored result has are not scored again."""
    until: Until | None = None
    """Train to this rung alone and score validation there: the result is PAUSED, and the next call goes on from the
    state that this one leaves. A training that ends before the rung gives an ordinary result. Null trains to the end.
    """


def _allow() -> None:
    """The fence of a process that nothing can take the place of."""


@dataclass(frozen=True, slots=True)
class Host:
    """Where a trial runs and who hears of it; nothing here changes a score beyond the rounding of floats.

    Attributes:
        reporter: hears of progress.
        device: "auto" takes a GPU where there is one.
        runtime: memory, checkpoints and watching.
        num_threads: of torch; None leaves torch's choice.
        stop: asked at every step of training; true saves what is done, for a later attempt to go on with.
        fence: called before a checkpoint or result is written; raises when this attempt may write no more.
        caches_scores: take what the very same weights answered before from the cache, and keep what they answer now;
            `AFP_CACHE_SCORES=0` says no for all.
    """

    reporter: Reporter = field(default_factory=SilentReporter)
    device: str = "auto"
    runtime: TrainingRuntime = field(default_factory=TrainingRuntime)
    num_threads: int | None = None
    stop: Callable[[], bool] | None = None
    fence: Callable[[], None] = _allow
    caches_scores: bool = True


class WorkerGroup(StrictModel):
    """The processes that share one trial on a cluster, and what each of them is given."""

    num_workers: int = 1
    cpus_per_worker: float
    gpus_per_worker: float
    start_s: float | None
    """Seconds in which all of them must have started; null waits for ever."""


class Work(StrictModel):
    """A job as a driver hands it to the process that runs it; JSON where that is another process."""

    run_trial: str
    """The `RunTrial`, as `module:function`."""
    job: Job
    folder: Path
    """Of the trial."""
    cwd: Path
    """Of the driver, from which relative paths of the configuration are read."""
    runtime: TrainingRuntime
    num_threads: int
    token: str
    """Of the driver, by which a worker knows that its attempt is still wanted."""
    hub: tuple[tuple[str, str | None, str, str | None], ...]
    """Models that the driver has looked up: name, revision, commit, folder."""
    group: WorkerGroup | None = None
    """Null for the driver's own process."""

    def to_json(self) -> str:
        """The JSON of it; a folder whose name is no UTF-8 is escaped, which pydantic's own JSON refuses."""
        return json.dumps(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> "Work":
        """What `to_json` gave."""
        return cls.model_validate(json.loads(text))

    @property
    def num_workers(self) -> int:
        """Processes that share the trial."""
        return 1 if self.group is None else self.group.num_workers

    @property
    def device(self) -> str:
        """A GPU is taken where there is one, on a cluster only where it was asked for."""
        return "cpu" if self.group is not None and self.group.gpus_per_worker == 0 else "auto"
