"""The HTML report of a study: one file that opens without a network, with tables and drawings inside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from afp_ray import __version__
from afp_ray.comparison.representation import Change
from afp_ray.config import StudyConfig, flatten
from afp_ray.records import Best, Comparison, ConstraintCheck, StudyState, TrialStatus, signed_points
from afp_ray.redaction import redact
from services.schemas import StudyStatus
from services.views.grid import FAMILY, RAW, Grid, interval, scored
from services.views.published import LEGEND, published_lines
from services.views.representation import NUM_COLOURS, figures
from services.views.tables import (
    MARKS,
    ablation_grid,
    cell_grid,
    cost_words,
    finding_grids,
    front_grids,
    representation_grid,
)

_TEMPLATES = Path(__file__).parent / "templates"
MAX_TRIALS = 2000


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One line of a forest plot, in pixels.

    Attributes:
        label, text: what stands left and right of the line.
        y: height of the line.
        x, low, high: estimate and interval; interval null where there is none.
        is_significant: drawn filled.
    """

    label: str
    text: str
    y: int
    x: float
    low: float | None
    high: float | None
    is_significant: bool


@dataclass(frozen=True, slots=True)
class Forest:
    """Differences to base by language, drawn to one scale."""

    rows: list[ForestRow]
    zero: float
    ticks: list[tuple[float, str]]
    height: int
    width: int = 720


def render_report(
    study: StudyConfig,
    status: StudyStatus,
    state: StudyState,
    comparison: Comparison | None,
    best: Best | None,
    changes: Sequence[Change] = (),
    incomplete: Mapping[str, Grid] = MappingProxyType({}),
) -> str:
    """The whole report.

    Args:
        study, status, state: what was asked and how far it is.
        comparison, best: the answers; None while no arm is confirmed.
        changes: what the arms did to sentence representations.
        incomplete: scores of failed trials that could not score everything, by id of the trial.
    Returns: HTML that loads nothing and runs no script.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    trials = state.trials[:MAX_TRIALS]
    page = environment.get_template("report.html").render(
        study=study,
        status=status,
        comparison=comparison,
        best=best,
        headline=_headline(best) if best else "",
        check_words=check_words,
        cost_words=cost_words,
        config=sorted(flatten(best.config).items()) if best else [],
        ablation=ablation_grid(comparison) if comparison else None,
        cells=cell_grid(comparison) if comparison else None,
        representation=representation_grid(comparison.representation) if comparison else None,
        figures=figures(changes, best.arm if best else None),
        num_colours=NUM_COLOURS,
        chance=_chance(comparison),
        findings=[*(finding_grids(comparison) if comparison else []), *(front_grids(best.fronts) if best else [])],
        published=published_lines(comparison) if comparison else [],
        legend=LEGEND,
        forest=forest(best) if best else None,
        marks=MARKS,
        family=FAMILY,
        trials=trials,
        num_hidden=len(state.trials) - len(trials),
        failures=[trial for trial in state.trials if trial.status is TrialStatus.FAILED],
        incomplete=incomplete,
        version=__version__,
    )
    return redact(page)


def _headline(best: Best) -> str:
    """The best arm and its score."""
    metric = best.objective.split()[1]
    unit = "" if metric in RAW else " %"
    ends = best.score.ci95
    interval_text = f" [{scored(ends[0], metric)}, {scored(ends[1], metric)}]" if ends else ""
    note = f" ({best.score.note})" if best.score.note else ""
    return f"{best.arm}: {scored(best.score.mean, metric)}{unit}{interval_text}{note}"


def check_words(name: str, check: ConstraintCheck) -> str:
    """A limit and whether it was kept; changes of a score are in points, as everywhere."""
    if name == "pivot_drop":
        shown = f" {interval(check.ci95)}" if check.ci95 else ""
        words = f"{name} = {signed_points(check.value)} points{shown} (limit {signed_points(check.limit)} points)"
    else:
        words = f"{name} = {check.value:.4g} (limit {check.limit:.4g})"
    return f"{words}: {'kept' if check.ok else 'not kept'}"


def _chance(comparison: Comparison | None) -> str:
    """What the language probe is to be read against, in words."""
    values = {row.language_probe_chance for row in comparison.representation} if comparison else set()
    texts = sorted({f"{100 * value:.0f} %" for value in values if value is not None})
    return f", and chance is {' or '.join(texts)}" if texts else ""


def forest(best: Best) -> Forest | None:
    """The differences of the best configuration to base, by language; None without a base."""
    languages = [(code, row) for code, row in best.per_language.items() if row.delta is not None]
    if not languages:
        return None
    ends = [
        100 * value
        for _, row in languages
        for value in (row.delta, *(row.ci95_holm or row.ci95 or ()))
        if value is not None
    ]
    reach: float = max(1.0, *(abs(end) for end in ends)) * 1.08
    left, right = 90.0, 520.0

    def x(points: float) -> float:
        return round(left + (points + reach) / (2 * reach) * (right - left), 1)

    rows = []
    for index, (code, row) in enumerate(languages):
        delta = 100 * (row.delta or 0.0)
        bounds = row.ci95_holm or row.ci95
        text = signed_points(row.delta or 0.0) + (f" {interval(bounds)}" if bounds else "")
        low, high = (x(100 * bounds[0]), x(100 * bounds[1])) if bounds else (None, None)
        rows.append(ForestRow(code, text, 24 + 26 * index, x(delta), low, high, row.significant))
    step = _nice_step(reach)
    ticks = [
        (x(step * number), f"{step * number:+g}" if number else "0")
        for number in range(-3, 4)
        if abs(step * number) <= reach
    ]
    return Forest(rows, x(0), ticks, 24 + 26 * len(languages) + 24)


def _nice_step(reach: float) -> float:
    """A round distance between ticks, so that two or three stand on each side."""
    candidates: Sequence[float] = (0.5, 1, 2, 5, 10, 20, 50)
    return float(next((step for step in candidates if reach / step <= 3.5), 100))
