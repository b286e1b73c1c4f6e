"""The report of a study: its page and its tables, made from the answers and written beside its ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from afp_ray.comparison.off_target import target_rates
from afp_ray.errors import AfpError
from afp_ray.ledger import replay
from afp_ray.records import Best, Comparison, StudyState
from afp_ray.redaction import redact, redact_json
from afp_ray.store import StudyPaths, read_study, write_atomic
from services.answers import best_answer, changes_answer, comparison_answer, flipped_answer
from services.curves import curve_answer
from services.service_schemas import TrainingCurve
from services.status import status_of
from services.views.formats import FORMATS, WHOLE
from services.views.gallery import ReportFacts, draw
from services.views.html import render_report
from services.views.tables import (
    incomplete_grids,
)

Answers: TypeAlias = tuple[Comparison | None, Best | None, AfpError | None]
"""Table and best configuration, or why there are none yet."""

_EVERY_STEP = 1_000_000


def answers_of(paths: StudyPaths) -> Answers:
    """What a study answers now."""
    try:
        return comparison_answer(paths.storage, [paths.name]), best_answer(paths.storage, paths.name), None
    except AfpError as error:
        return None, None, error


def report_page(paths: StudyPaths) -> str:
    """The page of a study as it is now."""
    comparison, best, _ = answers_of(paths)
    return render_report(_facts(paths, replay(paths.ledger), comparison, best))


def write_reports(
    paths: StudyPaths,
    state: StudyState | None = None,
    *,
    answers: Answers | None = None,
    figures: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Write the HTML report and, once arms are confirmed, the tables beside it; each file whole or not at all.

    Args:
        paths: the study.
        state: of its ledger; spares the reading.
        answers: what `answers_of` gives; spares the comparison.
        figures: folder for every picture of the page as SVG and PDF; None writes none.
        say: called with a line on tables that there are not yet.
    Returns: the files.
    """
    state = state or replay(paths.ledger)
    comparison, best, error = answers or answers_of(paths)
    facts = _facts(paths, state, comparison, best)
    write_atomic(paths.report, render_report(facts))
    files = [paths.report]
    if comparison is not None:
        for suffix, render in FORMATS.items():
            text = render(comparison, WHOLE)
            text = redact_json(text, indent=2) if suffix == "json" else redact(text)
            write_atomic(paths.comparison(suffix), text)
            files.append(paths.comparison(suffix))
    elif error is not None:
        say(f"note   the report has no table yet: {str(error).splitlines()[0]}")
    if figures is not None:
        from services.views.figures import write_figures  # matplotlib takes a second to load

        files += write_figures(draw(facts).all(), figures)
    return files


def _facts(paths: StudyPaths, state: StudyState, comparison: Comparison | None, best: Best | None) -> ReportFacts:
    """What the report of a study says, read from its answers and from the files of its confirmed trials."""
    return ReportFacts(
        study=read_study(paths),
        status=status_of(paths, state),
        state=state,
        comparison=comparison,
        best=best,
        changes=changes_answer(paths, comparison) if comparison else (),
        incomplete=incomplete_grids(paths, state.trials),
        curves=_curves(paths, comparison) if comparison else {},
        flipped=flipped_answer(paths, comparison) if comparison else {},
        off_target=target_rates(paths, comparison) if comparison else {},
    )


def _curves(paths: StudyPaths, comparison: Comparison) -> dict[str, list[TrainingCurve]]:
    """The curve of every confirmed trial, by arm; pictures thin them out metric by metric."""
    return {
        arm.arm: [curve_answer(paths.trial(trial).curve, trial, max_points=_EVERY_STEP) for trial in arm.trials]
        for arm in comparison.arms
    }
