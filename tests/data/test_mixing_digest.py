"""Draws at equal seeds never change: published numbers rest on them."""

import hashlib
from collections.abc import Sequence
from typing import Any

import pytest

from afp_ray.config import DataConfig
from afp_ray.data.mixing import draw_instructions, draw_pairs, remove_heldout
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair

PAIRS = [
    TranslationPair(f"word {n}", f"{language} {n}", "en", language, f"c:{n}")
    for language, count in (("zh", 90), ("sw", 12), ("th", 60))
    for n in range(count)
]
ROWS = [
    ParallelInstruction(
        {code: f"ask {n} {code}" for code in ("en", "zh", "th", "sw")},
        {code: f"say {n} {code}" for code in ("en", "zh", "th", "sw")},
        f"i:{n}",
        "k",
    )
    for n in range(40)
]


def digest(rows: Sequence[TranslationPair] | Sequence[Instruction]) -> str:
    return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()[:16]


PAIR_DRAWS: dict[tuple[int, int], str] = {
    (0, 0): "e3b0c44298fc1c14",
    (1, 0): "67c617d2ca22acf6",
    (50, 0): "bef3f71af23c88e5",
    (50, 7): "e63f6778f8a60212",
    (120, 1): "8b7cbe837831591f",
    (162, 0): "858984faf464c022",
}
MIXES: list[tuple[dict[str, Any], int, str]] = [
    ({"num_instructions": 100}, 0, "e5049a71f954707b"),
    ({"num_instructions": 100}, 5, "bfa47e15e348adc7"),
    ({"num_instructions": 500, "cross_probability": 0.3, "direction_probability": 0.8}, 1, "96743bcbfaa1f104"),
    ({"num_instructions": 333, "cross_probability": 1.0, "translation_share": 0.3}, 2, "1f05bdfd55b865bb"),
    ({"num_instructions": 700, "translation_share": 1.0, "direction_probability": 0.25}, 3, "7c5e2e867e1a7e1f"),
    ({"num_instructions": 120, "languages": ("zh",)}, 0, "dbc5a8082f6373e2"),
    (
        {"num_instructions": 97, "languages": ("sw",), "cross_probability": 0.7, "translation_share": 0.5},
        4,
        "c35cf22c56a8c949",
    ),
    ({"num_instructions": 160, "cross_probability": 0.0}, 6, "3d4742c732102065"),
]


@pytest.mark.parametrize("num_pairs, seed", PAIR_DRAWS)
def test_pairs_are_drawn_as_ever(num_pairs: int, seed: int) -> None:
    assert digest(draw_pairs(PAIRS, num_pairs=num_pairs, seed=seed)) == PAIR_DRAWS[num_pairs, seed]


@pytest.mark.parametrize("fields, seed, expected", MIXES)
def test_instructions_are_drawn_as_ever(fields: dict[str, Any], seed: int, expected: str) -> None:
    config = DataConfig(**{"languages": ("zh", "th", "sw"), **fields})
    pairs = [pair for pair in PAIRS if pair.target_language in config.languages]
    assert digest(draw_instructions(ROWS, pairs, config, seed=seed)) == expected


def test_heldout_pairs_leave_as_ever() -> None:
    kept, _ = remove_heldout(PAIRS, PAIRS[3:7] + PAIRS[95:96])
    assert digest(draw_pairs(kept, num_pairs=50, seed=2)) == "1b001c161c5f2af4"
