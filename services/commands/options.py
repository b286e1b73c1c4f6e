"""Options that several verbs share."""

from enum import StrEnum
from typing import Annotated, Literal

import typer

from services.studies import complete_study_file, complete_study_name

Json = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]
Storage = Annotated[
    str | None, typer.Option(help="Folder or URL (s3://...) of the studies [default: $AFP_STORAGE or runs].")
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="A field over the file: training.max_steps=50.")]
Small = Annotated[bool, typer.Option("--small", help="The study's small form, for two CPU cores without a network.")]
PresetName = Annotated[
    str | None, typer.Option("--preset", help="24gb, 48gb or 80gb: precision, passes and adapters by the card's size.")
]
ExecutorName = Annotated[str | None, typer.Option("--executor", help="ray or local, over the file.")]
Address = Annotated[
    str | None, typer.Option(help="A running Ray cluster [default: $RAY_ADDRESS, else one is started].")
]
Drift = Annotated[
    bool, typer.Option(help="Continue although the study file or the installed packages differ from what ran.")
]
Attach = Annotated[
    bool, typer.Option("--attach", help="Follow a study that another driver holds, and take it over if that one dies.")
]
AllowOpen = Annotated[
    bool, typer.Option("--allow-open-cluster", help="Use a cluster of other machines that asks for no token.")
]
StudyFile = Annotated[
    str,
    typer.Argument(
        help="Study file, or the name of one that ships (demo, paper/...).", autocompletion=complete_study_file
    ),
]
StudyName = Annotated[str, typer.Argument(help="Name of a study that was run.", autocompletion=complete_study_name)]
TrialName = Annotated[
    str,
    typer.Argument(metavar="TRIAL", help="First digits of an id, STUDY:ARM, STUDY:ARM:SEED, or STUDY:best."),
]
EvalSets = Annotated[
    list[str] | None,
    typer.Option("--set", help="A field of evaluation or model: evaluation.generation.max_new_tokens=64."),
]
EVAL_EXAMPLES = """Examples:

afp eval smollm2 --languages en,zh --shots 0,5 --demo-seeds 0,1,2 --data-dir ~/data

afp eval runs/mine/trials/0123abcd/checkpoint --base facebook/xglm-564M --data-dir ~/data

afp eval smollm2 --tasks mgsm,xquad_qa --languages en,th --data-dir ~/data --set evaluation.generation.max_new_tokens=64

afp eval embedded --languages en,zh,sw --limit 50 --split test --json
"""


class IdentifierName(StrEnum):
    """What names the language of a text."""

    PY3LANGID = "py3langid"
    FASTTEXT = "fasttext"


class EvalSplit(StrEnum):
    """Rows that `afp eval` scores."""

    VALIDATION = "validation"
    TEST = "test"
    BOTH = "both"

    @property
    def splits(self) -> tuple[Literal["validation", "test"], ...]:
        """The splits by name."""
        if self is EvalSplit.VALIDATION:
            return ("validation",)
        return ("test",) if self is EvalSplit.TEST else ("validation", "test")
