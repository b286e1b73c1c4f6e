"""What finished studies say: scores with intervals, differences, the ablation table, the best configuration."""

from typing import Any, Literal

from afp_ray.config.base import StrictModel
from afp_ray.config.trial import TrialConfig
from afp_ray.records.published import PaperTable
from afp_ray.records.trials import DeviceHours

Interval = tuple[float, float]


def signed_points(fraction: float, digits: int = 1) -> str:
    """A difference of fractions in points with its sign; what rounds to nothing has none."""
    text = f"{100 * fraction:+.{digits}f}"
    return text if text.strip("+-0.") else text[1:]


class ScoreSummary(StrictModel):
    """A mean over seeds with its 95 % interval over examples (and seeds, where there are several)."""

    mean: float
    ci95: Interval | None = None
    """On the metric's scale; null where none can be told."""
    n_seeds: int
    note: str = ""
    """Why there is no interval."""


class Difference(StrictModel):
    """One arm minus another over the same examples."""

    delta: float
    """Positive is better, whatever the direction of the metric."""
    ci95: Interval | None = None
    """Of this difference alone, over contents and seeds, 95 %, on the metric's scale; holds 0 exactly where `p` is at
    least 0.05. Null where none can be told."""
    p: float | None = None
    """Paired permutation test over contents, two-sided, unadjusted; where there are several seeds, the larger of it and
    the p-value of the interval, which knows of them."""
    p_holm: float | None = None
    """`p` after Holm over the family that is shown; null where nothing was tested."""
    ci95_holm: Interval | None = None
    """The interval at the level at which Holm tests this difference among the family: holds 0 exactly where `p_holm` is
    at least 0.05. Null where nothing was tested."""
    test: str = "paired score interval and permutation, clustered by content"
    n: int = 0
    """Examples that both arms answered."""
    note: str = ""
    """Why there is no interval."""

    @property
    def shown(self) -> Interval | None:
        """The interval that agrees with the p-value that is shown: that of the family, else the one by itself."""
        return self.ci95 if self.ci95_holm is None else self.ci95_holm

    @property
    def is_significant(self) -> bool:
        """Whether the adjusted (else the plain) p-value is below 0.05."""
        p = self.p if self.p_holm is None else self.p_holm
        return p is not None and p < 0.05


class ComponentEffect(StrictModel):
    """What one component adds: two arms of the study that differ in it, paired."""

    component: str
    with_arm: str
    without_arm: str
    difference: Difference
    """With it minus without it; `p_holm` is over the effects shown."""
    also_differ: tuple[str, ...] = ()
    """Fields outside both methods' rows in which the two confirmed configurations differ, for instance where each was
    searched by itself."""
    verdict: str


class FieldImportance(StrictModel):
    """How much a searched field told the best trials of an arm from all its trials."""

    arm: str
    field: str
    share: float
    """Of the importance of all searched fields of the arm, in [0, 1]."""
    ci95: Interval
    """Bootstrap over trials."""
    p: float
    """Of so large an importance by chance: values shuffled over trials, Holm over every field shown."""
    n_trials: int
    verdict: str


class RungCorrelation(StrictModel):
    """How well the ranking of an arm's trials at a rung told their ranking later, on validation."""

    arm: str
    unit: str
    """What amounts count: `steps`, `tokens` or `rows`."""
    amount: int
    """At the rung."""
    later: int | None
    """At the later rung; null is the end of the training."""
    n: int
    """Trials that were scored at both; those that were stopped in between are not among them."""
    rho: float | None = None
    """Spearman's correlation; null where it cannot be told."""
    ci95: Interval | None = None
    p: float | None = None
    """Of so large a correlation by chance."""
    of_all: float | None = None
    """Estimated correlation of the scores of all trials that reached the rung, those that were stopped there included;
    null where it cannot be told."""
    verdict: str


class ParetoPoint(StrictModel):
    """Quality and cost of one arm."""

    arm: str
    score: float
    gpu_hours: float
    """Device-hours of the training of one trial, mean over seeds; 0 where nothing was trained."""
    hours: DeviceHours | None = None
    """The same, with evaluation and start-up apart."""
    is_on_front: bool | None
    """Whether no other arm is as good and as cheap, and better in one of the two; null where the trainings were too
    short to tell what they cost."""


