"""Writes short paragraphs of the embedded small world and questions that each of them answers."""

from functools import cache
from typing import NamedTuple

from afp_ray.data.embedded.instructions import two_events
from afp_ray.data.embedded.lexicon import Fact, Lexicon
from afp_ray.data.embedded.world import Part, dimensions, generator, keys, people, value_places, values_of

NUM_PARAGRAPHS = 20
"""Paragraphs per split, each with one question of every kind."""
KINDS = ("who", "what", "value")


class Paragraph(NamedTuple):
    """What two people did and how a third one lives, free of language.

    Attributes:
        time: key of the time expression that opens it.
        first, second: two events of two people.
        told: a value of somebody else.
    """

    time: str
    first: Fact
    second: Fact
    told: Fact


@cache
def paragraphs(split: Part) -> tuple[Paragraph, ...]:
    """Distinct paragraphs of a split, in random order; what they tell is in no other split."""
    random = generator("reading", split)
    distinct: dict[Paragraph, None] = {}
    while len(distinct) < NUM_PARAGRAPHS:
        first, second = two_events(random, split)
        person = random.choice([key for key in people() if key not in (first.a, second.a)])
        value = random.choice(values_of(person, split))
        distinct[Paragraph(random.choice(keys("times")), first, second, Fact("values", value, 0, person))] = None
    return tuple(distinct)


def tell(lexicon: Lexicon, paragraph: Paragraph) -> str:
    """The paragraph, a sentence for each fact."""
    first = lexicon.sentence(paragraph.first, time=paragraph.time)
    return lexicon.join([first, lexicon.sentence(paragraph.second), lexicon.sentence(paragraph.told)])


def ask(lexicon: Lexicon, paragraph: Paragraph, kind: str) -> str:
    """Who did the first thing, what the second person did, or what the value of the third is."""
    if kind == "who":
        return lexicon.who_question(paragraph.first)
    if kind == "what":
        return lexicon.question("what", paragraph.second.a)
    dimension = dimensions()[value_places()[paragraph.told.key][0]][0]
    return lexicon.question(dimension, paragraph.told.a)


def answer(lexicon: Lexicon, paragraph: Paragraph, kind: str) -> str:
    """A name, or a sentence, as instructions are answered."""
    if kind == "who":
        return lexicon.finish(lexicon.nominative(paragraph.first.a))
    return lexicon.sentence(paragraph.second if kind == "what" else paragraph.told, subject="pronoun")
