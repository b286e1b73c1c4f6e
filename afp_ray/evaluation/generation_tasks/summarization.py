"""Cross-lingual summarisation: ConvSumX (arXiv:2307.01648) or NCLS (arXiv:1909.00156).

Original files: `convsumx/DialogSumX/dialogsumx.<dev|test|train>.jsonl` with `en_dialogue` and `<language>_summary`;
articles are English alone, so that there is no direction into English. Where the test file is absent, the train file
stands in: no summary is ever trained on here. NCLS, which its authors hand out on request, is looked for as
`ncls/<EN2ZHSUM|ZH2ENSUM>_<valid|test>.jsonl` with `article` and `summary`, one object a line (an assumption: convert
the release to it).
"""

from collections.abc import Sequence
from pathlib import Path

from afp_ray.config import GenerationConfig
from afp_ray.data import embedded
from afp_ray.data.readers.files import SourceFile, clean
from afp_ray.evaluation.generation_task import Files, GenerationTask
from afp_ray.evaluation.task import ParsedRows, Row, existing_files
from afp_ray.evaluation.task_files import locate, read_objects
from afp_ray.evaluation.text_metrics import TextMetric, summary_metrics
from afp_ray.languages import Language

SUMMARY_CLAUSE = "Summarize in {language}:"
CONVSUMX_LANGUAGES = ("en", "zh", "fr", "uk")
_FOLDER = "convsumx/DialogSumX"


def prompt(row: Row, source: Language, target: Language, config: GenerationConfig) -> str:
    """`text Summarize in Chinese:`, after the model of the clause "Answer in Chinese:"."""
    return f"{row['source']} {SUMMARY_CLAUSE.format(language=target.name)}"


def embedded_rows(source: str, target: str, split: embedded.Part) -> Sequence[Row]:
    """Stories of the embedded corpus in one language, and how they began and ended in the other."""
    return [
        {"id": f"summarization-{split}-{number}", "content_id": content, "source": text, "target": summary}
        for number, (text, summary, content) in enumerate(embedded.summaries(source, target, split))
    ]


def files(data_dir: Path, config: GenerationConfig, source: str, target: str) -> Files:
    """Files that hold articles in `source` and summaries in `target`."""
    if config.summarization_corpus == "ncls":
        name = f"{source.upper()}2{target.upper()}SUM"
        files = existing_files(
            validation=locate(data_dir, "ncls", f"{name}_valid.jsonl", f"{name}/valid.jsonl"),
            test=locate(data_dir, "ncls", f"{name}_test.jsonl", f"{name}/test.jsonl"),
        )
    elif source != "en" or target == source or target not in CONVSUMX_LANGUAGES:
        return {}
    else:
        files = existing_files(
            validation=locate(data_dir, _FOLDER, "dialogsumx.dev.jsonl"),
            test=locate(data_dir, _FOLDER, "dialogsumx.test.jsonl", "dialogsumx.train.jsonl"),
        )
    return {split: (file,) for split, file in files.items()}


def parse(files: tuple[SourceFile, ...], config: GenerationConfig, source: str, target: str) -> ParsedRows:
    """Rows of one file, by line; a line is a content."""
    is_ncls = config.summarization_corpus == "ncls"
    fields = ("article", "summary") if is_ncls else (f"{source}_dialogue", f"{target}_summary")
    part = Path(files[0].name).stem
    rows: list[Row] = []
    objects = list(read_objects(files[0], fields))
    for number, row in enumerate(objects):
        text, summary = (clean(str(row[name])) for name in fields)
        if text and summary:
            name = f"{part}:{number}"
            rows.append({"id": name, "content_id": name, "source": text, "target": summary, "where": row["where"]})
    return ParsedRows(rows, len(objects) - len(rows))


def layout(config: GenerationConfig) -> str:
    """The files that are looked for."""
    if config.summarization_corpus == "ncls":
        return "ncls/EN2ZHSUM_valid.jsonl, ncls/EN2ZHSUM_test.jsonl and the same of ZH2ENSUM, with article and summary"
    return f"{_FOLDER}/dialogsumx.{{dev,test}}.jsonl: English texts, summaries in {', '.join(CONVSUMX_LANGUAGES[1:])}"


def metrics(language: str, config: GenerationConfig) -> tuple[TextMetric, ...]:
    """ROUGE-1, ROUGE-2 and ROUGE-L."""
    return summary_metrics()


def check(language: str) -> None:
    """Texts of every language can be measured."""


TASK = GenerationTask(
    name="summarization",
    prompt=prompt,
    embedded=embedded_rows,
    files=files,
    parse=parse,
    layout=layout,
    check=check,
    metrics=metrics,
    stop=lambda config: ("\n",),
)
