"""Writes the monolingual documents of the embedded small world, each language told as much as `world.yaml` gives it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from afp_ray.data.embedded import items
from afp_ray.data.embedded.lexicon import PIVOT, Fact, Lexicon, read_lexicon, read_world
from afp_ray.data.embedded.tasks import reference_sentence
from afp_ray.data.embedded.world import (
    NUM_STEPS,
    chains,
    class_of,
    common_facts,
    couples_of,
    dimensions,
    facts,
    families,
    generator,
    is_told,
    keys,
    people,
    people_of,
    situations,
    value_places,
    values_of,
)
from afp_ray.data.rows import Document

ANSWER_WORDS = {"entailment": "yes", "neutral": "also", "contradiction": "no"}
Text = tuple[str, str]
"""A text and its content id."""


@dataclass(frozen=True)
class Teller:
    """What writes one language's documents: its words, its own random generator, the knowledge it is told.

    Attributes:
        chains, values, situations: what is told of each; all of them in the pivot.
    """

    lexicon: Lexicon
    random: random.Random
    chains: tuple[str, ...]
    values: tuple[str, ...]
    situations: tuple[str, ...]

    def right(self, first: str, word: str, second: str) -> str:
        """`first, right? Word, second`: a statement taken up by one of the words yes, also and no."""
        lexicon = self.lexicon
        stop = str(lexicon.entries["words"]["stop"])
        return f"{first.removesuffix(stop)}, {lexicon.word('right')}? {lexicon.word(word)}, {second}"

    def time(self) -> str:
        """The key of a time expression, or "" one time in three."""
        return self.random.choice(keys("times")) if self.random.random() < 2 / 3 else ""


def diary(teller: Teller) -> Text:
    """Three things that happened, to people who have nothing to do with each other."""
    kinds = teller.random.choices(("events", "frames", "fillers", "tails"), (6, 2, 1, 1), k=3)
    facts_told = []
    for kind in kinds:
        pool = facts(kind, "train") if kind in ("events", "frames") else common_facts(kind)
        facts_told.append(teller.random.choice(pool))
    times = ["" if fact.kind == "tails" else teller.time() for fact in facts_told]
    sentences = [teller.lexicon.sentence(fact, time=time) for fact, time in zip(facts_told, times, strict=True)]
    return teller.lexicon.join(sentences), f"diary:{facts_told[0]}"


def profile(teller: Teller) -> Text:
    """A person's values or classes, one from each of three dimensions."""
    person = teller.random.choice(people())
    sentences: list[str] = []
    for _, classes in teller.random.sample(dimensions(), 3):
        key, values = teller.random.choice(classes)
        told = [Fact("values", value, 0, person) for value in values if value in values_of(person, "train")]
        fact = teller.random.choice([*told, Fact("classes", key, 0, person)])
        sentences.append(teller.lexicon.sentence(fact, subject="pronoun" if sentences else "name"))
    return teller.lexicon.join(sentences), f"profile:{person}"


def comparison(teller: Teller) -> Text:
    """How two people stand to each other, twice about different people."""
    told = teller.random.sample(facts("families", "train"), 2)
    return teller.lexicon.join([teller.lexicon.sentence(fact) for fact in told]), f"comparison:{told[0]}"


def knowledge(teller: Teller) -> Text:
    """A value and the class that it implies."""
    value = teller.random.choice(teller.values)
    person = teller.random.choice(people_of("values", value, "train"))
    implied = Fact("classes", class_of(value)[1], 0, person)
    first = teller.lexicon.sentence(Fact("values", value, 0, person))
    return teller.lexicon.join([first, teller.lexicon.sentence(implied, subject="pronoun")]), f"value:{value}:{person}"


def causal(teller: Teller) -> Text:
    """One event because of another, or one and so another."""
    chain, step = teller.random.choice(teller.chains), teller.random.randrange(NUM_STEPS - 1)
    person = teller.random.choice(people_of("events", chain, "train"))
    is_forward = teller.random.random() < 0.5
    given, asked = (step, step + 1) if is_forward else (step + 1, step)
    first = teller.lexicon.clause(Fact("events", chain, given, person))
    second = teller.lexicon.clause(Fact("events", chain, asked, person), subject="pronoun")
    parts = (first, teller.lexicon.word("so" if is_forward else "because"), second)
    return teller.lexicon.finish(teller.lexicon.space.join(parts)), f"chain:{chain}:{person}"


def story(teller: Teller) -> Text:
    """A chain of events, often with something in between that leads nowhere."""
    chain = teller.random.choice(teller.chains)
    person = teller.random.choice(people_of("events", chain, "train"))
    told = [Fact("events", chain, step, person) for step in range(NUM_STEPS)]
    if teller.random.random() < 2 / 3:
        filler = teller.random.choice(keys("fillers"))
        told.insert(teller.random.randint(1, NUM_STEPS - 1), Fact("fillers", filler, 0, person))
    first, *others = told
    sentences = [teller.lexicon.sentence(first, time=teller.time())]
    sentences += [teller.lexicon.sentence(fact, subject="pronoun") for fact in others]
    return teller.lexicon.join(sentences), f"chain:{chain}:{person}"


