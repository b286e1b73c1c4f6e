"""The best configuration and the comparison, computed once for command line and API, so that both give one object."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from afp_ray.comparison import best, check_requirements, compare
from afp_ray.comparison.examples import Answered, Choice, answered_examples
from afp_ray.comparison.representation import Change, changes
from afp_ray.comparison.table import base_of
from afp_ray.errors import ConfigError, DataError, UserError
from afp_ray.ledger import replay
from afp_ray.planning.check import cached_fingerprints
from afp_ray.records import ArmRow, Best, Comparison, Requirement, TrialExamples
from afp_ray.search import StudySearch, make_arms, prior_studies
from afp_ray.store import StudyPaths, read_result, read_study
from afp_ray.tracking.location import find_run
from services.answer_cache import cached_answer
from services.status import fronts_answer
from services.studies import paths_of

FLIPPED_PER_LANGUAGE = 2
LIMIT_FIX = "loosen the constraint (afp resume --allow-drift), widen `tune`, or raise budget.trials"


def best_answer(
    storage: Path,
    name: str,
    *,
    metric: str | None = None,
    language: str | None = None,
    under: Mapping[str, float] | None = None,
    max_forgetting: float | None = None,
) -> Best:
    """The best configuration of a study, with the MLflow run that shows its first seed."""
    paths = paths_of(storage, name)
    for limit, value in (under or {}).items():
        if not math.isfinite(value):
            raise ConfigError(f"{limit}={value} is no limit", where="under", fix="write a number, as in gpu_hours=2")
    limits = {"metric": metric, "language": language, "under": dict(under or {}), "max_forgetting": max_forgetting}

    def compute() -> Best:
        return best(paths, metric=metric, language=language, under=under, max_forgetting=max_forgetting)

    try:
        answer = cached_answer(paths, {"best": limits}, compute, Best)
    except DataError as error:
        verdicts = [front.verdict for front in fronts_answer(paths) if not front.points and front.num_scored]
        if not verdicts:
            raise
        raise DataError("\n".join([error.problem, *verdicts]), where=error.where, fix=LIMIT_FIX) from error
    fronts = fronts_answer(paths)
    warnings = (*answer.warnings, *(front.verdict for front in fronts if not front.points))
    update = {"mlflow_run_id": find_run(paths, answer.trials[0]), "fronts": fronts, "warnings": warnings}
    return answer.model_copy(update=update)


def comparison_answer(storage: Path, names: Sequence[str]) -> Comparison:
    """The ablation table of one or more studies."""
    paths = [paths_of(storage, name) for name in names]
    comparison = compare(*paths)
    warnings = [line for study in paths for line in _arms_of_others(study)]
    return comparison.model_copy(update={"warnings": (*comparison.warnings, *warnings)}) if warnings else comparison


def _arms_of_others(paths: StudyPaths) -> Iterator[str]:
    """Arms that have no row of the table, since each trial of theirs is one of another arm."""
    study, state = read_study(paths), replay(paths.ledger)
    having = {trial.arm for trial in state.trials}
    lacking = [arm.name for arm in make_arms(study) if arm.name not in having]
    if not lacking or not state.is_complete:
        return
    try:
        twins = StudySearch(study, cached_fingerprints(study), prior=prior_studies(study, paths.storage)).twins()
    except UserError:  # a model or a file of its data is not on this machine
        twins = {}
    for name in lacking:
        if name in twins:
            yield f"arm {name} is the same trial as {twins[name]}, whose row stands for both"
        else:
            yield f"arm {name} has no trials of its own, so it has no row"


def changes_answer(paths: StudyPaths, comparison: Comparison) -> list[Change]:
    """What the arms of a study did to sentence representations, by layer and drawn."""
    return changes(paths, comparison, base_of)


def flipped_answer(paths: StudyPaths, comparison: Comparison) -> dict[str, TrialExamples]:
    """Of each arm that has a base: a few examples per language that the first seeds of both answered differently."""
    bases = [arm for arm in comparison.arms if arm.is_base]
    choice = Choice(comparison.split, is_flipped=True, per_language=FLIPPED_PER_LANGUAGE)
    pairs = [(arm, base_of(arm, bases)) for arm in comparison.arms]
    return {
        arm.arm: answered_examples(_answered(paths, arm), _answered(paths, base), choice)
        for arm, base in pairs
        if base is not None
    }


def _answered(paths: StudyPaths, arm: ArmRow) -> Answered:
    files = paths.trial(arm.trials[0])
    return Answered(arm.arm, read_result(files.result), files)


def requirement_answer(storage: Path, names: Sequence[str], texts: Sequence[str]) -> list[Requirement]:
    """Whether each statement about two arms holds: `afp > base`."""
    return check_requirements([paths_of(storage, name) for name in names], texts)
