"""What the report of a study is made from, and every picture of it, by section: the page and a paper show the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from afp_ray.comparison.representation import Change
from afp_ray.config import StudyConfig
from afp_ray.records import Best, Comparison, StudyState, TrialExamples
from services.schemas import StudyStatus
from services.service_schemas import TrainingCurve
from services.views.grid import Grid
from services.views.pictures import Picture
from services.views.representation import Figure, figures
from services.views.score_pictures import (
    colours_of,
    cost_picture,
    forest_pictures,
    heat_pictures,
    retrieval_picture,
    summary_picture,
)
from services.views.search_pictures import search_pictures
from services.views.training_pictures import curve_pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """What a report says.

    Attributes:
        study, status, state: what was asked and how far it is.
        comparison, best: the answers; None while no arm is confirmed.
        changes: what the arms did to sentence representations.
        incomplete: scores of failed trials that could not score everything, by id of the trial.
        curves: of the confirmed trials, by arm.
        flipped: by arm, examples that its first seed and base answered differently.
        off_target: where answers were generated, by arm the share that is in the asked language, by language.
    """

    study: StudyConfig
    status: StudyStatus
    state: StudyState
    comparison: Comparison | None
    best: Best | None
    changes: Sequence[Change] = ()
    incomplete: Mapping[str, Grid] = field(default_factory=dict)
    curves: Mapping[str, Sequence[TrainingCurve]] = field(default_factory=dict)
    flipped: Mapping[str, TrialExamples] = field(default_factory=dict)
    off_target: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gallery:
    """The pictures of a report; an empty list where there is nothing to draw.

    Attributes:
        first: the answer at a glance.
        forests, heats: differences to base, arm by arm.
        curves: of the confirmed trainings.
        search: history, searched fields and their importance.
        cost: score against cost.
        representations: projections and layers, that of the arm that moved most first and open.
    """

    first: list[Picture]
    forests: list[Picture]
    heats: list[Picture]
    curves: list[Picture]
    search: list[Picture]
    cost: list[Picture]
    representations: list[Figure]

    def all(self) -> list[Picture]:
        """Every picture, in the order of the page."""
        drawn = [
            picture for figure in self.representations for picture in (figure.projection, figure.layers) if picture
        ]
        return [*self.first, *self.forests, *self.heats, *drawn, *self.curves, *self.search, *self.cost]


def draw(facts: ReportFacts) -> Gallery:
    """Every picture of a report."""
    comparison = facts.comparison
    shown = figures(facts.changes, most_moved(comparison))
    if comparison is None:
        return Gallery([], [], [], [], [], [], shown)
    colours = colours_of(comparison)
    return Gallery(
        first=[picture for picture in (retrieval_picture(comparison), summary_picture(comparison)) if picture],
        forests=forest_pictures(comparison),
        heats=heat_pictures(comparison),
        curves=curve_pictures(facts.curves, colours),
        search=search_pictures(facts.study, facts.state, comparison.importances, colours),
        cost=[picture for picture in (cost_picture(comparison),) if picture],
        representations=shown,
    )


def most_moved(comparison: Comparison | None) -> str | None:
    """The arm whose retrieval differs most from that of its base; None where none has a base."""
    rows = [row for row in comparison.representation if not row.language and row.before] if comparison else []
    moved = {row.arm: abs(row.retrieval_at_1 - row.before[0]) for row in rows if row.before}
    return max(moved, key=lambda arm: moved[arm], default=None)
