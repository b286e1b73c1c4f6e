"""What a study would do and roughly cost, from its search, its ledger and the finished trials of the storage."""

import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from afp_ray.config import StudyConfig, TrialConfig, canonical_json
from afp_ray.errors import ModelError
from afp_ray.ledger import replay, study_hash
from afp_ray.ledger.agreement import changes_between
from afp_ray.models.describe import describe
from afp_ray.planning.check import Checked, cached_fingerprints, refusals
from afp_ray.planning.costs import (
    NOTHING,
    ArmCost,
    Costs,
    Measured,
    arm_cost,
    evaluation_key,
    measured_trials,
    spent_hours,
    step_key,
)
from afp_ray.planning.disk import FIX as NO_ROOM
from afp_ray.planning.disk import disk_needs, kept_bytes
from afp_ray.planning.effects import Spreads, planned_effects, seen_spreads
from afp_ray.planning.memory import planned_memory
from afp_ray.planning.overlap import find_overlap
from afp_ray.planning.probe import probe_trials
from afp_ray.planning.recipe import read_unfiltered, study_configs, trained_recipes, training_texts, unread_files
from afp_ray.planning.resources import FIX, cluster_of, gpu_here, lacking_here
from afp_ray.records import StudyState, TrialStatus
from afp_ray.records.plans import OverlapReport, PlanCost, PlannedArm, PlannedEffect, PlannedMemory, StudyPlan
from afp_ray.search import ArmPlan, StudySearch, prior_studies, resolve
from afp_ray.search.arms import check_points
from afp_ray.store import StudyPaths, read_study

BF16_ADVISED = 10**9
"""Weights of a model from which on scoring in bf16 is advised where there is a GPU."""


def plan_study(
    study: StudyConfig, storage: Path, checked: Checked, *, probe: bool = False, spreads: Spreads | None = None
) -> StudyPlan:
    """Count the work of a study whose checks have passed and estimate its cost; writes nothing.

    Args:
        study: what would be run.
        storage: its finished trials tell what a trial costs.
        checked: what the checks of the study found.
        probe: run a few steps of the study's kinds of trials now, in this process, and go by them instead.
        spreads: what differences to base will vary by; null takes those of a finished study.
    Raises: UserError for data that cannot be read.
    """
    unloadable = checked.unloadable
    paths = StudyPaths(storage, study.name)
    prior, fingerprint = prior_studies(study, storage), cached_fingerprints(study, unloadable)
    search = StudySearch(study, fingerprint, prior=prior, refused=refusals(unloadable))
    state = replay(paths.ledger) if paths.ledger.is_file() else StudyState(name=study.name)
    # What ran under this name with another configuration is no trial of this study.
    own = tuple(trial for trial in state.trials if search.plans(trial))
    search.replay(state.model_copy(update={"trials": own}))
    plan = search.plan()
    loadable = [arm for arm in plan.arms if arm.arm.name not in unloadable]
    measured = _measured(study, loadable, storage, probe=probe)
    costs = Costs(measured, num_workers=study.runtime.num_workers)
    arms = {arm.arm.name: arm_cost(study, arm, own, costs) for arm in loadable}
    arms |= dict.fromkeys(unloadable, ArmCost(0, NOTHING, None))
    cost = plan_cost(study, list(arms.values()), spent=spent_hours(paths), measured=len(measured), probe=probe)
    existing = next(iter(path for path in (storage, *storage.resolve().parents) if path.is_dir()))
    return StudyPlan(
        study=study.name,
        study_hash=study_hash(study),
        arms=tuple(_planned_arm(arm, arms[arm.arm.name], unloadable.get(arm.arm.name)) for arm in plan.arms),
        trials=plan.num_trials,
        finished=len(plan.finished_ids),
        finished_otherwise=sum(trial.status is TrialStatus.DONE for trial in state.trials) - len(plan.finished_ids),
        differs=tuple(changes_between(read_study(paths), study)) if paths.study.is_file() else (),
        hours=(cost.trial_hours[0], cost.trial_hours[2]) if cost else None,
        based_on=0 if probe else len(measured),
        cost=cost,
        on_gpu=study.runtime.gpus_per_worker > 0,
        disk_bytes=kept_bytes(study),
        free_bytes=shutil.disk_usage(existing).free,
        notes=(*plan.notes, *_cost_notes(study, arms, cost), *_precision_notes(study, loadable)),
        checks=(*checked.lines, *_on_cluster(study)),
        warnings=(*_warnings(study), *_short_of_room(study, storage, unloadable)),
        unread=unread_files(study_configs(study)),
        overlap=tuple(overlap_reports(study)),
        effects=tuple(_effects(study, loadable, storage, spreads)),
        memory=tuple(_memory(study, loadable, measured)) if probe and study.runtime.gpus_per_worker > 0 else (),
    )


