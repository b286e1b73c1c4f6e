"""The tables of a comparison as text: arms, components, searched fields, costs, cells, representations, fronts."""

from collections.abc import Iterable, Sequence

from afp_ray.records import (
    ArmRow,
    Comparison,
    DeviceHours,
    Difference,
    IncompleteScores,
    MajorityRow,
    ParetoPoint,
    RepresentationRow,
    SearchFront,
    TableCell,
    TrialRecord,
    TrialStatus,
    signed_points,
)
from afp_ray.store import StudyPaths, read_incomplete
from services.views.grid import FAMILY, Grid, interval, mark, over_seeds, percent, plain, plain_grid

MARKS = f"† p < 0.05 after Holm, ‡ p < 0.01: paired test over contents and seeds, against base; {FAMILY}"
DEMONSTRATIONS = "± demonstrations"
EFFECTS = "What each component adds: arms that differ in it, in points, Holm over this table"
IMPORTANCES = "Which searched field told the best tenth of the trials from all (PED-ANOVA), Holm over this table"
COSTS = "training of one trial in device-hours, with all else apart (budget.gpu_hours counts both)"
FRONT = "on the front nothing is as good and as cheap"


def ablation_grid(comparison: Comparison, *, has_std: bool = False) -> Grid:
    """Arms by language (mean over tasks and shots), with the means and the verdict's numbers.

    `has_std` sets the standard deviation over seeds behind each mean.

    The last column, where several sets of demonstrations were drawn, is the mean over cells of what they make differ.
    """
    languages = sorted({cell.language for arm in comparison.arms for cell in arm.cells})
    header = ["arm", "seeds", *languages, "mean", "pivot mean", "mean - base", "interval", "p (Holm)"]
    has_deviations = any(_deviation_over_demonstrations(arm) is not None for arm in comparison.arms)
    header += [DEMONSTRATIONS] if has_deviations else []
    values = [
        [_language_mean(arm, code) for code in languages] + [_mean(arm.mean), _mean(arm.pivot_mean)]
        for arm in comparison.arms
    ]
    best = [_highest([row[column] for row in values]) for column in range(len(languages) + 2)]
    rows, marks = [], []
    if comparison.majority is not None:
        rows.append(_majority_line(comparison.majority, languages) + ["-"] * has_deviations)
        marks.append([False] * len(header))
    for arm, numbers in zip(comparison.arms, values, strict=True):
        delta = arm.mean.vs_base if arm.mean else None
        texts = [percent(value) for value in numbers]
        texts[-2] += mark(delta)
        if has_std:
            seeds = [*(_language_by_seed(arm, code) for code in languages), *map(_by_seed, (arm.mean, arm.pivot_mean))]
            texts = [text + over_seeds(values) for text, values in zip(texts, seeds, strict=True)]
        over_demonstrations = [percent(_deviation_over_demonstrations(arm))] if has_deviations else []
        rows.append([arm.arm, str(arm.n_seeds), *texts, *_delta_columns(delta), *over_demonstrations])
        marks.append(
            [
                False,
                False,
                *(value is not None and value == top for value, top in zip(numbers, best, strict=True)),
                *[False] * (3 + has_deviations),
            ]
        )
    difference = header.index("mean - base")
    return Grid(header, rows, marks, frozenset({difference + 1, difference + 2}))


def _deviation_over_demonstrations(arm: ArmRow) -> float | None:
    """Mean over the cells that have one; None where none has."""
    deviations = [cell.demo_deviation for cell in arm.cells if cell.demo_deviation is not None]
    return sum(deviations) / len(deviations) if deviations else None


def _majority_line(row: MajorityRow, languages: Sequence[str]) -> list[str]:
    """The majority baseline as a line of the ablation table; - where a task of the language has no choices."""
    texts = []
    for code in languages:
        means = [cell.mean for cell in row.cells if cell.language == code]
        texts.append(percent(sum(means) / len(means)) if means and row.mean is not None else "-")
    return ["majority", "-", *texts, percent(row.mean), percent(row.pivot_mean), "-", "-", "-"]


