"""From scores to the one number that a study searches for."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Literal

from afp_ray.config import DIRECTIONS, WITHIN, EvaluationConfig
from afp_ray.errors import ConfigError
from afp_ray.records import Score

REPRESENTATION_METRICS = ("retrieval@1", "alignment", "uniformity")


def allowed_metrics(config: EvaluationConfig, *, languages: Sequence[str], pivot: str) -> list[str]:
    """Names that `objective_value` can compute from the scores of `config`."""
    others = [language for language in languages if language != pivot]
    names = _task_metrics(scored_languages(config, languages=languages, pivot=pivot), pivot)
    if config.representation is not None and others:
        names += REPRESENTATION_METRICS
    return names


def scored_languages(config: EvaluationConfig, *, languages: Sequence[str], pivot: str) -> dict[str, Sequence[str]]:
    """The languages of every choice task and every direction of a generation task."""
    scored: dict[str, Sequence[str]] = {}
    scored |= {task: config.languages_of(task, languages) for task in config.choice_tasks}
    side = config.generation.pivot or pivot
    for task, directions in DIRECTIONS.items():
        for name in (name for name in directions if name in config.directions):
            scored[name] = [code for code in config.languages_of(task, languages) if name in WITHIN or code != side]
    return scored


def _task_metrics(scored: Mapping[str, Sequence[str]], pivot: str) -> list[str]:
    names: list[str] = []
    if any(code != pivot for codes in scored.values() for code in codes):
        names += ["mean"]
    if any(pivot in codes for codes in scored.values()):
        names += ["pivot_mean"]
    names += [task for task, codes in scored.items() if any(code != pivot for code in codes)]
    names += [f"{task}/{language}" for task, codes in scored.items() for language in codes]
    return names


def check_metric(
    metric: str, config: EvaluationConfig, *, languages: Sequence[str], pivot: str, where: str = "objective.metric"
) -> None:
    """Refuse a metric that no trial of `config` would have; `where` is the field that names it.

    Raises: ConfigError with the allowed names.
    """
    allowed = allowed_metrics(config, languages=languages, pivot=pivot)
    if metric not in allowed:
        raise ConfigError(
            f"metric {metric[:80]!r} is not among the scores of this study",
            where=where,
            allowed=", ".join(allowed) or "none: there is no task and no representation metric",
            fix="choose one of them, or add its task or language to `evaluation`",
        )


def objective_value(
    scores: Iterable[Score], metric: str, *, pivot: str, split: Literal["validation", "test"] = "validation"
) -> float:
    """`metric` over the scores of `split`.

    Every mean is nested: over numbers of shots, then over languages, then over tasks, so that no task or language
    weighs more for having more rows. Each task counts with its main metric as a fraction of 1 (accuracy, BLEU / 100,
    ROUGE-1, target-language rate, exact match, F1); each direction of a generation task counts as a task.

    Args:
        scores: scores of one trial.
        metric: `mean` (every task, non-pivot languages), `pivot_mean` (every task, the pivot), `<task>` (non-pivot
            languages; of generation tasks `translation` is out of the pivot and `translation_to_pivot` into it),
            `<task>/<language>`, `retrieval@1`, `alignment` or `uniformity` (non-pivot languages).
        pivot: the pivot language.
        split: whose scores are read.

    Returns: main metrics and retrieval in [0, 1]; alignment and uniformity on their own scales.
    Raises: ConfigError when no score answers to `metric`.
    """
    chosen = [score for score in scores if score.split == split]
    if metric in REPRESENTATION_METRICS:
        values = [score.value for score in chosen if score.metric == metric and score.language != pivot]
        return fmean(values) if values else _refuse(metric, chosen)
    cells: dict[tuple[str, str], list[float]] = {}
    for score in chosen:
        if score.is_main:
            cells.setdefault((score.task, score.language), []).append(score.value)
    task, _, language = metric.partition("/")
    if metric == "pivot_mean":
        task, language = "", pivot
    elif metric == "mean":
        task = ""
    by_task: dict[str, list[float]] = {}
    for (name, code), values in cells.items():
        if (not task or name == task) and (code == language if language else code != pivot):
            by_task.setdefault(name, []).append(fmean(values))
    return fmean(fmean(values) for values in by_task.values()) if by_task else _refuse(metric, chosen)


def _refuse(metric: str, scores: Sequence[Score]) -> float:
    names = sorted({f"{score.task}/{score.language} {score.metric}" for score in scores})
    raise ConfigError(
        f"no score answers to metric {metric[:80]!r}",
        where="objective.metric",
        allowed="scores at hand: " + (", ".join(names) or "none"),
        fix="score the task and language, or choose another metric",
    )
