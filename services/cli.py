"""The command `afp`: one function per verb, each validates, calls and shows; heavy rooms load inside the verbs."""

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from afp_ray.errors import AfpError, ConfigError, UserError
from services.output import COMPLETE, GATE, SIGINT, USAGE, note, say, say_json, show_bug, show_error

app = typer.Typer(
    name="afp",
    help="Which cross-lingual alignment recipe works for a multilingual language model, and which part of it matters.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="What a recipe yields, before training on it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]
Storage = Annotated[str | None, typer.Option(help="Folder of the studies [default: $AFP_STORAGE or runs].")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="A field over the file: training.max_steps=50.")]
ExecutorName = Annotated[str | None, typer.Option("--executor", help="ray or local, over the file.")]
Address = Annotated[
    str | None, typer.Option(help="A running Ray cluster [default: $RAY_ADDRESS, else one is started].")
]
Drift = Annotated[bool, typer.Option(help="Continue although the study file differs from the one that ran.")]
StudyFile = Annotated[str, typer.Argument(help="Study file, or the name of one that ships (demo).")]
StudyName = Annotated[str, typer.Argument(help="Name of a study that was run.")]


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
def plan(study: StudyFile, storage: Storage = None, sets: Sets = None, as_json: Json = False) -> None:
    """Show arms, trials, cost and checks of a study; starts nothing."""
    from services.planning import plan_answer
    from services.showing import show_plan
    from services.studies import storage_folder

    answer = plan_answer(_load(study, sets), storage_folder(storage))
    say_json(answer) if as_json else show_plan(answer, study)


@app.command()
def run(
    study: StudyFile,
    storage: Storage = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    address: Address = None,
    allow_drift: Drift = False,
    as_json: Json = False,
) -> None:
    """Run a study, or continue it; finished trials are never trained again."""
    _run(study, storage, sets, executor=executor, address=address, allow_drift=allow_drift, as_json=as_json)


@app.command()
def resume(
    study: Annotated[str, typer.Argument(help="Name of a study that was run, or its file.")],
    storage: Storage = None,
    sets: Sets = None,
    executor: ExecutorName = None,
    address: Address = None,
    allow_drift: Drift = False,
    as_json: Json = False,
) -> None:
    """Continue a study after any interruption."""
    _run(
        study, storage, sets, executor=executor, address=address, allow_drift=allow_drift, as_json=as_json, is_kept=True
    )


