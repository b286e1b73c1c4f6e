"""The commands about one trial: `trial`, `eval` and `reproduce`."""

from pathlib import Path
from typing import Annotated

import typer

from afp_ray.config import DEFAULT_TASKS
from afp_ray.errors import ConfigError
from afp_ray.evaluation.language_confusion import score_answers
from services import trials
from services.commands.options import EVAL_EXAMPLES, EvalSets, EvalSplit, IdentifierName, Json, Sets, Storage, TrialName
from services.output import GATE, say_json
from services.studies import storage_folder
from services.views.live import LineReporter
from services.views.results import show_confusion, show_eval, show_reproduction, show_trial

app = typer.Typer(rich_markup_mode=None)


@app.command()
def trial(
    config: Annotated[str, typer.Argument(help="Trial file: YAML, or the config.json of a trial.")],
    storage: Storage = None,
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Train and score one configuration in this process, without Ray."""
    folder = storage_folder(storage)
    result = trials.run_file(config, sets or [], folder, reporter=LineReporter())
    say_json(result) if as_json else show_trial(result, folder)


@app.command("eval", epilog=EVAL_EXAMPLES)
def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="embedded, smollm2, a local folder or a hub id; none with --answers.")
    ] = None,
    tasks: Annotated[str, typer.Option(help="Choice and generation tasks, with commas.")] = ",".join(DEFAULT_TASKS),
    languages: Annotated[str, typer.Option(help="Language codes, with commas.")] = "en",
    pivot: Annotated[str, typer.Option(help="Pivot language.")] = "en",
    shots: Annotated[str, typer.Option(help="Numbers of demonstrations, with commas.")] = "0",
    demo_seeds: Annotated[str, typer.Option(help="Seeds of the drawn demonstrations, with commas.")] = "0",
    data_dir: Annotated[str | None, typer.Option(help="Original files [default: the embedded rows].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows a task, language and split.")] = None,
    split: Annotated[EvalSplit, typer.Option(help="Rows to score.")] = EvalSplit.BOTH,
    base: Annotated[str | None, typer.Option(help="Another model on the same rows, with paired differences.")] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Show all published checkpoints, not this alone.")
    ] = False,
    answers: Annotated[
        Path | None, typer.Option(help="Judge the answers of a CSV (.csv.gz) by --tasks language_confusion instead.")
    ] = None,
    identifier: Annotated[
        IdentifierName, typer.Option(help="What tells the languages of --answers; fasttext is an extra.")
    ] = IdentifierName.PY3LANGID,
    sets: EvalSets = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Score any causal language model as it is, beside the majority, another model and published baselines."""
    if answers is not None:
        if model is not None or _words(tasks) != ["language_confusion"]:
            raise ConfigError(
                f"--answers judges a file of answers, not {f'the model {model}' if model else f'by {tasks}'}",
                where="--answers",
                allowed="afp eval --answers FILE --tasks language_confusion",
                fix="leave the model out, and name that task alone",
            )
        confusion = score_answers(answers, by=identifier.value)
        return say_json(confusion) if as_json else show_confusion(confusion)
    if model is None:
        raise ConfigError(
            "no model is named", where="MODEL", allowed="embedded, smollm2, a local folder, a hub id", fix="name one"
        )
    config, other = (
        None
        if name is None
        else trials.eval_config(
            name,
            tasks=_words(tasks),
            languages=_words(languages),
            pivot=pivot,
            shots=_numbers(shots, "--shots"),
            demo_seeds=_numbers(demo_seeds, "--demo-seeds"),
            data_dir=data_dir,
            limit=limit,
            sets=sets or [],
        )
        for name in (model, base)
    )
    assert config is not None
    answer = trials.evaluate(
        config,
        storage_folder(storage),
        base=other,
        splits=split.splits,
        all_published=published,
        reporter=LineReporter(),
    )
    say_json(answer) if as_json else show_eval(answer)


@app.command()
def reproduce(
    trial_id: TrialName,
    tolerance: Annotated[float, typer.Option(min=0, help="Largest difference that is still the same.")] = 1e-5,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Run a finished trial again and compare every score; 7 when one differs by more than the tolerance."""
    answer = trials.reproduce(trial_id, storage_folder(storage), tolerance=tolerance, reporter=LineReporter())
    say_json(answer) if as_json else show_reproduction(answer, tolerance)
    if not answer.reproduced:
        raise typer.Exit(GATE)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(word) for word in _words(text)]
    except ValueError as error:
        raise ConfigError(f"{text!r} is no list of numbers", where=option, allowed="for instance 0,5") from error
