"""The verbs `afp data`: what a recipe yields, before training on it."""

from typing import Annotated

import typer

from services.commands.options import Json, Sets, Small, StudyFile
from services.inspection import build_file, filter_answer, inspect_answer
from services.output import say, say_json
from services.studies import load
from services.views.data import show_filter, show_inspection

app = typer.Typer(help="What a recipe yields, before training on it.", no_args_is_help=True, rich_markup_mode=None)

Arm = Annotated[
    str | None, typer.Option(help="Arm of the study [default: the first that trains on pairs and instructions].")
]


@app.command("inspect")
def inspect(study: StudyFile, arm: Arm = None, sets: Sets = None, small: Small = False, as_json: Json = False) -> None:
    """Show what an arm trains on: amounts, languages, lengths, fertility, truncation and ten rows."""
    answer = inspect_answer(load(study, sets, small=small), arm=arm)
    say_json(answer) if as_json else show_inspection(answer)


@app.command("filter")
def filter_rows(
    study: StudyFile, arm: Arm = None, sets: Sets = None, small: Small = False, as_json: Json = False
) -> None:
    """Show what the quality filter drops, per language, with the reason and an example of each."""
    answer = filter_answer(load(study, sets, small=small), arm=arm)
    say_json(answer) if as_json else show_filter(answer)


@app.command("build")
def build(
    study: StudyFile,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write, one JSON object a row.")],
    arm: Arm = None,
    sets: Sets = None,
    small: Small = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
    as_json: Json = False,
) -> None:
    """Write the pairs and instructions that an arm trains on as JSON lines."""
    answer = build_file(load(study, sets, small=small), output, arm=arm, force=force)
    if as_json:
        say_json(answer)
        return
    say(f"{answer.file}  {answer.pairs} pairs, {answer.instructions} instructions of arm {answer.arm}")
