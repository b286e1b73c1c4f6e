"""The commands that plan a study, run it, stop it and show it in MLflow; a run ends with a block of answers."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import typer

import afp_ray.study
from afp_ray.config import StudyConfig
from afp_ray.errors import ConfigError, ModelError
from afp_ray.execution.cluster_auth import num_nodes, require_token, resolve
from afp_ray.execution.stop import StopRequest, request_stop
from afp_ray.ledger import holder, mend, replay
from afp_ray.planning.check import fetch_models, require_not_begun
from afp_ray.planning.disk import require_room
from afp_ray.planning.effects import Spreads, given_spreads
from afp_ray.planning.resources import cluster_of, require_here
from afp_ray.records import StudyState, TrialStatus
from afp_ray.store import StudyPaths, read_study, url_of
from afp_ray.tracking.location import open_lines, tracking_uri
from services.commands.options import (
    Address,
    AllowOpen,
    Attach,
    Drift,
    ExecutorName,
    Json,
    PresetName,
    Sets,
    Small,
    Storage,
    StudyFile,
    StudyName,
)
from services.output import BUDGET, GATE, SIGINT, SIGTERM, exit_code_of_study, note, say, say_json, say_json_text
from services.reports import Answers, answers_of, write_reports
from services.schemas import RESULT_MARK, JobResult
from services.status import status_of
from services.studies import complete_study, is_file_name, load, paths_of, storage_folder
from services.views.live import LineProgress, LiveProgress
from services.views.results import show_best, show_comparison
from services.views.tables import incomplete_grids
from services.views.terminal import console, show_grid
from services.views.text import show_plan

MAX_INCOMPLETE = 3
"""Failed trials whose scores are shown at the end of a run; all are in the report."""

app = typer.Typer(rich_markup_mode=None)


@app.command()
def demo(
    storage: Storage = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Run the demonstration study: embedded corpus and model, offline, on two CPU cores."""
    folder = storage_folder(storage)
    raise SystemExit(run_and_show(load("demo", sets, executor=executor), folder, address=address, as_json=as_json))


