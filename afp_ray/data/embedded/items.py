"""Lays out task items as facts, free of language: evaluation rows and task-shaped text come from here."""

from typing import NamedTuple

from afp_ray.data.embedded.lexicon import Fact
from afp_ray.data.embedded.world import (
    NUM_STEPS,
    Part,
    chains,
    couples_of,
    dimensions,
    facts,
    families,
    generator,
    keys,
    people_of,
    situations,
    value_places,
)

LABELS = ("entailment", "neutral", "contradiction")


class Inference(NamedTuple):
    """A premise and a hypothesis about one person; `label` is one of `LABELS`."""

    premise: Fact
    hypothesis: Fact
    label: str
    content_id: str


class Paraphrase(NamedTuple):
    """Two sentences with the same people; `label` is 1 where they say the same."""

    first: Fact
    second: Fact
    label: int
    content_id: str


class Cause(NamedTuple):
    """An event and two candidates for what led to it or followed; `label` is the place of the right one."""

    premise: Fact
    choices: tuple[Fact, Fact]
    question: str
    label: int
    content_id: str


class Story(NamedTuple):
    """Three events of a chain with a filler, and two endings; `right` is 1 or 2."""

    time: str
    sentences: tuple[Fact, Fact, Fact, Fact]
    endings: tuple[Fact, Fact]
    right: int
    content_id: str


class Reference(NamedTuple):
    """A frame of two people and a reason that is true of one of them; `right` is 1 or 2."""

    frame: Fact
    tail: Fact
    options: tuple[str, str]
    right: int
    content_id: str


def inferences_of(value: str, person: str) -> tuple[Inference, Inference, Inference]:
    """One item per label from one value; over all values every class is as often right for each label."""
    d, c, j = value_places()[value]
    rows, other = dimensions()[d][1], dimensions()[(d + 1 + j) % len(dimensions())][1]
    premise, content = Fact("values", value, 0, person), f"inference:{value}:{person}"

    def item(key: str, label: str) -> Inference:
        return Inference(premise, Fact("classes", key, 0, person), label, content)

    return (
        item(rows[c][0], "entailment"),
        item(other[(c + j) % len(other)][0], "neutral"),
        item(rows[(c + 1 + j) % len(rows)][0], "contradiction"),
    )


def paraphrases_of(family: str, relation: str, a: str, b: str, form: int) -> tuple[Paraphrase, ...]:
    """Four items: each first sentence and each second one is right as often as wrong.

    Args:
        form: which of the family's two ways of speaking opens.
    """
    content = f"paraphrase:{family}:{'+'.join(sorted((a, b)))}"
    items = []
    for first in ((a, b), (b, a)):
        for second in ((a, b), (b, a)):
            is_same_order = first == second
            label = int(is_same_order == (relation == "synonym"))
            pair = Fact("families", family, form, *first), Fact("families", family, 1 - form, *second)
            items.append(Paraphrase(*pair, label, content))
    return tuple(items)


def causes_of(first: str, second: str, person: str, step: int) -> tuple[Cause, ...]:
    """Four items from one link of two chains: both directions, each choice right once and wrong once."""
    items = []
    content = f"chains:{'+'.join(sorted((first, second)))}:{person}"
    for question, given, asked in (("effect", step, step + 1), ("cause", step + 1, step)):
        choices = Fact("events", first, asked, person), Fact("events", second, asked, person)
        for label, chain in enumerate((first, second)):
            items.append(Cause(Fact("events", chain, given, person), choices, question, label, content))
    return tuple(items)


def stories_of(first: str, second: str, person: str, time: str, fillers: tuple[str, str]) -> tuple[Story, Story]:
    """Two stories with the same two endings, each right once."""
    content = f"chains:{'+'.join(sorted((first, second)))}:{person}"
    endings = Fact("events", first, 3, person), Fact("events", second, 3, person)

    def item(chain: str, filler: str, right: int) -> Story:
        events = [Fact("events", chain, step, person) for step in range(NUM_STEPS - 1)]
        told = events[0], events[1], Fact("fillers", filler, 0, person), events[2]
        return Story(time, told, endings, right, content)

    return item(first, fillers[0], 1), item(second, fillers[1], 2)


def references_of(situation: str, a: str, b: str) -> tuple[Reference, ...]:
    """Four items: both frames with both reasons; frame, reason and place of the option alone say nothing."""
    items = []
    content = f"reference:{situation}:{'+'.join(sorted((a, b)))}"
    for form in range(2):
        for reason in range(2):
            who = a if form == reason else b
            options = (a, b) if (form + len(a) + len(b)) % 2 else (b, a)
            frame, tail = Fact("frames", situation, form, a, b), Fact("tails", situation, reason, who)
            items.append(Reference(frame, tail, options, options.index(who) + 1, content))
    return tuple(items)


def inferences(split: Part) -> list[Inference]:
    """Three items for one person per value."""
    random = generator("inferences", split)
    return [item for v in value_places() for item in inferences_of(v, random.choice(people_of("values", v, split)))]


def paraphrases(split: Part, *, couples: int = 3) -> list[Paraphrase]:
    """Four items for some couples per family."""
    random = generator("paraphrases", split)
    items: list[Paraphrase] = []
    for family, relation in families():
        for number, (a, b) in enumerate(random.sample(couples_of("families", family, split), couples)):
            items.extend(paraphrases_of(family, relation, a, b, number % 2))
    return items


def chain_couples(split: Part) -> list[tuple[str, str, str]]:
    """(chain, chain, person): every person's chains of a split, each used once."""
    random = generator("chain couples", split)
    couples: list[tuple[str, str, str]] = []
    for person in sorted({fact.a for fact in facts("events", split)}):
        own = [chain for chain in chains() if person in people_of("events", chain, split)]
        random.shuffle(own)
        couples.extend((own[i], own[i + 1], person) for i in range(0, len(own) - 1, 2))
    return couples[: 60 * (2 if split == "train" else 1)]


def causes(split: Part) -> list[Cause]:
    """Four items per couple of chains, the link drawn in turn."""
    return [
        item
        for number, (first, second, person) in enumerate(chain_couples(split))
        for item in causes_of(first, second, person, number % (NUM_STEPS - 1))
    ]


def stories(split: Part) -> list[Story]:
    """Two items per couple of chains."""
    random = generator("stories", split)
    fillers, times = keys("fillers"), keys("times")
    items: list[Story] = []
    for first, second, person in chain_couples(split):
        chosen = random.sample(fillers, 2)
        items.extend(stories_of(first, second, person, random.choice(times), (chosen[0], chosen[1])))
    return items


def references(split: Part, *, couples: int = 6) -> list[Reference]:
    """Four items for some couples per situation."""
    random = generator("references", split)
    items: list[Reference] = []
    for situation in situations():
        for number, (a, b) in enumerate(random.sample(couples_of("frames", situation, split), couples)):
            items.extend(references_of(situation, *((a, b) if number % 2 else (b, a))))
    return items
