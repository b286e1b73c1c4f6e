"""What a study would do and roughly cost, from its search, its ledger and the finished trials of the storage."""

import shutil
from pathlib import Path

from afp_ray.config import StudyConfig, TrialConfig, canonical_json
from afp_ray.evaluation.overlap_records import OverlapReport
from afp_ray.ledger import replay, study_hash
from afp_ray.records import TrialResult, TrialStatus
from afp_ray.store import StudyPaths, list_studies
from services.driver import cached_fingerprints, check_study
from services.schemas import PlanAnswer, PlannedArm

MAX_SAMPLES = 200


def plan_answer(study: StudyConfig, storage: Path) -> PlanAnswer:
    """Check the study and count its work; starts and writes nothing.

    Raises: UserError for the first thing that would fail.
    """
    checks = check_study(study)
    from afp_ray.search import StudySearch

    paths = StudyPaths(storage, study.name)
    search = StudySearch(study, cached_fingerprints())
    if paths.ledger.is_file():
        search.replay(replay(paths.ledger))
    plan = search.plan()
    finished = len(plan.finished_ids)
    first = next((arm for arm in search.arms if arm.method != "base"), search.arms[0])
    steps = first.fields.get("training.max_steps", TrialConfig().training.max_steps)
    hours = _hours_per_trial(storage, model=first.fields.get("model.name", TrialConfig().model.name), steps=int(steps))
    left = max(0, plan.num_trials - finished)
    notes = list(plan.notes)
    if not hours:
        notes.append("no finished trial of this model and number of steps yet, so there is no estimate of the time")
    existing = next(iter(path for path in (storage, *storage.resolve().parents) if path.is_dir()))
    return PlanAnswer(
        study=study.name,
        study_hash=study_hash(study),
        arms=tuple(
            PlannedArm(
                arm=arm.arm.name,
                search=arm.num_search,
                confirm=arm.num_confirm,
                finished=len(arm.finished_ids),
                searched_fields=tuple(arm.arm.tune),
            )
            for arm in plan.arms
        ),
        trials=plan.num_trials,
        finished=finished,
        hours=(left * min(hours), left * max(hours)) if hours else None,
        based_on=len(hours),
        disk_bytes=_disk(
            study, first.fields.get("model.name"), confirmed=len(search.arms) * len(study.seeds), all_=plan.num_trials
        ),
        free_bytes=shutil.disk_usage(existing).free,
        notes=tuple(notes),
        checks=tuple(checks),
        overlap=tuple(overlap_reports(study)),
    )


def overlap_reports(study: StudyConfig) -> list[OverlapReport]:
    """Evaluation rows that training may see text of, once for each kind of data that trained arms read.

    What an arm may draw from is compared, not what it draws: a larger amount or another seed draws other rows. Pairs
    that share a sentence with a held-out pair are left out, as a trial leaves them out.
    """
    from afp_ray.evaluation.overlap import find_overlap
    from services.recipe import read_unfiltered, trained_recipes, training_texts

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
        largest = max(configs, key=lambda config: (config.data.num_pairs > 0) + (config.data.num_instructions > 0))
        rows = read_unfiltered(largest)
        report = find_overlap(
            largest.evaluation,
            training_texts(rows),
            languages=largest.evaluated_languages,
            pivot=largest.data.pivot,
        )
        found.append(report.model_copy(update={"heldout_removed": rows.num_heldout}))
    return found


def planned_trials(study: StudyConfig) -> int:
    """Trials that the study trains at most, finished ones included."""
    from afp_ray.search import StudySearch

    return StudySearch(study, cached_fingerprints()).plan().num_trials


def _hours_per_trial(storage: Path, *, model: str, steps: int) -> list[float]:
    """Hours of finished trials of the same model and number of steps, from every study of the storage."""
    found: list[float] = []
    for paths in list_studies(storage):
        for record in replay(paths.ledger).trials:
            if record.status is not TrialStatus.DONE or len(found) >= MAX_SAMPLES:
                continue
            same_steps = record.config.get("training", {}).get("max_steps") == steps
            if not same_steps or record.config.get("model", {}).get("name") != model:
                continue
            try:
                result = TrialResult.model_validate_json(paths.trial(record.trial_id).result.read_bytes())
            except (OSError, ValueError):
                continue
            found.append(result.seconds / 3600)
    return found


def _disk(study: StudyConfig, model: object, *, confirmed: int, all_: int) -> int | None:
    """Bytes of the checkpoints that stay; None when the size of the model is not known."""
    folder = Path(str(model)).expanduser() if model else None
    if study.runtime.keep_checkpoints == "none":
        return 0
    if folder is None or not folder.is_dir():
        return None
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return size * (all_ if study.runtime.keep_checkpoints == "all" else confirmed) or None
