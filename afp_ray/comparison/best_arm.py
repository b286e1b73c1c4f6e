"""The best confirmed configuration of a study, what it gains over base, and how sure that is."""

import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm, read_confirmed
from afp_ray.comparison.cost import cheapest_not_worse, pareto_points, too_short
from afp_ray.comparison.headline import FORGETTING_LIMIT
from afp_ray.comparison.limits import keeping_limits
from afp_ray.comparison.metric import (
    Metric,
    difference,
    measure,
    parse_metric,
    shares_of_best,
    summarize,
    values_by_seed,
)
from afp_ray.comparison.shared import comparable
from afp_ray.comparison.table import base_of, forgetting_warnings, nothing_confirmed, seed_warnings
from afp_ray.comparison.wording import adjust, p_of, sentence
from afp_ray.config import Split, TrialConfig
from afp_ray.config.fields import did_you_mean
from afp_ray.errors import ConfigError, DataError
from afp_ray.records import Best, ConstraintCheck, Difference, LanguageSummary, RunnerUp
from afp_ray.store import StudyPaths

LIMITS = ("gpu_hours", "seconds")


def best(
    paths: StudyPaths,
    *,
    metric: str | None = None,
    language: str | None = None,
    under: Mapping[str, float] | None = None,
    max_forgetting: float | None = None,
    split: Split = "test",
) -> Best:
    """The configuration that validation chose, with its numbers on `split`.

    Args:
        paths: the study.
        metric: what to choose by; null takes the study's objective.
        language: choose by this language alone.
        under: upper limits by name on the training of one trial: `gpu_hours` (device-hours) or `seconds`.
        max_forgetting: leaves out arms that lose more than this on validation in the pivot language, against base; a
            fraction, 0.01 is one point.
        split: split of the reported numbers.
    Raises: ConfigError for an unknown metric, language or limit; DataError when nothing is confirmed or in the limits.
    """
    study = read_confirmed(paths, split=split)
    if not study.arms:
        raise nothing_confirmed([paths.name])
    objective = study.config.objective
    study.arms, uncompared = comparable(study.arms, metric=objective.metric)
    chosen_by = parse_metric(
        metric or objective.metric,
        language=language,
        direction=objective.direction if metric is None else None,
        own_tasks={task for arm in study.arms for task in arm.own_tasks},
    )
    bases = [arm for arm in study.arms if arm.method == "base"]
    within, left_out = keeping_limits(study.arms, study.config.constraints, objective)
    candidates = within if max_forgetting is None else _remembering(within, bases, max_forgetting)
    ranked = _ranked(chosen_by, candidates, _checked_limits(under or {}))
    winner = ranked[0]
    score = summarize(chosen_by, winner, split)
    assert score is not None
    base, warnings = base_of(winner, bases), [*study.warnings, *uncompared, *left_out]
    if not bases:
        warnings.append("no base arm: differences to base are null; add an arm of method base (compare.method or arms)")
    elif base is None:
        warnings.append("base itself scores best on validation: no arm improved on it")
    warnings += seed_warnings([winner])
    vs_base = _vs_base(chosen_by, winner, study.arms, bases, split)
    if vs_base is not None and not vs_base.is_significant:
        warnings.append(sentence(winner.name, vs_base))
    runner_up = _runner_up(chosen_by, ranked, split)
    if runner_up is not None and runner_up.verdict.startswith("not distinguishable"):
        warnings.append(f"the runner-up {runner_up.arm} is {runner_up.verdict}")
    of_pivot = _pivot_difference(winner, base, split)
    # In the words of the table, which tests every arm.
    warnings += forgetting_warnings([winner], [_vs_base(Metric("pivot_mean"), winner, study.arms, bases, split)])
    validation = study.arms
    if split != "validation":
        validation, _ = comparable(read_confirmed(paths, split="validation").arms, metric=objective.metric)
    shares, cost_note = shares_of_best(chosen_by, ranked), too_short(candidates)
    checkpoint = winner.folder / winner.results[0].checkpoint if winner.results[0].checkpoint else None
    return Best(
        study=paths.name,
        objective=f"{'maximize' if chosen_by.sign > 0 else 'minimize'} {chosen_by}",
        split=split,
        arm=winner.name,
        config=TrialConfig.model_validate(dict(winner.config)),
        score=score,
        vs_base=vs_base,
        per_language=_per_language(chosen_by, winner, base, split),
        constraints=_constraints(winner, of_pivot, under or {}, max_forgetting),
        p_best=shares[0] if shares else None,
        runner_up=runner_up,
        cheapest=None if cost_note else cheapest_not_worse(chosen_by, winner, ranked, validation, split=split),
        pareto=pareto_points(chosen_by, candidates, split),
        cost_note=cost_note,
        gpu_hours=winner.hours.training,
        hours=winner.hours,
        checkpoint=str(checkpoint) if checkpoint and checkpoint.is_dir() else None,
        trials=tuple(record.trial_id for record in winner.records),
        reproduce=f"afp reproduce {winner.records[0].trial_id} --storage {shlex.quote(str(paths.storage))}",
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _checked_limits(under: Mapping[str, float]) -> Mapping[str, float]:
    for name in under:
        if name not in LIMITS:
            raise ConfigError(
                f"limit {name!r} is not known",
                where="--under",
                allowed=", ".join(LIMITS),
                fix=did_you_mean(name, LIMITS),
            )
    return under


def _cost(arm: ConfirmedArm, name: str) -> float:
    """Of the training of one trial: what it takes to score an arm says nothing against it."""
    return arm.hours.training if name == "gpu_hours" else arm.training_s


def _ranked(metric: Metric, arms: Sequence[ConfirmedArm], under: Mapping[str, float]) -> list[ConfirmedArm]:
    """Arms within the limits, best on validation first; of equals the one that trains on fewer rows, then by name.

    What an arm cost was measured and differs from run to run; which arm is best must not.
    """
    scored = {arm.name: values_by_seed(metric, arm, "validation") for arm in arms}
    if not any(scored.values()):
        languages = ", ".join(sorted({str(code) for arm in arms for code in arm.examples.language}))
        raise ConfigError(f"no trial was scored on {metric}", allowed=f"languages that were scored: {languages}")
    allowed = [arm for arm in arms if scored[arm.name] and all(_cost(arm, k) <= limit for k, limit in under.items())]
    if not allowed:
        costs = ", ".join(f"{arm.name} {name} {_cost(arm, name):.3g}" for arm in arms for name in under)
        raise DataError(f"no arm keeps the limits; they are: {costs}", fix="raise the limit")
    return sorted(allowed, key=lambda arm: (-metric.sign * float(np.mean(scored[arm.name])), _num_rows(arm), arm.name))


def _num_rows(arm: ConfirmedArm) -> int:
    """Rows that a trial of the arm trains on."""
    config = TrialConfig.model_validate(dict(arm.config))
    return config.training.max_steps * config.rows_per_step


def _vs_base(
    metric: Metric, winner: ConfirmedArm, arms: Sequence[ConfirmedArm], bases: Sequence[ConfirmedArm], split: Split
) -> Difference | None:
    """The winner's difference to base; its p-value is adjusted over all arms, since it was picked among them."""
    pairs = [(arm, base_of(arm, bases)) for arm in arms]
    differences = adjust([measure(metric, arm, base, split) if base else None for arm, base in pairs])
    return differences[[arm.name for arm in arms].index(winner.name)]


def _runner_up(metric: Metric, ranked: Sequence[ConfirmedArm], split: Split) -> RunnerUp | None:
    if len(ranked) < 2:
        return None
    second = ranked[1]
    behind = difference(metric, ranked[0], second, split)
    values = values_by_seed(metric, second, split)
    if behind is None or behind.p is None:
        verdict = "behind on validation; not tested"
    elif behind.is_significant:
        verdict = f"{'behind' if behind.delta > 0 else 'ahead on this split'} by {abs(100 * behind.delta):.1f} points"
    else:
        verdict = f"not distinguishable from {ranked[0].name} (p = {behind.p:.3f})"
    return RunnerUp(arm=second.name, score=float(np.mean(values)), behind=behind, verdict=verdict)


def _per_language(
    metric: Metric, winner: ConfirmedArm, base: ConfirmedArm | None, split: Split
) -> dict[str, LanguageSummary]:
    """The metric in every language that was scored, p-values adjusted over languages."""
    scored = {score.language for result in winner.results for score in result.scores if score.split == split}
    metrics = {code: Metric(metric.name, code, metric.sign) for code in sorted(scored)}
    values = {code: values_by_seed(of_language, winner, split) for code, of_language in metrics.items()}
    codes = [code for code in metrics if values[code]]
    differences = adjust([measure(metrics[code], winner, base, split) if base else None for code in codes])
    return {
        code: LanguageSummary(
            score=float(np.mean(values[code])),
            delta=delta.delta if delta else None,
            ci95=delta.ci95 if delta else None,
            ci95_holm=delta.ci95_holm if delta else None,
            significant=bool(delta and delta.is_significant),
        )
        for code, delta in zip(codes, differences, strict=True)
    }


def _remembering(arms: Sequence[ConfirmedArm], bases: Sequence[ConfirmedArm], limit: float) -> list[ConfirmedArm]:
    """The arms that lose at most `limit` in the pivot language, on validation."""
    drops = {arm.name: _pivot_change(arm, base_of(arm, bases)) for arm in arms}
    if not bases or all(drops[arm.name] is None for arm in arms if arm.method != "base"):
        raise ConfigError(
            "forgetting cannot be limited: it is measured against base in the pivot language",
            where="--max-forgetting",
            fix="add an arm of method base (compare.method or arms) and the pivot to evaluation.languages",
        )
    # What was not measured is not known to have been kept; base itself has forgotten nothing.
    remembering = [arm for arm in arms if arm.method == "base"]
    remembering += [arm for arm in arms if (change := drops[arm.name]) is not None and change >= -limit - 1e-12]
    return remembering


def _pivot_change(arm: ConfirmedArm, base: ConfirmedArm | None) -> float | None:
    values = [values_by_seed(Metric("pivot_mean"), side, "validation") for side in (arm, base) if side is not None]
    return float(np.mean(values[0]) - np.mean(values[1])) if len(values) == 2 and all(values) else None


def _pivot_difference(winner: ConfirmedArm, base: ConfirmedArm | None, split: Split) -> Difference | None:
    return difference(Metric("pivot_mean"), winner, base, split) if base else None


def _constraints(
    winner: ConfirmedArm, of_pivot: Difference | None, under: Mapping[str, float], max_forgetting: float | None
) -> dict[str, ConstraintCheck]:
    """The limits that were asked for, and whether the pivot language was forgotten."""
    checks = {name: ConstraintCheck(value=_cost(winner, name), limit=limit, ok=True) for name, limit in under.items()}
    if of_pivot is not None:
        limit = FORGETTING_LIMIT if max_forgetting is None else -max_forgetting
        checks["pivot_drop"] = ConstraintCheck(
            value=of_pivot.delta, limit=limit, ok=of_pivot.delta >= limit, ci95=of_pivot.ci95, p=p_of(of_pivot)
        )
    return checks
