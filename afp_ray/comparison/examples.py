"""Single examples with the answers of two trials, and their texts where the evaluation rows are on this machine."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from afp_ray.config import EvaluationConfig, Split, TrialConfig
from afp_ray.errors import DataError, UserError
from afp_ray.evaluation.predictions import Prediction, read_predictions
from afp_ray.evaluation.prompts import generation_cells
from afp_ray.evaluation.questions import render_cells
from afp_ray.evaluation.task import Question
from afp_ray.records import Answer, AnsweredExample, ChangedCell, TrialExamples, TrialResult
from afp_ray.store import TrialPaths

_Key: TypeAlias = tuple[str, str, int, int, str]
"""Task, language, shots, demonstration seed and example."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A finished trial, its name in texts, and where its predictions lie."""

    name: str
    result: TrialResult
    files: TrialPaths

    def predictions(self, split: Split) -> list[Prediction]:
        """Its answers on one split.

        Raises: DataError when the trial was not scored there, or its file cannot be read.
        """
        if split not in self.result.splits:
            raise DataError(
                f"trial {self.result.trial_id} was not scored on {split}",
                allowed=", ".join(self.result.splits),
                fix="ask for a split that it was scored on, or for the confirmed trial of its arm",
            )
        return read_predictions(self.files.predictions_of(split))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which examples are asked for.

    Attributes:
        split: whose examples.
        task, language: of the examples; None takes all.
        is_flipped: those alone whose value the two trials differ in.
        limit: examples at most; None takes all.
        per_language: examples of each language at most; None takes all.
    """

    split: Split
    task: str | None = None
    language: str | None = None
    is_flipped: bool = False
    limit: int | None = None
    per_language: int | None = None


def answered_examples(trial: Answered, other: Answered | None, choice: Choice) -> TrialExamples:
    """Examples that a trial answered, beside the answers of another: the largest changes first.

    Those that changed as much come in an order that is drawn from their names, so that the first few show every task
    and language, and the same ones every time.

    Args:
        trial: whose answers are shown.
        other: what they are read against; None shows the trial alone.
        choice: which examples.
    Raises: DataError when predictions cannot be read, or the two share no example.
    """
    ours = _by_key(trial.predictions(choice.split), choice)
    theirs = _by_key(other.predictions(choice.split), choice) if other is not None else {}
    keys = [key for key in ours if other is None or key in theirs]
    if other is not None and ours and not keys:
        raise DataError(
            f"trials {trial.result.trial_id} and {other.result.trial_id} answered no example of {choice.split} both",
            fix="take trials with the same evaluation tasks, languages, shots and data",
        )
    examples = [_example(ours[key], theirs.get(key), choice.split) for key in keys]
    cells = _cells(examples) if other is not None else ()
    if choice.is_flipped:
        examples = [example for example in examples if example.change]
    examples.sort(key=lambda example: (-abs(example.change), _drawn(example)))
    shown = _first_of_each_language(examples, choice.per_language)[: choice.limit]
    config = TrialConfig.model_validate(trial.result.config)
    texts, notes = _texts(config, choice.split, shown)
    return TrialExamples(
        trial_id=trial.result.trial_id,
        trial_name=trial.name,
        other_id=other.result.trial_id if other is not None else None,
        other_name=other.name if other is not None else "",
        split=choice.split,
        answered=len(examples),
        cells=cells,
        examples=tuple(example.model_copy(update=texts.get(_key(example), {})) for example in shown),
        notes=tuple(notes),
    )


def _first_of_each_language(examples: Sequence[AnsweredExample], most: int | None) -> Sequence[AnsweredExample]:
    if most is None:
        return examples
    languages = list(dict.fromkeys(example.language for example in examples))
    return [
        example for language in languages for example in [own for own in examples if own.language == language][:most]
    ]


def _by_key(predictions: Iterable[Prediction], choice: Choice) -> dict[_Key, Prediction]:
    return {
        _key(prediction): prediction
        for prediction in predictions
        if choice.task in (None, prediction.task) and choice.language in (None, prediction.language)
    }


def _key(row: Prediction | AnsweredExample) -> _Key:
    return row.task, row.language, row.shots, row.demo_seed, row.example_id


def _drawn(example: AnsweredExample) -> bytes:
    return hashlib.sha256(repr(_key(example)).encode()).digest()


def _example(ours: Prediction, theirs: Prediction | None, split: Split) -> AnsweredExample:
    return AnsweredExample(
        split=split,
        task=ours.task,
        language=ours.language,
        shots=ours.shots,
        demo_seed=ours.demo_seed,
        example_id=ours.example_id,
        content_id=ours.content_id,
        metric=ours.metric,
        gold=ours.gold,
        reference=ours.reference,
        trial=_answer(ours),
        other=None if theirs is None else _answer(theirs),
    )


def _answer(prediction: Prediction) -> Answer:
    return Answer(
        predicted=prediction.predicted,
        text=prediction.text,
        value=float(bool(prediction.correct)) if prediction.value is None else prediction.value,
        log_likelihoods=prediction.log_likelihoods,
    )


def _cells(examples: Sequence[AnsweredExample]) -> tuple[ChangedCell, ...]:
    total, gained, lost = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for example in examples:
        cell = example.task, example.language
        total[cell] += 1
        gained[cell] += example.change > 0
        lost[cell] += example.change < 0
    return tuple(
        ChangedCell(
            task=task, language=language, compared=count, gained=gained[task, language], lost=lost[task, language]
        )
        for (task, language), count in sorted(total.items())
    )


def _texts(
    config: TrialConfig, split: Split, examples: Sequence[AnsweredExample]
) -> tuple[dict[_Key, dict[str, object]], list[str]]:
    """The fields `prompt` and `choices` of every example whose row is here and unchanged, and why others have none."""
    plain = config.evaluation.model_copy(update={"shots": (0,), "demo_seeds": (0,)})
    texts: dict[_Key, dict[str, object]] = {}
    notes: list[str] = []
    cells = sorted(examples, key=lambda example: (example.task, example.language))
    for (task, language), members in groupby(cells, key=lambda example: (example.task, example.language)):
        render = _choice_texts if task in plain.choice_tasks else _generation_texts
        rows, changed = list(members), 0
        try:
            rendered = render(task, plain, language, config.data.pivot, split)
        except UserError as error:
            notes.append(f"no texts of {task}/{language}: {error.problem}")
            continue
        for example in rows:
            fields, gold = rendered.get(example.example_id, ({}, None))
            if fields and gold == (example.reference if example.gold is None else example.gold):
                texts[_key(example)] = fields
            else:
                changed += 1
        if changed:
            notes.append(f"{changed} of {task}/{language} have no text: their rows are not what the trial was asked")
    return texts, notes


_Texts: TypeAlias = Mapping[str, tuple[dict[str, object], int | str]]
"""By example: the fields of its text, and the right answer."""
_Render: TypeAlias = Callable[[str, EvaluationConfig, str, str, Split], _Texts]


def _choice_texts(task: str, config: EvaluationConfig, language: str, pivot: str, split: Split) -> _Texts:
    return {
        example.id: (_question_fields(example.question), example.question.gold)
        for cell in render_cells(task, config, language=language, pivot=pivot, split=split)
        for example in cell.examples
    }


def _question_fields(question: Question) -> dict[str, object]:
    """Prompt and choices; a prompt of its own for each choice becomes part of the choice."""
    contexts = {context for context, _ in question.choices}
    if len(contexts) == 1:
        return {"prompt": contexts.pop(), "choices": tuple(continuation for _, continuation in question.choices)}
    return {"prompt": "", "choices": tuple(context + continuation for context, continuation in question.choices)}


def _generation_texts(task: str, config: EvaluationConfig, language: str, pivot: str, split: Split) -> _Texts:
    side = config.generation.pivot or pivot
    return {
        example.id: ({"prompt": example.prompt}, example.reference)
        for cell in generation_cells(task, config, language=language, pivot=side, split=split)
        for example in cell.examples
    }