class FrontPoint(StrictModel):
    """A search trial that no other feasible trial of its arm dominates."""

    trial_id: str
    params: dict[str, Any]
    """Sampled values by dotted name."""
    values: dict[str, float]
    """Every objective on validation, by metric."""
    limited: dict[str, float] = {}
    """The metrics that the study's constraints are on, on validation."""
    is_chosen: bool
    """Whether it is the configuration that is confirmed: the best first objective of the front."""


class SearchFront(StrictModel):
    """The Pareto front of one arm's search, on validation and at the first seed."""

    arm: str
    objectives: tuple[str, ...]
    """Direction and metric of each, the first one first."""
    points: tuple[FrontPoint, ...]
    """Best first objective first; empty where no trial is feasible."""
    num_scored: int
    """Search trials with a value of every objective."""
    num_feasible: int
    """Of them those that keep every constraint."""
    verdict: str = ""


class Cheapest(StrictModel):
    """The cheapest arm that is not significantly worse than the best one, by validation."""

    arm: str
    gpu_hours: float
    """As of a `ParetoPoint`."""
    behind: Difference | None = None
    """Best minus this arm on the reported split; null where it is the best arm itself."""
    verdict: str


class MajorityRow(StrictModel):
    """What answering the most frequent right choice scores, for each task and language of choices."""

    cells: "tuple[TableCell, ...]"
    mean: float | None = None
    """Over tasks and non-pivot languages; null where some task has no choices."""
    pivot_mean: float | None = None


class Requirement(StrictModel):
    """A statement about two arms that a caller asked for."""

    text: str
    ok: bool
    difference: Difference | None = None
    verdict: str


class LanguageSummary(StrictModel):
    """One language of a configuration, mean over its tasks."""

    score: float
    delta: float | None = None
    ci95: Interval | None = None
    """Of the difference to base."""
    ci95_holm: Interval | None = None
    """Likewise, at the level at which Holm tests it among the languages; agrees with `significant`."""
    significant: bool = False


class ConstraintCheck(StrictModel):
    """A limit that the best configuration had to keep, or a guard that it is reported against."""

    value: float
    limit: float
    ok: bool
    ci95: Interval | None = None
    """Of the value, where it has one."""
    p: float | None = None
    """Of the value being zero."""


class RunnerUp(StrictModel):
    """The second best arm, and how far behind it is."""

    arm: str
    score: float
    behind: Difference | None = None
    """Best minus runner-up."""
    verdict: str


class Best(StrictModel):
    """The best confirmed configuration of a study."""

    study: str
    objective: str
    """The metric that chose, with its direction."""
    split: Literal["validation", "test"]
    """Split of every number here; the choice itself was made on validation."""
    arm: str
    config: TrialConfig
    """Resolved, of the first seed."""
    score: ScoreSummary
    vs_base: Difference | None = None
    """Null where the study has no base, or the best arm is base itself."""
    per_language: dict[str, LanguageSummary] = {}
    constraints: dict[str, ConstraintCheck] = {}
    p_best: float | None = None
    """Share of resamples in which this arm stays ahead of every other."""
    runner_up: RunnerUp | None = None
    cheapest: Cheapest | None = None
    """Null where arms are not compared example by example, or `cost_note` says why none is."""
    pareto: tuple[ParetoPoint, ...] = ()
    """Every arm, cheapest first."""
    cost_note: str = ""
    """Why costs are not compared; empty where they are."""
    fronts: tuple[SearchFront, ...] = ()
    """The search of each arm; empty where the study has one objective and no constraint."""
    gpu_hours: float
    """Device-hours of the training of one trial of this configuration, mean over seeds; 0 where nothing was trained."""
    hours: DeviceHours | None = None
    """The same, with evaluation and start-up apart."""
    checkpoint: str | None = None
    """Folder of the saved model of the first seed."""
    mlflow_run_id: str | None = None
    trials: tuple[str, ...]
    reproduce: str
    """Command that runs the same study again, or continues it."""
    warnings: tuple[str, ...] = ()


