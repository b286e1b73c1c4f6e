"""Writes stories of the embedded small world and, in one sentence, how each began and ended."""

from functools import cache
from typing import NamedTuple

from afp_ray.data.embedded.lexicon import Fact, Lexicon
from afp_ray.data.embedded.world import NUM_STEPS, Part, chains, generator, keys, people_of

NUM_ROWS = 60
"""Stories per split."""


class Story(NamedTuple):
    """A chain of events of one person, free of language.

    Attributes:
        chain, person: what happened, and to whom.
        time: key of the time expression that opens it.
        filler: something that happened in between and leads nowhere.
        place: how many events come before it.
    """

    chain: str
    person: str
    time: str
    filler: str
    place: int


@cache
def stories(split: Part) -> tuple[Story, ...]:
    """Distinct stories of a split, in random order; no chain of a person is in two splits."""
    random = generator("summaries", split)
    owned = [(chain, person) for chain in chains() for person in people_of("events", chain, split)]
    drawn = random.sample(owned, min(NUM_ROWS, len(owned)))
    return tuple(
        Story(*one, random.choice(keys("times")), random.choice(keys("fillers")), random.randint(1, NUM_STEPS - 1))
        for one in drawn
    )


def tell(lexicon: Lexicon, story: Story) -> str:
    """All events and the filler, a sentence each."""
    events = [Fact("events", story.chain, step, story.person) for step in range(NUM_STEPS)]
    events.insert(story.place, Fact("fillers", story.filler, 0, story.person))
    first = lexicon.sentence(events[0], time=story.time)
    return lexicon.join([first, *(lexicon.sentence(fact, subject="pronoun") for fact in events[1:])])


def summarize(lexicon: Lexicon, story: Story) -> str:
    """The first event, so, the last one."""
    first, last = (Fact("events", story.chain, step, story.person) for step in (0, NUM_STEPS - 1))
    parts = (lexicon.clause(first), lexicon.word("so"), lexicon.clause(last, subject="pronoun"))
    return lexicon.finish(lexicon.space.join(parts))
