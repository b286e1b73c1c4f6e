"""A study begun from a user's own files: it plans at once, says what it saw, and replaces nothing without a word."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from tiny_models import build_model, build_tokenizer

from afp_ray.config.document import read_document
from afp_ray.config.load import load_study
from services import cli

WORDS = "one two three four five six seven eight nine ten".split()  # noqa: SIM905


def sentences(mark: str, number: int = 60) -> list[str]:
    return [f"{mark} {WORDS[index % 10]} {WORDS[index // 10]} {index}" for index in range(number)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of en with th and sw, instructions, XCOPA in th, and a Llama of three blocks."""
    folder = tmp_path_factory.mktemp("files")
    texts = {"en": sentences("The"), "th": sentences("คำ"), "sw": sentences("Neno")}
    for code in ("th", "sw"):
        rows = zip(texts["en"], texts[code], strict=True)
        (folder / f"pairs.en-{code}.tsv").write_text("".join(f"{left}\t{right}\n" for left, right in rows))
    for code in ("en", "sw"):
        lines = [{"id": str(index), "prompt": text, "answer": text} for index, text in enumerate(texts[code][:20])]
        (folder / f"told.{code}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    objects = [{"translation": {"en": left, "sw": right}} for left, right in zip(texts["en"], texts["sw"], strict=True)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, objects)))
    row: dict[str, Any] = {"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause"}
    xcopa = folder / "data" / "xcopa" / "data" / "th"
    xcopa.mkdir(parents=True)
    for part in ("val", "test"):
        lines = [row | {"label": index % 2, "idx": index} for index in range(4)]
        (xcopa / f"{part}.th.jsonl").write_text("\n".join(map(json.dumps, lines)))
    build_model("llama").save_pretrained(folder / "llama")
    build_tokenizer().save_pretrained(folder / "llama")
    (folder / "notes.md").write_text("nothing to train on")
    return folder


@pytest.fixture
def here(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, beside which the files lie."""
    for entry in files.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert cli.main(["init", *words, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_own_pairs_a_model_and_a_task_make_a_study_that_plans_at_once(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--from", "pairs.en-th.tsv", "pairs.en-sw.tsv", "llama", "data/xcopa", "notes.md"]
    assert cli.main(["init", "mine", *words]) == 0
    said = capsys.readouterr().out
    for line in (
        "llama, 3 blocks",
        "pairs of en with th sw",
        "tasks xcopa (th)",
        "notes.md: neither a table",
        "mit, cit, afp:",
    ):
        assert line in " ".join(said.split())
    study = load_study("mine.yaml")
    fixed = study.fixed
    assert fixed["model.name"] == "llama"
    assert fixed["data.languages"] == ["th", "sw"]
    assert fixed["evaluation.tasks"] == {"xcopa": ["th"]}
    assert fixed["data.num_pairs"] == 2 * (60 - 2 * fixed["evaluation.representation.num_pairs"])
    assert study.model_dump()["tune"]["loss.layer"]["high"] == 3
    assert study.compare["method"] == ("base", "mcl", "ft", "alignx")
    assert cli.main(["plan", "mine.yaml", "--storage", "runs"]) == 0
    assert "run: afp run mine.yaml" in capsys.readouterr().out


def test_the_file_names_its_schema_and_fits_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = begun(capsys, "mine", "--from", "pairs.jsonl", "llama")
    first, *_ = Path(answer["study"]).read_text().splitlines()
    assert first == f"# yaml-language-server: $schema={answer['schema_file']}"
    schema = json.loads(Path(answer["schema_file"]).read_text())
    assert not list(Draft202012Validator(schema).iter_errors(read_document("mine.yaml").values))
    assert answer["problem"] == ""


def test_instructions_bring_the_arms_that_train_on_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = begun(
        capsys, "mine", "--from", "pairs.en-th.tsv", "pairs.en-sw.tsv", "told.en.jsonl", "told.sw.jsonl", "llama"
    )
    study = load_study("mine.yaml")
    assert study.compare["method"] == ("base", "mcl", "mit", "cit", "afp")
    assert study.fixed["data.languages"] == ["sw"]
    assert study.fixed["data.num_instructions"] == 20
    assert answer["left_out"] == {"pairs of th": "the instructions lack these languages"}


def test_a_folder_is_looked_into_and_retrieval_decides_where_no_task_has_the_languages(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = here / "own"
    own.mkdir()
    (own / "news.fr-en.tsv").write_text("".join(f"{text}\tLe {index}\n" for index, text in enumerate(sentences("The"))))
    (own / "llama").symlink_to(here / "llama")
    (own / "LICENSE").write_text("free")
    answer = begun(capsys, "mine", "--from", "own")
    study = load_study("mine.yaml")
    assert len(answer["saw"]) == 2
    assert answer["problem"] == ""
    assert (study.objective.metric, study.fixed["evaluation.tasks"]) == ("retrieval@1", [])
    assert study.fixed["data.languages"] == ["fr"]


def test_a_file_is_never_replaced_without_a_word(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "mine.yaml").write_text("name: precious\n")
    assert cli.main(["init", "mine", "--from", "demo"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert (here / "mine.yaml").read_text() == "name: precious\n"
    assert begun(capsys, "mine", "--from", "demo", "--force")["study"] == "mine.yaml"
    assert load_study("mine.yaml").name == "mine"


def test_a_study_that_ships_is_copied_with_its_comments(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun(capsys, "bilingual", "--from", "paper/bilingual")
    text = (here / "bilingual.yaml").read_text()
    assert load_study("bilingual.yaml").name == "bilingual"
    assert text.count("\n#") > 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Bad Name"], "cannot be a study's name"),
        (["mine", "--from", "nope.tsv"], "there is no such file or folder"),
        (["mine", "--from", "notes.md"], "neither a table"),
        (["mine", "--from", "demo", "llama"], "give it alone"),
    ],
)
def test_what_cannot_be_begun_is_refused_and_writes_nothing(
    here: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["init", *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(here.glob("*.yaml"))


def test_a_table_whose_name_says_no_language_is_told_how_to_be_named(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "corpus.tsv").write_text("one\tmoja\n")
    answer = begun(capsys, "mine", "--from", "corpus.tsv", "pairs.en-sw.tsv", "llama")
    assert "name it like corpus.en-zh.tsv" in answer["left_out"]["corpus.tsv"]


def test_a_preset_is_written_into_the_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = begun(capsys, "mine", "--from", "pairs.en-sw.tsv", "llama", "data/xcopa", "--preset", "48gb")
    assert load_study("mine.yaml").fixed["training.precision"] == "bf16"
    assert any(line.startswith("memory 0.") for line in answer["chose"])
    assert cli.main(["init", "copy", "--from", "demo", "--preset", "48gb"]) == 2
    assert "afp run copy.yaml --preset 48gb" in capsys.readouterr().err
