"""What the service alone answers with; what the command line answers with as well is in `schemas`."""

from afp_ray.config import StrictModel
from afp_ray.records import Cheapest, ParetoPoint, SearchFront


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
