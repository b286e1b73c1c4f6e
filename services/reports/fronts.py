"""The table of an arm's search front: every objective, the limited metrics and the sampled values of its trials."""

from collections.abc import Sequence

from afp_ray.records import SearchFront
from services.reports.grid import Grid, plain_grid


def front_grids(fronts: Sequence[SearchFront]) -> list[tuple[str, Grid]]:
    """Title and table of every arm that has a front."""
    return [
        (f"{front.arm}: front of the search on validation ({', '.join(front.objectives)})", front_grid(front))
        for front in fronts
        if front.points
    ]


def front_grid(front: SearchFront) -> Grid:
    """Trials that no other dominates, the best first objective first; the first one is the one that is confirmed."""
    metrics = list(dict.fromkeys(name for point in front.points for name in (*point.values, *point.limited)))
    fields = list(dict.fromkeys(name for point in front.points for name in point.params))
    rows = [
        [
            point.trial_id,
            *(_number({**point.limited, **point.values}.get(name)) for name in metrics),
            *(_text(point.params.get(name)) for name in fields),
            "yes" if point.is_chosen else "",
        ]
        for point in front.points
    ]
    return plain_grid(["trial", *metrics, *fields, "chosen"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
