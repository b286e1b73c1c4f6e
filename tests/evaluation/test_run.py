"""From a model to scores, predictions, their file, and the objective."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afp_ray.config import EvaluationConfig
from afp_ray.errors import ConfigError, DataError, ModelError, StorageError, TaskError
from afp_ray.evaluation import run
from afp_ray.evaluation.cell_scoring import ScoringHost
from afp_ray.evaluation.incomplete import IncompleteError
from afp_ray.evaluation.questions import render_cells
from afp_ray.evaluation.run import (
    Prediction,
    check_metric,
    evaluate_tasks,
    objective_value,
    read_predictions,
    write_predictions,
)
from afp_ray.records import MissingScore, Score

SETTINGS = EvaluationConfig(tasks=("xnli", "xwinograd"), shots=(0, 2), demo_seeds=(0, 1), limit=12)


class Recorder:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []

    def report(self, stage: str, done: int, total: int, metrics: Any = None) -> None:
        self.calls.append((stage, done, total))


def test_scores_are_the_means_of_their_predictions(tokenizer: Any, llama: Any) -> None:
    recorder = Recorder()
    result = evaluate_tasks(
        llama,
        tokenizer,
        SETTINGS,
        languages=("en", "zh"),
        pivot="en",
        split="test",
        host=ScoringHost(reporter=recorder),
    )
    assert [(s.task, s.language, s.shots) for s in result.scores] == [
        (task, language, shots) for task in ("xnli", "xwinograd") for language in ("en", "zh") for shots in (0, 2)
    ]
    assert len(result.predictions) == 2 * 2 * 12 * (1 + 2)
    for score in result.scores:
        own = [
            p for p in result.predictions if (p.task, p.language, p.shots) == (score.task, score.language, score.shots)
        ]
        assert score.value == pytest.approx(np.mean([p.correct for p in own]))
        assert (score.n, score.split, score.metric) == (12, "test", "accuracy")
        assert score.standard_error is not None
    assert recorder.calls == [("evaluate", done, 12) for done in range(1, 13)]


def break_cells(monkeypatch: pytest.MonkeyPatch, error: Exception, *broken: tuple[str, str]) -> None:
    """Let the scoring of these tasks in these languages fail."""
    whole = run._score_cell

    def score_cell(scoring: Any, cell: Any) -> Any:
        if (cell.task, cell.language) in broken:
            raise error
        return whole(scoring, cell)

    monkeypatch.setattr(run, "_score_cell", score_cell)


def evaluate(model: Any, tokenizer: Any, **options: Any) -> Any:
    return evaluate_tasks(model, tokenizer, SETTINGS, languages=("en", "zh"), pivot="en", split="validation", **options)


def test_what_cannot_be_scored_leaves_all_other_scores_as_they_are(
    tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluate(llama, tokenizer)
    break_cells(monkeypatch, TaskError("no label", where="row 7"), ("xnli", "zh"), ("xwinograd", "en"))
    recorder = Recorder()
    with pytest.raises(IncompleteError, match="2 of 4 scores are missing, so that there is no mean") as caught:
        evaluate(llama, tokenizer, host=ScoringHost(reporter=recorder))
    found = caught.value.report
    kept = {("xnli", "en"), ("xwinograd", "zh")}
    assert list(found.scores) == [score for score in expected.scores if (score.task, score.language) in kept]
    assert [(one.task, one.language, one.split, one.problem) for one in found.missing] == [
        ("xnli", "zh", "validation", "TaskError: row 7: no label"),
        ("xwinograd", "en", "validation", "TaskError: row 7: no label"),
    ]
    assert isinstance(caught.value.__cause__, TaskError)
    assert recorder.calls[-1] == ("evaluate", 12, 12)
    assert pickle.loads(pickle.dumps(caught.value)).report == found


def test_a_message_names_a_few_of_many_missing_scores() -> None:
    missing = [MissingScore(task="xnli", language=f"l{n}", split="test", problem="KeyError: 'x'") for n in range(9)]
    message = str(IncompleteError([], missing))
    assert "xnli/l4 on test: KeyError: 'x'; 4 more" in message
    assert "l5" not in message


def test_where_nothing_is_scored_the_first_error_comes_as_it_is(
    tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = [(task, language) for task in SETTINGS.tasks for language in ("en", "zh")]
    break_cells(monkeypatch, ZeroDivisionError("a sample"), *every)
    with pytest.raises(ZeroDivisionError, match="a sample"):
        evaluate(llama, tokenizer)


@pytest.mark.parametrize(
    "error",
    [
        ModelError("not finite"),
        ConfigError("no such model"),
        StorageError("disk full"),
        OSError(28, "no space"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_stands_against_every_score_ends_the_evaluation_at_once(
    tokenizer: Any, llama: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    break_cells(monkeypatch, error, ("xnli", "zh"))
    recorder = Recorder()
    with pytest.raises(type(error)):
        evaluate(llama, tokenizer, host=ScoringHost(reporter=recorder))
    assert recorder.calls[-1] == ("evaluate", 3, 12), "what came before it alone"


def test_predictions_choose_the_likeliest_choice_and_keep_the_rows_names(tokenizer: Any, llama: Any) -> None:
    result = evaluate_tasks(llama, tokenizer, SETTINGS, languages=("zh",), pivot="en", split="validation")
    cells = [
        cell
        for task in SETTINGS.tasks
        for cell in render_cells(task, SETTINGS, language="zh", pivot="en", split="validation")
    ]
    examples = [(cell, example) for cell in cells for example in cell.examples]
    for (cell, example), prediction in zip(examples, result.predictions, strict=True):
        assert (prediction.shots, prediction.demo_seed) == (cell.shots, cell.demo_seed)
        assert (prediction.example_id, prediction.content_id) == (example.id, example.content_id)
        assert prediction.gold == example.question.gold
        assert prediction.predicted == int(np.argmax(prediction.log_likelihoods))
        assert prediction.correct == (prediction.predicted == prediction.gold)
        assert len(prediction.log_likelihoods) == len(example.question.choices)


def test_weights_stay_as_they_are_and_a_second_run_is_equal(tokenizer: Any, llama: Any) -> None:
    before = {name: value.clone() for name, value in llama.state_dict().items()}
    first, second = (
        evaluate_tasks(llama, tokenizer, SETTINGS, languages=("en",), pivot="en", split="test") for _ in range(2)
    )
    assert first == second
    assert all(torch.equal(before[name], value) for name, value in llama.state_dict().items())


def test_cut_contexts_are_told_in_words(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama", positions=96)
    settings = EvaluationConfig(tasks=("xnli",), shots=(0, 4), limit=6)
    result = evaluate_tasks(model, tokenizer, settings, languages=("en",), pivot="en", split="test")
    assert len(result.warnings) == 1
    assert "xnli/en at 4 shots: 18 contexts" in result.warnings[0]
    assert "96 positions" in result.warnings[0]


def test_skipped_rows_are_told_in_words(tokenizer: Any, llama: Any, tmp_path: Path) -> None:
    folder = tmp_path / "pawsx" / "en"
    folder.mkdir(parents=True)
    lines = [f"{i}\tFirst {i} .\tSecond {i} .\t{i % 2}" for i in range(6)] + ["7\tNS\tSecond .\t0"]
    (folder / "dev_2k.tsv").write_text("\n".join(["id\tsentence1\tsentence2\tlabel", *lines]))
    settings = EvaluationConfig(tasks=("pawsx",), data_dir=str(tmp_path))
    result = evaluate_tasks(llama, tokenizer, settings, languages=("en",), pivot="en", split="test")
    assert result.warnings == ["pawsx/en: 1 rows without text to score were skipped"]
    assert result.scores[0].n == 3


def test_a_language_that_cannot_be_scored_is_an_error_that_names_it(tokenizer: Any, make_model: Any) -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError) as caught:
        evaluate_tasks(model, tokenizer, SETTINGS, languages=("zh",), pivot="en", split="test")
    assert caught.value.where == "xnli/zh at 0 shots"


def predictions() -> list[Prediction]:
    return [
        Prediction("xnli", "zh", 2, 1, f"dev:{i}", f"dev:{i // 3}", i % 3, 0, i % 3 == 0, (-1.5 - i, -2.25, -1e-9))
        for i in range(7)
    ]


def test_predictions_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "test.parquet"
    write_predictions(predictions(), path)
    assert read_predictions(path) == predictions()
    first = path.read_bytes()
    write_predictions(predictions(), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["test.parquet"]
    write_predictions([], path)
    assert read_predictions(path) == []


def test_a_broken_or_missing_file_of_predictions_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.parquet"
    with pytest.raises(DataError):
        read_predictions(path)
    write_predictions(predictions(), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert caught.value.where == str(path)


def score(
    task: str, language: str, value: float, *, shots: int = 0, metric: str = "accuracy", split: Any = "validation"
) -> Score:
    return Score(task=task, language=language, shots=shots, split=split, metric=metric, value=value, n=10)


SCORES = [
    score("xnli", "en", 0.9),
    score("xnli", "zh", 0.5),
    score("xnli", "zh", 0.7, shots=5),
    score("xnli", "sw", 0.4),
    score("xcopa", "en", 0.8),
    score("xcopa", "zh", 0.2),
    score("xcopa", "zh", 0.99, split="test"),
    score("retrieval", "zh", 0.3, metric="retrieval@1"),
    score("retrieval", "sw", 0.5, metric="retrieval@1"),
    score("retrieval", "zh", 0.25, metric="alignment"),
    score("retrieval", "zh", -2.0, metric="uniformity"),
]


@pytest.mark.parametrize(
    "metric, expected",
    [
        ("mean", ((0.6 + 0.4) / 2 + 0.2) / 2),
        ("pivot_mean", 0.85),
        ("xnli", 0.5),
        ("xcopa", 0.2),
        ("xnli/zh", 0.6),
        ("xnli/en", 0.9),
        ("retrieval@1", 0.4),
        ("alignment", 0.25),
        ("uniformity", -2.0),
    ],
)
def test_the_objective_nests_its_means(metric: str, expected: float) -> None:
    assert objective_value(SCORES, metric, pivot="en", split="validation") == pytest.approx(expected)


def test_the_objective_reads_its_split_alone() -> None:
    assert objective_value(SCORES, "xcopa", pivot="en", split="test") == pytest.approx(0.99)
    with pytest.raises(ConfigError, match="no score"):
        objective_value(SCORES, "xnli", pivot="en", split="test")


@pytest.mark.parametrize("metric", ["mean", "pivot_mean", "xnli", "xnli/zh", "xcopa/en", "retrieval@1", "uniformity"])
def test_metrics_of_the_study_are_allowed(metric: str) -> None:
    check_metric(metric, EvaluationConfig(), languages=("en", "zh"), pivot="en")


@pytest.mark.parametrize(
    "metric, languages, fields",
    [
        ("accuracy", ("en", "zh"), {}),
        ("xnli/th", ("en", "zh"), {}),
        ("mean", ("en",), {}),
        ("pivot_mean", ("zh",), {}),
        ("xnli", ("en", "zh"), {"tasks": ("xcopa",)}),
        ("alignment", ("en", "zh"), {"representation": None}),
        ("mean", ("en", "zh"), {"tasks": (), "representation": None}),
    ],
)
def test_a_metric_that_no_trial_would_have_is_refused(metric: str, languages: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_metric(metric, EvaluationConfig(**fields), languages=languages, pivot="en")
    assert metric not in caught.value.allowed.split(", ")
    assert caught.value.where == "objective.metric"


def test_every_allowed_metric_can_be_computed_from_a_real_evaluation(tokenizer: Any, llama: Any) -> None:
    from afp_ray.evaluation.run import allowed_metrics

    settings = EvaluationConfig(tasks=("xnli", "xcopa"), representation=None, limit=4)
    result = evaluate_tasks(llama, tokenizer, settings, languages=("en", "zh"), pivot="en", split="validation")
    names = allowed_metrics(settings, languages=("en", "zh"), pivot="en")
    assert len(names) == 8
    for name in names:
        assert 0 <= objective_value(result.scores, name, pivot="en") <= 1