def _effects(
    study: StudyConfig, arms: Sequence[ArmPlan], storage: Path, spreads: Spreads | None
) -> Iterator[PlannedEffect]:
    """The smallest effects, where there is a base to differ from and a spread to go by."""
    planned = [arm.arm for arm in arms]
    if any(arm.method == "base" for arm in planned):
        spreads = spreads or seen_spreads(study, storage)
        if spreads is not None:
            yield from planned_effects(study, planned, spreads)


def _memory(study: StudyConfig, arms: Sequence[ArmPlan], measured: Sequence[Measured]) -> Iterator[PlannedMemory]:
    """What each kind of trial that was probed takes of the GPU here."""
    card, card_bytes = gpu_here()
    firsts = {arm.arm.name: _first_point(study, arm) for arm in arms}
    for probed in measured:
        is_trained = probed.config.training.max_steps > 0
        alike = [
            name
            for name, config in firsts.items()
            if (config.training.max_steps > 0) == is_trained
            and evaluation_key(config) == evaluation_key(probed.config)
            and (not is_trained or step_key(config) == step_key(probed.config))
        ]
        yield planned_memory(probed, study.runtime, arms=alike, card=card, card_bytes=card_bytes)


def _on_cluster(study: StudyConfig) -> Iterator[str]:
    if cluster := cluster_of(study.runtime):
        yield f"CPUs, GPUs and workers of a trial are looked for on the cluster {cluster} when the study connects to it"


def _warnings(study: StudyConfig) -> Iterator[str]:
    """What of this machine would keep the study from starting here."""
    lacking = "" if cluster_of(study.runtime) else lacking_here(study.runtime)
    if lacking:
        yield f"{lacking}; {FIX}"
    if study.runtime.executor == "local" and study.runtime.workers_per_trial > 1:
        yield (
            f"executor local trains in this process alone, not in {study.runtime.workers_per_trial} workers; the "
            "scores are the same"
        )


def _short_of_room(study: StudyConfig, storage: Path, unloadable: Collection[str]) -> Iterator[str]:
    """Disks that cannot hold what the study may write."""
    for need in disk_needs(study, storage, unloadable=unloadable):
        if need.shortage:
            yield f"{need.shortage}; {NO_ROOM}"


def _measured(study: StudyConfig, arms: Sequence[ArmPlan], storage: Path, *, probe: bool) -> list[Measured]:
    on_gpu = study.runtime.gpus_per_worker > 0
    if not probe:
        return measured_trials(storage, on_gpu=on_gpu)
    num_threads = max(1, int(study.runtime.cpus_per_worker))
    firsts = [_first_point(study, arm) for arm in arms]
    return probe_trials(firsts, on_gpu=on_gpu, num_threads=num_threads, runtime=study.runtime.of_training)


def _first_point(study: StudyConfig, plan: ArmPlan) -> TrialConfig:
    return resolve(plan.arm, check_points(plan.arm)[0], study.seeds[0])


def _planned_arm(plan: ArmPlan, cost: ArmCost, unloadable: ModelError | None) -> PlannedArm:
    return PlannedArm(
        problem=str(unloadable) if unloadable is not None else None,
        arm=plan.arm.name,
        search=plan.num_search,
        confirm=plan.num_confirm,
        finished=len(plan.finished_ids),
        searched_fields=tuple(plan.arm.tune),
        left=cost.num_left,
        trial_s=cost.trial_s,
        hours=cost.seconds.mid / 3600 if cost.seconds is not None else None,
        whole_share=cost.whole_share,
    )


def plan_cost(
    study: StudyConfig, arms: Sequence[ArmCost], *, spent: float, measured: int, probe: bool
) -> PlanCost | None:
    """The arms together, and which budget ends them first.

    Args:
        study: gives workers, concurrency and budgets.
        arms: what each has left.
        spent: device-hours so far.
        measured: trials or probes behind the prices.
        probe: whether they are probes.
    Returns: None where an arm has no price.
    """
    seconds = NOTHING
    for arm in arms:
        if arm.seconds is None:
            return None
        seconds += arm.seconds
    hours = (seconds.low / 3600, seconds.mid / 3600, seconds.high / 3600)
    device_hours = hours[1] * study.runtime.num_workers
    at_once = _concurrency(study)
    wall_hours = hours[1] / min(at_once, max(1, sum(arm.num_left for arm in arms))) if at_once else None
    stops = {
        "budget.gpu_hours": (study.budget.gpu_hours or math.inf) - spent,
        "budget.wall_s": (study.budget.wall_s or math.inf) / 3600,
    }
    shares = {
        name: max(0.0, limit) / needed
        for (name, limit), needed in zip(stops.items(), (device_hours, wall_hours or 0.0), strict=True)
        if needed > 0
    }
    name = min(shares, key=shares.__getitem__, default="")
    is_cut = bool(name) and shares[name] < 1
    return PlanCost(
        source="probe" if probe else "trials",
        measured=measured,
        trial_hours=hours,
        device_hours=device_hours,
        concurrency=at_once,
        wall_hours=wall_hours,
        spent_hours=spent,
        stops_at=shares[name] if is_cut else None,
        stopped_by=name if is_cut else "",
    )


