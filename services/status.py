"""How far studies are, their trials and search fronts, from the ledger alone; whether or not a driver is alive."""

import time
from collections import Counter
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import from_json

from afp_ray.ledger import holder, replay
from afp_ray.records import SearchFront, StudyState, TrialRecord, TrialStatus
from afp_ray.store import StudyPaths, find_result, list_studies, read_incomplete, read_study
from afp_ray.tracking.location import find_run
from afp_ray.tracking.outbox import lag
from services.schemas import ArmStatus, RunningTrial, StudyStatus, TrackingLag, TrialDetail, TrialPage
from services.studies import match_id, paths_of


def fronts_answer(paths: StudyPaths, trials: tuple[TrialRecord, ...] | None = None) -> tuple[SearchFront, ...]:
    """What the search of each arm found; nothing where the study has one objective and no limit.

    Args:
        paths: the study.
        trials: its trials; spares the reading.
    """
    study = read_study(paths)
    if not (study.objective.also or study.constraints):
        return ()  # most studies: their answers need not wait for the search room to load
    from afp_ray.search import make_arms, search_fronts

    return search_fronts(study, make_arms(study), replay(paths.ledger).trials if trials is None else trials)


def status_answer(storage: Path, name: str) -> StudyStatus:
    """How far a study is, whether or not its driver is alive."""
    return status_of(paths_of(storage, name))


def all_statuses(storage: Path) -> list[StudyStatus]:
    """How far every study under the storage is."""
    return [status_of(paths) for paths in list_studies(storage)]


def status_of(paths: StudyPaths, state: StudyState | None = None) -> StudyStatus:
    """How far a study is, from its ledger; `state` spares the reading."""
    study = read_study(paths)
    state = state or replay(paths.ledger)
    driver = holder(paths)
    last_state = state.ended.reason if state.ended else "dead"
    sign = 1 if study.objective.direction == "maximize" else -1
    leader = max(
        (trial for trial in state.trials if trial.status is TrialStatus.DONE and trial.objective is not None),
        key=lambda trial: sign * (trial.objective or 0.0),
        default=None,
    )
    number_of = Counter(trial.status for trial in state.trials)
    counts = {str(status): number_of[status] for status in TrialStatus}
    failed = [trial for trial in state.trials if trial.status is TrialStatus.FAILED]
    return StudyStatus(
        name=paths.name,
        description=study.description,
        state="running" if driver is not None else last_state,
        closed=state.closed,
        driver=driver,
        trials=len(state.trials),
        expected=state.expected,
        counts=counts,
        arms=tuple(_arms(state, sign)),
        running=tuple(_running(paths, trial) for trial in state.trials if is_at_work(trial)) if driver else (),
        failures=tuple(failure_line(trial) for trial in failed[:20]),
        gpu_hours=sum(trial.gpu_hours for trial in state.trials),
        objective=study.objective.metric,
        direction=study.objective.direction,
        best_objective=leader.objective if leader else None,
        best_arm=leader.arm if leader else None,
        opened_at=state.opened_at,
        tracking=_tracking(paths, is_driven=driver is not None, num_trials=len(state.trials)),
        notes=tuple(_unfeasible(paths, state)),
        folder=str(paths.folder),
    )


def _unfeasible(paths: StudyPaths, state: StudyState) -> list[str]:
    """One sentence for each arm none of whose search trials can be chosen, or that waits for a base that failed."""
    is_lost = any(trial.status is TrialStatus.FAILED and trial.config.get("method") == "base" for trial in state.trials)
    empty = [front for front in fronts_answer(paths, state.trials) if not front.points]
    return [f"{front.arm}: {front.verdict}" for front in empty if front.num_scored or is_lost]


def _tracking(paths: StudyPaths, *, is_driven: bool, num_trials: int) -> TrackingLag | None:
    """How far MLflow is behind; None when it is not."""
    behind = lag(paths, is_driven=is_driven, num_trials=num_trials)
    if not behind.events and behind.reason is None:
        return None
    return TrackingLag(events=behind.events, trials=behind.trials, since=behind.since, reason=behind.reason)


