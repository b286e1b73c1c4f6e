"""What there is to name in a study: tasks with their rows, methods, languages."""

import json
from pathlib import Path
from typing import Any

import pytest

from afp_ray.evaluation.tasks import TASKS
from afp_ray.languages import LANGUAGES, OTHERS
from afp_ray.methods import METHODS, SUMMARIES
from services import cli


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, Any]]:
    assert cli.main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    return {row.get("code", row["name"]): row for row in rows}


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    rows = [
        {"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": number % 2, "idx": number}
        for number in range(6)
    ]
    for code, text in (("th", rows), ("zh", [{"premise": "P."}])):
        folder = tmp_path / "xcopa" / "data" / code
        folder.mkdir(parents=True)
        for part, size in (("val", 2), ("test", 4)):
            lines = [json.dumps(row) for row in text[:size]]
            (folder / f"{part}.{code}.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_tasks_say_what_is_found_of_them(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = listed(capsys, "tasks", "--data-dir", str(data_dir))
    assert set(TASKS) < set(tasks)
    assert tasks["xcopa"]["rows"] == {"th": {"validation": 2, "test": 4}}
    assert "lacks" in tasks["xcopa"]["problems"]["zh"]
    assert tasks["xnli"]["rows"] == {}
    assert cli.main(["tasks", "--data-dir", str(data_dir)]) == 0
    text = capsys.readouterr().out
    assert "xcopa           choice, 1 language with 6 rows: th" in text
    assert "xnli            choice, no rows found; looks for" in text
    assert "zh cannot be read: " in text


def test_the_folder_of_a_study_is_looked_at(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = data_dir / "study.yaml"
    file.write_text(f"name: a\nfixed: {{evaluation.data_dir: {json.dumps(str(data_dir))}}}\n")
    monkeypatch.setenv("AFP_DATA_DIR", "/nowhere")  # the study's own folder counts
    assert listed(capsys, "tasks", str(file))["xcopa"]["data_dir"] == str(data_dir)
    assert cli.main(["tasks"]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_the_embedded_rows_are_listed_where_no_folder_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AFP_DATA_DIR", raising=False)
    tasks = listed(capsys, "tasks")
    assert tasks["xcopa"]["rows"]["th"] == {"validation": 240, "test": 240}
    assert tasks["mgsm"]["rows"] == {}


def test_every_method_says_what_it_is_and_reads(capsys: pytest.CaptureFixture[str]) -> None:
    methods = listed(capsys, "methods")
    assert list(methods) == list(METHODS)
    assert set(SUMMARIES) == set(METHODS)
    reads = {name: (row["reads_pairs"], row["reads_instructions"], row["is_trained"]) for name, row in methods.items()}
    assert reads["base"] == (False, False, False)
    assert reads["mcl"] == reads["ft"] == (True, False, True)
    assert reads["mit"] == (False, True, True)
    assert reads["afp"] == (True, True, True)
    assert cli.main(["methods"]) == 0
    assert "the contrastive term alone" in capsys.readouterr().out


def test_every_language_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    languages = listed(capsys, "languages")
    assert list(languages) == [*LANGUAGES, *OTHERS]
    assert (languages["am"]["script"], languages["am"]["words"]) == ("Ethi", [])
    assert languages["th"]["has_word_space"] is False
    assert languages["ht"]["words"] == ["because", "so"]
    assert cli.main(["languages"]) == 0
    assert "ht              hat  Haitian Creole, Latn; prompt words because so" in capsys.readouterr().out
