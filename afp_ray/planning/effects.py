"""The smallest difference to base that a planned study can find, by arm, from a spread that is given or was seen."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm, read_confirmed
from afp_ray.comparison.metric import Metric, choose, mask, too_few
from afp_ray.comparison.table import base_of
from afp_ray.comparison.totals import has_totals
from afp_ray.config import CHOICE_TASKS, StudyConfig, TrialConfig
from afp_ray.errors import UserError
from afp_ray.planning.overlap import evaluated_cells
from afp_ray.records.plans import PlannedEffect
from afp_ray.search import Arm, resolve
from afp_ray.search.arms import check_points, make_arms
from afp_ray.statistics import paired_difference, smallest_effect
from afp_ray.store import StudyPaths, list_studies, read_study

ALPHA, POWER = 0.05, 0.8
MAX_STUDIES = 5
"""Finished studies that are looked at for one that tells the spread."""


@dataclass(frozen=True, slots=True)
class Spreads:
    """What differences to base varied by.

    Attributes:
        source: whose they are, in words.
        by_arm: variance over contents of the difference of one content, by arm.
        others: the same for an arm that is not among them.
        seeds: variance over training runs of the difference of one run; null where no run was repeated.
    """

    source: str
    others: float
    seeds: float | None
    by_arm: Mapping[str, float] = field(default_factory=dict)


def given_spreads(changed: float, deviation: float | None) -> Spreads:
    """Spreads as a user states them: a pair of answers, equal or not, has at most the variance of its changes.

    Args:
        changed: share of the answers that an arm and base do not share.
        deviation: standard deviation of the difference over seeds, as a share; None leaves it out.
    """
    return Spreads("as given", changed, None if deviation is None else deviation**2)


def seen_spreads(study: StudyConfig, storage: Path) -> Spreads | None:
    """Spreads of a finished study of the same model and tasks: the one of that name, else the newest.

    Returns: None where there is none.
    """
    like = _asked(study)
    others = sorted(list_studies(storage), key=lambda paths: (paths.name != study.name, -_changed_at(paths)))
    for paths in others[:MAX_STUDIES]:
        with suppress(UserError):  # a study that cannot be read tells nothing
            if _asked(read_study(paths)) == like and (spreads := _spreads_of(paths)) is not None:
                return spreads
    return None


def _changed_at(paths: StudyPaths) -> float:
    return paths.ledger.stat().st_mtime if paths.ledger.is_file() else 0.0


def _first(study: StudyConfig, arm: Arm) -> TrialConfig:
    return resolve(arm, check_points(arm)[0], study.seeds[0])


def _asked(study: StudyConfig) -> tuple[str, tuple[str, ...]]:
    """The model and the tasks of a study's first arm."""
    config = _first(study, make_arms(study)[0])
    return config.model.name, tuple(sorted(config.evaluation.tasks))


def _spreads_of(paths: StudyPaths) -> Spreads | None:
    arms = read_confirmed(paths, split="test").arms
    bases = [arm for arm in arms if arm.method == "base"]
    by_arm, seeds = {}, []
    for arm in arms:
        base = base_of(arm, bases)
        if base is None or (measured := _spread(arm, base)) is None:
            continue
        by_arm[arm.name], over_seeds = measured
        seeds += over_seeds
    if not by_arm:
        return None
    # Few seeds tell little of their spread: all arms together tell more.
    weight = sum(degrees for _, degrees in seeds)
    pooled = sum(variance * degrees for variance, degrees in seeds) / weight if weight else None
    return Spreads(f"as in {paths.name}", float(np.mean(list(by_arm.values()))), pooled, by_arm)


def _spread(arm: ConfirmedArm, base: ConfirmedArm) -> tuple[float, list[tuple[float, int]]] | None:
    """Variance of one content, and of one run with its degrees of freedom; None where the mean is no mean of shares."""
    where = mask(Metric("mean"), arm.examples, arm.pivot)
    if not where.any() or too_few(arm, where) or has_totals(arm, where) or not arm.examples.same_as(base.examples):
        return None
    ours, theirs = choose(arm, where), choose(base, where)
    cells = {"tasks": ours.task, "languages": ours.language}
    pair = paired_difference(ours.values, theirs.values, ours.content, **cells, is_share=True, resamples=1)  # type: ignore[arg-type]
    spread, contents = pair.estimate.spread, pair.estimate.contents
    return spread.plain / contents.share, [(variance * (free + 1), free) for variance, free in spread.seeds]


def planned_effects(study: StudyConfig, arms: Sequence[Arm], spreads: Spreads) -> Iterator[PlannedEffect]:
    """The smallest effect of every arm but base; nothing where no choice task is scored outside the pivot.

    Args:
        study: what is planned.
        arms: its arms, base among them.
        spreads: what differences will vary by.
    """
    compared = [arm for arm in arms if arm.method != "base"]
    for arm in compared:
        config = _first(study, arm)
        numbers = contents_by_task(config)
        if not numbers:
            continue
        # Of the mean over tasks of the means over contents; the languages of a task share their contents.
        share = sum(1 / number for number in numbers.values()) / len(numbers) ** 2
        num_contents = sum(numbers.values())
        num_seeds = len(study.seeds) if config.training.max_steps > 0 else 1
        of_content = spreads.by_arm.get(arm.name, spreads.others)
        effect = smallest_effect(
            of_content * share,
            max(1, num_contents - len(numbers)),
            seeds=spreads.seeds or 0.0,
            num_seeds=num_seeds,
            alpha=ALPHA / len(compared),
            power=POWER,
        )
        yield PlannedEffect(
            arm=arm.name,
            effect=effect,
            power=POWER,
            alpha=ALPHA / len(compared),
            contents=num_contents,
            tasks=len(numbers),
            seeds=num_seeds,
            content_deviation=of_content**0.5,
            seed_deviation=None if spreads.seeds is None else spreads.seeds**0.5,
            source=spreads.source,
        )


def contents_by_task(config: TrialConfig) -> dict[str, int]:
    """Contents of the test rows of each choice task outside the pivot, in the language that has most."""
    numbers: dict[str, int] = {}
    pivot = config.data.pivot
    if any(task not in CHOICE_TASKS for task in config.evaluation.tasks):
        return {}  # a mean with generated text is no mean of answers
    for cell in evaluated_cells(config.evaluation, config.evaluated_languages, pivot):
        if cell.split == "test" and cell.language != pivot and cell.rows:
            contents = {str(row.get("content_id", index)) for index, row in enumerate(cell.rows)}
            numbers[cell.task] = max(numbers.get(cell.task, 0), len(contents))
    return numbers
