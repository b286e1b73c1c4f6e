"""Files named by other spellings of a language: found by what the study declares, or refused naming every candidate."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import DataConfig, SourceConfig
from afp_ray.data import sources
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES, name_pattern
from services import cli

PAIRS = [(f"water flows past house {n}", f"水流过第{n}座房子") for n in range(40)]
ENGLISH, CHINESE = ("".join(f"{row[side]}\n" for row in PAIRS) for side in (0, 1))
COLUMNS = {"source": "source", "target": "target"}


def config(kind: str, path: Path | str, **fields: Any) -> DataConfig:
    source = SourceConfig.model_validate({"kind": kind, "path": str(path), **fields})
    return DataConfig(sources=(source,), languages=("zh",), num_pairs=1, num_instructions=0)


def pairs_of(kind: str, path: Path | str, **fields: Any) -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in sources.load_pairs(config(kind, path, **fields))]


def write(folder: Path, **texts: str) -> None:
    """Files by name, in which `__` stands for a folder."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def pack(path: Path, texts: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return path


MOSES = {
    "LICENSE": "free",
    "README": "of the corpus",
    "OpenSubtitles.en-zh_CN.en": ENGLISH,
    "OpenSubtitles.en-zh_CN.zh_CN": CHINESE,
    "OpenSubtitles.en-zh_CN.ids": "1\n",
}


@pytest.mark.parametrize(
    ("code", "spellings", "others"),
    [
        ("zh", "zh zh_CN zh-cn ZH zh-Hans zho_Hans cmn_Hans zho cmn chi zh_TW Chinese", "zho_Hant zhx wuu zh_foo"),
        ("pt", "pt pt_BR pt-br por por_Latn", "br port"),
        ("en", "en en_US eng eng_Latn", "en-zh en_de"),
        ("et", "et est_Latn ekk_Latn", "ee"),
        ("ko", "ko kor_Hang ko_KR", "kr"),
        ("hi", "hi hin_Deva hi_IN", "hin_Latn"),
    ],
)
def test_a_language_knows_its_spellings(code: str, spellings: str, others: str) -> None:
    pattern = re.compile(name_pattern(code))
    assert [word for word in spellings.split() if not pattern.fullmatch(word)] == []
    assert [word for word in others.split() if pattern.fullmatch(word)] == []


def test_no_code_is_a_spelling_of_another_language() -> None:
    for code in LANGUAGES:
        for row in LANGUAGES.values():
            for word in (row.code, row.code3, f"{row.code3}_{row.script}"):
                assert bool(re.fullmatch(name_pattern(code), word)) == (code == row.code), (code, word)


@pytest.mark.parametrize("place", ["OpenSubtitles.{source}-{target}", "./OpenSubtitles.{source}-{target}"])
def test_files_in_the_working_folder_are_found_too(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, **MOSES)
    monkeypatch.chdir(tmp_path)
    assert pairs_of("aligned", place) == PAIRS


@pytest.mark.parametrize("place", ["archive", "folder", "archive by languages"])
def test_moses_files_are_found_where_they_lie(place: str, tmp_path: Path) -> None:
    path: Path = pack(tmp_path / "en-zh_CN.txt.zip", MOSES)
    if place == "archive by languages":
        path = tmp_path / "{source}-{target}.txt.zip"
    elif place == "folder":
        path = tmp_path / "unpacked"
        for name, text in MOSES.items():
            write(path, **{name: text})
    assert pairs_of("aligned", path) == PAIRS


@pytest.mark.parametrize(
    ("names", "template"),
    [
        (("a.en.txt", "a.zh_CN.txt"), "a.{target}.txt"),
        (("eng_Latn.txt", "zho_Hans.txt"), "{target}.txt"),
        (("c.en-zh_CN.en", "c.en-zh_CN.zh_CN"), "c.{source}-{target}"),
        (("c.zh_CN-en.en", "c.zh_CN-en.zh_CN"), "c.{source}-{target}"),
        (("en__x.txt", "zh-Hans__x.txt"), "{target}/x.txt"),
        (("z.zip/x.en", "z.zip/x.zh-CN"), "z.zip/x.{target}"),
    ],
)
def test_placeholders_stand_for_any_spelling(names: tuple[str, str], template: str, tmp_path: Path) -> None:
    texts = dict(zip(names, (ENGLISH, CHINESE), strict=True))
    if names[0].startswith("z.zip"):
        pack(tmp_path / "z.zip", {name.removeprefix("z.zip/"): text for name, text in texts.items()})
    else:
        write(tmp_path, **texts)
    assert pairs_of("aligned", tmp_path / template) == PAIRS