def effect_grid(comparison: Comparison) -> Grid:
    """What each component adds, with its interval and verdict."""
    header = ["component", "with", "without", "points", "interval", "p (Holm)", "in words"]
    rows = []
    for effect in comparison.effects:
        p = effect.difference.p if effect.difference.p_holm is None else effect.difference.p_holm
        gain = "adds" if effect.difference.delta > 0 else "takes"
        words = "not tested" if p is None else "not distinguishable" if p >= 0.05 else gain
        if effect.also_differ:
            words += f"; also differ in {', '.join(effect.also_differ)}"
        rows.append([effect.component, effect.with_arm, effect.without_arm, *_delta_columns(effect.difference), words])
    return plain_grid(header, rows, joined=(1, 2, 4, 5))


def importance_grid(comparison: Comparison) -> Grid:
    """How much each searched field mattered in each arm."""
    header = ["arm", "field", "trials", "share, %", "95 % interval", "p (Holm)", "in words"]
    rows = [
        [
            importance.arm,
            importance.field,
            str(importance.n_trials),
            percent(importance.share),
            f"[{100 * importance.ci95[0]:.0f}, {100 * importance.ci95[1]:.0f}]",
            "< 0.001" if importance.p < 0.001 else f"{importance.p:.3f}",
            "not distinguishable" if importance.p >= 0.05 else "mattered",
        ]
        for importance in comparison.importances
    ]
    return plain_grid(header, rows, joined=(1, 4, 5))


def pareto_grid(points: Sequence[ParetoPoint]) -> Grid:
    """Score and device-hours of every arm, cheapest first; no front where costs are not compared."""
    has_startup = any(point.hours is not None and point.hours.startup is not None for point in points)
    has_front = all(point.is_on_front is not None for point in points)
    apart = ["evaluation", "start-up"] if has_startup else ["evaluation and start-up"]
    header = ["arm", "score, %", "training, device-hours", *apart, *(["front"] if has_front else [])]
    rows = []
    for point in points:
        hours = point.hours or DeviceHours(training=point.gpu_hours, evaluation=0.0)
        rows.append([point.arm, percent(point.score), _hours(hours.training), _hours(hours.evaluation)])
        if has_startup:
            rows[-1].append("in evaluation" if hours.startup is None else _hours(hours.startup))
        if has_front:
            rows[-1].append("yes" if point.is_on_front else "no")
    return plain_grid(header, rows)


def cost_legend(cost_note: str) -> str:
    """What costs are, and what the front is or why there is none."""
    return f"{COSTS}; {cost_note or FRONT}"


def cost_words(hours: DeviceHours) -> str:
    """What one trial cost, its training first."""
    apart = (
        f"evaluation {_hours(hours.evaluation)}, start-up {_hours(hours.startup)}"
        if hours.startup is not None
        else None
    )
    return f"training {_hours(hours.training)}; {apart or f'evaluation and start-up {_hours(hours.evaluation)}'}"


def _hours(value: float) -> str:
    """Hours to four digits, and never with an exponent: 0.00003 is a tenth of a second."""
    return f"{value:.4g}" if value == 0 or value >= 0.001 else f"{value:.5f}"


def finding_grids(comparison: Comparison) -> list[tuple[str, Grid]]:
    """Title and table of components, searched fields, and quality against cost; those that there are."""
    grids = []
    if comparison.effects:
        grids.append((EFFECTS, effect_grid(comparison)))
    if comparison.importances:
        grids.append((IMPORTANCES, importance_grid(comparison)))
    if len(comparison.pareto) > 1 and not comparison.cost_note:
        grids.append((f"Mean score against cost: {cost_legend(comparison.cost_note)}", pareto_grid(comparison.pareto)))
    return grids


