"""The verbs that run a study, and the block of answers that they end with."""

import json
import os
import sys
from pathlib import Path

from afp_ray.config import StudyConfig
from afp_ray.errors import ConfigError
from afp_ray.ledger import holder, replay
from afp_ray.planning.disk import require_room
from afp_ray.planning.resources import cluster_of, require_here
from afp_ray.records import Best, StudyState, TrialStatus
from afp_ray.remote.place import place_of
from afp_ray.store import StudyPaths, read_study
from afp_ray.tracking.location import open_command, tracking_uri
from services.output import BUDGET, SIGINT, SIGTERM, exit_code_of_study, note, say, say_json_text
from services.reports import answers_of, write_reports
from services.schemas import RESULT_MARK, JobResult
from services.status import status_of
from services.views.live import LineProgress, LiveProgress
from services.views.results import show_best, show_comparison
from services.views.tables import (
    incomplete_grids,
)
from services.views.terminal import console, to_terminal

MAX_INCOMPLETE = 3
"""Failed trials whose scores are shown at the end of a run; all are in the report."""


def run(
    study: StudyConfig,
    storage: Path,
    *,
    address: str | None = None,
    allow_drift: bool = False,
    allow_open: bool = False,
    attach: bool = False,
    as_json: bool = False,
) -> int:
    """Check, run and sum up a study; returns the exit code. Nothing is written before the checks pass.

    Under a Ray job, and where `attach` says so, a study that another driver holds is followed to its end.
    """
    from afp_ray.planning.check import fetch_models, require_not_begun
    from afp_ray.planning.plan import planned_trials
    from afp_ray.study import check, run_or_follow
    from afp_ray.study import run as run_study

    paths = StudyPaths(storage, study.name)
    is_free = holder(paths) is None
    if is_free and not cluster_of(study.runtime, address) and not _is_complete(paths):
        require_here(study.runtime)
    unloadable = check(study).unloadable
    address = checked_address(study, storage, address, allow_open=allow_open)
    if address is None:  # the nodes of a cluster have caches of their own
        told = "what the local hub cache lacks is fetched"
        unloadable = fetch_models(study, unloadable, on_fetch=lambda name: note(f"model  {name}: {told}"))
    require_not_begun(paths, unloadable)
    for arm, error in unloadable.items():
        note(f"warning  arm {arm} fails, the others run: {error.problem}")
    if is_free and not _is_complete(paths):
        for line in require_room(study, storage, unloadable=unloadable, converts=address is None):
            note(f"warning  {line}")
    is_live = sys.stdout.isatty() and not as_json
    num_expected = planned_trials(study, unloadable)
    progress = LiveProgress(paths, num_expected) if is_live else LineProgress(num_expected, as_json=as_json)

    def drive_it() -> StudyState:
        return run_study(
            study,
            paths,
            unloadable=unloadable,
            address=address,
            allow_drift=allow_drift,
            on_event=[progress],
            on_end=lambda state: write_reports(paths, state, quiet=True),
        )

    may_follow = (attach or is_ray_job()) and place_of(storage) is None  # else its ledger is seen now and then only
    with progress:
        state = run_or_follow(study, paths, drive_it, on_event=[progress], say=note) if may_follow else drive_it()
    code = exit_code_of_study(state)
    if as_json:
        status = status_of(paths, state)
        say_json_text(json.dumps({"exit_code": code, "status": status.model_dump(mode="json")}, ensure_ascii=False))
    elif code in (SIGINT, SIGTERM):
        say(saved_line(state))
    else:
        summarize(paths, state)
        if code == BUDGET:
            say(budget_line(study, state))
    if is_ray_job() and not as_json:
        result = JobResult(exit_code=code, status=status_of(paths, state), best=best_of(paths))
        say_json_text(result.model_dump_json(), before=RESULT_MARK)
    return code


def is_ray_job() -> bool:
    """Whether this process was started as a Ray job: Ray leaves the job's settings in the environment, by this name."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def _is_complete(paths: StudyPaths) -> bool:
    """Whether nothing may be left to run, so that nothing is asked of the machine."""
    return paths.ledger.is_file() and replay(paths.ledger).is_complete


def checked_address(study: StudyConfig, storage: Path, address: str | None, *, allow_open: bool) -> str | None:
    """The cluster to use, as every node of it understands; None where none is used but one that starts here.

    Raises: ConfigError for a cluster that serves strangers, or whose other nodes do not see the storage;
        UnavailableError when there is none.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if study.runtime.executor != "ray" or not address:
        return None
    from afp_ray.execution.cluster_auth import num_nodes, require_token, resolve

    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address} is a dashboard, and a study that runs here needs the head itself",
            where="--address",
            allowed="HOST:PORT of the head, or auto on a node of the cluster",
            fix=f"afp submit STUDY --address {address} runs it on the cluster",
        )
    address = resolve(address)
    require_token(address, allow_open=allow_open)
    if place_of(storage) is not None and num_nodes(address) != 1:
        raise ConfigError(
            "a storage at a URL is worked on in a folder of one machine, and this cluster has others",
            where="--storage",
            fix="give a folder that every node sees, or leave --address and RAY_ADDRESS out",
        )
    return address


def best_of(paths: StudyPaths) -> Best | None:
    """The best configuration; None where there is none yet."""
    return answers_of(paths)[1]


def saved_line(state: StudyState) -> str:
    """What an interrupted study leaves."""
    done = sum(trial.status is TrialStatus.DONE for trial in state.trials)
    return f"saved; {done} of {len(state.trials)} planned trials done. Continue: afp resume {state.name}"


def budget_line(study: StudyConfig, state: StudyState) -> str:
    """What a study that its budget has ended needs to go on."""
    reason = state.ended.detail if state.ended else ""
    resume = f"afp resume {state.name}"
    if reason.startswith("gpu_hours") and study.budget.gpu_hours is not None:
        double = 2 * study.budget.gpu_hours
        resume += f" --set budget.gpu_hours={f'{double:g}' if double >= 1e-4 else f'{double:.1e}'}"  # YAML wants 1.0e-9
    elif reason.startswith("wall_s"):
        resume += f"   (for {study.budget.wall_s:g} s more, or --set budget.wall_s=...)"
    return f"stopped  budget.{reason}; nothing is lost. Continue: {resume}"


def summarize(paths: StudyPaths, state: StudyState) -> None:
    """The last block: table, representations, best configuration, and where everything is."""
    terminal = console()
    comparison, best, error = answers_of(paths)
    if comparison is not None and best is not None:
        show_comparison(comparison)
        show_best(best)
    elif error is not None:
        say(f"no comparison: {error}")
    failed = [trial for trial in state.trials if trial.status is TrialStatus.FAILED]
    reasons: dict[str, int] = {}
    for trial in failed:
        message = f"{trial.failure.failure_class}: {trial.failure.message}" if trial.failure else "no reason"
        reasons[message] = reasons.get(message, 0) + 1
    for message, count in reasons.items():
        terminal.print(f"failed   {message}{f'  x{count}' if count > 1 else ''}")
    for trial_id, grid in list(incomplete_grids(paths, failed).items())[:MAX_INCOMPLETE]:
        terminal.print(to_terminal(grid, f"{trial_id}: scores in %, incomplete"))
    done = sum(trial.status is TrialStatus.DONE for trial in state.trials)
    uri = tracking_uri(read_study(paths).runtime.tracking_uri, paths.storage)
    say()
    say(f"{done} of {len(state.trials)} trials done, {len(failed)} failed   {state.closed or ''}")
    say(f"report   {paths.report}")
    say(f"mlflow   {uri}")
    say(f"         {open_command(uri)}")
