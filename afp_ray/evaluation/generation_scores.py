"""Generation tasks: what the model writes, and how good it is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from afp_ray.config import Split
from afp_ray.evaluation.cell_scoring import CellScoring
from afp_ray.evaluation.choice_scores import deviation
from afp_ray.evaluation.generation_task import GenerationCell
from afp_ray.evaluation.predictions import Prediction
from afp_ray.evaluation.prompts import generation_cells, sides, task_of
from afp_ray.evaluation.text_metrics import TextMetric
from afp_ray.records import Score
from afp_ray.statistics import clustered_standard_error

if TYPE_CHECKING:
    from torch import Tensor

    from afp_ray.evaluation.generation import TextGenerator
    from afp_ray.models.cuda_graphs import Recorder

_COUNTED = {
    "num_without_demonstrations": "prompts were too long for the model and lost demonstrations",
    "num_truncated": "prompts were too long for the model and were cut on the left",
    "num_capped": "texts were not finished after {limit} tokens",
}
"""Counts of a `TextGenerator`, and what each says of texts."""


class GenerationScoring(CellScoring):
    """Scores the generation tasks of one evaluation."""

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """How texts are written; what draws them is named only where something is drawn."""
        settings = self.config.generation
        drawn = {"top_p": settings.top_p, "seed": settings.seed} if settings.temperature > 0 else {}
        return {"max_new_tokens": settings.max_new_tokens, "temperature": settings.temperature, **drawn}

    @cached_property
    def _generator(self) -> "TextGenerator":
        from afp_ray.evaluation.generation import TextGenerator  # checks of an evaluation must not load torch
        from afp_ray.models.cuda_graphs import cuda_graphs

        capture: Recorder[Tensor] | None = None
        if self.host.captures_decoding:
            device = next(self.model.parameters()).device
            if device.type == "cuda":
                capture = cuda_graphs()
            else:
                self.warnings.append(f"runtime.decoding: graph needs a CUDA device; on {device} steps ran as they are")
        return TextGenerator(self.model, self.tokenizer, **self._settings, capture=capture)

    def _metrics(self, direction: str, language: str) -> tuple[TextMetric, ...]:
        target = sides(direction, language=language, pivot=self.pivot)[1]
        return task_of(direction).metrics(target, self.config.generation)

    def cells(self, direction: str, language: str) -> Iterator[GenerationCell]:
        """The cells of one direction and language."""
        return generation_cells(direction, self.config, language=language, pivot=self.pivot, split=self.split)

    def score_cell(self, cell: GenerationCell, name: str) -> list[Prediction]:
        """The text of every example; `name` is that of the cell, for warnings."""
        stop = task_of(cell.task).stop(self.config.generation)
        texts, counts = self._texts([(example.demonstrations, example.prompt) for example in cell.examples], stop)
        for counter, what in _COUNTED.items():
            if counts[counter]:
                what = what.format(limit=self.config.generation.max_new_tokens)
                self.warnings.append(f"{name}: {counts[counter]} of {len(texts)} {what}")
        return to_predictions(cell, texts, self._metrics(cell.task, cell.language)[0])

    def _texts(
        self, asked: Sequence[tuple[tuple[str, ...], str]], stop: Sequence[str]
    ) -> tuple[list[str], Mapping[str, int]]:
        """The text after each of some demonstrations and a question, and how many were cut."""
        from afp_ray.evaluation.generation import Prompt

        def make() -> tuple[list[str], Mapping[str, int]]:
            generator, prompts = self._generator, [Prompt(*prompt) for prompt in asked]
            before = {name: getattr(generator, name) for name in _COUNTED}
            texts = generator.generate(prompts, stop=stop, workers=self.host.workers)
            self.warnings += [warning for warning in generator.warnings if warning not in self.warnings]
            return texts, {name: getattr(generator, name) - count for name, count in before.items()}

        rendered = [[list(demonstrations), question] for demonstrations, question in asked]
        return self.answers({"kind": "texts", **self._settings, "stop": list(stop)}, rendered, make)

    def scores(self, predictions: Sequence[Prediction]) -> list[Score]:
        """Every metric of one direction, language and number of shots."""
        return to_scores(predictions, self._metrics(predictions[0].task, predictions[0].language), self.split)


def to_predictions(cell: GenerationCell, texts: Sequence[str], metric: TextMetric) -> list[Prediction]:
    """One prediction per example, with its value of the main metric and what corpus values are computed from."""
    return [
        Prediction(
            task=cell.task,
            language=cell.language,
            shots=cell.shots,
            demo_seed=cell.demo_seed,
            example_id=example.id,
            content_id=example.content_id,
            metric=metric.name,
            text=text,
            reference=example.reference,
            value=metric.example(text, example.reference),
            totals=metric.totals(text, example.reference) if metric.totals else (),
        )
        for example, text in zip(cell.examples, texts, strict=True)
    ]


def to_scores(predictions: Sequence[Prediction], metrics: Sequence[TextMetric], split: Split) -> list[Score]:
    """Scores of one direction, language and number of shots; the texts of all demonstration seeds count together."""
    first = predictions[0]
    by_seed: dict[int, list[Prediction]] = {}
    for prediction in predictions:
        by_seed.setdefault(prediction.demo_seed, []).append(prediction)
    return [
        Score(
            task=first.task,
            language=first.language,
            shots=first.shots,
            split=split,
            metric=metric.name,
            value=_value(predictions, metric),
            n=len({prediction.example_id for prediction in predictions}),
            standard_error=_standard_error(predictions, metric),
            demo_deviation=deviation([_value(own, metric) for own in by_seed.values()]),
            signature=metric.signature,
        )
        for metric in metrics
    ]


def _value(predictions: Sequence[Prediction], metric: TextMetric) -> float:
    return metric.corpus([p.text for p in predictions], [p.reference for p in predictions])


def _standard_error(predictions: Sequence[Prediction], metric: TextMetric) -> float | None:
    """Over contents: of the mean where the metric is one, by leaving contents out where it is computed from totals."""
    contents = [prediction.content_id for prediction in predictions]
    if metric.totals is None or metric.of_totals is None:
        return clustered_standard_error([metric.example(p.text, p.reference) for p in predictions], contents)
    by_content: dict[str, list[tuple[float, ...]]] = {}
    for prediction in predictions:
        by_content.setdefault(prediction.content_id, []).append(metric.totals(prediction.text, prediction.reference))
    if len(by_content) < 2:
        return None
    totals = np.array([np.sum(rows, axis=0) for rows in by_content.values()])
    without = metric.of_totals(totals.sum(axis=0) - totals)
    return math.sqrt((len(without) - 1) / len(without) * float(((without - without.mean()) ** 2).sum()))
