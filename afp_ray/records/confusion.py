"""How often a model answers in the language that it was asked for, as the Language Confusion Benchmark counts it."""

from afp_ray.config.base import StrictModel


class LanguageConfusion(StrictModel):
    """The answers of one model to one kind of prompt.

    Attributes:
        model: its name in the file.
        kind: `monolingual` (prompt and answer share a language) or `crosslingual`.
        language: asked for; null for the mean over the languages.
        answers: that were judged.
        skipped: that have no line of five words, and are counted nowhere.
        line_pass_rate: share of answers all of whose lines are in the language, in [0, 1]; null without an answer.
        word_pass_rate: of those, the share without an English word, for languages of other scripts; null for others,
            and without a list of English words.
    """

    model: str
    kind: str
    language: str | None
    answers: int
    skipped: int
    line_pass_rate: float | None
    word_pass_rate: float | None


class ConfusionAnswer(StrictModel):
    """What `afp eval --answers` found in one file.

    Attributes:
        file: of answers.
        signature: what identified the languages, with its version.
        rows: a mean for each model and kind, then its languages.
        notes: what is missing or differs from the published rule.
    """

    file: str
    signature: str
    rows: tuple[LanguageConfusion, ...]
    notes: tuple[str, ...]
