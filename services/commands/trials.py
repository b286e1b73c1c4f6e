"""The commands that look at finished trials: `show`, `diff` and `examples`."""

from typing import Annotated, Literal

import typer

from services.commands.options import Json, Storage, TrialName
from services.output import say_json
from services.studies import storage_folder
from services.trial_answers import diff_answer, examples_answer, show_answer
from services.views.trials import show_trial_diff, show_trial_examples, show_trial_sheet

app = typer.Typer(rich_markup_mode=None)


@app.command()
def show(trial: TrialName, storage: Storage = None, as_json: Json = False) -> None:
    """Show one trial: configuration, scores by task and language, times, seeds, checkpoint, and where it lies."""
    answer = show_answer(trial, storage_folder(storage))
    say_json(answer) if as_json else show_trial_sheet(answer)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A trial, as in afp show.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show what two trials differ in: configuration, scores with paired differences (B - A), costs."""
    answer = diff_answer(first, second, storage_folder(storage))
    say_json(answer) if as_json else show_trial_diff(answer)


@app.command()
def examples(
    trial: TrialName,
    flipped: Annotated[bool, typer.Option("--flipped", help="Those alone that the two answered differently.")] = False,
    against: Annotated[str | None, typer.Option(help="Another trial [default: the nearest base of its study].")] = None,
    task: Annotated[str | None, typer.Option(help="Of one task alone.")] = None,
    language: Annotated[str | None, typer.Option(help="Of one language alone.")] = None,
    split: Annotated[
        Literal["validation", "test"] | None, typer.Option(help="Rows to show [default: test where it was scored].")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Examples at most.")] = 10,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Show single evaluation items with the answers of a trial and of base, and which of them is right."""
    answer = examples_answer(
        trial,
        storage_folder(storage),
        against=against,
        split=split,
        task=task,
        language=language,
        is_flipped=flipped,
        limit=limit,
    )
    say_json(answer) if as_json else show_trial_examples(answer, is_flipped=flipped)
