"""Translation of single sentences: FLORES (arXiv:2106.03193, arXiv:2207.04672) or NTREX-128 (arXiv:2211.07231).

Original files: a folder or archive whose name begins with `flores`, with `<code>.devtest` and `<code>.dev`, plain or in
`devtest/` and `dev/` (FLORES-200), `devtest/devtest.<code>` (the archive of FLORES+), or `devtest/<code>.jsonl` or
`.parquet` (FLORES+ on the hub); `ntrex128/newstest2019-{src,ref}.<code>.txt`. Without FLORES dev files, and for NTREX,
the sentences are halved by content (`task.halves`). A FLORES content is a line, or the id of FLORES+; an NTREX content
is a document where `DOCUMENT_IDS.tsv` lies beside the files, else a line.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from afp_ray.config import GenerationConfig, Split
from afp_ray.data import embedded
from afp_ray.data.mixing import EQUALS_SIGN, TRANSLATE_CLAUSE
from afp_ray.data.readers.codes import flores_names, ntrex_code
from afp_ray.data.readers.files import SourceFile, clean
from afp_ray.data.readers.sentences import has_objects, pair_rows
from afp_ray.data.readers.streams import read_lines
from afp_ray.errors import DataError
from afp_ray.evaluation.generation_task import Files, GenerationTask
from afp_ray.evaluation.task import ParsedRows, Row
from afp_ray.evaluation.task_files import locate
from afp_ray.evaluation.text_metrics import TextMetric, translation_metrics
from afp_ray.languages import Language, language_row

NUM_EMBEDDED = 60
"""Embedded rows per split."""
FLORES_FOLDERS = ("flores200_devtest", "flores200_dataset", "flores101_dataset", "flores")
"""Where none of them is, other folders and archives whose names begin with `flores` are looked into."""
FLORES_101 = {"zh": "zho_simpl", "ar": "ara", "fa": "fas", "lv": "lav", "mn": "mon", "ms": "msa"}
"""Names of FLORES-101 that differ from the ISO 639-3 code."""
_PARTS: Mapping[Split, str] = {"validation": "dev", "test": "devtest"}


def prompt(row: Row, source: Language, target: Language, config: GenerationConfig) -> str:
    """`sentence =`, or `sentence Translate into Chinese:`; both are forms of the training rows."""
    ending = EQUALS_SIGN if config.translation_form == "equals" else TRANSLATE_CLAUSE.format(language=target.name)
    return f"{row['source']} {ending}"


def embedded_rows(source: str, target: str, split: embedded.Part) -> Sequence[Row]:
    """Pairs of the embedded corpus; row i says the same in every language."""
    return [
        {
            "id": f"translation-{split}-{number}",
            "content_id": pair.content_id,
            "source": pair.source,
            "target": pair.target,
        }
        for number, pair in enumerate(embedded.translation_pairs(source, target, split)[:NUM_EMBEDDED])
    ]


def files(data_dir: Path, config: GenerationConfig, source: str, target: str) -> Files:
    """Files of both languages, of each split that exists; NTREX has one."""
    if config.translation_corpus == "ntrex":
        sides = [locate(data_dir, "ntrex128", *_ntrex_names(code)) for code in (source, target)]
        documents = locate(data_dir, "ntrex128", "DOCUMENT_IDS.tsv")
        both = tuple(side for side in sides if side is not None)
        return {"test": (*both, *([documents] if documents else []))} if len(both) == 2 else {}
    files: dict[Split, tuple[SourceFile, ...]] = {}
    for split, part in _PARTS.items():
        names = [_flores_names(code, part) for code in (source, target)]
        for folder, form in itertools.product(_flores_folders(data_dir), (0, 1)):
            sides = [locate(data_dir, folder, *forms[form]) for forms in names]
            if sides[0] and sides[1]:
                files[split] = (sides[0], sides[1])
                break
    return files


def parse(files: tuple[SourceFile, ...], config: GenerationConfig, source: str, target: str) -> ParsedRows:
    """Rows of two line-aligned files, and the document of each line if a third file tells it.

    Raises: DataError when they have different numbers of lines.
    """
    rows: list[Row] = []
    number = 0
    for number, (name, text, reference) in enumerate(_sentences(files, (source, target)), start=1):
        if text and reference:
            rows.append(
                {
                    "id": f"{config.translation_corpus}:{name if len(files) == 2 else number}",
                    "content_id": f"{config.translation_corpus}:{name}",
                    "source": text,
                    "target": reference,
                    "where": f"{files[0].label}:{number}",
                }
            )
    return ParsedRows(rows, number - len(rows))


def _sentences(files: tuple[SourceFile, ...], codes: tuple[str, str]) -> Iterator[tuple[str, str, str]]:
    """Name of the content, and both texts, "" where one is missing."""
    if any(map(has_objects, files[:2])):
        for number, row in enumerate(pair_rows(files[:2], codes), start=1):
            text, reference = ("", "") if row.refusal else row.sides
            yield row.name or str(number), clean(text), clean(reference)
        return
    lines = [read_lines(file) for file in files]
    if len({len(part) for part in lines}) != 1:
        raise DataError(
            f"{' and '.join(str(len(part)) for part in lines)} lines",
            where=" and ".join(file.label for file in files),
            allowed="files whose lines translate each other",
            fix="give files of one release",
        )
    for number, (text, reference, *document) in enumerate(zip(*lines, strict=True), start=1):
        name = document[0].split("\t")[0].strip() if document else str(number)
        yield name, clean(text), clean(reference)


def _flores_folders(data_dir: Path) -> list[str]:
    usual = [name for name in FLORES_FOLDERS if (data_dir / name).is_dir()]
    return usual or sorted(entry.name for entry in data_dir.iterdir() if entry.name.lower().startswith("flores"))


def _flores_names(code: str, part: str) -> tuple[list[str], list[str]]:
    """Names of files of lines, then of files of objects."""
    texts, objects = flores_names(code, part)
    old = FLORES_101.get(code, language_row(code).code3)
    return [*texts, f"{old}.{part}", f"{part}/{old}.{part}"], objects


def _ntrex_names(code: str) -> tuple[str, ...]:
    """English is the source of every translation, and named so."""
    name = f"newstest2019-{'src' if code == 'en' else 'ref'}.{ntrex_code(code)}.txt"
    return (name, f"NTREX-128/{name}")


def layout(config: GenerationConfig) -> str:
    """The files that are looked for."""
    if config.translation_corpus == "ntrex":
        return "ntrex128/newstest2019-src.eng.txt, ntrex128/newstest2019-ref.<code>.txt"
    return (
        "<code>.devtest and <code>.dev, or devtest/<code>.jsonl and dev/<code>.jsonl (also .parquet), in "
        f"{', '.join(FLORES_FOLDERS)}, another folder whose name begins with flores, or an archive of them"
    )


def metrics(language: str, config: GenerationConfig) -> tuple[TextMetric, ...]:
    """BLEU, chrF++, and spBLEU where its model file is given."""
    return translation_metrics(language, config.spbleu_model)


def check(language: str) -> None:
    """Texts of every language can be measured."""


TASK = GenerationTask(
    name="translation",
    prompt=prompt,
    embedded=embedded_rows,
    files=files,
    parse=parse,
    layout=layout,
    check=check,
    metrics=metrics,
    stop=lambda config: ("\n",),
)
