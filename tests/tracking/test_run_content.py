"""What a run shows of a trial: paused and pruned ones, series over rungs, names, limits and secrets."""

import json
import math
from pathlib import Path
from typing import Literal

import pytest
from fabricate import fabricate, make_config, make_study
from hypothesis import given, settings
from hypothesis import strategies as st

from afp_ray.ledger import replay
from afp_ray.records import (
    IncompleteScores,
    MissingScore,
    Score,
    TrainingSummary,
    TrialRecord,
    TrialResult,
    TrialStatus,
    Until,
)
from afp_ray.store import StudyPaths
from afp_ray.tracking.run_content import CURVES, MAX_METRICS, MAX_NAME, params_of, run_content, safe_name


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"), methods=("afp",), seeds=(0,), with_failure=False)


def scored(task: str, language: str, value: float, split: Literal["validation", "test"] = "validation") -> Score:
    return Score(task=task, language=language, split=split, metric="accuracy", value=value, n=10)


def test_an_incomplete_trial_shows_its_scores_and_no_mean_of_a_set_that_lacks_one(record: TrialRecord) -> None:
    found = IncompleteScores(
        scores=(
            *(scored("xnli", language, 0.5) for language in ("en", "zh", "tr")),
            *(scored("xcopa", language, 0.25) for language in ("en", "zh")),
            *(scored(task, language, 1.0, "test") for task in ("xnli", "xcopa") for language in ("en", "zh", "tr")),
        ),
        missing=(MissingScore(task="xcopa", language="tr", split="validation", problem="KeyError: 'x'"),),
    )
    failed = record.model_copy(update={"status": TrialStatus.FAILED, "objective": None, "values": {}})
    content = run_content("s", failed, None, is_driven=True, incomplete=found)
    assert content.status == "FAILED"
    assert content.tags["afp.missing"] == "xcopa/tr/validation"
    assert {name: value for name, value in content.metrics.items() if name.endswith("validation")} == {
        "pivot_mean/validation": 0.375,
        "task/xnli/validation": 0.5,
        "language/en/validation": 0.375,
        "language/zh/validation": 0.375,
    }
    assert (
        content.metrics["mean/test"] == content.metrics["task/xcopa/test"] == content.metrics["language/tr/test"] == 1
    )
    assert len(json.loads(content.files["scores.json"])["data"]) == 11
    assert json.loads(content.files["incomplete.json"])["missing"][0]["language"] == "tr"


@pytest.fixture
def record(study: StudyPaths) -> TrialRecord:
    return replay(study.ledger).trials[0]


RUNGS = (Until(rung=0, unit="steps", amount=10), Until(rung=1, unit="steps", amount=30))


@pytest.mark.parametrize(
    ("status", "driven", "over"),
    [
        (TrialStatus.PAUSED, "RUNNING", "KILLED"),
        (TrialStatus.RUNNING, "RUNNING", "KILLED"),
        (TrialStatus.PRUNED, "KILLED", "KILLED"),
        (TrialStatus.CANCELLED, "KILLED", "KILLED"),
        (TrialStatus.FAILED, "FAILED", "FAILED"),
        (TrialStatus.DONE, "FINISHED", "FINISHED"),
    ],
)
def test_every_status_has_one_in_mlflow(record: TrialRecord, status: TrialStatus, driven: str, over: str) -> None:
    trial = record.model_copy(update={"status": status})
    contents = [run_content("demo", trial, None, is_driven=is_driven) for is_driven in (True, False)]
    assert [content.status for content in contents] == [driven, over]
    assert {content.tags["afp.status"] for content in contents} == {str(status)}


def test_every_status_of_a_trial_is_mapped(record: TrialRecord) -> None:
    for status in TrialStatus:
        run_content("demo", record.model_copy(update={"status": status}), None, is_driven=True)


def test_rungs_are_a_series_and_the_end_lies_behind_them(study: StudyPaths, record: TrialRecord) -> None:
    result = TrialResult.model_validate_json(study.trial(record.trial_id).result.read_bytes())
    training = result.training.model_copy(update={"steps": 90})
    trial = record.model_copy(update={"rungs": (0.4, 0.5)})
    paused = trial.model_copy(update={"status": TrialStatus.PAUSED, "objective": None})
    content = run_content("demo", paused, None, is_driven=True, rungs=RUNGS)
    assert content.series == (("objective", 10, 0.4), ("objective", 30, 0.5))
    assert "objective" not in content.metrics
    done = run_content("demo", trial, result.model_copy(update={"training": training}), is_driven=True, rungs=RUNGS)
    assert (done.step, done.metrics["objective"]) == (90, 0.7)
    assert run_content("demo", trial, result, is_driven=True, rungs=RUNGS).step == 31  # never before the last rung
    assert run_content("demo", record, result, is_driven=True).step == 0


def rows(last: int, *, every: int = 1) -> list[dict[str, float]]:
    """A curve up to a step, with cosines at every fiftieth and a loss that is no number at the third."""
    return [
        {"step": step, "contrastive_loss": math.nan if step == 3 else 1 / step, "gradient_norm": 2.0, "memory_bytes": 9}
        | ({"gradient_cosine": 0.1} if step % 50 == 0 else {})
        for step in range(1, last + 1, every)
    ]