@app.command()
def status(
    study: Annotated[str | None, typer.Argument(help="Name of a study; all of them without one.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show how far a study is, also when its driver is dead."""
    from services.answers import all_statuses, status_answer
    from services.showing import show_status, show_studies
    from services.studies import storage_folder

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
    from services.driver import request_stop
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
    under: Annotated[list[str] | None, typer.Option(help="A limit: gpu_hours=2 or seconds=600, of one trial.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show the best configuration with its interval, its difference to base and how to reproduce it."""
    from services.answers import best_answer
    from services.running import show_best
    from services.studies import storage_folder

    limits = dict(_limit(text) for text in under or [])
    answer = best_answer(storage_folder(storage), study, metric=metric, language=language, under=limits)
    say_json(answer) if as_json else show_best(answer)


@app.command()
def compare(
    studies: Annotated[list[str], typer.Argument(help="Names of studies that were run.")],
    form: Annotated[str | None, typer.Option("--format", help="md, tex, csv or json instead of a table.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show the ablation table: arms by language, differences to base, significance."""
    from services.answers import comparison_answer
    from services.reports.tables import FORMATS
    from services.running import show_comparison
    from services.studies import storage_folder

    if form is not None and form not in FORMATS:
        raise ConfigError(f"format {form!r} is not known", where="--format", allowed=", ".join(FORMATS))
    answer = comparison_answer(storage_folder(storage), studies)
    if as_json or form is not None:
        sys.stdout.write(FORMATS["json" if as_json or form is None else form](answer))
    else:
        show_comparison(answer)


@app.command()
def report(study: StudyName, storage: Storage = None, as_json: Json = False) -> None:
    """Write the HTML report and the tables of a study."""
    from services.running import write_reports
    from services.studies import paths_of, storage_folder

    written = write_reports(paths_of(storage_folder(storage), study))
    if as_json:
        say_json({"files": [str(path) for path in written]})
    else:
        for path in written:
            say(str(path))


@app.command()
def trial(
    config: Annotated[str, typer.Argument(help="Trial file: YAML, or the config.json of a trial.")],
    storage: Storage = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Train and score one configuration in this process, without Ray."""
    from services.single import run_single
    from services.studies import storage_folder

    run_single(config, sets or [], storage_folder(storage), as_json=as_json)


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="embedded, smollm2, a local folder or a hub id.")],
    tasks: Annotated[str, typer.Option(help="Tasks, with commas.")] = "xnli,pawsx,xcopa,xstorycloze,xwinograd",
    languages: Annotated[str, typer.Option(help="Language codes, with commas.")] = "en",
    pivot: Annotated[str, typer.Option(help="Pivot language.")] = "en",
    shots: Annotated[str, typer.Option(help="Numbers of demonstrations, with commas.")] = "0",
    data_dir: Annotated[str | None, typer.Option(help="Original files [default: the embedded rows].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows a task, language and split.")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Score any causal language model as it is."""
    from services.single import evaluate_model
    from services.studies import storage_folder

    evaluate_model(
        model,
        storage_folder(storage),
        tasks=_words(tasks),
        languages=_words(languages),
        pivot=pivot,
        shots=_numbers(shots),
        data_dir=data_dir,
        limit=limit,
        as_json=as_json,
    )


@app.command()
def reproduce(
    trial_id: Annotated[str, typer.Argument(help="Id of a finished trial, or its first digits.")],
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference that is still the same.")] = 1e-5,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Run a finished trial again and compare every score; 7 when one differs by more than the tolerance."""
    from services.single import reproduce as run_again
    from services.studies import storage_folder

    if not run_again(trial_id, storage_folder(storage), tolerance=tolerance, as_json=as_json):
        raise typer.Exit(GATE)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise ConfigError(f"{text!r} is no list of numbers", where="--shots", allowed="for instance 0,5") from error


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; only this machine's own.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    storage: Storage = None,
) -> None:
    """Serve the same answers over HTTP under /v1, on this machine alone."""
    from services.api import serve as serve_api
    from services.studies import storage_folder

    serve_api(storage_folder(storage), host=host, port=port)


@app.command()
def sync(study: StudyName, storage: Storage = None, as_json: Json = False) -> None:
    """Write into MLflow what it missed; harmless to repeat."""
    from afp_ray.tracking.location import open_command
    from services.driver import sync as sync_study
    from services.studies import kept_study, paths_of, storage_folder

    paths = paths_of(storage_folder(storage), study)
    changed, uri = sync_study(kept_study(paths), paths)
    if as_json:
        say_json({"study": study, "tracking_uri": uri, "runs_changed": changed})
    else:
        say(f"{changed} runs written to {uri}" if changed else f"{uri} is up to date")
        say(open_command(uri))


@app.command()
def doctor(storage: Storage = None, address: Address = None, as_json: Json = False) -> None:
    """Check versions, GPUs, disk, tracking and cluster, each with its fix; 2 when something would not work."""
    from services.doctor import examine
    from services.studies import storage_folder

    checks = examine(storage_folder(storage), address=address)
    if as_json:
        say_json(list(checks))
    for check in () if as_json else checks:
        say(f"{check.verdict:<5} {check.name:<16} {check.found}")
        if check.fix and check.verdict != "OK":
            say(f"      {'':<16} fix: {check.fix}")
    if any(check.verdict == "FAIL" for check in checks):
        raise typer.Exit(USAGE)


@data_app.command("inspect")
def data_inspect(
    study: Annotated[str, typer.Argument(help="Study or trial file.")], sets: Sets = None, as_json: Json = False
) -> None:
    """Show how many pairs and instructions a study's sources hold, per language, with an example of each."""
    from services.showing import show_rows
    from services.single import inspect_data

    answer = inspect_data(_load(study, sets))
    say_json(answer) if as_json else show_rows(answer)


def _load(study: str, sets: list[str] | None, *, executor: str | None = None) -> Any:
    from afp_ray.config.load import load_study
    from services.studies import find

    overrides = [*(sets or []), *([f"runtime.executor={executor}"] if executor else [])]
    return load_study(find(study), overrides)


def _run(
    study: str,
    storage: str | None,
    sets: list[str] | None,
    *,
    executor: str | None,
    address: str | None,
    as_json: bool,
    allow_drift: bool = False,
    is_kept: bool = False,
) -> None:
    from services.running import run as run_study
    from services.studies import is_file_name, paths_of, storage_folder

    folder = storage_folder(storage)
    # A study that was run is continued from its own copy, which reads like any other study file.
    source = str(paths_of(folder, study).study) if is_kept and not is_file_name(study) else study
    config = _load(source, sets, executor=executor)
    raise typer.Exit(run_study(config, folder, address=address, allow_drift=allow_drift, as_json=as_json))


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no limit", where="--under", fix="write --under gpu_hours=2") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Nothing but a bug leaves a traceback, and that in a file."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return _guarded(lambda: app(args=given, prog_name="afp", standalone_mode=False), as_json="--json" in given)
    except BrokenPipeError:
        # The reader has gone (afp ... | head); what Python flushes at its end must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return COMPLETE


def _guarded(call: Callable[[], Any], *, as_json: bool) -> int:
    try:
        code = call()
        sys.stdout.flush()
        return code if isinstance(code, int) else COMPLETE
    except BrokenPipeError:
        raise
    except UserError as error:
        return show_error(error, as_json=as_json)
    except AfpError as error:
        return show_error(error, as_json=as_json)
    except KeyboardInterrupt:
        note("interrupted")
        return SIGINT
    except typer.Exit as error:
        return error.exit_code
    except typer.Abort:
        return SIGINT
    except Exception as error:
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # a usage error of the command line
            return _usage(error)
        return show_bug(error)


def _usage(error: Any) -> int:
    note(f"error  {error.format_message()}")
    context = getattr(error, "ctx", None)
    note(f"fix    see {context.command_path if context else 'afp'} --help")
    return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main())
