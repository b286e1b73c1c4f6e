"""The HTML report of a study: one file that opens without a network, with tables and drawings inside it."""

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from afp_ray import __version__
from afp_ray.config import flatten
from afp_ray.records import Best, Comparison, ConstraintCheck, TrialStatus, signed_points
from afp_ray.redaction import redact
from services.views.blocks import Block, block, changed_grid, off_target_grid, task_grid, tasks_of, text_columns
from services.views.gallery import ReportFacts, draw
from services.views.grid import FAMILY, RAW, interval, scored
from services.views.pictures import Picture, real_minus, style_sheet, to_svg
from services.views.published import LEGEND, published_lines
from services.views.tables import (
    MARKS,
    ablation_grid,
    cost_words,
    finding_grids,
    front_grids,
    measured,
    representation_grid,
    trial_grid,
)

_TEMPLATES = Path(__file__).parent / "templates"
_SCRIPT = (_TEMPLATES / "report.js").read_text("utf-8")
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; script-src 'sha256-{_SCRIPT_HASH}'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'"
)
"""What the page may do: show itself, and run the one script that is in it."""
MAX_TRIALS = 2000


def render_report(facts: ReportFacts) -> str:
    """The whole report: HTML that loads nothing, and whose one script sorts, copies and saves what is shown."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"minus": real_minus, "svg": _svg, "text_columns": text_columns}
    comparison, best, state = facts.comparison, facts.best, facts.state
    trials = state.trials[:MAX_TRIALS]
    page = environment.get_template("report.html").render(
        policy=POLICY,
        script=Markup(_SCRIPT),  # noqa: S704  # a file of this package
        style=Markup(style_sheet()),  # noqa: S704  # made of constants
        study=facts.study,
        status=facts.status,
        comparison=comparison,
        best=best,
        gallery=draw(facts),
        headline=_headline(best) if best else "",
        check_words=check_words,
        cost_words=cost_words,
        config=sorted(flatten(best.config.model_dump(mode="json")).items()) if best else [],
        ablation=block("ablation", ablation_grid(comparison)) if comparison else None,
        tasks=[block(task, task_grid(comparison, task)) for task in tasks_of(comparison)] if comparison else [],
        representation=_representation(comparison),
        chance=_chance(comparison),
        findings=_findings(comparison, best),
        published=[(words, block("published", grid)) for words, grid in published_lines(comparison)]
        if comparison
        else [],
        legend=LEGEND,
        marks=MARKS,
        measured=measured(comparison) if comparison else "",
        family=FAMILY,
        trials=block("trials", trial_grid(trials)),
        num_hidden=len(state.trials) - len(trials),
        failures=[trial for trial in state.trials if trial.status is TrialStatus.FAILED],
        incomplete={trial: block("incomplete", grid) for trial, grid in facts.incomplete.items()},
        flipped=[(arm, block("flipped", changed_grid(own)), own) for arm, own in facts.flipped.items()],
        off_target=block("off-target", off_target_grid(facts.off_target)) if facts.off_target else None,
        block=block,
        version=__version__,
    )
    return redact(page)


def _svg(picture: Picture) -> Markup:
    return Markup(to_svg(picture))  # noqa: S704  # every word in it is escaped there


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


def _representation(comparison: Comparison | None) -> Block | None:
    if comparison is None or not comparison.representation:
        return None
    return block("representations", representation_grid(comparison.representation))


def _findings(comparison: Comparison | None, best: Best | None) -> list[tuple[str, Block]]:
    grids = [*(finding_grids(comparison) if comparison else []), *(front_grids(best.fronts) if best else [])]
    return [(title, block(title.partition(":")[0].partition(";")[0], grid)) for title, grid in grids]