@app.command()
def plan(
    study: StudyFile,
    storage: Storage = None,
    sets: Sets = None,
    small: Small = False,
    preset: PresetName = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with 7 when training has whole evaluation rows, or long runs of them.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Estimate cost and GPU memory from a few steps run here now.")
    ] = False,
    price: Annotated[
        float | None,
        typer.Option("--price", min=0, help="Price of a GPU-hour: shows the cost in money."),
    ] = None,
    spread: Annotated[
        str | None,
        typer.Option(
            "--spread",
            metavar="CHANGED[,SEEDS]",
            help="For the smallest effect that can be found: % of answers that an arm changes, points over seeds.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show arms, cost, checks, the smallest effect, and what training shares with evaluation; starts no trial."""
    config = load(study, sets, small=small, preset=preset, say=note)
    answer = afp_ray.study.plan(config, storage_folder(storage), probe=probe, spreads=_spreads(spread))
    if answer.cost is not None and price is not None:
        cost = answer.cost.model_copy(update={"money": price * answer.cost.device_hours})
        answer = answer.model_copy(update={"cost": cost})
    say_json(answer) if as_json else show_plan(answer, f"{study} --small" if small else study)
    if strict and any(report.suspect for report in answer.overlap):
        note("error  training has text of evaluation rows, and --strict was asked")
        raise typer.Exit(GATE)


def _spreads(text: str | None) -> Spreads | None:
    """What `--spread` states, in percent and points.

    Raises: ConfigError for what is no spread.
    """
    if text is None:
        return None
    try:
        changed, *rest = (float(part) / 100 for part in text.split(","))
    except ValueError:
        changed, rest = 0.0, []
    if len(rest) > 1 or not 0 < changed <= 1 or any(not 0 <= value <= 1 for value in rest):
        raise ConfigError(
            f"{text!r} is no spread",
            where="--spread",
            allowed="percent of answers in which an arm and base differ, and points of deviation over seeds",
            fix="write --spread 20,1.5",
        )
    return given_spreads(changed, rest[0] if rest else None)


@app.command()
def run(
    study: StudyFile,
    storage: Storage = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    address: Address = None,
    small: Small = False,
    preset: PresetName = None,
    allow_drift: Drift = False,
    attach: Attach = False,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Run a study, or continue it; finished trials are never trained again."""
    folder = storage_folder(storage)
    code = run_and_show(
        load(study, sets, executor=executor, small=small, preset=preset, say=note),
        folder,
        address=address,
        allow_drift=allow_drift,
        allow_open=allow_open,
        attach=attach,
        as_json=as_json,
    )
    raise SystemExit(code)  # the library would end with an interrupted study's code as if Ctrl-C had ended the command


@app.command()
def resume(
    study: Annotated[
        str, typer.Argument(help="Name of a study that was run, or its file.", autocompletion=complete_study)
    ],
    storage: Storage = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    address: Address = None,
    small: Small = False,
    allow_drift: Drift = False,
    attach: Attach = False,
    allow_open: AllowOpen = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="First set lines of the ledger aside that are damaged; a copy is kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Continue a study after any interruption; trials whose files are lost or altered run again."""
    folder = storage_folder(storage)
    if repair:
        num_aside = mend(paths_of(folder, study))
        note(f"{num_aside} damaged lines of the ledger were set aside" if num_aside else "the ledger is whole")
    file = study
    if not is_file_name(study):
        if small:
            raise ConfigError(
                f"{study} is continued as it was run",
                where="--small",
                fix=f"afp resume {study.removesuffix('-small')}-small",
            )
        file = str(paths_of(folder, study).study)  # its own copy, which reads like any other study file
    code = run_and_show(
        load(file, sets, executor=executor, small=small),
        folder,
        address=address,
        allow_drift=allow_drift,
        allow_open=allow_open,
        attach=attach,
        as_json=as_json,
    )
    raise SystemExit(code)


@app.command()
def stop(study: StudyName, storage: Storage = None, as_json: Json = False) -> None:
    """Ask the driver of a study to end after the running trials."""
    driver = request_stop(paths_of(storage_folder(storage), study))
    if as_json:
        say_json({"study": study, "asked": driver})
    elif driver is None:
        say(f"nobody drives {study}; there is nothing to stop")
    else:
        say(f"asked pid {driver.get('pid')} on {driver.get('host')} to stop; running trials finish first")
        say(f"continue later: afp resume {study}")


@app.command()
def sync(study: StudyName, storage: Storage = None, as_json: Json = False) -> None:
    """Write into MLflow what it missed; harmless to repeat."""
    from afp_ray.tracking.projector import sync as sync_study  # MLflow, which takes seconds to import

    paths = paths_of(storage_folder(storage), study)
    changed, uri = sync_study(read_study(paths), paths)
    if as_json:
        say_json({"study": study, "tracking_uri": uri, "runs_changed": changed})
    else:
        say(f"{changed} runs written to {uri}" if changed else f"{uri} is up to date")
        for line in open_lines(uri, paths):
            say(line)


def run_and_show(
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
    paths = StudyPaths(storage, study.name)
    address, unloadable = prepare(study, paths, address, allow_open=allow_open)
    answers = cache(partial(answers_of, paths))  # asked for once the study is closed, by the report and by the end
    is_live = sys.stdout.isatty() and not as_json
    stop = StopRequest()
    progress = LiveProgress(paths, stop) if is_live else LineProgress(as_json=as_json, stop=stop)

    def drive() -> StudyState:
        return afp_ray.study.run(
            study,
            paths,
            unloadable=unloadable,
            address=address,
            allow_drift=allow_drift,
            on_event=[progress],
            on_end=lambda state: write_reports(paths, state, answers=answers()),
            stop=stop,
        )

    with progress:
        if attach or is_ray_job():
            state = afp_ray.study.run_or_follow(study, paths, drive, on_event=[progress], say=note)
        else:
            state = drive()
    code = exit_code_of_study(state)
    _show_end(study, paths, state, code, None if as_json else answers)
    return code


def prepare(
    study: StudyConfig, paths: StudyPaths, address: str | None, *, allow_open: bool
) -> tuple[str | None, Mapping[str, ModelError]]:
    """Check the study, this machine and the cluster, and fetch models; warns of arms that will fail.

    Returns: the cluster's address, None for one that starts here; by arm, why its model cannot be loaded.
    """
    # What another driver runs, or what is complete, asks nothing of this machine.
    runs_here = holder(paths) is None and not (paths.ledger.is_file() and replay(paths.ledger).is_complete)
    if runs_here and not cluster_of(study.runtime, address):
        require_here(study.runtime)
    unloadable = afp_ray.study.check(study).unloadable
    address = checked_address(study, paths.storage, address, allow_open=allow_open)
    if address is None:  # the nodes of a cluster have caches of their own
        why = "what the local hub cache lacks is fetched"
        unloadable = fetch_models(study, unloadable, on_fetch=lambda name: note(f"model  {name}: {why}"))
    require_not_begun(paths, unloadable)
    for arm, error in unloadable.items():
        note(f"warning  arm {arm} fails, the others run: {error.problem}")
    if runs_here:
        for line in require_room(study, paths.storage, unloadable=unloadable, converts=address is None):
            note(f"warning  {line}")
    return address, unloadable


def _show_end(
    study: StudyConfig, paths: StudyPaths, state: StudyState, code: int, answers: Callable[[], Answers] | None
) -> None:
    """The last block of a run; for a Ray job a line for programs too, which read its log; None shows JSON alone."""
    if answers is None:
        status = status_of(paths, state)
        say_json_text(json.dumps({"exit_code": code, "status": status.model_dump(mode="json")}, ensure_ascii=False))
        return
    if code in (SIGINT, SIGTERM):
        say(saved_line(state))
    else:
        summarize(paths, state, answers())
        if code == BUDGET:
            say(budget_line(study, state))
    if is_ray_job():
        _, best, _ = answers()
        result = JobResult(exit_code=code, status=status_of(paths, state), best=best)
        say_json_text(result.model_dump_json(), before=RESULT_MARK)


def is_ray_job() -> bool:
    """Whether this process was started as a Ray job: Ray leaves the job's settings in the environment, by this name."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def checked_address(study: StudyConfig, storage: Path, address: str | None, *, allow_open: bool) -> str | None:
    """The cluster to use, as every node of it understands; None where none is used but one that starts here.

    Raises: ConfigError for a cluster that serves strangers, or whose other nodes do not see the storage;
        UnavailableError when there is none.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if study.runtime.executor != "ray" or not address:
        return None
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address} is a dashboard, and a study that runs here needs the head itself",
            where="--address",
            allowed="HOST:PORT of the head, or auto on a node of the cluster",
            fix=f"afp submit, with the same study file and --address {address}, runs it on the cluster",
        )
    address = resolve(address)
    require_token(address, allow_open=allow_open)
    if url_of(storage) is not None and num_nodes(address) != 1:
        raise ConfigError(
            "a storage at a URL is worked on in a folder of one machine, and this cluster has others",
            where="--storage",
            fix="give a folder that every node sees (NFS, Lustre, a mounted bucket), or leave out --address and "
            "RAY_ADDRESS",
        )
    return address


def saved_line(state: StudyState) -> str:
    """What an interrupted study leaves."""
    done = sum(trial.status is TrialStatus.DONE for trial in state.trials)
    return f"saved; {done} of {state.expected} trials done. Continue: afp resume {state.name}"


def budget_line(study: StudyConfig, state: StudyState) -> str:
    """What a study that its budget has ended needs to go on."""
    reason = state.ended.detail if state.ended else ""
    resume = f"afp resume {state.name}"
    if reason.startswith("gpu_hours") and study.budget.gpu_hours is not None:
        double = 2 * study.budget.gpu_hours
        resume += f" --set budget.gpu_hours={f'{double:g}' if double >= 1e-4 else f'{double:.1e}'}"
    elif reason.startswith("wall_s"):
        resume += f"   (for {study.budget.wall_s:g} s more, or --set budget.wall_s=...)"
    return f"stopped  budget.{reason}; nothing is lost. Continue: {resume}"


def summarize(paths: StudyPaths, state: StudyState, answers: Answers) -> None:
    """The last block: table, representations, best configuration, and where everything is."""
    terminal = console()
    comparison, best, error = answers
    if comparison is not None and best is not None:
        show_comparison(comparison)
        show_best(best, (*comparison.verdicts, *comparison.warnings))
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
        show_grid(grid, f"{trial_id}: scores in %, incomplete", terminal)
    done = sum(trial.status is TrialStatus.DONE for trial in state.trials)
    uri = tracking_uri(read_study(paths).runtime.tracking_uri, paths.storage)
    say()
    pruned = sum(trial.status is TrialStatus.PRUNED for trial in state.trials)
    early = f"{pruned} stopped early, " if pruned else ""
    say(f"{done} of {state.expected} trials done, {early}{len(failed)} failed   {state.closed or ''}")
    say(f"report   {paths.report}")
    say(f"mlflow   {uri}")
    for line in open_lines(uri, paths):
        say(f"         {line}")
