"""Translation of single sentences: FLORES (arXiv:2106.03193, arXiv:2207.04672) or NTREX-128 (arXiv:2211.07231).

Original files: `flores200_devtest/`, `flores200_dataset/`, `flores101_dataset/` or `flores/` with `<code>.devtest` and
`<code>.dev`, plain, in `devtest/` and `dev/`, or in an archive; `ntrex128/newstest2019-{src,ref}.<code>.txt`. Without
FLORES dev files, and for NTREX, the sentences are halved by content (`task.halves`). A FLORES content is a line; an
NTREX content is a document where `DOCUMENT_IDS.tsv` lies beside the files, else a line.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from afp_ray.config import GenerationConfig
from afp_ray.data import embedded
from afp_ray.data.mixing import EQUALS_SIGN, TRANSLATE_CLAUSE
from afp_ray.data.readers.codes import flores_code, ntrex_code
from afp_ray.data.readers.files import SourceFile, clean
from afp_ray.data.readers.streams import read_lines
from afp_ray.errors import DataError
from afp_ray.evaluation.files import locate
from afp_ray.evaluation.generation_task import Files, GenerationTask
from afp_ray.evaluation.task import ParsedRows, Row, Split
from afp_ray.evaluation.text_metrics import TextMetric, translation_metrics
from afp_ray.languages import LANGUAGES, Language

NUM_EMBEDDED = 60
"""Embedded rows per split."""
FLORES_FOLDERS = ("flores200_devtest", "flores200_dataset", "flores101_dataset", "flores")
FLORES_101 = {"zh": "zho_simpl", "ar": "ara", "fa": "fas", "lv": "lav", "mn": "mon", "ms": "msa"}
"""Names of FLORES-101 that differ from the ISO 639-3 code."""
_PARTS: Mapping[Split, str] = {"validation": "dev", "test": "devtest"}


def prompt(row: Row, source: Language, target: Language, config: GenerationConfig) -> str:
    """`sentence =`, or `sentence Translate into Chinese:`; both are forms of the training rows."""
    ending = EQUALS_SIGN if config.translation_form == "equals" else TRANSLATE_CLAUSE.format(language=target.name)
    return f"{row['source']} {ending}"


def embedded_rows(source: str, target: str, split: embedded.Split) -> Sequence[Row]:
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
    found: dict[Split, tuple[SourceFile, ...]] = {}
    for split, part in _PARTS.items():
        for folder in FLORES_FOLDERS:
            sides = [locate(data_dir, folder, *_flores_names(code, part)) for code in (source, target)]
            if sides[0] and sides[1]:
                found[split] = (sides[0], sides[1])
                break
    return found


def parse(files: tuple[SourceFile, ...], config: GenerationConfig, source: str, target: str) -> ParsedRows:
    """Rows of two line-aligned files, and the document of each line if a third file tells it.

    Raises: DataError when they have different numbers of lines.
    """
    lines = [read_lines(file) for file in files]
    if len({len(part) for part in lines}) != 1:
        raise DataError(
            f"{' and '.join(str(len(part)) for part in lines)} lines",
            where=" and ".join(file.label for file in files),
            allowed="files whose lines translate each other",
            fix="give files of one release",
        )
    rows: list[Row] = []
    for number, (text, reference, *document) in enumerate(zip(*lines, strict=True), start=1):
        if clean(text) and clean(reference):
            content = document[0].split("\t")[0].strip() if document else str(number)
            rows.append(
                {
                    "id": f"{config.translation_corpus}:{number}",
                    "content_id": f"{config.translation_corpus}:{content}",
                    "source": clean(text),
                    "target": clean(reference),
                    "where": f"{files[0].label}:{number}",
                }
            )
    return ParsedRows(rows, len(lines[0]) - len(rows))


def _flores_names(code: str, part: str) -> tuple[str, ...]:
    names = (flores_code(code), FLORES_101.get(code, LANGUAGES[code].code3))
    return tuple(place for name in names for place in (f"{name}.{part}", f"{part}/{name}.{part}"))


def _ntrex_names(code: str) -> tuple[str, ...]:
    """English is the source of every translation, and named so."""
    name = f"newstest2019-{'src' if code == 'en' else 'ref'}.{ntrex_code(code)}.txt"
    return (name, f"NTREX-128/{name}")


def layout(config: GenerationConfig) -> str:
    """The files that are looked for."""
    if config.translation_corpus == "ntrex":
        return "ntrex128/newstest2019-src.eng.txt, ntrex128/newstest2019-ref.<code>.txt"
    return f"<code>.devtest and <code>.dev in {', '.join(FLORES_FOLDERS)}, or an archive of them"


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
