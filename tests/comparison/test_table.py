"""Answers from finished studies: what chose, what is reported, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fabricate import FINGERPRINTS, fabricate, make_config, make_study

from afp_ray.comparison import best, compare
from afp_ray.comparison.best_arm import _ranked
from afp_ray.comparison.confirmed import ConfirmedArm, read_confirmed
from afp_ray.comparison.metric import parse_metric
from afp_ray.errors import ConfigError, DataError, UserError
from afp_ray.records import Best, Comparison
from afp_ray.store import StudyPaths


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


def test_best_has_the_fields_of_the_contract(finished: StudyPaths) -> None:
    contract = {
        "study", "objective", "arm", "config", "score", "vs_base", "per_language", "constraints", "p_best", "runner_up",
        "gpu_hours", "checkpoint", "mlflow_run_id", "trials", "reproduce", "warnings",
    }  # fmt: skip
    found = best(finished)
    assert contract <= set(Best.model_fields)
    assert {"mean", "ci95", "n_seeds", "note"} == set(found.model_dump()["score"])
    assert {"delta", "ci95", "p_holm", "test", "n"} <= set(found.model_dump()["vs_base"])
    assert Best.model_validate_json(found.model_dump_json()) == found


def test_the_planted_winner_wins_and_its_gain_is_the_difference_of_the_means(finished: StudyPaths) -> None:
    found, table = best(finished), compare(finished)
    rows = {row.arm: row for row in table.arms}
    assert found.arm == "afp"
    assert found.score.n_seeds == 2
    assert found.vs_base is not None
    assert found.vs_base.ci95 is not None
    assert rows["base"].mean is not None
    assert found.vs_base.delta == pytest.approx(found.score.mean - rows["base"].mean.mean, abs=1e-12)
    low, high = found.vs_base.ci95
    assert low < found.vs_base.delta < high
    assert found.vs_base.n == 240  # 2 tasks x 2 languages x 60 rows
    assert found.p_best == pytest.approx(1.0, abs=0.01)
    assert found.runner_up is not None
    assert found.runner_up.arm == "mcl"


def test_holm_covers_all_arms_in_both_answers(finished: StudyPaths) -> None:
    row = next(row for row in compare(finished).arms if row.arm == "afp")
    found = best(finished)
    assert row.mean is not None
    assert row.mean.vs_base is not None
    assert found.vs_base is not None
    assert row.mean.vs_base == found.vs_base
    assert found.vs_base.p is not None
    assert found.vs_base.p_holm == pytest.approx(2 * found.vs_base.p)  # the smallest of two tests is doubled


def test_a_small_difference_is_called_not_distinguishable(finished: StudyPaths) -> None:
    verdicts = dict(line.split(": ", 1) for line in compare(finished).verdicts)
    assert verdicts["mcl"].startswith("not distinguishable from base")
    assert verdicts["afp"].startswith("better than base")


def test_selection_reads_validation_and_the_report_reads_test(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    for file in paths.trials.glob("*/result.json"):
        content = json.loads(file.read_text())
        if content["config"]["method"] == "mcl":  # mcl becomes best on validation alone
            for score in content["scores"]:
                score["value"] = (
                    0.99 if score["split"] == "validation" and score["task"] != "retrieval" else score["value"]
                )
            file.write_text(json.dumps(content))
    found = best(paths)
    assert (found.arm, found.split) == ("mcl", "test")
    assert found.score.mean < 0.6


def test_a_language_and_a_metric_narrow_the_choice(finished: StudyPaths) -> None:
    row = next(row for row in compare(finished).arms if row.arm == "afp")
    swahili = [cell.mean for cell in row.cells if cell.language == "sw"]
    assert best(finished, language="sw").score.mean == pytest.approx(sum(swahili) / 2)
    one = next(cell.mean for cell in row.cells if (cell.task, cell.language) == ("xcopa", "zh"))
    assert best(finished, metric="xcopa/zh").score.mean == pytest.approx(one)
    closest = best(finished, metric="alignment")
    assert (closest.arm, closest.objective) == ("afp", "minimize alignment")
    assert closest.vs_base is not None
    assert closest.vs_base.delta == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "xcop"}, "'xcop' is not known"),
        ({"language": "th"}, "no trial was scored on mean in th"),
        ({"metric": "xcopa/zh", "language": "sw"}, "not about language"),
        ({"under": {"memory": 1.0}}, "'memory' is not known"),
    ],
)
def test_an_unknown_question_is_refused(finished: StudyPaths, options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        best(finished, **options)  # type: ignore[arg-type]


def test_a_limit_on_cost_is_kept_or_refused(finished: StudyPaths, tmp_path: Path) -> None:
    assert best(finished, under={"gpu_hours": 0.2}).constraints["gpu_hours"].ok
    assert best(finished, under={"gpu_hours": 0.1}).arm == "base"
    trained = fabricate(tmp_path, methods=("mcl", "afp"))
    with pytest.raises(DataError, match=r"limits; they are: mcl gpu_hours 0\.2, afp gpu_hours 0\.2"):
        best(trained, under={"gpu_hours": 0.1})


def test_without_a_base_differences_are_null_and_a_warning_says_so(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, methods=("mcl", "afp"))
    found, table = best(paths), compare(paths)
    assert found.vs_base is None
    assert table.base is None
    assert all(row.mean is not None and row.mean.vs_base is None for row in table.arms)
    assert any("no base arm" in warning for warning in (*found.warnings, *table.warnings))


def test_a_missing_seed_and_an_open_study_are_said(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, closed=None)
    for record in paths.trials.iterdir():
        assert record.is_dir()
    study = make_study(seeds=(0, 1, 2))
    paths.study.write_text(study.model_dump_json())
    warnings = compare(paths).warnings
    assert "arm afp is confirmed at 2 of 3 seeds" in warnings
    assert "study demo is not complete" in warnings
    assert not any("base is confirmed" in warning for warning in warnings)  # base pins its seed


def test_mixed_evaluation_sets_are_refused(tmp_path: Path) -> None:
    first, second = fabricate(tmp_path, "one"), fabricate(tmp_path, "two")
    for file in second.trials.glob("*/result.json"):
        file.write_text(file.read_text().replace(FINGERPRINTS["evaluation"], "x" * 16))
    with pytest.raises(DataError, match="not scored on the same examples"):
        compare(first, second)


def test_two_studies_share_one_table(tmp_path: Path) -> None:
    table = compare(fabricate(tmp_path, "one"), fabricate(tmp_path, "two", methods=("mcl",)))
    assert [row.arm for row in table.arms] == ["one/base", "one/mcl", "one/afp", "two/mcl"]
    assert table.arms[3].mean is not None
    assert table.arms[3].mean.vs_base is not None
    assert Comparison.model_validate_json(table.model_dump_json()) == table


def test_representations_stand_beside_those_of_base(finished: StudyPaths) -> None:
    rows = {row.arm: row for row in compare(finished).representation if not row.language}
    assert rows["base"].before is None
    assert rows["afp"].layer == 0
    assert rows["afp"].retrieval_at_1 == pytest.approx(0.7)
    assert rows["afp"].before == pytest.approx((0.5, 0.5, -2.0))


def test_a_study_without_anything_confirmed_says_what_to_do(tmp_path: Path) -> None:
    paths = fabricate(tmp_path, methods=(), study=make_study(), closed="interrupted: SIGINT")
    with pytest.raises(DataError, match="no arm of demo has a confirmed configuration"):
        compare(paths)
    with pytest.raises(UserError, match="there is no study 'other'"):
        best(StudyPaths(tmp_path, "other"))


def test_a_lost_prediction_file_is_named(tmp_path: Path) -> None:
    paths = fabricate(tmp_path)
    file = next(paths.trials.glob("*/predictions/test.parquet"))
    file.write_bytes(b"torn")
    with pytest.raises(DataError) as caught:
        compare(paths)
    assert caught.value.where == str(file)


def test_the_fabricated_configs_are_valid() -> None:
    assert make_config(make_study(), "base", 5).seed == 0
    assert parse_metric("mean").sign == 1


def test_equal_arms_are_told_apart_by_what_they_train_on_and_not_by_what_was_measured(finished: StudyPaths) -> None:
    arm = read_confirmed(finished, split="test").arms[-1]
    config = arm.results[0].config

    def twin(name: str, *, training_hours: float, max_steps: int) -> ConfirmedArm:
        trained = {**config, "training": {**config["training"], "max_steps": max_steps}}
        measured = {
            "training": arm.results[0].training.model_copy(update={"training_hours": training_hours}),
            "config": trained,
        }
        results = tuple(result.model_copy(update=measured) for result in arm.results)
        return replace(arm, name=name, results=results)

    twins = [
        twin("b", training_hours=1.0, max_steps=9),
        twin("a", training_hours=2.0, max_steps=9),
        twin("c", training_hours=9.0, max_steps=1),
    ]
    assert [one.name for one in _ranked(parse_metric("mean", direction="maximize"), twins, {})] == ["c", "a", "b"]