def is_at_work(trial: TrialRecord) -> bool:
    """Whether a trial trains or is being scored on the test split."""
    return trial.status is TrialStatus.RUNNING or trial.test_pending


def failure_line(trial: TrialRecord) -> str:
    """One line on a failed trial."""
    failure = trial.failure
    what = f"{failure.failure_class}: {failure.message}" if failure else "no reason was written"
    return f"{trial.trial_id} {trial.arm} seed {trial.seed}  {what}"


def _arms(state: StudyState, sign: int) -> list[ArmStatus]:
    """One line per arm; counted before the lines are made, since a study may have thousands of trials."""
    by_arm: dict[str, list[TrialRecord]] = {}
    for trial in state.trials:
        by_arm.setdefault(trial.arm, []).append(trial)
    rows = []
    for arm, trials in by_arm.items():
        counts = {str(status).lower(): count for status, count in Counter(trial.status for trial in trials).items()}
        values = [sign * trial.objective for trial in trials if trial.objective is not None]
        rows.append(ArmStatus(arm=arm, **counts, best_objective=sign * max(values) if values else None))
    return rows


def _running(paths: StudyPaths, trial: TrialRecord) -> RunningTrial:
    """Where a trial at work is, from its progress file."""
    try:
        content = from_json(paths.trial(trial.trial_id).progress.read_bytes())
        progress = {key: content[key] for key in ("stage", "done", "total", "metrics")}
        progress["left_s"] = content.get("left_s")
    except (OSError, ValueError, KeyError, TypeError):
        progress = {}
    started = trial.started_at or trial.planned_at
    fields = {"trial_id": trial.trial_id, "arm": trial.arm, "seed": trial.seed, "attempt": trial.attempt}
    try:
        return RunningTrial(**fields, **progress, seconds=max(0.0, time.time() - started))
    except ValidationError:
        return RunningTrial(**fields)


def trial_page(
    storage: Path,
    name: str,
    *,
    arm: str | None = None,
    status: str | None = None,
    sort: str = "planned_at",
    descending: bool = False,
    offset: int = 0,
    limit: int = 100,
) -> TrialPage:
    """Trials of a study, filtered, sorted and cut into a page; trials without the sorted value come last."""
    state = replay(paths_of(storage, name).ledger)
    trials = [
        trial
        for trial in state.trials
        if (arm is None or trial.arm == arm) and (status is None or str(trial.status) == status)
    ]
    with_value = [trial for trial in trials if getattr(trial, sort) is not None]
    without = [trial for trial in trials if getattr(trial, sort) is None]
    with_value.sort(key=lambda trial: getattr(trial, sort), reverse=descending)
    page = (*with_value, *without)[offset : offset + limit]
    return TrialPage(total=len(trials), offset=offset, limit=limit, trials=page)


def trial_answer(storage: Path, name: str, trial_id: str) -> TrialDetail:
    """One trial with its result; the first digits of its id suffice where no other trial of the study has them.

    Raises: UserError when the study has no such trial.
    """
    paths = paths_of(storage, name)
    trials = {trial.trial_id: trial for trial in replay(paths.ledger).trials}
    trial_id = match_id(trial_id, trials, where=f"study {name}")
    record = trials[trial_id]
    detail = TrialDetail(record=record, mlflow_run_id=find_run(paths, trial_id))
    result = find_result(paths.trial(trial_id).result)
    if result is None:
        incomplete = read_incomplete(paths.trial(trial_id)) if record.status is TrialStatus.FAILED else None
        if incomplete is None:
            return detail
        return detail.model_copy(update={"scores": incomplete.scores, "missing": incomplete.missing})
    names = ("scores", "layers", "training", "fingerprints", "environment", "warnings")
    return detail.model_copy(update={name: getattr(result, name) for name in names})
