"""Answers for programs and notebooks: the same records, which give data frames and show themselves."""

import contextlib
import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from pydantic import BaseModel

from afp_ray import records
from afp_ray.records import TrialRecord, plans
from afp_ray.redaction import redact
from services import schemas
from services.output import plain
from services.views.formats import to_csv
from services.views.grid import Grid, plain_grid
from services.views.results import show_best, show_eval
from services.views.tables import MARKS, ablation_grid, finding_grids, measured, representation_grid
from services.views.text import show_plan, show_status

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]

_Answer = TypeVar("_Answer", bound=BaseModel)
_COUNTS = ("n_seeds", "shots", "n")
_NUMBERS = ("mean", "delta", "low", "high", "p", "p_holm", "demo_deviation", *_COUNTS)
MAX_SHOWN = 200
"""Trials that a notebook shows; the frame has them all."""


class Shown(BaseModel):
    """What every answer of the Python face can do."""

    @classmethod
    def of(cls, answer: BaseModel) -> Self:
        """The answer with what it can do here."""
        return cls(**dict(answer))


class Comparison(records.Comparison, Shown):
    """The ablation table."""

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each arm and cell, as `afp compare --format csv` writes it: accuracies in [0, 1].

        `task` is `mean` and `pivot_mean` for the means over tasks, languages and shots; `low` and `high` are the ends
        of the 95 % interval of `delta`, the difference to base.
        """
        import pandas

        rows = list(csv.DictReader(io.StringIO(to_csv(self))))
        for row in rows:
            row["arm"] = re.sub("^'(?=[=+@-])", "", row["arm"])  # the mark keeps a spreadsheet from reading a formula
        frame = pandas.DataFrame(rows)
        for name in _NUMBERS:
            frame[name] = [float(text) if text else float("nan") for text in frame[name]]
        return frame.astype(dict.fromkeys(_COUNTS, "Int64"))  # a mean has no number of shots

    def _repr_html_(self) -> str:
        title = f"{', '.join(self.studies)}: {measured(self)} in % on {self.split}, differences in points"
        grids = [(title, ablation_grid(self))]
        if self.representation:
            grids.append(("Sentence representations on held-out pairs", representation_grid(self.representation)))
        lines = [*self.verdicts, *(f"warning: {line}" for line in self.warnings if line not in self.verdicts)]
        page = _page([*grids, *finding_grids(self)], [MARKS, *lines])
        return page if self.headline is None else f"<p>{_escaped(self.headline.text)}</p>\n{page}"


class Best(records.Best, Shown):
    """The best configuration of a study."""

    def _repr_html_(self) -> str:
        return _printed(show_best, self)


class Status(schemas.StudyStatus, Shown):
    """How far a study is."""

    def _repr_html_(self) -> str:
        return _printed(show_status, self)


class Plan(plans.StudyPlan, Shown):
    """What a study would do."""

    def _repr_html_(self) -> str:
        return _printed(lambda answer: show_plan(answer, answer.study), self)


class Evaluation(schemas.EvalAnswer, Shown):
    """The scores of a model beside what they are read against."""

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each score; `base`, `delta`, `low`, `high` and `p_holm` where there is another model."""
        import pandas

        rows = []
        for cell in self.cells:
            difference = cell.vs_base
            low, high = (difference and difference.ci95) or (None, None)
            rows.append(
                {
                    **cell.model_dump(exclude={"vs_base", "published"}),
                    "delta": difference.delta if difference else None,
                    "low": low,
                    "high": high,
                    "p_holm": difference.p_holm if difference else None,
                    **{f"published {name}": value for name, value in cell.published.items()},
                }
            )
        return pandas.DataFrame(rows)

    def _repr_html_(self) -> str:
        return _printed(show_eval, self)


class Trials(Sequence[TrialRecord]):
    """The trials of a study.

    Args:
        study: its name.
        records: as replayed from its ledger.
    """

    def __init__(self, study: str, records: Iterable[TrialRecord]) -> None:
        self.study, self._records = study, tuple(records)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: int) -> TrialRecord: ...
    @overload
    def __getitem__(self, index: slice) -> "Trials": ...

    def __getitem__(self, index: int | slice) -> "TrialRecord | Trials":
        """A trial, or some of them."""
        picked = self._records[index]
        return picked if isinstance(picked, TrialRecord) else Trials(self.study, picked)

    def __repr__(self) -> str:
        return f"<{len(self)} trials of {self.study}>"

    def to_frame(self) -> "pandas.DataFrame":
        """One row for each trial, by its id: what it is, its objective, further metrics, sampled fields, cost."""
        import pandas

        frame = pandas.DataFrame([_trial_row(trial) for trial in self])
        return frame.set_index("trial_id") if len(frame) else frame

    def _repr_html_(self) -> str:
        shown = [{key: _text(value) for key, value in _trial_row(trial).items()} for trial in self[:MAX_SHOWN]]
        header = list(dict.fromkeys(key for row in shown for key in row if key not in _NOT_SHOWN))
        grid = plain_grid(header, [[row.get(key, "-") for key in header] for row in shown])
        more = [f"{len(self) - len(shown)} more: see to_frame()"] if len(self) > len(shown) else []
        return _page([(repr(self).strip("<>"), grid)], more)


_NOT_SHOWN = ("planned_at", "started_at", "ended_at", "note")


def _trial_row(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial_id": trial.trial_id,
        "arm": trial.arm,
        "seed": trial.seed,
        "role": trial.role,
        "status": str(trial.status),
        "attempt": trial.attempt,
        "objective": trial.objective,
        **trial.values,
        **trial.params,
        "gpu_hours": trial.gpu_hours,
        "failure": f"{trial.failure.failure_class}: {trial.failure.message}" if trial.failure else None,
        "planned_at": trial.planned_at,
        "started_at": trial.started_at,
        "ended_at": trial.ended_at,
        "note": trial.note,
    }


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _printed(show: Callable[[_Answer], None], answer: _Answer) -> str:
    """What the terminal would show, as it stands."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        show(answer)
    return f"<pre>{html.escape(shown.getvalue())}</pre>"


def _page(grids: Iterable[tuple[str, Grid]], lines: Iterable[str]) -> str:
    """Tables under their titles, and sentences under them; nothing of the data is read as markup."""
    items = "".join(f"<li>{_escaped(line)}</li>" for line in lines)
    return "\n".join([*(_table(title, grid) for title, grid in grids), f"<ul>{items}</ul>" if items else ""])


def _table(title: str, grid: Grid) -> str:
    head = "".join(f"<th>{_escaped(name)}</th>" for name in grid.header)
    rows = []
    for row, marks in zip(grid.rows, grid.is_best, strict=True):
        cells = (
            f"<b>{_escaped(cell)}</b>" if is_best else _escaped(cell) for cell, is_best in zip(row, marks, strict=True)
        )
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<p><b>{_escaped(title)}</b></p>{table}"


def _escaped(text: str) -> str:
    return html.escape(plain(redact(text)))
