"""One metric of an arm: its value per seed, its interval, and its paired difference to another arm."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from afp_ray.comparison import totals
from afp_ray.comparison.confirmed import ConfirmedArm, Examples
from afp_ray.comparison.wording import Measured
from afp_ray.config import CHOICE_TASKS, GENERATED_SCORES
from afp_ray.config.fields import did_you_mean
from afp_ray.errors import ConfigError
from afp_ray.evaluation.objective import REPRESENTATION_METRICS, objective_value
from afp_ray.records import Difference, ScoreSummary
from afp_ray.statistics import (
    MIN_CONTENTS,
    mean_interval,
    paired_difference,
    probability_best,
    score_interval,
    seeds_interval,
)

RESAMPLES = 10_000
_MEANS = ("mean", "pivot_mean")
_ENDS = {"alignment": (0.0, 4.0), "uniformity": (-8.0, 0.0)}
"""Least and greatest value of measures of unit vectors."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What is compared.

    Attributes:
        name: `mean`, `pivot_mean`, a task, a task and language, or a representation metric.
        language: restricts it to one language; "" does not.
        sign: 1 where higher is better, -1 where lower is.
    """

    name: str
    language: str = ""
    sign: int = 1

    @property
    def has_examples(self) -> bool:
        """Whether it is computed from examples."""
        return self.name not in REPRESENTATION_METRICS

    def __str__(self) -> str:
        """The name as a table shows it."""
        return f"{self.name} in {self.language}" if self.language else self.name


def parse_metric(
    name: str, *, language: str | None = None, direction: str | None = None, own_tasks: Iterable[str] = ()
) -> Metric:
    """The metric called `name`, in one language if given; lower alignment and uniformity are better.

    Args:
        name: `mean`, `pivot_mean`, a task, TASK/LANGUAGE, or a representation metric.
        language: restricts it.
        direction: of the study; null goes by the metric.
        own_tasks: tasks of the study's own, which may be named too.
    Raises: ConfigError for a name that is none.
    """
    task, _, own = name.partition("/")
    names = (*_MEANS, *CHOICE_TASKS, *own_tasks, *GENERATED_SCORES, *REPRESENTATION_METRICS)
    if task not in names:
        allowed = ", ".join(dict.fromkeys(names))
        raise ConfigError(
            f"metric {name!r} is not known",
            where="--metric",
            allowed=f"{allowed}, or TASK/LANGUAGE",
            fix=did_you_mean(task, names),
        )
    if own and language and own != language:
        raise ConfigError(f"metric {name!r} is not about language {language!r}", fix="give one of the two")
    lower_is_better = task in ("alignment", "uniformity") if direction is None else direction == "minimize"
    return Metric(task, own or language or "", -1 if lower_is_better else 1)


def values_by_seed(metric: Metric, arm: ConfirmedArm, split: str) -> list[float]:
    """The metric of each seed, from the stored scores; [] where the arm was not scored on it."""
    values = []
    for result in arm.results:
        scores, name, pivot = result.scores, metric.name, arm.pivot
        if metric.language:
            scores = tuple(score for score in scores if score.language == metric.language)
            name, pivot = ("mean" if name in _MEANS else name), ""
        try:
            values.append(objective_value(scores, name, pivot=pivot, split=split))  # type: ignore[arg-type]
        except ConfigError:
            return []
    return values


def mask(metric: Metric, examples: Examples, pivot: str) -> NDArray[np.bool_]:
    """(N,) the examples that the metric is a mean over."""
    if metric.language:
        chosen = examples.language == metric.language
    elif metric.name == "pivot_mean":
        chosen = examples.language == pivot
    else:
        chosen = examples.language != pivot
    return np.asarray(chosen if metric.name in _MEANS else chosen & (examples.task == metric.name), dtype=bool)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The examples of one metric, mean over numbers of shots: (S, M) values and (M,) labels."""

    values: NDArray[np.float64]
    content: list[str]
    task: list[str]
    language: list[str]


def choose(arm: ConfirmedArm, where: NDArray[np.bool_]) -> Chosen:
    """The examples under a mask, each averaged over its numbers of shots."""
    examples = arm.examples
    columns = (examples.task, examples.language, examples.example_id)
    parts = np.unique(np.stack([column[where].astype(str) for column in columns]), axis=1, return_inverse=True)
    index = np.asarray(parts[1]).reshape(-1)
    count = np.bincount(index)
    values = np.stack([np.bincount(index, weights=row[where]) / count for row in arm.values])
    # Of each example its first row; written backwards, since the last write stays.
    first = np.zeros(len(count), dtype=np.intp)
    first[index[::-1]] = np.arange(len(index))[::-1]
    content = examples.content_id[where][first]
    task, language = parts[0][0], parts[0][1]
    return Chosen(values, content.tolist(), task.tolist(), language.tolist())


def summarize(metric: Metric, arm: ConfirmedArm, split: str) -> ScoreSummary | None:
    """Mean over seeds with its interval; None where the arm was not scored on the metric."""
    by_seed = values_by_seed(metric, arm, split)
    if not by_seed:
        return None
    mean, count = float(np.mean(by_seed)), len(by_seed)
    if not metric.has_examples:
        ci95, note = _without_examples(metric, arm, split, by_seed)
        return ScoreSummary(mean=mean, ci95=ci95, n_seeds=count, note=note)
    where = mask(metric, arm.examples, arm.pivot)
    if note := too_few(arm, where):
        return ScoreSummary(mean=mean, n_seeds=count, note=note)
    if totals.has_totals(arm, where):
        interval = totals.interval(arm, where)
    else:
        chosen = choose(arm, where)
        cells = {"tasks": chosen.task, "languages": chosen.language}
        interval = score_interval(chosen.values, chosen.content, **cells, is_share=True)
    return ScoreSummary(mean=mean, ci95=(interval.low, interval.high), n_seeds=count)