@pytest.mark.parametrize("max_steps", [1, 5, 99, 100, 101, 1000])
def test_curves_are_bounded_reach_both_ends_and_only_grow(record: TrialRecord, max_steps: int) -> None:
    config = {**record.config, "training": {**record.config["training"], "max_steps": max_steps}}
    trial = record.model_copy(update={"config": config})
    curves = [
        run_content("demo", trial, None, is_driven=True, curve=rows(last)).curves
        for last in (max_steps // 3, max_steps // 2, max_steps)
    ]
    assert set(curves[0]) <= set(curves[1]) <= set(curves[2])
    norms = [step for name, step, _ in curves[2] if name == "curve/gradient_norm"]
    assert len(norms) == min(max_steps, 100) and norms[0] == 1 and norms[-1] == max_steps
    assert {name for name, _, _ in curves[2]} <= {f"curve/{name}" for name in CURVES}
    assert all(math.isfinite(value) for _, _, value in curves[2])
    assert sum(name == "curve/gradient_cosine" for name, _, _ in curves[2]) == min(max_steps // 50, 100)


def test_a_confirmed_trial_shows_every_task_and_language_and_is_no_search_trial(
    study: StudyPaths, record: TrialRecord
) -> None:
    result = TrialResult.model_validate_json(study.trial(record.trial_id).result.read_bytes())
    first = record.model_copy(update={"role": "search"})
    content = run_content("demo", first, result, is_driven=False, curve=rows(5))
    assert content.tags["afp.role"] == "confirm"
    cells = {(s.task, s.language): s.value for s in result.scores if s.is_main and s.split == "test"}
    assert {name: value for name, value in content.metrics.items() if name.startswith("test/")} == {
        f"test/{task}/{language}": value for (task, language), value in cells.items()
    }
    searched = first.model_copy(update={"splits": ("validation",)})
    content = run_content("demo", searched, result, is_driven=False)
    assert content.tags["afp.role"] == "search"
    assert not any(name.startswith("test/") for name in content.metrics)


def test_a_rung_that_is_not_finite_is_left_out(record: TrialRecord) -> None:
    trial = record.model_copy(update={"rungs": (math.nan, 0.5)})
    assert run_content("demo", trial, None, is_driven=True, rungs=RUNGS).series == (("objective", 30, 0.5),)


def test_further_objectives_are_metrics_of_their_own(record: TrialRecord) -> None:
    trial = record.model_copy(update={"values": {"retrieval@1": 0.5, "seconds": 3.0}})
    metrics = run_content("demo", trial, None, is_driven=False).metrics
    assert (metrics["also/retrieval_1"], metrics["also/seconds"]) == (0.5, 3.0)


def test_a_matrix_of_many_scores_stays_under_the_limit_and_whole_in_its_table(record: TrialRecord) -> None:
    config = make_config(make_study(), "afp", 0)
    scores = tuple(
        Score(task=f"task{task}", language=f"l{language}", split="test", metric="accuracy", value=0.5, n=1)
        for task in range(40)
        for language in range(80)
    )
    result = TrialResult(
        trial_id=record.trial_id, config=config.model_dump(mode="json"), splits=("test",), scores=scores,
        training=TrainingSummary(steps=1),
    )  # fmt: skip
    content = run_content("demo", record, result, is_driven=False, curve=rows(5))
    assert len(content.metrics) + len({name for name, _, _ in content.curves}) == MAX_METRICS
    assert {"objective", "mean/test", "seconds"} <= content.metrics.keys()
    assert int(content.tags["afp.metrics_in_table_only"]) > 0
    assert len(json.loads(content.files["scores.json"])["data"]) == 3200


def test_secrets_reach_neither_params_nor_tags_nor_files(record: TrialRecord) -> None:
    secret = "canary-5417"
    config = {**record.config, "where": f"https://me:{secret}@host/a?token={secret}"}
    trial = record.model_copy(update={"config": config, "note": f"s3://me:{secret}@bucket"})
    content = run_content("demo", trial, None, is_driven=False, failures={"failure-1.txt": f"http://u:{secret}@h"})
    assert secret not in repr(content)
    assert "***@host" in content.params["where"]


def test_the_digest_sees_every_part(record: TrialRecord) -> None:
    one = run_content("demo", record, None, is_driven=False)
    trial = record.model_copy(update={"rungs": (0.4,)})
    others = [
        run_content("demo", record.model_copy(update={"objective": 0.1}), None, is_driven=False),
        run_content("demo", record.model_copy(update={"attempt": 2}), None, is_driven=False),
        run_content("demo", trial, None, is_driven=False, rungs=RUNGS[:1]),
        run_content("demo", record, None, is_driven=False, failures={"failure-1.txt": "T"}),
    ]
    assert len({content.digest for content in (one, *others)}) == 5
    assert run_content("demo", record, None, is_driven=False).digest == one.digest


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
@settings(deadline=None)  # the first example imports MLflow
@given(st.text(min_size=1, max_size=400))
def test_any_name_becomes_one_that_mlflow_takes(name: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    safe = safe_name(name)
    _validate_metric_name(safe)
    assert 0 < len(safe) <= MAX_NAME
    assert safe_name(safe) == safe


def test_names_that_are_fine_stay_as_they_are() -> None:
    for name in ("task/xnli/test", "language/zh-Hant/validation", "training.max_steps", "mlflow.runName"):
        assert safe_name(name) == name
    assert params_of({"a": {"b!": 1}}) == {"a.b_": "1"}


def test_long_names_differ_where_the_names_did(tmp_path: Path) -> None:
    assert safe_name("x" * 300 + "a") != safe_name("x" * 300 + "b")