def _concurrency(study: StudyConfig) -> int | None:
    """Trials at the same time; of a cluster it is not known before it is asked."""
    runtime = study.runtime
    if runtime.executor == "local":
        return 1
    if runtime.concurrency is not None or runtime.gpus_per_worker > 0 or os.environ.get("RAY_ADDRESS"):
        return runtime.concurrency
    return max(1, int((os.cpu_count() or 1) // (runtime.cpus_per_worker * runtime.num_workers)))


def _cost_notes(study: StudyConfig, arms: Mapping[str, ArmCost], cost: PlanCost | None) -> Iterator[str]:
    unknown = [name for name, arm in arms.items() if arm.seconds is None]
    if unknown:
        yield (
            f"no finished trial here is like those of {', '.join(unknown)}, so there is no estimate of the time; "
            "--probe measures a few steps now"
        )
    if cost is None or cost.trial_hours[2] == 0:
        return
    if study.pruner.name != "none":
        yield "with rungs the cost is what halving is expected to train; a search that promotes more costs more"
    if study.runtime.max_retries:
        yield f"lost workers are not counted: each may repeat a trial from its checkpoint, {_times(study)} at most"
    if cost.stopped_by:
        yield (
            f"{cost.stopped_by} ends the study after about {cost.stops_at:.0%} of what is left, with exit code 5; "
            f"`afp resume {study.name} --set {cost.stopped_by}=...` continues it"
        )


def _precision_notes(study: StudyConfig, arms: Sequence[ArmPlan]) -> Iterator[str]:
    """Models that a GPU is to score in float32 although bf16 takes a fraction of the time."""
    large: set[str] = set()
    for config in (_first_point(study, arm) for arm in arms) if study.runtime.gpus_per_worker > 0 else ():
        if config.evaluation.precision == "fp32" and config.evaluation.tasks:
            shape = describe(config.model)
            weights = 12 * shape.num_layers * shape.hidden_size**2 + (shape.vocab_size or 0) * shape.hidden_size
            large |= {config.model.name} if weights >= BF16_ADVISED else set()
    if large:
        yield (
            f"{', '.join(sorted(large))}: scored in float32; from a billion weights on, evaluation.precision: bf16 is "
            "worth its rounding on a GPU. Set it for all arms that are compared"
        )


def _times(study: StudyConfig) -> str:
    return "once" if study.runtime.max_retries == 1 else f"{study.runtime.max_retries} times"


def overlap_reports(study: StudyConfig) -> list[OverlapReport]:
    """Evaluation rows that training may see text of, once for each kind of data that trained arms read.

    What an arm may draw from is compared, not what it draws: a larger amount or another seed draws other rows. Pairs
    that share a sentence with a held-out pair are left out, as a trial leaves them out.
    """
    groups: dict[str, list[TrialConfig]] = {}
    for recipe in trained_recipes(study):
        config = recipe.config
        content = config.model_dump(
            mode="json", include={"evaluation": True, "data": {"sources", "pivot", "languages"}}
        )
        groups.setdefault(canonical_json(content), []).append(config)
    found = []
    for configs in groups.values():
        # Arms on the same sources differ in what they take: one reading serves them all.
        largest = max(configs, key=lambda config: config.data.has_pairs + config.data.has_instructions)
        rows = read_unfiltered(largest)
        report = find_overlap(
            largest.evaluation,
            training_texts(rows),
            languages=largest.evaluated_languages,
            pivot=largest.data.pivot,
        )
        found.append(report.model_copy(update={"heldout_removed": rows.num_heldout}))
    return found


def planned_trials(study: StudyConfig, unloadable: Mapping[str, ModelError] = MappingProxyType({})) -> int:
    """Trials that the study plans at most, finished ones included, and those of `unloadable` arms that fail."""
    return StudySearch(study, cached_fingerprints(study, unloadable), refused=refusals(unloadable)).plan().num_trials