class TableCell(StrictModel):
    """One arm on one (task, language, shots), or on a mean of such cells."""

    task: str
    """`mean` and `pivot_mean` are the means over tasks, languages and shots."""
    language: str
    """Empty for a mean over languages."""
    shots: int | None = None
    mean: float
    """Mean over seeds."""
    vs_base: Difference | None = None
    """Null for base itself and where there is no base."""
    metric: str = "accuracy"
    """One of `MAIN_METRICS`; `mean` where tasks of several kinds are averaged."""
    by_seed: tuple[float, ...] = ()
    """The value at each seed of the arm, whose mean is `mean`; empty in answers of before they were kept."""
    demo_deviation: float | None = None
    """Standard deviation over demonstration seeds, mean over seeds; null where there is one set of demonstrations."""


class ArmRow(StrictModel):
    """One row of the ablation table: an arm's confirmed configuration."""

    arm: str
    method: str
    is_base: bool
    n_seeds: int
    trials: tuple[str, ...]
    validation: float | None
    """The study's objective on validation, mean over seeds: what chose."""
    cells: tuple[TableCell, ...]
    mean: TableCell | None
    """Over every task, shots and non-pivot language; null where there are none."""
    pivot_mean: TableCell | None
    gpu_hours: float
    """As of a `ParetoPoint`."""
    hours: DeviceHours | None = None
    verdict: str
    """The difference to base in words."""
    config: dict[str, Any]


class RepresentationRow(StrictModel):
    """Sentence representations of one arm on one split, mean over languages and seeds."""

    arm: str
    language: str
    """Empty for the mean over languages."""
    layer: int
    pooling: str
    retrieval_at_1: float
    alignment: float
    uniformity: float
    before: tuple[float, float, float] | None = None
    """The same three of base, at the same layer and pooling."""
    retrieval_ci95: Interval | None = None
    """Of `retrieval_at_1` over pairs and seeds; the three that follow are for the mean over languages alone, and null
    where pairs are too few to tell."""
    retrieval_before_ci95: Interval | None = None
    retrieval_difference: Difference | None = None
    """`retrieval_at_1` minus that of base at the same layer and pooling; Holm over the arms that the table shows."""
    retrieval_from_pivot: float | None = None
    """Null where a result lacks it, as all below."""
    retrieval_to_pivot: float | None = None
    anisotropy: float | None = None
    anisotropy_before: float | None = None
    """Of base, at the same layer and pooling."""
    language_probe: float | None = None
    language_probe_before: float | None = None
    language_probe_chance: float | None = None


class HeadlineNumber(StrictModel):
    """What a clause of the headline says of one arm, in shares of 1."""

    arm: str
    value: float
    before: float | None = None
    """Of base; null where there is none."""
    difference: Difference | None = None
    """Null where it was not compared with base."""


class Clause(StrictModel):
    """One clause of the headline, and the numbers that it is made of."""

    text: str
    numbers: tuple[HeadlineNumber, ...] = ()
    """One per arm but base, in the order of the table; empty where nothing was measured."""


class Headline(StrictModel):
    """What a study came to, in three clauses."""

    tasks: Clause
    """Mean over tasks and non-pivot languages."""
    alignment: Clause
    """Share of held-out sentences whose translation is the nearest one (`retrieval@1`)."""
    price: Clause
    """Mean over the tasks in the pivot language."""

    @property
    def text(self) -> str:
        """The three clauses as they are read."""
        return f"{self.tasks.text} {self.alignment.text} {self.price.text}"


class Comparison(StrictModel):
    """The ablation table of one or more studies."""

    studies: tuple[str, ...]
    split: Literal["validation", "test"]
    objective: str
    base: str | None
    headline: Headline | None = None
    """Null in answers of before it was made."""
    arms: tuple[ArmRow, ...]
    representation: tuple[RepresentationRow, ...] = ()
    majority: MajorityRow | None = None
    """Null where no task has choices."""
    effects: tuple[ComponentEffect, ...] = ()
    """Components, each by the arms that have all but it."""
    importances: tuple[FieldImportance, ...] = ()
    """Searched fields, by arm."""
    rungs: tuple[RungCorrelation, ...] = ()
    """Rungs against later ones, by arm; empty where no trial was stopped early."""
    pareto: tuple[ParetoPoint, ...] = ()
    """Mean score and cost of every arm, cheapest first."""
    cost_note: str = ""
    """Why costs are not compared; empty where they are."""
    published: tuple[PaperTable, ...] = ()
    """The published tables that the studies name, beside the same cells of ours."""
    verdicts: tuple[str, ...] = ()
    """The table in sentences."""
    warnings: tuple[str, ...] = ()
