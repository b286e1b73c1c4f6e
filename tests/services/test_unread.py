"""Nothing is passed over in silence: `afp plan` and `afp data inspect` name what they do not read of a folder."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from afp_ray.data.readers import unread
from services import cli

ENGLISH = "".join(f"water flows past house {n}\n" for n in range(30))
CHINESE = "".join(f"水流过第{n}座房子\n" for n in range(30))
XNLI = "".join(f"The lamp {n} is on.\tLamp {n} gives light.\tentailment\n" for n in range(9))


def write(folder: Path, **texts: str) -> Path:
    """Files by name, in which `__` stands for a folder and `_dot_` for a dot."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def answers(folder: Path, capsys: pytest.CaptureFixture[str], **fields: Any) -> list[list[dict[str, Any]]]:
    """The unread files that `plan` and `data inspect` tell, as they say them in text and in JSON."""
    fixed = {
        "model.name": "embedded",
        "data.num_pairs": 8,
        "data.num_instructions": 0,
        "training.max_steps": 1,
        "training.batch_size": 4,
        "evaluation.tasks": ["xcopa"],
        "evaluation.limit": 2,
        "evaluation.representation": None,
        **fields,
    }
    (folder / "study.json").write_text(json.dumps({"name": "s", "fixed": fixed, "compare": {"method": ["mcl"]}}))
    found = []
    for command in (["plan"], ["data", "inspect"]):
        options = ["--storage", str(folder / "runs")] if command == ["plan"] else []
        assert cli.main([*command, str(folder / "study.json"), "--json", *options]) == 0
        found.append(json.loads(capsys.readouterr().out)["unread"])
        assert cli.main([*command, str(folder / "study.json"), *options]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert all(" ".join(one["text"].split()) in text for one in found[-1])
    return found


def source(kind: str, path: Path) -> list[dict[str, str]]:
    return [{"kind": kind, "path": str(path)}]


def test_a_folder_names_what_is_not_read_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write(
        tmp_path / "corpus",
        **{
            "news.en.txt": ENGLISH,
            "news.zh_CN.txt": CHINESE,
            "news.de.txt": "x",
            "news.ace_Latn.txt": "x",
            "news.zh.docx": "x",
            ".hidden": "x",
            "notes~": "x",
            "deeper__far.txt": "x",
        },
    )
    expected = {
        "where": str(corpus),
        "names": ["news.zh.docx", "notes~"],
        "num_files": 2,
        "num_other_languages": 2,
        "is_cut": False,
        "text": f"not read in {corpus}: news.zh.docx, notes~; 2 files of other languages",
    }
    given = {"data.sources": source("aligned", corpus / "news.{target}.txt")}
    assert answers(tmp_path, capsys, **given) == [[expected], [expected]]


def test_an_archive_and_a_folder_of_links_name_their_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"c.en": ENGLISH, "c.zh": CHINESE, **{f"part{n}.ids": "x" for n in range(7)}}
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    (plan,), (inspected,) = answers(tmp_path, capsys, **{"data.sources": source("aligned", tmp_path / "c.zip")})
    assert plan == inspected
    assert plan["names"] == [f"part{n}.ids" for n in range(5)]
    assert (plan["num_files"], plan["num_other_languages"]) == (7, 0)
    assert plan["text"].endswith("part4.ids and 2 more")
    blobs = write(tmp_path / "blobs", a=ENGLISH, b=CHINESE)
    links = write(tmp_path / "links", spare="x")
    (links / "eng_Latn.devtest").symlink_to(blobs / "a")
    (links / "zho_Hans.devtest").symlink_to(blobs / "b")
    (plan,), _ = answers(tmp_path, capsys, **{"data.sources": source("flores", links)})
    assert plan["names"] == ["spare"]


def test_parts_of_an_evaluation_and_other_splits_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flores = write(
        tmp_path / "flores",
        **{
            f"{part}__{code}.{part}": text
            for part in ("dev", "devtest")
            for code, text in (("eng_Latn", ENGLISH), ("zho_Hans", CHINESE), ("ace_Arab", "x"))
        },
    )
    data = write(
        tmp_path / "data",
        **{"xnli__dev-en.tsv": XNLI, "xnli__dev-zh.tsv": XNLI, "xnli__dev-fr.tsv": "x", "xnli__test-zh.tsv.bak": "x"},
    )
    given = {
        "data.sources": source("flores", flores),
        "evaluation.tasks": ["xnli"],
        "evaluation.languages": ["en", "zh"],
        "evaluation.data_dir": str(data),
    }
    (of_flores, of_xnli), _ = answers(tmp_path, capsys, **given)
    assert of_flores["names"] == ["dev/eng_Latn.dev", "dev/zho_Hans.dev"]
    assert of_flores["num_other_languages"] == 2  # of both parts
    assert (of_xnli["where"], of_xnli["names"]) == (str(data / "xnli"), ["test-zh.tsv.bak"])
    assert of_xnli["num_other_languages"] == 1


def test_what_is_all_read_is_not_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write(tmp_path / "corpus", **{"a.en": ENGLISH, "a.zh": CHINESE})
    given = {"data.sources": source("aligned", corpus / "a.{target}")}
    assert answers(tmp_path, capsys, **given) == [[], []]
    given = {"data.sources": [{"kind": "embedded"}]}
    assert answers(tmp_path, capsys, **given) == [[], []]


def test_a_folder_without_end_is_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, **{f"{number:03}.bin": "x" for number in range(20)})
    monkeypatch.setattr(unread, "MAX_LISTED", 10)
    found = unread.unread_at(str(tmp_path), (), codes=("en",))
    assert found is not None
    assert (found.num_files, found.is_cut) == (10, True)


def test_a_source_without_the_language_names_what_lies_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write(tmp_path / "corpus", **{"a.eng.txt": ENGLISH, "a.zho_Hant.txt": CHINESE})
    study = {
        "name": "s",
        "fixed": {"model.name": "embedded", "data.sources": source("aligned", corpus), "data.num_instructions": 0},
        "compare": {"method": ["mcl"]},
    }
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert cli.main(["plan", str(tmp_path / "study.json"), "--storage", str(tmp_path / "runs")]) == 2
    assert "a.eng.txt, a.zho_Hant.txt" in " ".join(capsys.readouterr().err.split())
