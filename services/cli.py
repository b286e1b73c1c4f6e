"""The command `afp`: names its commands, loads the module of the one that is called, and ends with its exit code."""

import atexit
import difflib
import errno
import importlib
import os
import shlex
import sys
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_group

import afp_ray
from afp_ray.errors import ConfigError
from afp_ray.redaction import remember
from services.edge import run_guarded
from services.output import AWAY, open_streams, say

# Name, module and line of each command, as `afp --help` lists them: the list is shown without loading any module,
# and a command loads its own alone, so that `afp status` does not wait for what `afp best` computes with.
COMMANDS: Final = {
    "demo": ("study", "Run the demonstration study: embedded corpus and model, offline, on two CPU cores."),
    "init": (
        "begin",
        "Write a commented study file for your files: languages, amounts, layers, tasks and limits are filled in.",
    ),
    "schema": ("begin", "Write the JSON schema of the study file, by which an editor completes and checks it."),
    "plan": (
        "study",
        "Show arms, cost, checks, the smallest effect, and what training shares with evaluation; starts no trial.",
    ),
    "run": ("study", "Run a study, or continue it; finished trials are never trained again."),
    "resume": (
        "study",
        "Continue a study after any interruption; trials whose files are lost or altered run again.",
    ),
    "status": ("status", "Show how far a study is, also when its driver is dead."),
    "stop": ("study", "Ask the driver of a study to end after the running trials."),
    "best": (
        "results",
        "Show the best configuration with its interval, its difference to base and how to reproduce it.",
    ),
    "compare": ("results", "Show the ablation table: arms by language, differences to base, significance."),
    "report": (
        "results",
        "Write the HTML report and the tables of a study; with --figures its pictures for a paper too.",
    ),
    "trial": ("trial", "Train and score one configuration in this process, without Ray."),
    "eval": (
        "trial",
        "Score any causal language model as it is, beside the majority, another model and published baselines.",
    ),
    "reproduce": (
        "trial",
        "Run a finished trial again and compare every score; 7 when one differs by more than the tolerance.",
    ),
    "show": (
        "trials",
        "Show one trial: configuration, scores by task and language, times, seeds, checkpoint, and where it lies.",
    ),
    "diff": (
        "trials",
        "Show what two trials differ in: configuration, scores with paired differences (B - A), costs.",
    ),
    "examples": (
        "trials",
        "Show single evaluation items with the answers of a trial and of base, and which of them is right.",
    ),
    "export": (
        "export",
        "Export a study for Optuna's tools, or the model of a trial as a Hugging Face folder or into MLflow.",
    ),
    "tasks": ("lists", "List the tasks, in which languages their files are found, and how many rows they have."),
    "task": ("task", "What a task asks, to the letter."),
    "methods": ("lists", "List the methods: what each trains on, and the fields that it pins."),
    "languages": (
        "lists",
        "List the languages that are known by themselves: names, scripts, and which prompt words each has.",
    ),
    "submit": (
        "cluster",
        "Run a study as a job of a Ray cluster and follow it; a study that is submitted again finds its job.",
    ),
    "serve": (
        "cluster",
        "Serve studies over HTTP: a page at /, the API under /v1; on this machine alone unless told otherwise.",
    ),
    "sync": ("study", "Write into MLflow what it missed; harmless to repeat."),
    "token": ("token", "Make, list and revoke the tokens of the service."),
    "doctor": (
        "cluster",
        "Check versions, GPUs, disk, tracking and cluster, each with its fix; 2 when something would not work.",
    ),
    "data": ("data", "What a recipe yields, before training on it."),
}

ELSEWHERE: Final = {
    **dict.fromkeys(("watch", "follow", "attach"), "resume {} --attach"),
    **dict.fromkeys(("ls", "list", "studies"), "status {}"),
    **dict.fromkeys(("train", "start", "sweep"), "run {}"),
    **dict.fromkeys(("check", "validate"), "plan {}"),
    **dict.fromkeys(("kill", "cancel"), "stop {}"),
    **dict.fromkeys(("table", "results"), "compare {}"),
    **{name: f"data {name} {{}}" for name in ("inspect", "filter", "build")},
    "help": "{} --help",
    "version": "--version",
}
"""Words that other tools have for what a command here does under another name."""


def load_command(name: str) -> Any:
    """The command of that name, or the group (`data`, `token`), from its module."""
    module = importlib.import_module(f"services.commands.{COMMANDS[name][0]}")
    group = get_group(module.app)
    return group if COMMANDS[name][0] == name and name not in group.commands else group.commands[name]


class CommandList(TyperGroup):
    """The commands by name and line alone, until one of them is called or completed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the words begin with, loaded, and the words behind it.

        Raises: ConfigError for a word that is none, with the nearest one, also among the words of other tools.
        """
        word, *others = args
        if word not in COMMANDS and not word.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(word, [*COMMANDS, *ELSEWHERE], n=1)
            meant = ELSEWHERE.get(near[0], f"{near[0]} {{}}").format(shlex.join(others)) if near else "--help"
            fix = f"{'did you mean: ' if near else ''}afp {' '.join(meant.split())}"
            raise ConfigError(f"there is no command {word!r}", where="afp", allowed=", ".join(COMMANDS), fix=fix)
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_command(str(name)), rest


app = typer.Typer(
    cls=CommandList,
    name="afp",
    help="Which cross-lingual alignment recipe works for a multilingual language model, and which part of it matters.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        say(f"afp_ray {afp_ray.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What stands before a command."""


def _stand_in() -> None:
    """What is listed in place of a command that is not loaded; it is never called."""


for _name, (_, _line) in COMMANDS.items():
    app.command(_name, help=_line)(_stand_in)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. Nothing but a bug leaves a traceback, and that in a file."""
    words = sys.argv[1:] if arguments is None else arguments
    remember(*words)
    return run_guarded(lambda: app(args=words, prog_name="afp", standalone_mode=False), as_json="--json" in words)


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
