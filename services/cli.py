"""The command `afp`: one function per verb, each validates, calls and shows; heavy rooms load inside the verbs."""

import atexit
import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

from afp_ray.errors import ConfigError
from afp_ray.redaction import remember
from services.commands.cluster import submit
from services.commands.data import data_app
from services.commands.options import (
    EVAL_EXAMPLES,
    Address,
    AllowOpen,
    Attach,
    Drift,
    ExecutorName,
    Json,
    Sets,
    Small,
    Storage,
    StudyFile,
    StudyName,
)
from services.commands.results import export
from services.commands.trial import evaluate, reproduce, trial
from services.edge import run_guarded
from services.output import AWAY, GATE, USAGE, note, open_streams, plain, say, say_json, say_json_text

app = typer.Typer(
    name="afp",
    help="Which cross-lingual alignment recipe works for a multilingual language model, and which part of it matters.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")


@app.command()
def demo(
    storage: Storage = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Run the demonstration study: embedded corpus and model, offline, on two CPU cores."""
    _run("demo", storage, sets, executor=executor, address=address, as_json=as_json)


@app.command()
def plan(
    study: StudyFile,
    storage: Storage = None,
    sets: Sets = None,
    small: Small = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with 7 when training has whole evaluation rows, or long runs of them.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Estimate the cost from a few steps that are run here now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show arms, trials, cost, checks and the overlap of training with evaluation; starts no trial."""
    from afp_ray.study import plan as plan_study
    from services.studies import load, storage_folder
    from services.views.text import show_plan

    answer = plan_study(load(study, sets, small=small), storage_folder(storage), probe=probe)
    say_json(answer) if as_json else show_plan(answer, f"{study} --small" if small else study)
    if strict and any(report.suspect for report in answer.overlap):
        note("error  training has text of evaluation rows, and --strict was asked")
        raise typer.Exit(GATE)


@app.command()
def run(
    study: StudyFile,
    storage: Storage = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    address: Address = None,
    small: Small = False,
    allow_drift: Drift = False,
    attach: Attach = False,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Run a study, or continue it; finished trials are never trained again."""
    _run(
        study,
        storage,
        sets,
        executor=executor,
        address=address,
        small=small,
        allow_drift=allow_drift,
        attach=attach,
        allow_open=allow_open,
        as_json=as_json,
    )


@app.command()
def resume(
    study: Annotated[str, typer.Argument(help="Name of a study that was run, or its file.")],
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
    if repair:
        from afp_ray.ledger import mend
        from services.studies import paths_of, storage_folder

        num_aside = mend(paths_of(storage_folder(storage), study))
        note(f"{num_aside} damaged lines of the ledger were set aside" if num_aside else "the ledger is whole")
    _run(
        study,
        storage,
        sets,
        executor=executor,
        address=address,
        small=small,
        allow_drift=allow_drift,
        attach=attach,
        allow_open=allow_open,
        as_json=as_json,
        is_kept=True,
    )


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study; all of them without one.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show how far a study is, also when its driver is dead."""
    from services.status import all_statuses, status_answer
    from services.studies import storage_folder
    from services.views.text import show_status, show_studies

    folder = storage_folder(storage)
    if study is None:
        found = all_statuses(folder)
        say_json(list(found)) if as_json else show_studies(found, folder)
        return
    answer = status_answer(folder, study)
    say_json(answer) if as_json else show_status(answer)


@app.command()
def stop(study: StudyName, storage: Storage = None, as_json: Json = False) -> None:
    """Ask the driver of a study to end after the running trials."""
    from afp_ray.execution.stop import request_stop
    from services.studies import paths_of, storage_folder

    driver = request_stop(paths_of(storage_folder(storage), study))
    if as_json:
        say_json({"study": study, "asked": driver})
    elif driver is None:
        say(f"nobody drives {study}; there is nothing to stop")
    else:
        say(f"asked pid {driver.get('pid')} on {driver.get('host')} to stop; running trials finish first")
        say(f"continue later: afp resume {study}")


@app.command()
def best(
    study: StudyName,
    metric: Annotated[str | None, typer.Option(help="mean, pivot_mean, a task, TASK/LANGUAGE, retrieval@1 ...")] = None,
    language: Annotated[str | None, typer.Option(help="Choose by this language alone.")] = None,
    under: Annotated[list[str] | None, typer.Option(help="A limit of one training: gpu_hours=2, seconds=600.")] = None,
    max_forgetting: Annotated[
        float | None, typer.Option(min=0, help="Leave out arms that lose more points than this in the pivot language.")
    ] = None,
    pareto: Annotated[bool, typer.Option("--pareto", help="Show every arm by score and cost too.")] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show the best configuration with its interval, its difference to base and how to reproduce it."""
    from services.answers import best_answer
    from services.studies import storage_folder
    from services.views.results import show_best, show_pareto

    answer = best_answer(
        storage_folder(storage),
        study,
        metric=metric,
        language=language,
        under=dict(_limit(text) for text in under or []),
        max_forgetting=None if max_forgetting is None else max_forgetting / 100,
    )
    if as_json:
        say_json(answer)
        return
    show_best(answer)
    if pareto:
        show_pareto(answer)


@app.command()
def compare(
    studies: Annotated[list[str], typer.Argument(help="Names of studies that were run.")],
    form: Annotated[str | None, typer.Option("--format", help="md, tex, csv or json instead of a table.")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="'afp > base' (better) or 'mcl >= afp' (not worse); end with 7 when it does not hold."),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show the ablation table: arms by language, differences to base, significance."""
    from services.answers import comparison_answer, requirement_answer
    from services.studies import storage_folder
    from services.views.formats import FORMATS
    from services.views.results import show_comparison, show_requirements

    if form is not None and form not in FORMATS:
        raise ConfigError(f"format {form!r} is not known", where="--format", allowed=", ".join(FORMATS))
    folder = storage_folder(storage)
    required = requirement_answer(folder, studies, require) if require else []
    answer = comparison_answer(folder, studies)
    if as_json or form == "json":
        say_json_text(FORMATS["json"](answer).rstrip("\n"), indent=2)
    elif form is not None:
        sys.stdout.write(plain(FORMATS[form](answer)))
    else:
        show_comparison(answer)
        show_requirements(required)
    for one in required:
        if not one.ok:
            note(f"error  not met: {one.text}: {one.verdict}")
    if not all(one.ok for one in required):
        raise typer.Exit(GATE)


@app.command()
def report(study: StudyName, storage: Storage = None, as_json: Json = False) -> None:
    """Write the HTML report and the tables of a study."""
    from services.reports import write_reports
    from services.studies import paths_of, storage_folder

    written = write_reports(paths_of(storage_folder(storage), study))
    if as_json:
        say_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            say(str(path))


app.command()(trial)
app.command("eval", epilog=EVAL_EXAMPLES)(evaluate)
app.command()(reproduce)
app.command()(export)
app.command()(submit)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine's own.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    storage: Storage = None,
) -> None:
    """Serve the same answers over HTTP under /v1, on this machine alone."""
    from services.server import serve as listen
    from services.studies import storage_folder

    listen(storage_folder(storage), host=host, port=port)


@app.command()
def sync(study: StudyName, storage: Storage = None, as_json: Json = False) -> None:
    """Write into MLflow what it missed; harmless to repeat."""
    from afp_ray.store import read_study
    from afp_ray.tracking.location import open_command
    from afp_ray.tracking.projector import sync as sync_study
    from services.studies import paths_of, storage_folder

    paths = paths_of(storage_folder(storage), study)
    changed, uri = sync_study(read_study(paths), paths)
    if as_json:
        say_json({"study": study, "tracking_uri": uri, "runs_changed": changed})
    else:
        say(f"{changed} runs written to {uri}" if changed else f"{uri} is up to date")
        say(open_command(uri))


@app.command()
def doctor(
    study: Annotated[str | None, typer.Argument(help="A study file whose needs are looked at as well.")] = None,
    storage: Storage = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Check versions, GPUs, disk, tracking and cluster, each with its fix; 2 when something would not work."""
    from services.doctor import examine
    from services.studies import load, storage_folder

    checks = examine(storage_folder(storage), address=address, study=load(study) if study else None)
    if as_json:
        say_json(list(checks))
    for check in () if as_json else checks:
        say(f"{check.verdict:<5} {check.name:<16} {check.found}")
        if check.fix and check.verdict != "OK":
            say(f"      {'':<16} fix: {check.fix}")
    if any(check.verdict == "FAIL" for check in checks):
        raise typer.Exit(USAGE)


def _run(
    study: str,
    storage: str | None,
    sets: list[str] | None,
    *,
    executor: str | None,
    address: str | None,
    as_json: bool,
    small: bool = False,
    allow_drift: bool = False,
    attach: bool = False,
    allow_open: bool = False,
    is_kept: bool = False,
) -> None:
    from services.commands.study import run as run_study
    from services.studies import is_file_name, load, paths_of, storage_folder

    folder = storage_folder(storage)
    # A study that was run is continued from its own copy, which reads like any other study file.
    is_copy = is_kept and not is_file_name(study)
    if is_copy and small:
        raise ConfigError(
            f"{study} is continued as it was run",
            where="--small",
            fix=f"afp resume {study.removesuffix('-small')}-small",
        )
    source = str(paths_of(folder, study).study) if is_copy else study
    config = load(source, sets, executor=executor, small=small)
    code = run_study(
        config,
        folder,
        address=address,
        allow_drift=allow_drift,
        allow_open=allow_open,
        attach=attach,
        as_json=as_json,
    )
    raise SystemExit(code)  # the library would end with an interrupted study's code as if Ctrl-C had ended the command


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no limit", where="--under", fix="write --under gpu_hours=2") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Nothing but a bug leaves a traceback, and that in a file."""
    given = sys.argv[1:] if arguments is None else arguments
    remember(*given)
    return run_guarded(lambda: app(args=given, prog_name="afp", standalone_mode=False), as_json="--json" in given)


def command() -> NoReturn:
    """The process of the command line: `main`, then an end without taking every library apart, which takes seconds."""
    open_streams()
    code = main()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        code = code if error.errno == errno.EPIPE else code or AWAY
    os._exit(code)


if __name__ == "__main__":
    command()
