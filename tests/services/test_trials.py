"""One trial from the command line: scores of a model as it is, and a stored row run again."""

import json
from pathlib import Path

import pytest
from rich.cells import cell_len

from afp_ray.records import Difference, Score, TrainingSummary, TrialResult
from afp_ray.store import StudyPaths
from services import cli
from services.schemas import EvalAnswer, EvalCell
from services.trials import eval_answer, eval_config
from services.views.results import aligned, eval_lines

SMALL = ["--tasks", "xcopa", "--languages", "en,zh", "--limit", "8"]


def test_a_model_is_scored_as_it_is_and_its_row_reproduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = ["--storage", str(tmp_path)]
    assert cli.main(["eval", "embedded", *SMALL, *storage, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {(score["language"], score["split"]) for score in result["scores"]} == {
        (language, split) for language in ("en", "zh") for split in ("validation", "test")
    }
    assert result["training"]["steps"] == 0
    assert cli.main(["reproduce", result["trial_id"][:6], *storage, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["reproduced"] is True
    assert verdict["largest_difference"] == 0
    file = tmp_path / "trials" / result["trial_id"] / "result.json"
    stored = json.loads(file.read_text())
    stored["scores"][0]["value"] = 0.123
    file.write_text(json.dumps(stored))
    assert cli.main(["reproduce", result["trial_id"], *storage]) == 7
    assert "NOT reproduced" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["eval", "embedded", "--tasks", "mmlu"], "--tasks"),
        (["eval", "embedded", "--languages", "xx"], "xx"),
        (["eval", "embedded", "--shots", "many"], "'many' is no list of numbers"),
        (["eval", "embedded", "--demo-seeds", "x"], "--demo-seeds"),
        (["eval", "no/such/folder"], "no/such/folder"),
        (["eval", "embedded", "--tasks", "xcopa", "--base", "no/such/folder"], "no/such/folder"),
        (["eval", "embedded", "--tasks", "mgsm"], "mgsm has no embedded rows"),
        (["eval", "embedded", "--set", "training.max_steps=5"], "nothing that an evaluation reads"),
        (
            ["eval", "embedded", "--set", "evaluation.generation.max_new_token=5"],
            "evaluation.generation.max_new_tokens",
        ),
        (["eval", "embedded", "--set", "evaluation.limit=many"], "--set evaluation.limit=many"),
        (["reproduce", "feed"], "no trial begins with 'feed'"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--storage", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_second_model_stands_beside_with_paired_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same weights under another name: every difference is zero, and none is told apart."""
    fields = ["--split", "test", "--shots", "0,1", "--demo-seeds", "0,1", "--storage", str(tmp_path)]
    command = ["eval", "embedded", *SMALL, *fields, "--base", "embedded"]
    assert cli.main([*command, "--json", "--set", "evaluation.prompt_language=pivot"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["config"]["evaluation"]["prompt_language"] == "pivot"
    assert answer["splits"] == ["test"]
    assert answer["base_result"]["trial_id"] == answer["trial_id"]
    assert len(answer["cells"]) == len(answer["scores"]) == 4
    for cell in answer["cells"]:
        assert cell["base"] == cell["value"] and cell["majority"] >= 0.5 and cell["n"] == 8
        assert cell["vs_base"]["delta"] == 0 and cell["vs_base"]["p_holm"] == 1
        assert (cell["demo_deviation"] is not None) == (cell["shots"] == 1)
        assert cell["published"] == {}
    assert cli.main([*command, "--set", "evaluation.prompt_language=pivot"]) == 0
    text = capsys.readouterr().out
    for words in ("xcopa  0-shot  accuracy", "over demonstrations", "majority", "difference", "0.0"):
        assert words in text


def score(task: str, language: str, *, shots: int = 0, value: float = 0.5, metric: str = "accuracy") -> Score:
    fields = {"task": task, "language": language, "shots": shots, "metric": metric, "value": value}
    return Score(split="test", n=10, **fields)  # type: ignore[arg-type]


def result_of(model: str, scores: list[Score], data_dir: str | None) -> TrialResult:
    config = eval_config(
        model, tasks=["xnli"], languages=["en"], pivot="en", shots=[0], demo_seeds=[0], data_dir=data_dir, limit=None
    )
    return TrialResult(
        trial_id="0" * 16,
        config=config.model_dump(mode="json"),
        scores=tuple(scores),
        splits=("test",),
        training=TrainingSummary(steps=0),
        fingerprints={},
        seconds=1.0,
    )


def test_published_values_stand_beside_original_rows_of_the_same_checkpoint_alone(tmp_path: Path) -> None:
    scores = [
        score("xnli", "en"),
        score("xnli", "de"),
        score("xnli", "en", shots=5),
        score("xquad_qa", "en", metric="em"),
    ]
    paths = StudyPaths(tmp_path.parent, tmp_path.name)

    def published(model: str, data_dir: str | None, *, everything: bool = False) -> list[dict[str, float]]:
        answer = eval_answer(result_of(model, scores, data_dir), paths, all_published=everything)
        return [cell.published for cell in answer.cells]

    assert published("facebook/xglm-564M", "/data") == [{"XGLM-564M": pytest.approx(0.483)}, {}, {}, {}]
    assert published("facebook/xglm-564M", None) == [{}, {}, {}, {}]
    assert published("smollm2", "/data") == [{}, {}, {}, {}]
    every, *others = published("smollm2", "/data", everything=True)
    assert len(every) == 9 and every["XGLM-7.5B"] == pytest.approx(0.539)
    assert others == [{}, {}, {}]


def answer_of(*cells: EvalCell, model: str) -> EvalAnswer:
    base = result_of("other/base", [], None)
    return EvalAnswer(**dict(result_of(model, [], None)), model=model, folder="runs", cells=cells, base_result=base)


def cell(task: str, language: str, value: float, **fields: object) -> EvalCell:
    known = {"split": "test", "shots": 0, "metric": "accuracy", "n": 100}
    return EvalCell(**{**known, "task": task, "language": language, "value": value, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["m", "a/model-with-a-very-long-name-indeed", "模型"])
def test_columns_stand_under_their_language_however_long_a_name_is(model: str) -> None:
    difference = Difference(delta=0.03, ci95=(0.01, 0.05), p=0.001, p_holm=0.002)
    lines = eval_lines(
        answer_of(
            cell("xnli", "en", 0.5, standard_error=0.01, majority=1 / 3, base=0.47, vs_base=difference),
            cell("xnli", "th", 0.4, majority=1 / 3, base=0.4, vs_base=Difference(delta=0.0, p=1.0)),
            cell("alignment", "th", 0.1234, metric="alignment"),
            model=model,
        )
    )
    table = lines[: lines.index("")]
    wide = 2 * sum(ord(character) > 0x4E00 for character in model)
    own = next(line for line in table if line.strip().startswith(model))
    where = table[0].index("th")
    assert own.index("40.0") == where - wide // 2
    assert own.index("50.0 ±1.0") == table[0].index("en") - wide // 2
    for line in table:
        if "majority" in line or "other/base" in line or line.startswith("  n "):
            assert line[where - 1] == " " and line[where] != " "
    assert any("+3.0 [+1.0, +5.0]*" in line and " 0.0" in line for line in table)
    assert any("0.123" in line for line in table)
    assert "over demonstrations" not in "".join(table)


def test_scores_of_a_checkpoint_fold_by_language() -> None:
    codes = ("zh", "sw", "th", "tr", "de", "es", "fr", "ru", "ja", "ko", "vi")
    cells = [cell("xnli", code, 0.4 + index / 100, standard_error=0.01) for index, code in enumerate(codes)]
    answer = answer_of(*cells, model="名字很长的模型-with-a-long-name")
    (*rows, _) = [line for line in eval_lines(answer, 60) if line]
    assert all(cell_len(line) <= 60 for line in rows)
    for code in codes:
        assert sum(code in line.split() for line in rows) == 1
    assert len([line for line in rows if line.startswith("test")]) > 1
    assert next(line for line in eval_lines(answer) if line.startswith("test")).split()[1:] == list(codes)


def test_wide_characters_count_twice_and_marks_not_at_all() -> None:
    assert aligned([["名", "x"], ["abcd", "y"], ["e\u0301", "z"]]) == ["名    x", "abcd  y", "e\u0301     z"]
