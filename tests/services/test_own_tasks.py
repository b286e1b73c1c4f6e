"""A choice task from files alone: scored like ours, told by file and line where it fails, shown to the letter."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import afp_ray as afp
from afp_ray.config import CHOICE_TASKS, GENERATION_TASKS, trial_id
from afp_ray.config.load import load_study
from afp_ray.search import make_arms, resolve
from afp_ray.trial.check import check_trial, fingerprints
from services import cli

WORDS = {"en": ("cat", "dog", "is a"), "zh": ("猫", "狗", "是"), "sw": ("paka", "mbwa", "ni")}
OWN = {
    "kind": "jsonl",
    "path": "{folder}/{language}.{split}.jsonl",
    "template": "{animal} {verb}",
    "choices": ["first", "second"],
    "label": "answer",
    "id": "number",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve rows of a language and split."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for language, (cat, dog, verb) in WORDS.items():
        for split in ("dev", "test"):
            rows = [
                {"number": f"{split}{row}", "animal": cat, "verb": verb, "first": cat, "second": dog, "answer": row % 2}
                for row in range(12)
            ]
            write(folder / f"{language}.{split}.jsonl", rows)
    return folder


def write(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def study_of(folder: Path, **changes: Any) -> dict[str, Any]:
    own = {**OWN, "path": str(folder / "{language}.{split}.jsonl"), **changes}
    return {
        "name": "own",
        "objective": {"metric": "animals"},
        "fixed": {
            "data.languages": ["zh", "sw"],
            "evaluation.tasks": ["xcopa"],
            "evaluation.own_tasks": {"animals": {name: value for name, value in own.items() if value is not None}},
            "evaluation.representation": None,
            "evaluation.limit": 10,
        },
        "compare": {"method": ["base"]},
        "runtime": {"executor": "local"},
    }


def identity(study: dict[str, Any]) -> str:
    config = load_study(study)
    trial = resolve(make_arms(config)[0], {}, 0)
    return trial_id(trial, fingerprints(trial))


def test_an_own_task_is_planned_scored_compared_and_chosen_by(folder: Path, tmp_path: Path) -> None:
    storage = tmp_path / "runs"
    study = study_of(folder)
    assert afp.plan(study, storage=storage).trials == 1
    assert afp.run(study, storage=storage, progress=False).state == "complete"
    frame = afp.compare("own", storage=storage).to_frame()
    cells = frame[(frame.arm == "base") & (frame.task == "animals")]
    assert set(cells.language) == {"en", "zh", "sw"}
    majority = frame[(frame.arm == "majority") & (frame.task == "animals")]
    assert set(majority["mean"]) == {0.5}
    best = afp.best("own", metric="animals/zh", storage=storage)
    assert best.config.evaluation.own_tasks["animals"].template == "{animal} {verb}"
    with pytest.raises(afp.ConfigError, match="metric 'animal' is not known") as caught:
        afp.best("own", metric="animal", storage=storage)
    assert "animals" in caught.value.allowed


def test_the_template_is_part_of_the_id_and_the_folder_is_not(folder: Path, tmp_path: Path) -> None:
    before = identity(study_of(folder))
    assert identity(study_of(folder, template="{animal}, {verb}")) != before
    assert identity(study_of(folder, choices=["second", "first"])) != before
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    assert identity(study_of(moved)) == before
    rows = [json.loads(line) for line in (moved / "sw.test.jsonl").read_text("utf-8").splitlines()]
    rows[0]["verb"] = "si"
    write(moved / "sw.test.jsonl", rows)
    assert identity(study_of(moved)) != before


def check(study: dict[str, Any]) -> None:
    check_trial(resolve(make_arms(load_study(study))[0], {}, 0))


def refused(study: dict[str, Any]) -> afp.UserError:
    with pytest.raises(afp.UserError) as caught:
        check(study)
    return caught.value


@pytest.mark.parametrize(
    ("changes", "problem", "allowed"),
    [
        ({"template": "{animal"}, "not well formed", ""),
        ({"template": "{} is"}, "write the name of a column in the braces", ""),
        ({"template": "{animal!r}"}, "has {animal!r}", ""),
        ({"template": "animal"}, "names no column", ""),
        ({"labels": ["A"]}, "labels", ""),
        ({"labels": ["A", "B", "C"]}, "3 values for 2 choices", ""),
        ({"choices": ["first", "first"]}, "repeats a value", ""),
        ({"label": None}, "own_tasks.animals.label is missing", ""),
        ({"kind": "tsv"}, '"tsv" is not known', "jsonl"),
        ({"languages": ["xx"]}, "'xx' is unknown", ""),
        ({"template": "{anmal} is"}, "names the column 'anmal', which the rows do not have", "number, animal, verb"),
        ({"labels": ["A", "B"]}, "row has answer '0'", "A, B"),
        ({"path": "/nowhere/{language}.jsonl"}, "animals has no rows in 'en' under /nowhere/{language}.jsonl", "none"),
        ({"choices": ["first"]}, "row has first = 'cat'", "a list of two choices or more"),
    ],
)
def test_a_slip_is_told_with_its_place(folder: Path, changes: dict[str, Any], problem: str, allowed: str) -> None:
    error = refused(study_of(folder, **changes))
    assert problem in str(error)
    assert allowed in error.allowed
    assert "own_tasks" in str(error) or "<study>:" in error.where or ".jsonl:1" in error.where


def test_names_that_are_taken_are_refused(folder: Path) -> None:
    for name in ("xcopa", "mean", "translation_to_pivot", "My task"):
        study = study_of(folder) | {"objective": {"metric": "mean"}}
        study["fixed"]["evaluation.own_tasks"] = {name: study["fixed"]["evaluation.own_tasks"]["animals"]}
        assert f"cannot have the name '{name}'" in refused(study).problem


def test_a_row_that_does_not_serve_is_named_by_line(folder: Path) -> None:
    file = folder / "zh.test.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    write(file, [*rows[:3], {**rows[3], "answer": 2}, *rows[4:]])
    error = refused(study_of(folder))
    assert error.problem == "animals row has answer '2'" and error.allowed == "0, 1"
    assert error.where.endswith("zh.test.jsonl:4") and "labels" in error.fix
    write(file, [*rows[:2], {name: value for name, value in rows[2].items() if name != "verb"}])
    error = refused(study_of(folder))
    assert error.problem == "animals row has no 'verb'" and error.where.endswith("zh.test.jsonl:3")
    file.unlink()
    error = refused(study_of(folder))
    assert error.problem == "animals has no test file in 'zh'" and "zh.test.jsonl" in error.allowed


def test_one_file_a_language_is_cut_into_halves_by_content(folder: Path) -> None:
    for language in WORDS:
        (folder / f"{language}.dev.jsonl").rename(folder / f"{language}.jsonl")
    study = load_study(study_of(folder, path=str(folder / "{language}.jsonl")))
    shown = {
        (language, split): {row.content_id for row in prompts(study, language, split)}
        for language in WORDS
        for split in ("validation", "test")
    }
    assert shown["en", "test"] == shown["zh", "test"] and not shown["en", "test"] & shown["en", "validation"]
    assert len(shown["en", "test"] | shown["en", "validation"]) == 12


def prompts(study: afp.StudyConfig, language: str, split: Any) -> Iterator[Any]:
    from services.task_prompts import task_prompts

    yield from task_prompts("animals", study, language=language, num_rows=20, split=split).rows


def test_task_show_prints_what_the_model_reads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(json.dumps(study_of(folder, labels=["0", "1"])), "utf-8")
    assert cli.main(["task", "show", "animals", "--study", str(file), "--language", "zh", "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert '  prompt     "猫 是"\n  choice 0   "猫"   right\n  choice 1   "狗"\n' in out
    assert cli.main(["task", "show", "animals", "--study", str(file), "--rows", "1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["choices"] == [["cat is a", " cat"], ["cat is a", " dog"]] and row["gold"] == 0
    assert cli.main(["task", "show", "animal", "--study", str(file)]) == 2
    assert "did you mean animals?" in capsys.readouterr().err
    assert cli.main(["task", "show", "animals"]) == 2
    assert "--study FILE" in capsys.readouterr().err


@pytest.mark.parametrize("task", [*CHOICE_TASKS.own, *GENERATION_TASKS])
def test_every_task_shows_its_prompts(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those without rows of their own say which files they want."""
    code = cli.main(["task", "show", task, "--rows", "1", "--set", "evaluation.shots=[1]", "--json"])
    shown = capsys.readouterr()
    if code == 0:
        rows = json.loads(shown.out)["rows"]
        assert all(row["choices"] or row["prompt"] for row in rows) and {row["shots"] for row in rows} == {1}
        assert all("\n\n" in (row["prompt"] or row["choices"][0][0]) for row in rows)
    else:
        assert code == 2 and "give evaluation.data_dir" in json.loads(shown.out)["error"]["fix"]


def test_neutral_contexts_are_the_words_of_the_template(folder: Path) -> None:
    study = study_of(folder, template="Q: {animal} {verb} A:")
    study["fixed"]["evaluation.scoring"] = "pmi"
    check(study)
    bare = study_of(folder, template="{animal} {verb}")
    bare["fixed"]["evaluation.scoring"] = "pmi"
    assert refused(bare).where == "evaluation.scoring"
