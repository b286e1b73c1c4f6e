"""What each component adds: arms that differ in it alone, paired, and searched fields by PED-ANOVA."""

from collections.abc import Mapping, Sequence

import numpy as np

from afp_ray.comparison.confirmed import ConfirmedArm, ReadStudy
from afp_ray.comparison.metric import Metric, measure
from afp_ray.comparison.wording import ALPHA, adjust, in_words, p_text
from afp_ray.config import ChoiceSpec, TuneSpec, canonical_json, flatten
from afp_ray.methods import METHODS
from afp_ray.records import ComponentEffect, Difference, FieldImportance, TrialRecord, TrialStatus
from afp_ray.statistics import SearchedField, holm, importances
from afp_ray.statistics.importance import MIN_TRIALS

COMPONENTS: tuple[tuple[str, str, str], ...] = (
    ("contrastive term", "afp", "cit"),
    ("contrastive term", "mcl_mit", "mit"),
    ("contrastive term", "alignx", "ft"),
    ("contrastive term", "infoxlm", "ft"),
    ("instruction term", "afp", "mcl"),
    ("crossing", "afp", "mcl_mit"),
    ("crossing", "cit", "mit"),
    ("crossing", "crossin", "mit"),
    ("translation tasks", "coit", "mit"),
)
"""A component, a method that has it, and the method that is the same without it."""
_SEEDS = ("method", "seed", "data.seed")


def component_effects(arms: Sequence[ConfirmedArm], *, split: str) -> tuple[ComponentEffect, ...]:
    """The mean score of each arm with a component minus that of the nearest arm without it, where both are there.

    p-values are adjusted (Holm) over the effects. A component that was trained with and without other settings, since
    each arm was searched by itself, says so in `also_differ`.
    """
    pairs = []
    for component, with_method, without_method in COMPONENTS:
        others = [arm for arm in arms if arm.method == without_method]
        for arm in arms:
            if arm.method == with_method and others:
                own = set(METHODS[with_method]) | set(METHODS[without_method])
                nearest = min(others, key=lambda other: len(_differing(arm, other, own)))
                pairs.append((component, arm, nearest, _differing(arm, nearest, own)))
    differences = adjust([measure(Metric("mean"), arm, other, split) for _, arm, other, _ in pairs])
    return tuple(
        ComponentEffect(
            component=component,
            with_arm=arm.name,
            without_arm=other.name,
            difference=delta,
            also_differ=fields,
            verdict=f"{component} ({arm.name} - {other.name}): {_effect_in_words(delta, other)}",
        )
        for (component, arm, other, fields), delta in zip(pairs, differences, strict=True)
        if delta is not None
    )


def _effect_in_words(delta: Difference, other: ConfirmedArm) -> str:
    words = in_words(delta, other=other.name)
    return words.replace(f"not distinguishable from {other.name}", "not distinguishable from no effect", 1)


def _differing(arm: ConfirmedArm, other: ConfirmedArm, own: set[str]) -> tuple[str, ...]:
    """Fields in which two arms differ, but for those that belong to their methods."""
    ours, theirs = flatten(dict(arm.config)), flatten(dict(other.config))
    names = sorted({*ours, *theirs} - own - set(_SEEDS))
    return tuple(name for name in names if ours.get(name) != theirs.get(name))


def field_importances(study: ReadStudy) -> tuple[FieldImportance, ...]:
    """Importance of every searched field, for each arm with enough trials; p-values adjusted over all of them.

    A configuration that was run at several seeds counts once, with the mean of its objective.
    """
    sign = 1 if study.config.objective.direction == "maximize" else -1
    rows = []
    for arm in dict.fromkeys(record.arm for record in study.state.trials):
        trials = _configurations([record for record in study.state.trials if record.arm == arm])
        if len(trials) < MIN_TRIALS:
            continue
        names = [name for name in study.config.tune if all(name in params for params, _ in trials)]
        fields = [_field(name, study.config.tune[name], [params[name] for params, _ in trials]) for name in names]
        values = [sign * value for _, value in trials]
        rows += [(arm, len(trials), importance) for importance in importances(fields, values)]
    adjusted = holm([importance.p for *_, importance in rows])
    return tuple(
        FieldImportance(
            arm=arm,
            field=importance.name,
            share=importance.share.mean,
            ci95=(importance.share.low, importance.share.high),
            p=p,
            n_trials=count,
            verdict=_importance_in_words(arm, importance.name, importance.share.mean, p),
        )
        for (arm, count, importance), p in zip(rows, adjusted, strict=True)
    )


def _importance_in_words(arm: str, name: str, share: float, p: float) -> str:
    size = f"{100 * share:.0f} % of the importance, {p_text(p)}"
    if p >= ALPHA:
        return f"{arm}: {name} is not distinguishable from a field without effect ({size})"
    return f"{arm}: {name} mattered ({size})"


def _configurations(records: Sequence[TrialRecord]) -> list[tuple[Mapping[str, object], float]]:
    """Sampled values and mean objective of each configuration that was finished."""
    groups: dict[str, list[TrialRecord]] = {}
    for record in records:
        if record.status is TrialStatus.DONE and record.params and record.objective is not None:
            groups.setdefault(canonical_json(record.params), []).append(record)
    return [
        (group[0].params, float(np.mean([record.objective for record in group if record.objective is not None])))
        for group in groups.values()
    ]


def _field(name: str, spec: TuneSpec, values: Sequence[object]) -> SearchedField:
    if isinstance(spec, ChoiceSpec):
        return SearchedField.of_choices(name, values, spec.choices)
    numbers = [float(str(value)) for value in values]
    return SearchedField.of_numbers(
        name, numbers, low=spec.low, high=spec.high, log=spec.log, is_int=spec.int, step=spec.step
    )
