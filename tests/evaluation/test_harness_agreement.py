"""On the published files, `template: harness` gives the answers of lm-evaluation-harness, example by example."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness_cases import harness_requests, harness_task

from afp_ray.config import EvaluationConfig
from afp_ray.evaluation.questions import draw_rows, load_rows
from afp_ray.evaluation.run import evaluate_tasks
from afp_ray.evaluation.tasks import TASKS

pytestmark = pytest.mark.shared_data

NUM_ROWS = 20
NUM_CALIBRATED = 40
"""Rows of those tests that need some on which the option changes the answer."""
CASES = [
    *(("xnli", language, "validation") for language in ("en", "zh", "sw", "tr", "ur")),
    *(("pawsx", language, "validation") for language in ("en", "zh", "de", "ko")),
    *(("xcopa", language, "validation") for language in ("en", "zh", "et", "qu", "tr")),
    *(("xstorycloze", language, "validation") for language in ("en", "zh", "ar", "sw")),
    *(("xwinograd", language, "test") for language in ("en", "ja", "ru", "pt")),
]


@pytest.fixture(scope="module")
def data_dir() -> str:
    folder = Path(os.environ.get("AFP_DATA_DIR") or Path(__file__).parents[2].parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data under {folder}; set AFP_DATA_DIR")
    return str(folder)


class Harness:
    """The harness' own model class around our model, asked for a task over given rows."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
        from lm_eval.models.huggingface import HFLM

        self._model = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=32, device="cpu", backend="causal")

    def answers(self, task: Any, num_shots: int) -> list[tuple[list[float], dict[str, Any]]]:
        """Log-likelihoods of every request of a row, and what the harness makes of them."""
        requests = harness_requests(task, num_shots)
        found: dict[int, list[tuple[float, bool]]] = {}
        for request, value in zip(requests, self._model.loglikelihood(requests, disable_tqdm=True), strict=True):
            found.setdefault(request.doc_id, []).append(value)
        documents = {request.doc_id: request.doc for request in requests}
        return [
            ([value for value, _ in results], task.process_results(documents[index], results))
            for index, results in found.items()
        ]


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any]) -> Any:
    return make_model("llama", positions=4096)


@pytest.fixture(scope="module")
def harness(model: Any, tokenizer: Any) -> Harness:
    return Harness(model, tokenizer)


def settings(task: str, data_dir: str, **fields: Any) -> EvaluationConfig:
    common = {"tasks": [task], "data_dir": data_dir, "template": "harness", "limit": NUM_ROWS, "representation": None}
    return EvaluationConfig.model_validate({**common, **fields})


@pytest.mark.parametrize("task, language, split", CASES)
def test_predictions_are_those_of_the_harness(
    data_dir: str, model: Any, tokenizer: Any, harness: Harness, task: str, language: str, split: Any
) -> None:
    rows = load_rows(TASKS[task], data_dir, language)
    scored = rows.splits[split][:NUM_ROWS]
    demonstrations = draw_rows(rows.demonstrations, seed=3, count=2)
    shown = {str(row["content_id"]) for row in demonstrations}
    config = settings(task, data_dir, shots=(0, 2), demo_seeds=(3,))
    result = evaluate_tasks(model, tokenizer, config, languages=(language,), pivot="en", split=split)
    for num_shots in (0, 2):
        ours = [prediction for prediction in result.predictions if prediction.shots == num_shots]
        theirs = harness.answers(harness_task(task, language, scored, demonstrations), num_shots)
        assert len(ours) == len(theirs) == NUM_ROWS
        compared = 0
        for prediction, (likelihoods, verdict) in zip(ours, theirs, strict=True):
            if num_shots and prediction.content_id in shown:
                continue  # the harness shows a row to itself
            assert prediction.log_likelihoods == pytest.approx(likelihoods, abs=1e-3)
            assert prediction.correct == bool(verdict["acc"])
            compared += 1
        assert compared >= NUM_ROWS - 4


@pytest.mark.parametrize(
    "task, language, scoring, metric",
    [
        ("xnli", "sw", "length", "acc_norm"),
        ("xnli", "zh", "bytes", "acc_bytes"),
        ("xcopa", "tr", "length", "acc_norm"),
        ("xcopa", "th", "bytes", "acc_bytes"),
        ("xstorycloze", "es", "length", "acc_norm"),
        ("xstorycloze", "en", "pmi", "acc_mutual_info"),
        ("xstorycloze", "hi", "pmi", "acc_mutual_info"),
    ],
)
def test_calibrated_scores_are_the_metrics_that_the_harness_defines_alike(
    data_dir: str, model: Any, tokenizer: Any, harness: Harness, task: str, language: str, scoring: str, metric: str
) -> None:
    rows = load_rows(TASKS[task], data_dir, language).splits["validation"][:NUM_CALIBRATED]
    result = evaluate_tasks(
        model,
        tokenizer,
        settings(task, data_dir, scoring=scoring, limit=NUM_CALIBRATED),
        languages=(language,),
        pivot="en",
        split="validation",
    )
    theirs = harness.answers(harness_task(task, language, rows, metrics=("acc", metric)), 0)
    assert [prediction.correct for prediction in result.predictions] == [bool(v[metric]) for _, v in theirs]
    plain = [bool(verdict["acc"]) for _, verdict in theirs]
    assert [prediction.correct for prediction in result.predictions] != plain  # the option changes something here
