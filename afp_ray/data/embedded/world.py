"""States the facts of the embedded small world, language-free, and which split each of them belongs to."""

import random
from functools import cache
from itertools import combinations
from typing import Any, Literal

from afp_ray.data.embedded.lexicon import GENERATOR_VERSION, Fact, read_world

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
NUM_STEPS = 4
"""Events in a chain."""
SIXTHS = 6
"""Knowledge is dealt to languages and instructions by item number modulo this."""


def generator(*purpose: str) -> random.Random:
    """A random generator of its own for each purpose, the same on every machine."""
    return random.Random(  # noqa: S311 - nothing secret is drawn
        "/".join(("afp_ray", str(GENERATOR_VERSION), *purpose))
    )


@cache
def people() -> tuple[str, ...]:
    """Keys of all people."""
    return tuple(read_world()["people"])


@cache
def chains() -> tuple[str, ...]:
    """Keys of all chains of events."""
    return tuple(read_world()["chains"])


@cache
def dimensions() -> tuple[tuple[str, tuple[tuple[str, tuple[str, ...]], ...]], ...]:
    """(dimension, ((class, values), ...)) in file order."""
    table: dict[str, Any] = read_world()["dimensions"]
    return tuple((name, tuple((key, tuple(row)) for key, row in classes.items())) for name, classes in table.items())


@cache
def keys(section: str) -> tuple[str, ...]:
    """Keys of a plain list of the world: times or fillers."""
    return tuple(read_world()[section])


@cache
def value_places() -> dict[str, tuple[int, int, int]]:
    """(dimension, class, place in its class) of every value, as numbers."""
    return {
        value: (d, c, j)
        for d, (_, classes) in enumerate(dimensions())
        for c, (_, values) in enumerate(classes)
        for j, value in enumerate(values)
    }


def class_of(value: str) -> tuple[str, str]:
    """(dimension, class) that the value implies."""
    d, c, _ = value_places()[value]
    return dimensions()[d][0], dimensions()[d][1][c][0]


@cache
def families() -> tuple[tuple[str, str], ...]:
    """(family, "converse" or "synonym")."""
    return tuple(read_world()["families"].items())


@cache
def situations() -> tuple[str, ...]:
    """Keys of the situations with two frames and two reasons."""
    return tuple(read_world()["situations"])


def is_told(number: int, sixths: list[int]) -> bool:
    """Whether the item of knowledge with this number is among the told sixths."""
    return number % SIXTHS in sixths


@cache
def _two_people_keys(kind: str) -> tuple[str, ...]:
    return situations() if kind == "frames" else tuple(name for name, _ in families())


def _split_by(number: int) -> Part:
    return ("train", "train", "validation", "test")[number % 4]


@cache
def split_of(kind: str, key: str, a: str, b: str = "") -> Part:
    """The split of what is said of these people: a Latin square, so that every key has its share in every split.

    Two people are taken without order, so that a fact and its converse are never parted.
    """
    numbers = sorted(people().index(person) for person in (a, b) if person)
    if kind == "events":
        return _split_by(3 * numbers[0] + chains().index(key))
    if kind == "values":
        return _split_by(3 * numbers[0] + list(value_places()).index(key))
    first, second = numbers
    return _split_by(first + first // 4 + 3 * second + _two_people_keys(kind).index(key))


@cache
def people_of(kind: str, key: str, split: Part) -> tuple[str, ...]:
    """People of whom an event chain or a value is told in this split."""
    return tuple(person for person in people() if split_of(kind, key, person) == split)


@cache
def values_of(person: str, split: Part) -> tuple[str, ...]:
    """Values that are told of a person in this split."""
    return tuple(value for value in value_places() if split_of("values", value, person) == split)


@cache
def couples_of(kind: str, key: str, split: Part) -> tuple[tuple[str, str], ...]:
    """Pairs of people, without order, of whom a family or a situation is told in this split."""
    return tuple((a, b) for a, b in combinations(people(), 2) if split_of(kind, key, a, b) == split)


@cache
def facts(kind: str, split: Part) -> tuple[Fact, ...]:
    """All facts of one kind (events, values, families, frames) that belong to a split."""
    if kind == "events":
        return tuple(
            Fact(kind, key, step, person)
            for key in chains()
            for person in people_of(kind, key, split)
            for step in range(NUM_STEPS)
        )
    if kind == "values":
        return tuple(Fact(kind, key, 0, person) for key in value_places() for person in people_of(kind, key, split))
    return tuple(
        Fact(kind, key, form, *order)
        for key in _two_people_keys(kind)
        for a, b in couples_of(kind, key, split)
        for form in range(2)
        for order in ((a, b), (b, a))
    )


@cache
def common_facts(kind: str) -> tuple[Fact, ...]:
    """Facts that no split owns: fillers, classes and tails, each of every person."""
    if kind == "fillers":
        return tuple(Fact(kind, key, 0, person) for key in read_world()["fillers"] for person in people())
    if kind == "classes":
        return tuple(Fact(kind, key, 0, p) for _, rows in dimensions() for key, _ in rows for p in people())
    return tuple(Fact("tails", key, i, person) for key in situations() for i in range(2) for person in people())
