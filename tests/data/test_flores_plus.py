"""FLORES+ as it is released: objects by language and part, joined by their ids, beside the lines of FLORES-200."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import sources
from afp_ray.errors import DataError
from services import cli

ENGLISH = [f"water flows past house {n}" for n in range(12)]
CHINESE = [f"水流过第{n}座房子" for n in range(12)]
PAIRS = list(zip(ENGLISH, CHINESE, strict=True))


def objects(texts: Sequence[str], code: str, **fields: Any) -> list[dict[str, Any]]:
    language, script = code.split("_")
    tags = {"iso_639_3": language, "iso_15924": script, "glottocode": "x"}
    return [{"id": number, **tags, "text": text, **fields} for number, text in enumerate(texts)]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n")


def flores(folder: Path, name: str, *, chinese: str = "cmn_Hans", parts: Sequence[str] = ("dev", "devtest")) -> Path:
    """A release whose files are named by `name`, with the sentences of `dev` in front of those of `devtest`."""
    for part in parts:
        half = slice(0, 6) if part == "dev" else slice(6, 12)
        for code, texts in (("eng_Latn", ENGLISH), (chinese, CHINESE)):
            write(folder / name.format(code=code, part=part), objects(texts[half], code))
    return folder


def source_of(path: Path, kind: str = "flores") -> SourceConfig:
    return SourceConfig.model_validate({"kind": kind, "path": str(path)})


def pairs_of(path: Path, kind: str = "flores") -> list[tuple[str, str]]:
    config = DataConfig(sources=(source_of(path, kind),), languages=("zh",), num_pairs=1, num_instructions=0)
    return [(pair.source, pair.target) for pair in sources.load_pairs(config)]


@pytest.mark.parametrize(
    "name",
    [
        "{part}/{code}.jsonl",
        "{part}/{code}.parquet",
        "{code}/{part}/0000.parquet",
        "{code}/{part}-00000-of-00001.parquet",
    ],
)
@pytest.mark.parametrize("chinese", ["cmn_Hans", "zho_Hans"])
def test_both_parts_are_found_and_joined(name: str, chinese: str, tmp_path: Path) -> None:
    folder = flores(tmp_path / "flores_plus", name, chinese=chinese)
    assert pairs_of(folder) == PAIRS[6:]
    for split, expected in (("validation", PAIRS[:6]), ("test", PAIRS[6:])):
        found = sources.load_heldout_pairs(source_of(folder), pivot="en", language="zh", split=split, num_pairs=6)  # type: ignore[arg-type]
        assert [(pair.source, pair.target) for pair in found] == expected


def test_sentences_are_joined_by_id_whatever_their_order(tmp_path: Path) -> None:
    write(tmp_path / "devtest/eng_Latn.jsonl", objects(ENGLISH, "eng_Latn"))
    write(tmp_path / "devtest/cmn_Hans.jsonl", objects(CHINESE, "cmn_Hans")[:0:-1])
    assert pairs_of(tmp_path) == PAIRS[1:]
    assert pairs_of(tmp_path / "devtest/{target}.jsonl", "aligned") == PAIRS[1:]


def test_the_archive_of_texts_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "floresp-v2.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for code, texts in (("eng_Latn", ENGLISH), ("cmn_Hans", CHINESE)):
            archive.writestr(f"floresp-v2.0/devtest/devtest.{code}", "\n".join(texts) + "\n")
    assert pairs_of(path) == PAIRS


def test_objects_of_another_language_or_without_text_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "devtest/eng_Latn.jsonl", objects(ENGLISH, "eng_Latn"))
    path = tmp_path / "devtest/cmn_Hans.jsonl"
    write(path, objects(CHINESE, "cmn_Hant"))
    with pytest.raises(DataError, match=r"record 1: the sentence is in cmn_Hant, not in zh"):
        pairs_of(tmp_path)
    write(path, [{"id": 0, "words": "x"}])
    with pytest.raises(DataError, match="record 1 has no text, but id, words"):
        pairs_of(tmp_path)


def test_a_study_trains_measures_and_translates_on_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = flores(tmp_path / "flores_plus", "{part}/{code}.jsonl")
    for name in ("eng_Latn", "cmn_Hans"):
        write(tmp_path / f"train/{name}.jsonl", objects([f"{name} {n}" for n in range(9)], name))
    trial = {
        "method": "mcl",
        "model.name": "embedded",
        "data.num_pairs": 4,
        "data.num_instructions": 0,
        "data.sources": [{"kind": "aligned", "path": str(tmp_path / "train/{target}.jsonl")}],
        "loss.instruction_weight": 0.0,
        "training.max_steps": 1,
        "training.batch_size": 4,
        "evaluation.data_dir": str(tmp_path),
        "evaluation.tasks": ["translation"],
        "evaluation.limit": 2,
        "evaluation.generation.max_new_tokens": 2,
        "evaluation.representation": {"source": {"kind": "flores", "path": str(folder)}, "num_pairs": 4},
    }
    (tmp_path / "trial.json").write_text(json.dumps(trial))
    assert cli.main(["trial", str(tmp_path / "trial.json"), "--json", "--storage", str(tmp_path / "runs")]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert {(score["task"], score["split"]) for score in scores} >= {("translation", "test"), ("retrieval", "test")}
