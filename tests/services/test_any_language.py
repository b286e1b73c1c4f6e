"""Languages beyond those with prompt words train and retrieve through the command; what lacks a word says which."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from staged import NoProjection

from services import cli

LETTERS = {"en": "abcdefgh", "am": "ሀለሐመሠረሰሸ", "aaa": "กขคงจฉชซ"}
NAMES = "{aaa: {name: Ghotuo, script: Thai}}"
STUDY = """
name: any
objective: {{metric: retrieval@1}}
fixed:
  data:
    sources: [{{kind: tsv, path: "{folder}/{{source}}-{{target}}.tsv"}}]
    languages: {languages}
    language_names: {names}
    num_pairs: 16
    num_instructions: 8
    translation_share: 1.0
    filter: rules
    filter_limits.max_length_ratio: null
  training: {{max_steps: 1, batch_size: 4, max_length: 64}}
  evaluation: {{tasks: [], representation: {{num_pairs: 4, source: {heldout}}}}}
arms: {{both: {{method: afp}}}}
runtime: {{executor: local, checkpoint_every_s: null}}
"""
_CODES = "am ar bn es fa fr ha hi id km kr ku lg ln mr my ne om ps pt ru rw so sw ta ti tl ur zh zu"
TICO_19 = _CODES.split()


def sentence(code: str, number: int) -> str:
    """A sentence of its own, in the letters of a script: number 5 is written with the sixth letter first."""
    letters = LETTERS[code]
    return " ".join(letters[(number // 8**place + place) % 8] * 3 for place in range(6))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    monkeypatch.setattr("afp_ray.study.BackgroundProjector", NoProjection)
    for code in ("am", "aaa"):
        for name, numbers in ((f"en-{code}.tsv", range(40)), (f"heldout-{code}.tsv", range(100, 120))):
            lines = [f"{sentence('en', number)}\t{sentence(code, number)}\n" for number in numbers]
            (tmp_path / name).write_text("".join(lines), "utf-8")
    return tmp_path


def study_file(folder: Path, languages: str = "[am, aaa]", names: str = NAMES, heldout: str = "") -> str:
    heldout = heldout or f"{{kind: tsv, path: '{folder}/heldout-{{target}}.tsv'}}"
    path = folder / "any.yaml"
    path.write_text(STUDY.format(folder=folder, languages=languages, names=names, heldout=heldout), "utf-8")
    return str(path)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main([*arguments, "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_a_language_of_the_table_and_a_declared_one_train_and_retrieve(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = study_file(folder)
    inspected = answer(capsys, "data", "inspect", file)
    assert "Translate into Ghotuo:" in json.dumps(inspected, ensure_ascii=False)
    assert cli.main(["run", file]) == 0
    capsys.readouterr()
    (result,) = (json.loads(path.read_text()) for path in (folder / "runs" / "any").glob("trials/*/result.json"))
    retrieved = {(score["language"], score["n"]) for score in result["scores"] if score["metric"] == "retrieval@1"}
    assert retrieved == {("am", 4), ("aaa", 4)}
    # Another name is another prompt, so it is another trial.
    assert answer(capsys, "plan", file, "--set", "name=other")["finished"] == 0


def test_what_a_language_lacks_is_said_with_the_field_to_fill(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", study_file(folder, names="{}")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "'aaa' is not in the table" in said
    assert "fix say what it is: data.language_names: {aaa: {name: ..., script: Latn}}" in said


def test_a_prompt_word_is_asked_for_by_its_task_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"premise": sentence("am", n), "choice1": sentence("am", n + 1), "choice2": sentence("am", n + 2)}
        | {"question": ("cause", "effect")[n % 2], "label": n % 2, "idx": n, "changed": False}
        for n in range(4)
    ]
    for part in ("val", "test"):
        file = folder / "xcopa" / "data" / "am" / f"{part}.am.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    study = study_file(folder, "[am]")
    scored = ("--set", f"evaluation.data_dir={folder}", "--set", "evaluation.tasks={xcopa: [am]}")
    assert cli.main(["plan", study, *scored]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error data.language_names.am.words xcopa asks with a word: Amharic (am) has no word for 'because'" in said
    assert "data.language_names: {am: {words: {because: ...}}}" in said
    words = "data.language_names={am: {words: {because: ምክንያቱም, so: ስለዚህ}}}"
    assert cli.main(["plan", study, *scored, "--set", words]) == 0


@pytest.mark.shared_data
@pytest.mark.slow
def test_all_languages_of_tico_19_train_and_retrieve(folder: Path) -> None:
    data = Path(os.environ.get("AFP_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
    archive = data / "tico19" / "tico19-test_all.tar.xz"
    if not archive.is_file():
        pytest.skip(f"there is no {archive}")
    source = f"{{kind: tico19, path: {archive}}}"
    overrides = [f"data.sources=[{source}]", "data.num_pairs=60", "data.filter=none"]
    file = study_file(folder, f"[{', '.join(TICO_19)}]", heldout=source)
    assert cli.main(["run", file, *(word for text in overrides for word in ("--set", text))]) == 0
    (result,) = (json.loads(path.read_text()) for path in (folder / "runs" / "any").glob("trials/*/result.json"))
    retrieved = {score["language"] for score in result["scores"] if score["metric"] == "retrieval@1"}
    assert (retrieved, len(retrieved)) == (set(TICO_19), 30)  # with English, 31
