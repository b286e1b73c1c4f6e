"""Writes the evaluation rows of the embedded small world in the fields of the public benchmarks."""

from collections.abc import Callable, Iterable
from typing import Any

from afp_ray.data.embedded import items
from afp_ray.data.embedded.lexicon import Lexicon
from afp_ray.data.embedded.pairs import pair_facts
from afp_ray.data.embedded.world import Part

Row = dict[str, Any]
NUM_LINES = 200


def xnli_rows(lexicon: Lexicon, split: Part) -> Iterable[Row]:
    """Premise, hypothesis, label as its name."""
    for item in items.inferences(split):
        yield {
            "premise": lexicon.sentence(item.premise),
            "hypothesis": lexicon.sentence(item.hypothesis),
            "label": item.label,
            "content_id": item.content_id,
        }


def pawsx_rows(lexicon: Lexicon, split: Part) -> Iterable[Row]:
    """Two sentences, label 1 for a paraphrase."""
    for item in items.paraphrases(split):
        yield {
            "sentence1": lexicon.sentence(item.first),
            "sentence2": lexicon.sentence(item.second),
            "label": item.label,
            "content_id": item.content_id,
        }


def xcopa_rows(lexicon: Lexicon, split: Part) -> Iterable[Row]:
    """Premise, two choices, question, label 0 or 1; `idx` counts rows, `changed` is always false."""
    for number, item in enumerate(items.causes(split)):
        yield {
            "premise": lexicon.sentence(item.premise),
            "choice1": lexicon.sentence(item.choices[0], subject="pronoun"),
            "choice2": lexicon.sentence(item.choices[1], subject="pronoun"),
            "question": item.question,
            "label": item.label,
            "idx": number,
            "changed": False,
            "content_id": item.content_id,
        }


def xstorycloze_rows(lexicon: Lexicon, split: Part) -> Iterable[Row]:
    """Four sentences, two endings, the number of the right one."""
    for number, item in enumerate(items.stories(split)):
        first, *others = item.sentences
        sentences = [lexicon.sentence(first, time=item.time)]
        sentences += [lexicon.sentence(fact, subject="pronoun") for fact in others]
        row: Row = {"InputStoryid": f"{split}-{number}"}
        row |= {f"InputSentence{place}": text for place, text in enumerate(sentences, start=1)}
        for place, ending in enumerate(item.endings, start=1):
            row[f"RandomFifthSentenceQuiz{place}"] = lexicon.sentence(ending, subject="pronoun")
        yield row | {"AnswerRightEnding": item.right, "content_id": item.content_id}


def xwinograd_rows(lexicon: Lexicon, split: Part) -> Iterable[Row]:
    """Sentence with "_" for the person meant, option1, option2, answer "1" or "2"."""
    for item in items.references(split):
        yield {
            "sentence": reference_sentence(lexicon, item, "_"),
            "option1": lexicon.nominative(item.options[0]),
            "option2": lexicon.nominative(item.options[1]),
            "answer": str(item.right),
            "content_id": item.content_id,
        }


def reference_sentence(lexicon: Lexicon, item: items.Reference, person: str) -> str:
    """The frame, because, and the reason with `person` as its subject."""
    reason = lexicon.clause(item.tail)[len(lexicon.nominative(item.tail.a)) :]
    parts = (lexicon.clause(item.frame), lexicon.word("because"), person + reason)
    return lexicon.finish(lexicon.space.join(parts))


def flores_rows(lexicon: Lexicon, split: Part) -> Iterable[Row]:
    """One sentence per row; the same line says the same in every language."""
    for fact, time in pair_facts(split)[:NUM_LINES]:
        yield {"sentence": lexicon.sentence(fact, time=time), "content_id": f"pair:{time}:{fact}"}


WRITERS: dict[str, Callable[[Lexicon, Part], Iterable[Row]]] = {
    "xnli": xnli_rows,
    "pawsx": pawsx_rows,
    "xcopa": xcopa_rows,
    "xstorycloze": xstorycloze_rows,
    "xwinograd": xwinograd_rows,
    "flores": flores_rows,
}
