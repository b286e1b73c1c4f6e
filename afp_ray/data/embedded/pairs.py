"""Draws the sentences that translation pairs of the embedded small world say."""

from functools import cache

from afp_ray.data.embedded.lexicon import Fact
from afp_ray.data.embedded.world import Part, common_facts, facts, generator, keys

NUM_PAIRS: dict[Part, dict[str, int]] = {
    "train": {
        "events": 3200,
        "values": 500,
        "families": 900,
        "frames": 500,
        "classes": 300,
        "fillers": 200,
        "tails": 200,
    },
    "validation": {"events": 200, "values": 50, "families": 60, "frames": 40},
    "test": {"events": 200, "values": 50, "families": 60, "frames": 40},
}
"""How many facts of each kind a split's pairs say."""
_TIMELESS = ("values", "classes", "families", "tails")


@cache
def pair_facts(split: Part) -> tuple[tuple[Fact, str], ...]:
    """(fact, key of a time expression or ""), distinct, in a fixed random order; the same for every language."""
    random = generator("pairs", split)
    times = ("", *keys("times"))
    drawn: list[tuple[Fact, str]] = []
    for kind, number in NUM_PAIRS[split].items():
        is_common = kind in ("classes", "fillers", "tails")
        pool = common_facts(kind) if is_common else facts(kind, split)
        said = [(fact, time) for fact in pool for time in (("",) if kind in _TIMELESS else times)]
        drawn.extend(random.sample(said, min(number, len(said))))
    random.shuffle(drawn)
    return tuple(drawn)