def cell_grid(comparison: Comparison) -> Grid:
    """Every cell: arms by task, language and shots."""
    keys = sorted({(c.task, c.language, c.shots or 0) for arm in comparison.arms for c in arm.cells})
    header = ["arm", *(f"{task}/{language}/{shots}" for task, language, shots in keys)]
    rows, marks = [], []
    cells_of_arms = [{(c.task, c.language, c.shots or 0): c for c in arm.cells} for arm in comparison.arms]
    best = [_highest([cells[key].mean if key in cells else None for cells in cells_of_arms]) for key in keys]
    for arm, cells in zip(comparison.arms, cells_of_arms, strict=True):
        texts, is_best = [arm.arm], [False]
        for key, top in zip(keys, best, strict=True):
            cell = cells.get(key)
            texts.append(_with_deviation(cell) if cell else "-")
            is_best.append(cell is not None and cell.mean == top)
        rows.append(texts)
        marks.append(is_best)
    return Grid(header, rows, marks)


def representation_grid(rows: Sequence[RepresentationRow]) -> Grid:
    """What was measured of each arm, before and after, mean over languages; older results lack the last two."""
    header = ["arm", "layer", "retrieval@1", "before", "alignment", "before", "uniformity", "before"]
    has_more = any(row.anisotropy is not None for row in rows)
    header += ["anisotropy (before)", "probe (before)"] if has_more else []
    lines = []
    for row in rows:
        if row.language:
            continue
        before = row.before or (None, None, None)
        lines.append(
            [
                row.arm,
                f"{row.layer} {row.pooling}",
                percent(row.retrieval_at_1),
                percent(before[0]),
                _plain(row.alignment),
                _plain(before[1]),
                _plain(row.uniformity),
                _plain(before[2]),
            ]
        )
        if has_more:
            lines[-1].append(_beside(_plain(row.anisotropy), _plain(row.anisotropy_before)))
            lines[-1].append(_beside(percent(row.language_probe), percent(row.language_probe_before)))
    return plain_grid(header, lines, joined=(3, 5, 7))


TITLES = {"bleu": "BLEU", "rouge1": "ROUGE-1", "target_language_rate": "target-language rate"}
"""Main metrics as captions name them."""


def measured(comparison: Comparison) -> str:
    """The metrics of the cells."""
    names = {cell.metric for arm in comparison.arms for cell in arm.cells}
    return ", ".join(TITLES.get(name, name) for name in sorted(names)) or "accuracy"


def _with_deviation(cell: TableCell) -> str:
    """A cell's mean, its mark, and how far demonstration seeds lie apart."""
    spread = "" if cell.demo_deviation is None else f" ±{100 * cell.demo_deviation:.1f}"
    return percent(cell.mean) + mark(cell.vs_base) + spread


def _language_mean(arm: ArmRow, language: str) -> float | None:
    """Mean over tasks of the mean over shots, as the objective takes it."""
    return _mean_of_tasks([(cell.task, cell.mean) for cell in arm.cells if cell.language == language])


def _language_by_seed(arm: ArmRow, language: str) -> list[float]:
    """The same at each seed; [] where the seeds are not known."""
    cells = [cell for cell in arm.cells if cell.language == language]
    if not all(len(cell.by_seed) == arm.n_seeds for cell in cells):
        return []
    means = [_mean_of_tasks([(cell.task, cell.by_seed[seed]) for cell in cells]) for seed in range(arm.n_seeds)]
    return [mean for mean in means if mean is not None]


def _mean_of_tasks(values: Sequence[tuple[str, float]]) -> float | None:
    tasks: dict[str, list[float]] = {}
    for task, value in values:
        tasks.setdefault(task, []).append(value)
    means = [sum(own) / len(own) for own in tasks.values()]
    return sum(means) / len(means) if means else None


def _by_seed(cell: TableCell | None) -> Sequence[float]:
    return cell.by_seed if cell else ()


def _mean(cell: TableCell | None) -> float | None:
    return cell.mean if cell else None


