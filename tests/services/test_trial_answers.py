"""Finished trials looked at: found by a few digits or by arm, shown, set side by side, and read example by example."""

import json
import shutil
from pathlib import Path

import pytest
from fabricate import fabricate, make_config, make_result

from afp_ray.comparison.examples import Answered, Choice, answered_examples
from afp_ray.config import StudyConfig, flatten
from afp_ray.errors import UserError
from afp_ray.evaluation.predictions import Prediction, read_predictions, write_predictions
from afp_ray.evaluation.questions import render_cells
from afp_ray.ledger import replay
from afp_ray.store import StudyPaths, read_result, read_study
from services import cli
from services.status import trial_answer
from services.trial_answers import diff_answer, examples_answer, show_answer
from services.trial_references import find_trial


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    return fabricate(tmp_path_factory.mktemp("runs"))


def ids(study: StudyPaths, arm: str) -> list[str]:
    return [trial.trial_id for trial in replay(study.ledger).trials if trial.arm == arm]


def test_a_trial_is_found_by_its_first_digits_and_by_its_arm(study: StudyPaths) -> None:
    for trial in replay(study.ledger).trials[:-1]:
        digits = next(
            trial.trial_id[:count]
            for count in range(1, 17)
            if sum(other.trial_id.startswith(trial.trial_id[:count]) for other in replay(study.ledger).trials) == 1
        )
        assert find_trial(digits, study.storage).trial_id == trial.trial_id
        assert trial_answer(study.storage, "demo", digits).record.trial_id == trial.trial_id
    first, second = ids(study, "afp")[:2]
    assert find_trial("demo:afp", study.storage).trial_id == first
    assert find_trial("demo:afp:1", study.storage).trial_id == second
    assert find_trial("demo:best", study.storage).trial_id == find_trial("demo", study.storage).trial_id == first
    shutil.copytree(study.trial(second).folder, study.storage / "trials" / "0123456789abcdef", dirs_exist_ok=True)
    assert find_trial("01234567", study.storage).study is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "no trial begins with ''"),
        ("*", "no trial begins with"),
        ("../demo", "no trial begins with"),
        ("demmo", "did you mean demo?"),
        ("fffe", "did you mean ffff?"),
        ("demmo:afp", "there is no study 'demmo'"),
        ("demo:afpp", "did you mean afp?"),
        ("demo:afp:7", "no seed '7'"),
    ],
)
def test_what_names_no_trial_is_refused_with_what_there_is(
    study: StudyPaths, reference: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", reference, "--storage", str(study.storage)]) == 2
    assert message in capsys.readouterr().err


def test_several_trials_that_begin_alike_are_listed(study: StudyPaths) -> None:
    some = ids(study, "afp")[0]
    shutil.copytree(study.trial(some).folder, study.storage / "trials" / (some[:5] + "0" * 11), dirs_exist_ok=True)
    with pytest.raises(UserError, match="2 trials begin with") as error:
        find_trial(some[:5], study.storage)
    assert some in error.value.allowed


def test_a_sheet_holds_what_the_trial_is_cost_and_scored(study: StudyPaths, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ids(study, "afp")[:2]
    result = read_result(study.trial(first).result)
    sheet = show_answer("demo:afp", study.storage)
    assert (sheet.trial_id, sheet.study, sheet.arm, sheet.status) == (first, "demo", "afp", "DONE")
    assert sheet.scores == result.scores and sheet.config == result.config and sheet.seconds == 900
    assert [seed.trial_id for seed in sheet.seeds] == [first, second, "f" * 16]
    assert sheet.changed["training.max_steps"] == 5 and "training.learning_rate" not in sheet.changed
    assert cli.main(["show", first[:8], "--storage", str(study.storage), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == sheet.model_dump(mode="json")
    assert cli.main(["show", first[:8], "--storage", str(study.storage)]) == 0
    shown = capsys.readouterr().out
    assert str(study.trial(first).folder) in shown and "15:00" in shown and "retrieval@1" in shown
    assert cli.main(["show", "ffffffff", "--storage", str(study.storage)]) == 0
    assert "DIVERGED: diverged <b>at</b> step 3" in capsys.readouterr().out


def test_a_diff_shows_what_differs_alone_and_pairs_scores(
    study: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    diff = diff_answer("demo:mcl", "demo:afp", study.storage)
    left, right = (flatten(read_result(study.trial(ids(study, arm)[0]).result).config) for arm in ("mcl", "afp"))
    assert diff.config == {name: (left[name], right[name]) for name in right if left[name] != right[name]}
    assert diff.config["method"] == ("mcl", "afp")
    scores = {(s.split, s.task, s.language, s.metric): s.value for s in diff.a.scores}
    assert len(diff.scores) + diff.equal_scores == len(scores)
    for pair in diff.scores:
        assert pair.a == scores[pair.split, pair.task, pair.language, pair.metric] != pair.b
        if pair.metric == "accuracy":
            assert pair.difference and pair.b is not None and pair.a is not None
            assert pair.difference.delta == pytest.approx(pair.b - pair.a)
            assert pair.difference.p_holm is not None and pair.difference.n == 60
    back = diff_answer("demo:afp", "demo:mcl", study.storage)
    assert back.config == {name: (b, a) for name, (a, b) in diff.config.items()}
    same = diff_answer("demo:afp", "demo:afp", study.storage)
    assert not (same.config or same.scores or same.other)
    assert cli.main(["diff", "demo:mcl", "demo:afp", "--storage", str(study.storage)]) == 0
    shown = capsys.readouterr().out
    assert "method" in shown and "data.pivot" not in shown and "B - A" in shown


def test_trials_that_answered_other_examples_have_no_paired_difference(study: StudyPaths) -> None:
    alone = study.storage / "trials" / "c0ffee0000000000"
    config = make_config(study_config(study), "afp", 5)
    make_result(config, "c0ffee0000000000", alone, accuracy=0.6, splits=("test",))
    file = alone / "predictions" / "test.parquet"
    write_predictions(read_predictions(file)[1:], file)
    diff = diff_answer("demo:afp", "c0ffee", study.storage)
    assert not any(pair.difference for pair in diff.scores)
    assert "answered different examples" in diff.notes[0]


def study_config(study: StudyPaths) -> StudyConfig:
    return read_study(study)


def test_flipped_examples_are_those_that_one_of_the_two_got_right(
    study: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    afp, base = (
        {
            (row.task, row.language, row.example_id): row.correct
            for row in read_predictions(study.trial(ids(study, arm)[0]).predictions_of("test"))
        }
        for arm in ("afp", "base")
    )
    gained = {key for key in afp if afp[key] and not base[key]}
    lost = {key for key in afp if base[key] and not afp[key]}
    answer = examples_answer("demo:afp", study.storage, is_flipped=True, limit=None)
    assert {(e.task, e.language, e.example_id) for e in answer.examples if e.change > 0} == gained
    assert {(e.task, e.language, e.example_id) for e in answer.examples if e.change < 0} == lost
    assert sum(cell.gained for cell in answer.cells) == len(gained) and answer.answered == len(gained) + len(lost)
    assert answer.other_name == "base"
    few = examples_answer("demo:afp", study.storage, is_flipped=True, limit=7, task="xcopa", language="zh")
    assert len(few.examples) == 7 and {(e.task, e.language) for e in few.examples} == {("xcopa", "zh")}
    assert (
        few.examples
        == examples_answer("demo:afp", study.storage, is_flipped=True, limit=7, task="xcopa", language="zh").examples
    )
    for words in (["--task", "xcop"], ["--language", "zz"]):
        assert cli.main(["examples", "demo:afp", *words, "--storage", str(study.storage)]) == 2
    assert cli.main(["examples", "demo:base", "--flipped", "--storage", str(study.storage)]) == 2
    assert "--against" in capsys.readouterr().err


def test_examples_come_with_the_texts_that_the_model_was_asked(study: StudyPaths, tmp_path: Path) -> None:
    """Predictions on embedded rows: a choice with its prompt, and one whose row is not the same any more."""
    config = make_config(study_config(study), "afp", 0)
    cell = next(render_cells("xcopa", config.evaluation, language="zh", pivot="en", split="test"))
    folder = tmp_path / "trials" / "abcd"
    result = make_result(config, "abcd", folder, accuracy=0.5, splits=("test",))
    first, second = cell.examples[:2]
    rows = [
        Prediction("xcopa", "zh", 0, 0, e.id, e.content_id, gold, 0, gold == 0, (-1.0, -2.0))
        for e, gold in ((first, first.question.gold), (second, 1 - second.question.gold))
    ]
    write_predictions(rows, folder / "predictions" / "test.parquet")
    paths = StudyPaths(tmp_path.parent, tmp_path.name)
    answer = answered_examples(Answered("x", result, paths.trial("abcd")), None, Choice("test"))
    by_id = {example.example_id: example for example in answer.examples}
    (context, continuation), *_ = first.question.choices
    assert by_id[first.id].prompt == context and by_id[first.id].choices[0] == continuation
    assert by_id[second.id].prompt is None
    assert answer.notes == ("1 of xcopa/zh have no text: their rows are not what the trial was asked",)


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
@pytest.mark.parametrize("words", [["show", "demo:afp"], ["diff", "demo:mcl", "demo:afp"], ["examples", "demo:afp"]])
def test_no_number_is_cut_in_a_narrow_terminal(
    study: StudyPaths,
    words: list[str],
    columns: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main([*words, "--storage", str(study.storage)]) == 0
    shown = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert all(len(line) <= columns for line in shown.splitlines() if line.startswith(("┃", "│", "└", "┏")))
