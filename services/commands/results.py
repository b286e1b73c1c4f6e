"""The commands that answer from finished trials: `best`, `compare` and `report`."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from afp_ray.config.fields import did_you_mean
from afp_ray.errors import ConfigError
from services.answers import best_answer, comparison_answer, requirement_answer
from services.commands.options import Json, Storage, StudyName
from services.output import GATE, note, plain, say, say_json, say_json_text
from services.reports import write_reports
from services.studies import complete_study_name, paths_of, storage_folder
from services.views.blocks import tasks_of
from services.views.formats import FORMATS, TableOptions
from services.views.results import show_best, show_comparison, show_pareto, show_requirements

app = typer.Typer(rich_markup_mode=None)


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
    studies: Annotated[
        list[str], typer.Argument(help="Names of studies that were run.", autocompletion=complete_study_name)
    ],
    form: Annotated[str | None, typer.Option("--format", help="md, tex, csv or json instead of a table.")] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="'afp > base' (better) or 'mcl >= afp' (not worse); end with 7 when it does not hold."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="The scores of this task alone, by language.")] = None,
    std: Annotated[bool, typer.Option("--std", help="Set the standard deviation over seeds behind each mean.")] = False,
    caption: Annotated[
        str | None, typer.Option(help="Of the LaTeX table, as LaTeX [default: says what the table shows].")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Of the LaTeX table [default: tab:STUDY].")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show the ablation table: arms by language, differences to base, significance."""
    if form is not None and form not in FORMATS:
        fix = did_you_mean(form, FORMATS)
        raise ConfigError(f"format {form!r} is not known", where="--format", allowed=", ".join(FORMATS), fix=fix)
    options = TableOptions(task=task, has_std=std, caption=caption, label=label)
    _check_options(options, "json" if as_json else form)
    folder = storage_folder(storage)
    requirements = requirement_answer(folder, studies, require) if require else []
    answer = comparison_answer(folder, studies)
    if task is not None and task not in tasks_of(answer):
        raise ConfigError(f"task {task!r} is not in the table", where="--task", allowed=", ".join(tasks_of(answer)))
    if as_json or form == "json":
        say_json_text(FORMATS["json"](answer, options).rstrip("\n"), indent=2)
    elif form is not None:
        sys.stdout.write(plain(FORMATS[form](answer, options)))
    else:
        show_comparison(answer, task=task, has_std=std)
        show_requirements(requirements)
    for requirement in requirements:
        if not requirement.ok:
            note(f"error  not met: {requirement.text}: {requirement.verdict}")
    if not all(requirement.ok for requirement in requirements):
        raise typer.Exit(GATE)


def _check_options(options: TableOptions, form: str | None) -> None:
    """Refuse what a format has no place for."""
    if form != "tex" and (options.caption is not None or options.label is not None):
        name = "--caption" if options.caption is not None else "--label"
        raise ConfigError(f"{name} belongs to a LaTeX table", where=name, fix="write --format tex, or leave it out")
    if form == "json" and (options.task is not None or options.has_std):
        name = "--task" if options.task is not None else "--std"
        raise ConfigError("JSON holds every task and seed", where=name, fix="leave it out, or write --format csv")
    if options.label is not None and not re.fullmatch(r"[A-Za-z0-9:_.-]+", options.label):
        raise ConfigError(
            f"label {options.label!r} is none", where="--label", allowed="letters, digits and : _ . -, as in tab:main"
        )


@app.command()
def report(
    study: StudyName,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write every picture of the report there, as SVG and PDF.")
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the HTML report and the tables of a study; with --figures its pictures for a paper too."""
    files = write_reports(paths_of(storage_folder(storage), study), figures=figures, say=note)
    if as_json:
        say_json({"files": [str(path) for path in files]})
    else:
        for path in files:
            say(str(path))


def _limit(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"{text!r} is no limit", where="--under", fix="write --under gpu_hours=2") from error
