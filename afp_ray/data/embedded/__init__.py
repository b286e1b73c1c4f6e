"""The embedded corpus: a small world told in eight languages by hand-written word files, the same on every machine."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from afp_ray.data.embedded.documents import write_documents
from afp_ray.data.embedded.instructions import write_instructions
from afp_ray.data.embedded.lexicon import LANGUAGES, PIVOT, corpus_fingerprint, read_lexicon
from afp_ray.data.embedded.pairs import pair_facts
from afp_ray.data.embedded.reading import KINDS, answer, ask, paragraphs
from afp_ray.data.embedded.reading import tell as tell_paragraph
from afp_ray.data.embedded.summaries import stories, summarize, tell
from afp_ray.data.embedded.tasks import WRITERS
from afp_ray.data.embedded.world import PARTS, Part
from afp_ray.data.rows import Document, ParallelInstruction, TranslationPair
from afp_ray.errors import DataError

TASKS: tuple[str, ...] = tuple(WRITERS)

__all__ = [
    "LANGUAGES",
    "PARTS",
    "PIVOT",
    "TASKS",
    "Part",
    "corpus_fingerprint",
    "documents",
    "parallel_instructions",
    "readings",
    "summaries",
    "task_rows",
    "translation_pairs",
]


@cache
def documents(language: str) -> Sequence[Document]:
    """Monolingual text for pre-training, in random order, skewed towards the pivot.

    Raises: DataError when the corpus has no such language.
    """
    _check("language", language, LANGUAGES)
    return tuple(write_documents(language))


@cache
def translation_pairs(source_language: str, target_language: str, split: Part) -> Sequence[TranslationPair]:
    """Sentences and their translations, in random order; row i says the same for every pair of languages.

    Raises: DataError when the corpus has no such language or split.
    """
    _check("source_language", source_language, LANGUAGES)
    _check("target_language", target_language, LANGUAGES)
    _check("split", split, PARTS)
    source, target = read_lexicon(source_language), read_lexicon(target_language)
    return tuple(
        TranslationPair(
            source=source.sentence(fact, time=time),
            target=target.sentence(fact, time=time),
            source_language=source_language,
            target_language=target_language,
            content_id=f"pair:{time}:{fact}",
        )
        for fact, time in pair_facts(split)
    )


@cache
def parallel_instructions(split: Part = "train") -> Sequence[ParallelInstruction]:
    """Instructions in all languages, kinds in turn.

    Raises: DataError when the corpus has no such split.
    """
    _check("split", split, PARTS)
    return tuple(write_instructions(split))


@cache
def summaries(source_language: str, target_language: str, split: Part) -> Sequence[tuple[str, str, str]]:
    """Stories in one language, each with its summary in another and its content id; row i is the same in all.

    Raises: DataError when the corpus has no such language or split.
    """
    _check("source_language", source_language, LANGUAGES)
    _check("target_language", target_language, LANGUAGES)
    _check("split", split, PARTS)
    source, target = read_lexicon(source_language), read_lexicon(target_language)
    return tuple(
        (tell(source, story), summarize(target, story), f"chain:{story.chain}:{story.person}")
        for story in stories(split)
    )


@cache
def readings(question_language: str, language: str, split: Part) -> Sequence[tuple[str, str, str, str]]:
    """Paragraphs in `language`, each with questions in `question_language`, and answers in the paragraph's.

    Returns: (paragraph, question, answer, content id), one content per paragraph; row i is the same in all languages.
    Raises: DataError when the corpus has no such language or split.
    """
    _check("question_language", question_language, LANGUAGES)
    _check("language", language, LANGUAGES)
    _check("split", split, PARTS)
    asking, told = read_lexicon(question_language), read_lexicon(language)
    return tuple(
        (
            tell_paragraph(told, paragraph),
            ask(asking, paragraph, kind),
            answer(told, paragraph, kind),
            f"reading:{paragraph.first}:{paragraph.second}:{paragraph.told}",
        )
        for paragraph in paragraphs(split)
        for kind in KINDS
    )


@cache
def task_rows(task: str, language: str, split: Part) -> Sequence[dict[str, Any]]:
    """Evaluation rows with the fields of the public benchmark, and `id` and `content_id`.

    `id` is the same for the same row in every language. Rows that share a `content_id` are made from the same facts: an
    interval clusters by it. Rows of "train" are demonstrations. The rows are shared: do not change them.

    Raises: DataError when the corpus has no such task, language or split.
    """
    _check("task", task, TASKS)
    _check("language", language, LANGUAGES)
    _check("split", split, PARTS)
    rows = WRITERS[task](read_lexicon(language), split)
    return tuple({"id": f"{task}-{split}-{number}"} | row for number, row in enumerate(rows))


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise DataError(
            f"the embedded corpus has no {name} {value!r}",
            where=f"argument {name}",
            allowed=", ".join(allowed),
            fix="use one of these, or another data source",
        )
