"""Writes the parallel instructions of the embedded small world: questions in forms that no evaluation task uses."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random

from afp_ray.data.embedded.lexicon import LANGUAGES, Fact, Lexicon, read_lexicon, read_world
from afp_ray.data.embedded.world import (
    NUM_STEPS,
    Part,
    chains,
    class_of,
    dimensions,
    facts,
    families,
    generator,
    is_told,
    keys,
    people,
    people_of,
    value_places,
    values_of,
)
from afp_ray.data.rows import ParallelInstruction

NUM_ROWS: dict[Part, int] = {"train": 360, "validation": 40, "test": 40}
"""Rows of each kind that needs knowledge, at most; a kind that only needs reading has half as many."""
READING = ("who", "what", "when", "where")
Speak = Callable[[Lexicon], tuple[str, str]]
"""(prompt, response) in one language."""
Drawn = tuple[str, Speak]
"""A content id and what is said in every language."""


def who(random: Random, split: Part) -> Drawn:
    """Two people did something; the question is who did one of the two things."""
    first, second = two_events(random, split)
    asked = random.choice((first, second))

    def speak(lexicon: Lexicon) -> tuple[str, str]:
        context = [lexicon.sentence(fact) for fact in (first, second)]
        return lexicon.join([*context, lexicon.who_question(asked)]), lexicon.finish(lexicon.nominative(asked.a))

    return f"who:{first}:{second}:{asked.a}", speak


def what(random: Random, split: Part) -> Drawn:
    """Two people did something; the question is what one of them did."""
    first, second = two_events(random, split)
    asked = random.choice((first, second))

    def speak(lexicon: Lexicon) -> tuple[str, str]:
        context = [lexicon.sentence(fact) for fact in (first, second)]
        prompt = lexicon.join([*context, lexicon.question("what", asked.a)])
        return prompt, lexicon.sentence(asked, subject="pronoun")

    return f"what:{first}:{second}:{asked.a}", speak


def when(random: Random, split: Part) -> Drawn:
    """Something happened at a time; the question is when."""
    fact, time = random.choice(facts("events", split)), random.choice(keys("times"))

    def speak(lexicon: Lexicon) -> tuple[str, str]:
        prompt = lexicon.join([lexicon.sentence(fact, time=time), lexicon.question("when")])
        return prompt, lexicon.finish(lexicon.entries["times"][time])

    return f"when:{time}:{fact}", speak


def why(random: Random, split: Part) -> Drawn:
    """Something happened; the question is what led to it."""
    return _link(random, split, kind="why")


def then(random: Random, split: Part) -> Drawn:
    """Something happened; the question is what came of it."""
    return _link(random, split, kind="next")


def kind_of(random: Random, split: Part) -> Drawn:
    """A person's value is told; the question is after its class."""
    value = random.choice(_told_values())
    person = random.choice(people_of("values", value, split))
    dimension, implied = class_of(value)

    def speak(lexicon: Lexicon) -> tuple[str, str]:
        premise = lexicon.sentence(Fact("values", value, 0, person))
        prompt = lexicon.join([premise, lexicon.question(dimension, person)])
        return prompt, lexicon.sentence(Fact("classes", implied, 0, person), subject="pronoun")

    return f"kind_of:{value}:{person}", speak


def which_one(random: Random, split: Part) -> Drawn:
    """How two people stand is told in one way and asked in the other."""
    fact = random.choice(_told_families(split))
    is_converse = dict(families())[fact.key] == "converse"
    a, b = (fact.b, fact.a) if is_converse else (fact.a, fact.b)
    same = Fact("families", fact.key, 1 - fact.form, a, b)

    def speak(lexicon: Lexicon) -> tuple[str, str]:
        prompt = lexicon.join([lexicon.sentence(fact), lexicon.who_question(same)])
        return prompt, lexicon.finish(lexicon.nominative(same.a))

    return f"which_one:{fact}", speak


def where(random: Random, split: Part) -> Drawn:
    """Two values of a person are told; the question is after one of them."""
    person = random.choice(people())
    chosen = random.sample(dimensions(), 2)
    told = []
    for _, classes in chosen:
        values = [value for _, row in classes for value in row if value in values_of(person, split)]
        told.append(Fact("values", random.choice(values), 0, person))
    place = random.randrange(2)

    def speak(lexicon: Lexicon) -> tuple[str, str]:
        first, second = lexicon.sentence(told[0]), lexicon.sentence(told[1], subject="pronoun")
        prompt = lexicon.join([first, second, lexicon.question(chosen[place][0], person)])
        return prompt, lexicon.sentence(told[place], subject="pronoun")

    return f"where:{told[0]}:{told[1]}:{place}", speak


KINDS: dict[str, Callable[[Random, Part], Drawn]] = {
    row.__name__: row for row in (who, what, when, why, then, kind_of, which_one, where)
}


def write_instructions(split: Part) -> Iterator[ParallelInstruction]:
    """Distinct instructions of every kind, kinds in turn; both mappings hold all languages."""
    lexicons = {language: read_lexicon(language) for language in LANGUAGES}
    drawn: list[list[tuple[str, str, Speak]]] = []
    for kind, draw in KINDS.items():
        random = generator("instructions", split, kind)
        rows: dict[str, Speak] = {}
        wanted = NUM_ROWS[split] // (2 if kind in READING else 1)
        for _ in range(6 * wanted):  # some kinds have fewer distinct contents than rows asked for
            if len(rows) < wanted:
                rows.setdefault(*draw(random, split))
        drawn.append([(kind, content, speak) for content, speak in rows.items()])
    for place in range(NUM_ROWS[split]):
        for rows_of_kind in drawn:
            if place < len(rows_of_kind):
                kind, content, speak = rows_of_kind[place]
                said = {language: speak(lexicon) for language, lexicon in lexicons.items()}
                prompts = {language: prompt for language, (prompt, _) in said.items()}
                responses = {language: response for language, (_, response) in said.items()}
                yield ParallelInstruction(prompts=prompts, responses=responses, content_id=content, kind=kind)


def two_events(random: Random, split: Part) -> tuple[Fact, Fact]:
    """Two events of two people, of different chains."""
    first, second = random.sample(facts("events", split), 2)
    while first.a == second.a or first.key == second.key:
        second = random.choice(facts("events", split))
    return first, second


def _link(random: Random, split: Part, kind: str) -> Drawn:
    chain, step = random.choice(_told_chains()), random.randrange(NUM_STEPS - 1)
    person = random.choice(people_of("events", chain, split))
    given, asked = (step, step + 1) if kind == "next" else (step + 1, step)

    def speak(lexicon: Lexicon) -> tuple[str, str]:
        prompt = lexicon.join([lexicon.sentence(Fact("events", chain, given, person)), lexicon.question(kind)])
        return prompt, lexicon.sentence(Fact("events", chain, asked, person), subject="pronoun")

    return f"{kind}:{chain}.{given}:{person}", speak


@cache
def _told_values() -> Sequence[str]:
    """Values whose class instructions tell of."""
    return _told(list(value_places()))


@cache
def _told_families(split: Part) -> Sequence[Fact]:
    """Facts of the families whose two ways of telling instructions show."""
    names = _told([name for name, _ in families()])
    return [fact for fact in facts("families", split) if fact.key in names]


@cache
def _told_chains() -> Sequence[str]:
    """Chains whose links instructions tell of."""
    return _told(list(chains()))


def _told(names: Sequence[str]) -> Sequence[str]:
    return [name for number, name in enumerate(names) if is_told(number, read_world()["instructed_sixths"])]
