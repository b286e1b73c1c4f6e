"""The verb `afp task show`: what a task asks, to the letter."""

from typing import Annotated

import typer

from services.commands.options import EvalSplit, Json
from services.output import say_json
from services.studies import load
from services.task_prompts import task_prompts
from services.views.data import show_prompts

app = typer.Typer(help="What a task asks, to the letter.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """What a task asks, to the letter."""


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="Task of this package, of a plug-in, or of the study.")],
    study: Annotated[str | None, typer.Option(help="Study file whose evaluation is shown, own tasks included.")] = None,
    language: Annotated[str | None, typer.Option(help="Language code [default: the first that has rows].")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 3,
    split: Annotated[EvalSplit, typer.Option(help="validation or test.")] = EvalSplit.TEST,
    data_dir: Annotated[str | None, typer.Option(help="Original files [default: the embedded rows].")] = None,
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="A field: evaluation.template=harness, evaluation.shots=[2].")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the first prompts of a task as the model sees them, with the choices that are scored and the right one."""
    answer = task_prompts(
        name,
        load(study, sets) if study is not None else None,
        language=language,
        num_rows=rows,
        split=split.splits[0],
        data_dir=data_dir,
        sets=(sets or []) if study is None else (),
    )
    say_json(answer) if as_json else show_prompts(answer)