def _highest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _delta_columns(delta: Difference | None) -> list[str]:
    if delta is None:
        return ["-", "-", "-"]
    p = delta.p if delta.p_holm is None else delta.p_holm
    return [
        signed_points(delta.delta),
        interval(delta.shown),
        "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
    ]


def _plain(value: float | None) -> str:
    return "-" if value is None else plain(value)


def _beside(after: str, before: str) -> str:
    return after if before == "-" else f"{after} ({before})"


def front_grids(fronts: Sequence[SearchFront]) -> list[tuple[str, Grid]]:
    """Title and table of every arm that has a front."""
    return [
        (f"{front.arm}: front of the search on validation ({', '.join(front.objectives)})", front_grid(front))
        for front in fronts
        if front.points
    ]


def front_grid(front: SearchFront) -> Grid:
    """Trials that no other dominates, the best first objective first; the first one is the one that is confirmed."""
    metrics = list(dict.fromkeys(name for point in front.points for name in (*point.values, *point.limited)))
    fields = list(dict.fromkeys(name for point in front.points for name in point.params))
    rows = [
        [
            point.trial_id,
            *(_number({**point.limited, **point.values}.get(name)) for name in metrics),
            *(_text(point.params.get(name)) for name in fields),
            "yes" if point.is_chosen else "",
        ]
        for point in front.points
    ]
    return plain_grid(["trial", *metrics, *fields, "chosen"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


MISSING = "missing"


def incomplete_grids(paths: StudyPaths, trials: Iterable[TrialRecord]) -> dict[str, Grid]:
    """The scores of failed trials that could not score everything, by id of the trial."""
    failed = (trial.trial_id for trial in trials if trial.status is TrialStatus.FAILED)
    incomplete = {trial_id: read_incomplete(paths.trial(trial_id)) for trial_id in failed}
    return {trial_id: incomplete_grid(scores) for trial_id, scores in incomplete.items() if scores is not None}


def incomplete_grid(scores: IncompleteScores) -> Grid:
    """Main metrics in percent: tasks at their splits and shots down, languages across."""
    values: dict[tuple[str, str, int, str], float] = {
        (score.task, score.split, score.shots, score.language): score.value for score in scores.scores if score.is_main
    }
    lacking: dict[tuple[str, str, str], None] = {
        (cell.task, cell.split, cell.language): None for cell in scores.missing
    }
    languages = list(dict.fromkeys([*(key[-1] for key in values), *(cell[-1] for cell in lacking)]))
    rows = sorted({key[:3] for key in values} | {(task, split, 0) for task, split, _ in _unseen(values, lacking)})
    cells = [
        [
            f"{task} {split} {shots}-shot",
            *(
                MISSING if (task, split, language) in lacking else percent(values.get((task, split, shots, language)))
                for language in languages
            ),
        ]
        for task, split, shots in rows
    ]
    return plain_grid(["task", *languages], cells)


def _unseen(
    values: Iterable[tuple[str, str, int, str]], lacking: Iterable[tuple[str, str, str]]
) -> Iterable[tuple[str, str, str]]:
    """What lacks and has no row of its own, since its task was scored in no language at all."""
    seen = {(task, split) for task, split, _, _ in values}
    return (cell for cell in lacking if cell[:2] not in seen)


def trial_grid(trials: Sequence[TrialRecord]) -> Grid:
    """Every trial with its objective, its device-hours and, a column each, the fields that were sampled for it."""
    fields = list(dict.fromkeys(name for trial in trials for name in trial.params))
    rows = [
        [
            trial.trial_id,
            trial.arm,
            str(trial.seed),
            trial.role,
            trial.status,
            str(trial.attempt),
            "-" if trial.objective is None else f"{trial.objective:.4f}",
            _hours(trial.gpu_hours),
            *(_text(trial.params.get(name)) for name in fields),
        ]
        for trial in trials
    ]
    names = [name.rpartition(".")[2] for name in fields]
    shown = names if len(set(names)) == len(names) else fields
    return plain_grid(["trial", "arm", "seed", "role", "status", "attempt", "objective", "device-hours", *shown], rows)
