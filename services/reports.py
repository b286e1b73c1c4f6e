"""The report of a study: its page and its tables, made from the answers and written beside its ledger."""

from pathlib import Path

from afp_ray.errors import AfpError
from afp_ray.ledger import replay
from afp_ray.records import Best, Comparison, StudyState
from afp_ray.redaction import redact, redact_json
from afp_ray.store import StudyPaths, read_study, write_atomic
from services.answers import best_answer, changes_answer, comparison_answer
from services.output import note
from services.status import status_of
from services.views.formats import FORMATS
from services.views.tables import (
    incomplete_grids,
)


def answers_of(paths: StudyPaths) -> tuple[Comparison | None, Best | None, AfpError | None]:
    """Table and best configuration, or why there are none yet."""
    try:
        return comparison_answer(paths.storage, [paths.name]), best_answer(paths.storage, paths.name), None
    except AfpError as error:
        return None, None, error


def write_reports(paths: StudyPaths, state: StudyState | None = None, *, quiet: bool = False) -> list[Path]:
    """Write the HTML report and, once arms are confirmed, the tables beside it; each file whole or not at all."""
    from services.views.html import render_report

    state = state or replay(paths.ledger)
    comparison, best, error = answers_of(paths)
    found = changes_answer(paths, comparison) if comparison is not None else []
    parts = incomplete_grids(paths, state.trials)
    page = render_report(read_study(paths), status_of(paths, state), state, comparison, best, found, incomplete=parts)
    write_atomic(paths.report, page)
    written = [paths.report]
    if comparison is not None:
        for suffix, render in FORMATS.items():
            text = render(comparison)
            text = redact_json(text, indent=2) if suffix == "json" else redact(text)
            write_atomic(paths.comparison(suffix), text)
            written.append(paths.comparison(suffix))
    elif error is not None and not quiet:
        note(f"note   the report has no table yet: {str(error).splitlines()[0]}")
    return written