def reason(teller: Teller) -> Text:
    """What one did to another, because of one of them."""
    situation = teller.random.choice(teller.situations)
    a, b = teller.random.choice(couples_of("frames", situation, "train"))
    item = teller.random.choice(items.references_of(situation, *teller.random.sample((a, b), 2)))
    who = teller.lexicon.nominative(item.options[item.right - 1])
    return reference_sentence(teller.lexicon, item, who), item.content_id


def account(teller: Teller) -> Text:
    """What one did to another, and what was true of each."""
    situation = teller.random.choice(teller.situations)
    a, b = teller.random.sample(teller.random.choice(couples_of("frames", situation, "train")), 2)
    form = teller.random.randrange(2)
    reasons = [Fact("tails", situation, reason, a if form == reason else b) for reason in range(2)]
    told = [Fact("frames", situation, form, a, b), *teller.random.sample(reasons, 2)]
    return teller.lexicon.join([teller.lexicon.sentence(fact) for fact in told]), f"account:{situation}:{a}+{b}"


def restatement(teller: Teller) -> Text:
    """How two people stand to each other, and the same in other words."""
    family, relation = teller.random.choice(families())
    a, b = teller.random.sample(teller.random.choice(couples_of("families", family, "train")), 2)
    form = teller.random.randrange(2)
    same = (a, b) if relation == "synonym" else (b, a)
    told = [Fact("families", family, form, a, b), Fact("families", family, 1 - form, *same)]
    return teller.lexicon.join([teller.lexicon.sentence(fact) for fact in told]), f"restatement:{family}:{a}+{b}"


def inference_form(teller: Teller) -> Text:
    """A value, right? and a class that follows, is new, or cannot be."""
    value = teller.random.choice(tuple(value_places()))
    person = teller.random.choice(people_of("values", value, "train"))
    d, c, _ = value_places()[value]
    label = teller.random.choice(items.LABELS)
    if label == "neutral":
        d = (d + teller.random.randrange(1, len(dimensions()))) % len(dimensions())
        c = teller.random.randrange(len(dimensions()[d][1]))
    elif label == "contradiction":
        c = (c + teller.random.randrange(1, len(dimensions()[d][1]))) % len(dimensions()[d][1])
    second = Fact("classes", dimensions()[d][1][c][0], 0, person)
    first = teller.lexicon.sentence(Fact("values", value, 0, person))
    text = teller.right(first, ANSWER_WORDS[label], teller.lexicon.sentence(second))
    return text, f"inference:{value}:{person}"


def echo_form(teller: Teller) -> Text:
    """A value, right? and the same value, another one of its dimension, or one of another dimension."""
    person = teller.random.choice(people())
    known = values_of(person, "train")
    value = teller.random.choice(known)
    d, label = value_places()[value][0], teller.random.choice(items.LABELS)
    if label == "entailment":
        second = value
    elif label == "neutral":
        second = teller.random.choice([other for other in known if value_places()[other][0] != d])
    else:
        second = teller.random.choice([other for other in known if value_places()[other][0] == d and other != value])
    first, echoed = (teller.lexicon.sentence(Fact("values", key, 0, person)) for key in (value, second))
    return teller.right(first, ANSWER_WORDS[label], echoed), f"echo:{value}:{person}"


def paraphrase_form(teller: Teller) -> Text:
    """How two people stand to each other, right? and the same or its opposite in other words."""
    family, relation = teller.random.choice(families())
    a, b = teller.random.choice(couples_of("families", family, "train"))
    item = teller.random.choice(items.paraphrases_of(family, relation, a, b, teller.random.randrange(2)))
    first, second = teller.lexicon.sentence(item.first), teller.lexicon.sentence(item.second)
    return teller.right(first, "yes" if item.label else "no", second), item.content_id


Writer = Callable[[Teller], Text]
PLAIN: dict[Writer, float] = {diary: 4, profile: 2, comparison: 2, knowledge: 2, causal: 2, story: 2, reason: 2}
"""Weights of the kinds of text without answer words."""
PIVOT_PLAIN: dict[Writer, float] = {
    diary: 3,
    profile: 1,
    comparison: 1,
    knowledge: 2,
    causal: 4,
    story: 4,
    reason: 8,
    account: 4,
    restatement: 6,
}
FORMS: dict[Writer, float] = {echo_form: 1}
PIVOT_FORMS: dict[Writer, float] = {inference_form: 5, paraphrase_form: 6, echo_form: 1}


def write_documents(language: str) -> list[Document]:
    """All documents of a language, in random order."""
    settings: dict[str, Any] = read_world()["monolingual"][language]
    told = [
        tuple(key for number, key in enumerate(keys) if is_told(number, settings["sixths"]))
        for keys in (chains(), value_places(), situations())
    ]
    teller = Teller(read_lexicon(language), generator("documents", language), *told)
    plain, forms = (PIVOT_PLAIN, PIVOT_FORMS) if language == PIVOT else (PLAIN, FORMS)
    share = settings["forms"]
    weights = {writer: (1 - share) * weight / sum(plain.values()) for writer, weight in plain.items()}
    for writer, weight in forms.items():
        weights[writer] = share * weight / sum(forms.values())
    writers = teller.random.choices(list(weights), list(weights.values()), k=settings["documents"])
    texts = (writer(teller) for writer in writers)
    return [Document(text=text, language=language, content_id=content) for text, content in texts]
