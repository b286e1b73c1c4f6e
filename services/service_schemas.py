"""What the service alone answers with; what the command line answers with as well is in `schemas`."""

from typing import Any, Literal

from afp_ray.config import StrictModel
from afp_ray.records import Cheapest, ParetoPoint, SearchFront
from services.schemas import StudyStatus


class Pareto(StrictModel):
    """`GET /v1/studies/{name}/pareto`: quality against cost."""

    study: str
    objective: str
    """The metric of `points`, with its direction."""
    points: tuple[ParetoPoint, ...] = ()
    """Every confirmed arm, cheapest first."""
    cheapest: Cheapest | None = None
    """The cheapest arm that is not significantly worse; null where costs are not compared."""
    cost_note: str = ""
    """Why costs are not compared; empty where they are."""
    fronts: tuple[SearchFront, ...] = ()
    """The search of each arm; empty where the study has one objective and no constraint."""


class TrainingCurve(StrictModel):
    """`GET /v1/studies/{name}/trials/{trial_id}/curve`: metrics of a training by step."""

    trial_id: str
    total: int
    """Steps that were written down; a training of more than about 2,000 steps leaves some out."""
    steps: tuple[int, ...] = ()
    """Steps done, ascending; the first and the last are among them."""
    metrics: dict[str, tuple[float | None, ...]] = {}
    """For each metric a value per step of `steps`; null where the step has none."""


class Submitted(StrictModel):
    """`POST /v1/studies`: a study that was begun, or that has been there."""

    study: str
    study_hash: str
    state: Literal["started", "starting", "running", "complete"]
    """`starting`: its driver still checks it; `running`: it was at work already; `complete`: nothing was started."""
    job: str | None = None
    """The job of the cluster that runs it; null for a driver on the service's own machine."""
    status: StudyStatus | None = None
    """Null until its ledger is there."""


class Stopped(StrictModel):
    """`DELETE /v1/studies/{name}`: who was asked to stop; results stay."""

    study: str
    asked: dict[str, Any] | None
    """Pid and host of the driver, which lets running trials finish; null where nobody drives the study."""
