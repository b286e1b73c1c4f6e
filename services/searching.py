"""Puts the search of a study together: what its trials are measured for, and the studies that it learns from."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from afp_ray.config import StudyConfig, TrialConfig
from afp_ray.errors import ConfigError
from afp_ray.ledger import replay
from afp_ray.records import SearchFront, TrialRecord, TrialResult
from afp_ray.store import StudyPaths, list_studies, read_study

if TYPE_CHECKING:  # the command line must not wait for Optuna
    from afp_ray.search import PriorStudy, StudySearch


def search_of(
    study: StudyConfig,
    storage: Path,
    fingerprint: Callable[[TrialConfig], Mapping[str, str]],
    *,
    unloadable: Collection[str] = (),
) -> "StudySearch":
    """The search of a study, which knows the finished trials of its `warm_start` studies.

    Args:
        study, storage: what is searched, and where its studies lie.
        fingerprint: as `StudySearch` takes it.
        unloadable: likewise.

    Raises: ConfigError for a study of `warm_start` that is not there or sought something else.
    """
    from afp_ray.search import StudySearch

    return StudySearch(study, fingerprint, prior=prior_studies(study, storage), unloadable=unloadable)


def prior_studies(study: StudyConfig, storage: Path) -> "tuple[PriorStudy, ...]":
    """The studies of `warm_start`, from their ledgers.

    Raises: ConfigError naming the studies that there are.
    """
    if not study.warm_start:
        return ()
    from afp_ray.search import PriorStudy

    known = {paths.name: paths for paths in list_studies(storage)}
    for name in study.warm_start:
        if name not in known:
            raise ConfigError(
                f"there is no study {name[:80]!r} under {storage} to learn from",
                where="warm_start",
                allowed=", ".join(other for other in known if other != study.name) or "none yet",
                fix="give one of these names, run that study first, or take it out",
            )
    return tuple(PriorStudy(read_study(known[name]), replay(known[name].ledger).trials) for name in study.warm_start)


def measured(study: StudyConfig) -> Callable[[TrialResult], dict[str, float]]:
    """What the driver keeps of a result beside the first objective: every metric that the study asks for."""
    from afp_ray.evaluation.objective import objective_value
    from afp_ray.search import asked_metrics

    asked = asked_metrics(study)

    def values(result: TrialResult) -> dict[str, float]:
        pivot = result.config["data"]["pivot"]
        return {metric: objective_value(result.scores, metric, pivot=pivot) for metric in asked}

    return values


def has_fronts(study: StudyConfig) -> bool:
    """Whether a search has more to tell than its best value: several objectives, or limits."""
    return bool(study.objective.also or study.constraints)


def fronts_answer(paths: StudyPaths, trials: tuple[TrialRecord, ...] | None = None) -> tuple[SearchFront, ...]:
    """What the search of each arm found; nothing where the study has one objective and no limit.

    Args:
        paths: the study.
        trials: its trials; spares the reading.
    """
    study = read_study(paths)
    if not has_fronts(study):
        return ()
    from afp_ray.search import make_arms, search_fronts

    return search_fronts(study, make_arms(study), replay(paths.ledger).trials if trials is None else trials)
