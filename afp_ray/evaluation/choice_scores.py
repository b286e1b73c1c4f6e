"""Choice tasks: what the model finds likeliest, and how often it is right."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from afp_ray.errors import UserError
from afp_ray.evaluation.cell_scoring import CellScoring
from afp_ray.evaluation.predictions import Prediction
from afp_ray.evaluation.questions import Cell, render_cells
from afp_ray.evaluation.score_cache import Answers
from afp_ray.evaluation.task import Question
from afp_ray.records import Score
from afp_ray.statistics import clustered_standard_error

if TYPE_CHECKING:
    from afp_ray.evaluation.scoring import ContinuationScorer
    from afp_ray.evaluation.trie import Request

Choices = Sequence[tuple[str, str]]


class ChoiceScoring(CellScoring):
    """Scores the choice tasks of one evaluation."""

    @cached_property
    def _scorer(self) -> "ContinuationScorer":
        from afp_ray.evaluation.scoring import ContinuationScorer  # checks of an evaluation must not load torch

        scorer = ContinuationScorer(self.model, self.tokenizer)
        self.warnings.extend(scorer.notes)
        return scorer

    def cells(self, task: str, language: str) -> Iterator[Cell]:
        """The cells of one task and language."""
        return render_cells(task, self.config, language=language, pivot=self.pivot, split=self.split)

    def looks_ahead(self) -> bool:
        """Whether cells are worth rendering and tokenising while the one before is scored; False until one was scored.

        Where all answers are found in the cache nothing is ever scored, and nothing need be tokenised.
        """
        return "_scorer" in self.__dict__ and not self._scorer.is_in_order

    def look_ahead(self, cell: Cell) -> Cell:
        """Tokenise the choices of a cell that is scored next, in a thread of its own; returns the cell."""
        if self.looks_ahead():
            asked = [[example.question.choices for example in cell.examples]]
            if self.config.scoring == "pmi":
                asked.append([example.question.neutral for example in cell.examples])
            with suppress(UserError):  # raised again when the cell is scored, with its name
                self._tokenised[id(cell)] = cell, [self._scorer.tokenised(questions) for questions in asked]
        return cell

    @cached_property
    def _tokenised(self) -> dict[int, tuple[Cell, Sequence[Sequence["Request"]]]]:
        """Cells that are scored next, by their `id`, with their choices and neutral ones."""
        return {}

    def score_cell(self, cell: Cell, name: str) -> list[Prediction]:
        """The choice of every example; `name` is that of the cell, for warnings."""
        questions = [example.question for example in cell.examples]
        _, tokenised = self._tokenised.pop(id(cell), (cell, ()))
        values, cut = self._likelihoods([question.choices for question in questions], *tokenised[:1])
        neutral: Answers = [()] * len(questions)
        if self.config.scoring == "pmi":
            neutral, more = self._likelihoods([question.neutral for question in questions], *tokenised[1:])
            cut += more
        if cut:
            from afp_ray.evaluation.scoring import max_positions

            self.warnings.append(
                f"{name}: {cut} contexts were longer than the model's {max_positions(self.model)} positions and were "
                "cut on the left"
            )
        predictions = []
        for example, likelihoods, unasked in zip(cell.examples, values, neutral, strict=True):
            worth = choice_values(example.question, likelihoods, unasked, scoring=self.config.scoring)
            predicted = max(range(len(worth)), key=worth.__getitem__)
            gold = example.question.gold
            predictions.append(
                Prediction(
                    task=cell.task,
                    language=cell.language,
                    shots=cell.shots,
                    demo_seed=cell.demo_seed,
                    example_id=example.id,
                    content_id=example.content_id,
                    gold=gold,
                    predicted=predicted,
                    correct=predicted == gold,
                    log_likelihoods=likelihoods,
                )
            )
        return predictions

    def _likelihoods(
        self, questions: Sequence[Choices], tokenised: Sequence["Request"] | None = None
    ) -> tuple[Answers, int]:
        """Log-likelihoods of the choices of each question, and how many contexts were cut."""

        def make() -> tuple[Answers, Mapping[str, int]]:
            before = self._scorer.num_truncated
            values = self._scorer.score(questions, workers=self.host.workers, tokenised=tokenised)
            return values, {"num_truncated": self._scorer.num_truncated - before}

        prompts = [[list(choice) for choice in question] for question in questions]
        values, counts = self.answers({"kind": "log-likelihoods"}, prompts, make)
        return values, counts["num_truncated"]

    def scores(self, predictions: Sequence[Prediction]) -> list[Score]:
        """Accuracy of one task, language and number of shots; seeds are averaged per example first."""
        correct: dict[str, list[bool]] = {}
        contents: dict[str, str] = {}
        golds: dict[str, int | None] = {}
        by_seed: dict[int, list[bool]] = {}
        for prediction in predictions:
            correct.setdefault(prediction.example_id, []).append(bool(prediction.correct))
            by_seed.setdefault(prediction.demo_seed, []).append(bool(prediction.correct))
            contents[prediction.example_id] = prediction.content_id
            golds[prediction.example_id] = prediction.gold
        values = np.array([np.mean(seeds) for seeds in correct.values()])
        return [
            Score(
                task=predictions[0].task,
                language=predictions[0].language,
                shots=predictions[0].shots,
                split=self.split,
                metric="accuracy",
                value=float(values.mean()),
                n=len(values),
                standard_error=clustered_standard_error(values, list(contents.values())),
                demo_deviation=deviation([float(np.mean(seed)) for seed in by_seed.values()]),
                majority=majority_accuracy(list(golds.values())),
            )
        ]


def choice_values(
    question: Question, likelihoods: Sequence[float], neutral: Sequence[float], *, scoring: str
) -> list[float]:
    """What each choice is worth; the model answers with the one that is worth most, the first of equals.

    Args:
        question: its choices give the lengths; one space before a continuation is none of its characters.
        likelihoods: of the continuations after their contexts, in nats.
        neutral: of the continuations after their neutral contexts, in nats; read for `pmi` alone.
        scoring: as `evaluation.scoring`.

    Returns: one number per choice: nats, or nats per character or UTF-8 byte.
    Source: `pmi` is the domain conditional PMI of arXiv:2104.08315.
    """
    if scoring == "pmi":
        return [value - prior for value, prior in zip(likelihoods, neutral, strict=True)]
    if scoring == "sum":
        return list(likelihoods)
    texts = [continuation.removeprefix(" ") for _, continuation in question.choices]
    lengths = [len(text) if scoring == "length" else len(text.encode()) for text in texts]
    return [value / length for value, length in zip(likelihoods, lengths, strict=True)]


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation of the values of several demonstration seeds; None where there is one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def majority_accuracy(golds: Sequence[int | None]) -> float:
    """Accuracy of the answer that is right most often.

    Args:
        golds: index of the right choice of every example, at least one.

    Returns: in (0, 1].
    """
    return max(Counter(golds).values()) / len(golds)
