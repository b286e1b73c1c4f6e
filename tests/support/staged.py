"""A staged AFP_DATA_DIR: every corpus in its layout with made-up rows, beside the hub cache of `staged_hub`.

A study that names real corpora and models is checked against these as it would be on a machine that has them, without
a network. Rows hold the prompt words of their language and a number, so that they are written in its script.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.data.readers.codes import flores_code, ntrex_code, tico19_code
from afp_ray.languages import LANGUAGES

BACTRIAN_X = """
    af ar az bn cs de en es et fa fi fr gl gu he hi hr id it ja ka kk km ko lt lv mk ml mn mr my ne nl pl ps pt ro ru si
    sl sv sw ta te th tl tr uk ur vi xh zh
""".split()  # noqa: SIM905
FIVE = ("en", "zh", "th", "tr", "sw")
FLORES, NTREX, TASKS = 10_000, 20_000, 30_000
"""First numbers of sentences that nothing is trained on."""
_OTHER = {"en": "zh", "zh": "en"}


class NoProjection:
    """Stands for MLflow, which has its own tests; the table is made from the ledger and the results alone."""

    @classmethod
    def to_mlflow(cls, *args: object) -> "NoProjection":
        return cls()

    def submit(self) -> None:
        """Take no notice."""

    def close(self, **options: object) -> None:
        """Have nothing open."""


def sentence(language: str, number: int) -> str:
    """A row in the script of `language` that no other number has."""
    words = list(LANGUAGES[language].words.values())
    chosen = [words[(number // len(words) ** place) % len(words)] for place in range(4)]
    return f"{' '.join(chosen)} {number}"


def stage_data(folder: Path, *, num_rows: int = 600) -> Path:
    """Write every corpus that a study file names.

    Args:
        folder: becomes the AFP_DATA_DIR.
        num_rows: records of Bactrian-X in each language, and pairs of OPUS-100.
    Returns: `folder`.
    """
    for code in BACTRIAN_X:
        _bactrian_x(folder / "bactrian-x" / f"{code}.json", code, num_rows)
    _opus100(folder / "opus100" / "en-zh" / "train-00000-of-00001.parquet", num_rows)
    for code in BACTRIAN_X:
        _lines(folder / "flores200_devtest" / f"{flores_code(code)}.devtest", _sentences(code, FLORES, 210))
    for code in ("en", "zh"):
        for part in ("dev", "devtest"):
            _lines(folder / "flores200_dataset" / part / f"{flores_code(code)}.{part}", _sentences(code, FLORES, 210))
        name = f"newstest2019-{'src' if code == 'en' else 'ref'}.{ntrex_code(code)}.txt"
        _lines(folder / "ntrex128" / name, _sentences(code, NTREX, 210))
        for part in ("valid", "test"):
            summaries = ({"article": sentence(code, row), "summary": sentence(_OTHER[code], row)} for row in range(20))
            _objects(folder / "ncls" / f"{code.upper()}2{_OTHER[code].upper()}SUM_{part}.jsonl", summaries)
        answers = ({"question": sentence(code, row), "chatgpt_answers": [sentence(code, -row)]} for row in range(1, 41))
        _objects(folder / ("hc3" if code == "en" else "hc3_chinese") / "all.jsonl", answers)
    for code in ("en", "zh", "ru", "ar"):
        _lines(folder / "tico19" / f"tico19-test.{tico19_code(code)}", _sentences(code, 0, 500))
        _xquad(folder / "xquad" / f"xquad.{code}.json", code)
    for code in (*FIVE, "vi"):
        _choice_tasks(folder, code)
    return folder


def use(monkeypatch: pytest.MonkeyPatch, *, data: Path, hub: Path) -> None:
    """Let the process see the staged data and hub cache, and no network."""
    monkeypatch.setenv("AFP_DATA_DIR", str(data))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("afp_ray.models.hub._is_reachable", lambda: False)
    monkeypatch.setattr("afp_ray.models.hub._found", {})
    for name in ("RAY_ADDRESS", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def _sentences(code: str, first: int, count: int) -> Iterator[str]:
    return (sentence(code, number) for number in range(first, first + count))


def _lines(path: Path, lines: Iterable[str], *, end: str = "\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + end, encoding="utf-8")


def _objects(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    _lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def _columns(path: Path, rows: Iterable[Sequence[str]]) -> None:
    _lines(path, ("\t".join(row) for row in rows))


def _bactrian_x(path: Path, code: str, count: int) -> None:
    records = [
        {
            "instruction": sentence(code, number),
            "input": "",
            "id": f"alpaca-{number}",
            "output": sentence(code, -number),
        }
        for number in range(1, count + 1)
    ]
    _lines(path, [json.dumps(records, ensure_ascii=False)])


def _opus100(path: Path, count: int) -> None:
    path.parent.mkdir(parents=True)
    pairs = [{"en": sentence("en", -number), "zh": sentence("zh", -number)} for number in range(1, count + 1)]
    kind = pa.struct([("en", pa.string()), ("zh", pa.string())])
    pq.write_table(pa.table({"translation": pa.array(pairs, type=kind)}), path)


def _xquad(path: Path, code: str) -> None:
    questions = [
        {
            "id": f"q{number}",
            "question": sentence(code, number),
            "answers": [{"text": sentence(code, number), "answer_start": 0}],
        }
        for number in range(30)
    ]
    paragraphs = [{"context": sentence(code, question), "qas": [questions[question]]} for question in range(30)]
    _lines(path, [json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}, ensure_ascii=False)])


def _choice_tasks(folder: Path, code: str) -> None:
    """Rows of the five choice tasks, of those that were published in the language."""

    def text(number: int) -> str:
        return sentence(code, TASKS + number)

    labels = ("entailment", "neutral", "contradiction")
    for part, first in (("dev", 0), ("test", 100)):
        rows = ((text(row // 3), text(row + 50), labels[row % 3]) for row in range(first, first + 24))
        _columns(folder / "xnli" / f"{part}-{code}.tsv", rows)
    for part, first in (("train" if code == "en" else "val", 0), ("test", 100)):
        place = folder / "copa_en" if code == "en" else folder / "xcopa" / "data" / code
        copa = (
            {"premise": text(row), "choice1": text(row + 1), "choice2": text(row + 2), "label": row % 2, "idx": row,
             "question": ("cause", "effect")[row // 2 % 2]}
            for row in range(first, first + 16)
        )  # fmt: skip
        _objects(place / f"{part}.{code}.jsonl", copa)
    if code not in ("en", "zh"):
        return
    for part, first in (("dev", 0), ("test", 100)):
        pairs = ((str(row), text(row), text(row + 1), str(row % 2)) for row in range(first, first + 16))
        _columns(folder / "pawsx" / code / f"{part}_2k.tsv", [("id", "sentence1", "sentence2", "label"), *pairs])
    header = ("InputStoryid", *(f"InputSentence{number}" for number in range(1, 5)), "RandomFifthSentenceQuiz1",
              "RandomFifthSentenceQuiz2", "AnswerRightEnding")  # fmt: skip
    for part, first in (("train", 0), ("eval", 100)):
        stories = (
            (f"s{row}", *(text(row + place) for place in range(6)), str(1 + row % 2))
            for row in range(first, first + 16)
        )
        _columns(folder / "xstorycloze" / f"spring2016.val.{code}.tsv.split_20_80_{part}.tsv", [header, *stories])
    schemas = (
        {
            "sentence": f"{text(row)} _ {text(row + 1)}",
            "option1": f"A{row // 2}",
            "option2": f"B{row // 2}",
            "answer": str(1 + row % 2),
        }
        for row in range(32)
    )
    _objects(folder / "xwinograd" / "test" / f"{code}.jsonl", schemas)