def too_few(arm: ConfirmedArm, where: NDArray[np.bool_]) -> str:
    """Why the examples under a mask have no interval; "" where they have one."""
    number = len(set(arm.examples.content_id[where].tolist()))
    if number >= MIN_CONTENTS:
        return ""
    contents = "1 content" if number == 1 else f"{number} contents"
    return f"no interval: {contents}, and {MIN_CONTENTS} are needed"


def _without_examples(
    metric: Metric, arm: ConfirmedArm, split: str, by_seed: Sequence[float]
) -> tuple[tuple[float, float] | None, str]:
    """The interval of a representation metric, on its scale, or why there is none."""
    if metric.name == "retrieval@1":
        counts = [
            score.n
            for result in arm.results
            for score in result.scores
            if (score.metric, score.split) == (metric.name, split) and metric.language in ("", score.language)
        ]
        if min(counts) < MIN_CONTENTS:
            return None, f"no interval: {min(counts)} pairs, and {MIN_CONTENTS} are needed"
        interval = seeds_interval(by_seed, min(counts))  # languages share their sentences
        return (interval.low, interval.high), ""
    if len(by_seed) < 2:
        return None, "no interval: one seed"
    interval = mean_interval(by_seed)
    low, high = _ENDS[metric.name]
    return (max(low, interval.low), min(high, interval.high)), ""


def difference(metric: Metric, arm: ConfirmedArm, base: ConfirmedArm, split: str) -> Difference | None:
    """`arm` minus `base` by itself; positive is better. None where one of them was not scored on the metric."""
    measured = measure(metric, arm, base, split)
    return measured.difference if measured else None


def measure(metric: Metric, arm: ConfirmedArm, base: ConfirmedArm, split: str) -> Measured | None:
    """`arm` minus `base`, to be one of a family; None where one of them was not scored on the metric."""
    left, right = values_by_seed(metric, arm, split), values_by_seed(metric, base, split)
    if not left or not right:
        return None
    delta = metric.sign * float(np.mean(left) - np.mean(right))
    if not metric.has_examples:
        return Measured(Difference(delta=delta, test="none: no per-example values"))
    return measure_under(mask(metric, arm.examples, arm.pivot), arm, base, sign=metric.sign)


def mean_under(where: NDArray[np.bool_], arm: ConfirmedArm) -> float:
    """The main metric over the examples under a mask, which share one task, language and shots; mean over seeds."""
    return totals.value(arm, where) if totals.has_totals(arm, where) else float(arm.values[:, where].mean())


def by_seed_under(where: NDArray[np.bool_], arm: ConfirmedArm) -> tuple[float, ...]:
    """The same at each seed."""
    if totals.has_totals(arm, where):
        return tuple(totals.by_seed(arm, where))
    return tuple(float(value) for value in arm.values[:, where].mean(axis=1))


def difference_under(where: NDArray[np.bool_], arm: ConfirmedArm, base: ConfirmedArm) -> Difference | None:
    """Paired difference over the examples under a mask, by itself; None where there are none."""
    measured = measure_under(where, arm, base)
    return measured.difference if measured else None


def measure_under(where: NDArray[np.bool_], arm: ConfirmedArm, base: ConfirmedArm, *, sign: int = 1) -> Measured | None:
    """Paired difference over the examples under a mask, to be one of a family; None where there are none."""
    if not where.any():
        return None
    n, note = int(where.sum()), too_few(arm, where)
    if len(set(arm.examples.content_id[where].tolist())) < 2:
        delta = sign * (mean_under(where, arm) - mean_under(where, base))
        return Measured(Difference(delta=delta, n=n, test="none: fewer than two contents", note=note))
    if totals.has_totals(arm, where):
        pair, test = totals.difference(arm, base, where, sign=sign, resamples=RESAMPLES), {"test": totals.TEST}
    else:
        ours, theirs = choose(arm, where), choose(base, where)
        cells = {"tasks": ours.task, "languages": ours.language}
        left, right = sign * ours.values, sign * theirs.values
        n, test = left.shape[1], {}
        pair = paired_difference(left, right, ours.content, **cells, is_share=True, resamples=RESAMPLES)  # type: ignore[arg-type]
    delta = pair.estimate.value
    if note:
        return Measured(Difference(delta=delta, p=pair.p, n=n, note=note, **test))
    interval = pair.interval
    return Measured(Difference(delta=delta, ci95=(interval.low, interval.high), p=pair.p, n=n, **test), pair)


def shares_of_best(metric: Metric, arms: Sequence[ConfirmedArm]) -> list[float] | None:
    """Probability of each arm to be the best; None for metrics without examples."""
    if not metric.has_examples or len(arms) < 2:
        return None
    where = mask(metric, arms[0].examples, arms[0].pivot)
    if not where.any():
        return None
    if totals.has_totals(arms[0], where):
        return totals.shares_of_best(arms, where, sign=metric.sign, resamples=RESAMPLES)
    chosen = [choose(arm, where) for arm in arms]
    first = chosen[0]
    if len(set(first.content)) < 2:
        return None
    values = [metric.sign * side.values for side in chosen]
    return probability_best(values, first.content, tasks=first.task, languages=first.language, resamples=RESAMPLES)