def test_other_kinds_find_other_spellings_too(tmp_path: Path) -> None:
    objects = [{"source": source, "target": target} for source, target in PAIRS]
    lines = "\n".join(json.dumps(row) for row in objects)
    write(
        tmp_path,
        **{
            "p.en-zh_CN.tsv": "".join(f"{a}\t{b}\n" for a, b in PAIRS),
            "r.zho_Hans.jsonl": lines,
            "d__en-zh_CN__train.jsonl": lines,
        },
    )
    assert pairs_of("tsv", tmp_path / "p.en-{target}.tsv") == PAIRS
    assert pairs_of("jsonl", tmp_path / "r.{target}.jsonl", columns=COLUMNS) == PAIRS
    assert pairs_of("datasets", tmp_path / "d", columns=COLUMNS, subset="{source}-{target}") == PAIRS
    assert pairs_of("datasets", tmp_path / "d/{source}-{target}", columns=COLUMNS) == PAIRS
    path = pack(tmp_path / "d.zip", {"en-zh_CN/train.jsonl": lines})
    assert pairs_of("datasets", path, columns=COLUMNS, subset="{source}-{target}") == PAIRS


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_several_spellings_are_refused_by_their_names(kind: str, tmp_path: Path) -> None:
    texts = {"a.en": ENGLISH, "a.zh_CN": CHINESE, "a.zh_TW": CHINESE}
    write(tmp_path, **texts)
    path = tmp_path / "a.{target}" if kind == "folder" else pack(tmp_path / "a.zip", texts)
    with pytest.raises(DataError, match=r"2 files may be .*a\.zh_CN, .*a\.zh_TW"):
        pairs_of("aligned", path)


def test_the_code_itself_goes_before_other_spellings(tmp_path: Path) -> None:
    write(tmp_path, **{"a.en": ENGLISH, "a.zh": CHINESE, "a.zh_TW": "别的\n"})
    assert pairs_of("aligned", tmp_path / "a.{target}") == PAIRS
    assert pairs_of("aligned", tmp_path) == PAIRS


def test_several_pairs_of_files_are_refused_by_their_names(tmp_path: Path) -> None:
    texts = {f"{split}.{end}": text for split in ("dev", "train") for end, text in (("en", ENGLISH), ("zh", CHINESE))}
    with pytest.raises(DataError, match=r"2 pairs of files of en and zh lie there: dev\.\{language\}, train") as caught:
        pairs_of("aligned", pack(tmp_path / "a.zip", texts))
    assert caught.value.fix.endswith("a.zip/dev.{language}")
    assert pairs_of("aligned", tmp_path / "a.zip/train.{language}") == PAIRS


@pytest.mark.parametrize("command", [["data", "inspect"], ["plan"], ["trial"]])
def test_every_command_reads_an_archive_of_another_spelling(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pack(tmp_path / "en-zh_CN.txt.zip", MOSES)
    fields = {
        "model.name": "embedded",
        "data.num_pairs": 8,
        "data.num_instructions": 0,
        "data.sources": [{"kind": "aligned", "path": "en-zh_CN.txt.zip"}],
        "loss.instruction_weight": 0.0,
        "training.max_steps": 1,
        "training.batch_size": 4,
        "evaluation.tasks": ["xcopa"],
        "evaluation.limit": 2,
        "evaluation.representation": None,
    }
    study = {"name": "moses", "fixed": fields, "compare": {"method": ["mcl"]}}
    (tmp_path / "file.json").write_text(json.dumps({"method": "mcl", **fields} if command == ["trial"] else study))
    assert (
        cli.main([*command, "file.json", "--json", *(["--storage", "runs"] if command != ["data", "inspect"] else [])])
        == 0
    )
    answer = json.loads(capsys.readouterr().out)
    if command == ["data", "inspect"]:
        assert [(one["language"], one["kept"]) for one in answer["sources"]] == [("zh", len(PAIRS))]
