"""Every kind of source, in its own layout, through `afp plan`, `afp data inspect` and `afp trial`."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config.data import SOURCE_KINDS
from afp_ray.data import embedded
from services import cli

NUM_ROWS = 24
CODES = ("en", "zh")
PAIRS = embedded.translation_pairs("en", "zh", "train")[:NUM_ROWS]
SIDES = {"en": [pair.source for pair in PAIRS], "zh": [pair.target for pair in PAIRS]}
INSTRUCTIONS = embedded.parallel_instructions("train")[:NUM_ROWS]
Fields = dict[str, Any]
"""What the source says beside its kind and path."""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    write(path, "".join(f"{line}\n" for line in lines))


def records(code: str) -> list[dict[str, str]]:
    return [
        {"id": row.content_id, "instruction": row.prompts[code], "input": "", "output": row.responses[code]}
        for row in INSTRUCTIONS
    ]


def two_columns(folder: Path, name: str) -> None:
    write_lines(folder / name, ["\t".join(sides) for sides in zip(*SIDES.values(), strict=True)])


def one_file_a_side(names: dict[str, str]) -> Callable[[Path], Fields]:
    def lay_out(folder: Path) -> Fields:
        for code, name in names.items():
            write_lines(folder / name, SIDES[code])
        return {}

    return lay_out


def tsv(folder: Path) -> Fields:
    two_columns(folder, "pairs.en-zh.tsv")
    return {"path": str(folder / "pairs.en-{target}.tsv")}


def aligned(folder: Path) -> Fields:
    for code, lines in SIDES.items():
        write_lines(folder / f"News.en-zh.{code}", lines)
    return {"path": str(folder / "News.{source}-{target}")}


def opus100(folder: Path) -> Fields:
    folder.joinpath("en-zh").mkdir(parents=True)
    kind = pa.struct([("en", pa.string()), ("zh", pa.string())])
    rows = [{"en": pair.source, "zh": pair.target} for pair in PAIRS]
    for number, part in enumerate((rows[:10], rows[10:])):
        table = pa.table({"translation": pa.array(part, type=kind)})
        pq.write_table(table, folder / "en-zh" / f"train-0000{number}-of-00002.parquet")
    return {}


def udhr(folder: Path) -> Fields:
    for code, name in {"en": "eng", "zh": "cmn_hans"}.items():
        articles = (f'<article data-number="{n}"><p>{text}</p></article>' for n, text in enumerate(SIDES[code]))
        write(folder / f"{name}.html", f"<html><body>{''.join(articles)}</body></html>")
    return {}


def xquad(folder: Path) -> Fields:
    for code in CODES:
        paragraphs = [
            {"context": SIDES[code][n], "qas": [{"id": f"q{n}", "question": row["instruction"],
                                                 "answers": [{"text": row["output"], "answer_start": 0}]}]}
            for n, row in enumerate(records(code))
        ]  # fmt: skip
        write(folder / f"xquad.{code}.json", json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}))
    return {}


def mt_bench(folder: Path) -> Fields:
    for code in CODES:
        place = folder / ("mt_bench" if code == "en" else "mt_bench_zh")
        turns = [(n, row["instruction"], row["output"]) for n, row in enumerate(records(code), start=81)]
        write_lines(
            place / "question.jsonl",
            [json.dumps({"question_id": n, "category": "writing", "turns": [asked]}) for n, asked, _ in turns],
        )
        answers = [{"question_id": n, "choices": [{"index": 0, "turns": [told]}]} for n, _, told in turns]
        write_lines(place / "reference_answer" / "gpt-4.jsonl", [json.dumps(answer) for answer in answers])
    return {}


def bactrian_x(folder: Path) -> Fields:
    for code in CODES:
        write(folder / f"{code}.json", json.dumps(records(code), ensure_ascii=False, indent=1))
    return {}


def jsonl_pairs(folder: Path) -> Fields:
    write_lines(folder / "pairs.jsonl", [json.dumps({"en": pair.source, "zh": pair.target}) for pair in PAIRS])
    return {"path": str(folder / "pairs.jsonl"), "columns": {"source": "{source}", "target": "{target}"}}


def jsonl_instructions(folder: Path) -> Fields:
    for code in CODES:
        write_lines(folder / f"{code}.jsonl", [json.dumps(row) for row in records(code)])
    columns = {name: name for name in ("id", "instruction", "input", "output")}
    return {"path": str(folder / "{language}.jsonl"), "columns": columns}


def datasets_pairs(folder: Path) -> Fields:
    folder.joinpath("en-zh").mkdir(parents=True)
    table = pa.table({"translation": [{"en": pair.source, "zh": pair.target} for pair in PAIRS]})
    pq.write_table(table, folder / "en-zh" / "train-00000-of-00001.parquet")
    columns = {"source": "translation.{source}", "target": "translation.{target}"}
    return {"columns": columns, "subset": "{source}-{target}"}


def datasets_instructions(folder: Path) -> Fields:
    for code in CODES:
        folder.joinpath(code).mkdir(parents=True)
        with folder.joinpath(code, "train.csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, fieldnames=["id", "instruction", "input", "output"])
            table.writeheader()
            table.writerows(records(code))
    return {"columns": {"id": "id", "instruction": "instruction", "output": "output"}, "subset": "{language}"}


LAYOUTS: dict[str, tuple[str, Callable[[Path], Fields]]] = {
    "embedded": ("pairs and instructions", lambda folder: {"path": None}),
    "tsv": ("pairs", tsv),
    "aligned": ("pairs", aligned),
    "tico19": ("pairs", one_file_a_side({"en": "tico19-test.eng", "zh": "tico19-test.zho"})),
    "tatoeba": ("pairs", one_file_a_side({"en": "tatoeba.cmn-eng.eng", "zh": "tatoeba.cmn-eng.cmn"})),
    "flores": ("pairs", one_file_a_side({"en": "eng_Latn.devtest", "zh": "zho_Hans.devtest"})),
    "ntrex": ("pairs", one_file_a_side({"en": "newstest2019-src.eng.txt", "zh": "newstest2019-ref.zho-CN.txt"})),
    "opus100": ("pairs", opus100),
    "udhr": ("pairs", udhr),
    "xquad": ("instructions", xquad),
    "mt_bench": ("instructions", mt_bench),
    "bactrian_x": ("pairs and instructions", bactrian_x),
    "jsonl": ("pairs", jsonl_pairs),
    "jsonl of instructions": ("instructions", jsonl_instructions),
    "datasets": ("pairs", datasets_pairs),
    "datasets of instructions": ("instructions", datasets_instructions),
}
"""What rows of each kind are, and how they are laid out in a folder."""


def test_every_kind_has_its_layout_here() -> None:
    assert {name.split()[0] for name in LAYOUTS} == set(SOURCE_KINDS.own)


@pytest.mark.parametrize("name", LAYOUTS)
def test_rows_of_every_kind_are_planned_inspected_and_trained_on(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, lay_out = LAYOUTS[name]
    kind, folder = name.split()[0], tmp_path / "corpus"
    source = {"kind": kind, "path": str(folder), **lay_out(folder)}
    method = {"pairs": "mcl", "instructions": "cit"}.get(rows, "afp")
    counts = {"num_pairs": 6 * ("pairs" in rows), "num_instructions": 6 * ("instructions" in rows)}
    trial = {
        "model": {"name": "embedded"},
        "data": {"languages": ["zh"], "sources": [source], **counts},
        "training": {"max_steps": 1, "batch_size": 2},
        "evaluation": {"tasks": ["xcopa"], "limit": 2, "representation": {"num_pairs": 2}},
    }
    study = {"name": "kinds", "fixed": trial, "compare": {"method": [method]}, "seeds": [0]}
    for file, content in {"study.json": study, "trial.json": {"method": method, **trial}}.items():
        write(tmp_path / file, json.dumps(content))

    planned = answer(capsys, "plan", str(tmp_path / "study.json"))
    assert planned["trials"] == 1

    shown = answer(capsys, "data", "inspect", str(tmp_path / "study.json"))
    assert {name: shown[name] for name in ("pairs", "instructions")} == {
        "pairs": counts["num_pairs"],
        "instructions": counts["num_instructions"],
    }
    if kind != "embedded":
        assert [(read["read"], read["kept"]) for read in shown["sources"]] == [(NUM_ROWS, NUM_ROWS)] * len(
            rows.split()[::2]
        )

    trained = answer(capsys, "trial", str(tmp_path / "trial.json"), "--storage", str(tmp_path / "runs"))
    assert trained["status"] == "DONE"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code = cli.main([*arguments, "--json"])
    caught = capsys.readouterr()
    assert code == 0, caught.out + caught.err
    return json.loads(caught.out)
