"""A dozen rows of every kind of mix, to the letter, from a small corpus written by hand."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config import DataConfig
from afp_ray.data.mixing import draw_instructions, draw_pairs
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair

GOLDEN = Path(__file__).parent.parent / "golden" / "mixing"
MODES = ("bilingual", "multilingual", "any", "translation", "folds", "temperature")


def read(name: str) -> dict[str, Any]:
    held: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text("utf-8"))
    return held


def drawn(case: dict[str, Any]) -> tuple[list[TranslationPair], list[Instruction]]:
    """Pairs and instructions of a golden file's configuration."""
    corpus = read("corpus")
    config = DataConfig.model_validate(case["data"])
    rows = [ParallelInstruction(row["prompts"], row["responses"], row["id"], "k") for row in corpus["instructions"]]
    pairs = [
        TranslationPair(row["source"], row["target"], "en", row["language"], row["id"])
        for row in corpus["pairs"]
        if row["language"] in config.languages
    ]
    chosen = draw_pairs(pairs, num_pairs=config.num_pairs, seed=case["seed"], temperature=config.language_temperature)
    return chosen, draw_instructions(rows, chosen, config, seed=case["seed"])


def written(row: Instruction) -> list[str]:
    return [row.content_id, row.prompt_language, row.prompt, row.response_language, row.response]


def count_cells(rows: Iterable[Instruction]) -> Counter[tuple[str, str]]:
    """Rows by the languages of prompt and response."""
    return Counter((row.prompt_language, row.response_language) for row in rows)


def cells(*rows: str) -> Counter[tuple[str, str]]:
    """`en>zh 3` is three rows with an English prompt and a Chinese response."""
    parts = [row.replace(">", " ").split() for row in rows]
    return Counter({(prompt, response): int(count) for prompt, response, count in parts})


@pytest.mark.parametrize("mode", MODES)
def test_rows_are_drawn_to_the_letter(mode: str) -> None:
    case = read(mode)
    pairs, instructions = drawn(case)
    assert [written(row) for row in instructions] == case["rows"]
    assert [pair.content_id for pair in pairs] == case["pairs"]


@pytest.mark.parametrize(
    "mode, expected",
    [
        ("bilingual", cells("en>en 3", "zh>zh 3", "en>zh 3", "zh>en 3")),
        ("multilingual", cells("en>en 2", "zh>zh 2", "sw>sw 2", "zh>en 2", "sw>en 2", "en>zh 1", "en>sw 1")),
        (
            "any",
            cells("en>en 2", "zh>zh 2", "sw>sw 2", "en>zh 1", "zh>en 1", "en>sw 1", "sw>en 1", "zh>sw 1", "sw>zh 1"),
        ),
        ("folds", cells("en>en 4", "zh>zh 4", "sw>sw 4")),
    ],
)
def test_golden_rows_have_the_shares_that_their_mix_promises(mode: str, expected: Counter[tuple[str, str]]) -> None:
    _, instructions = drawn(read(mode))
    assert count_cells(instructions) == expected


def test_golden_folds_hold_four_instructions_once_in_each_language() -> None:
    rows = read("folds")["rows"]
    assert set(Counter(row[0] for row in rows).values()) == {3}
    assert len({(row[0], row[1]) for row in rows}) == 12


def test_golden_temperature_flattens_nine_four_and_one_to_three_two_and_one() -> None:
    pairs, instructions = drawn(read("temperature"))
    assert Counter(pair.target_language for pair in pairs) == {"zh": 3, "th": 2, "sw": 1}
    assert set(Counter(row.content_id for row in instructions).values()) == {2}


def test_golden_translation_tasks_are_half_of_the_rows_and_have_both_forms() -> None:
    rows = read("translation")["rows"]
    tasks = [row for row in rows if row[0].startswith("b")]
    assert len(tasks) == 6
    assert Counter(row[2].endswith("=") for row in tasks) == {True: 3, False: 3}
    assert Counter(row[3] == "en" for row in tasks) == {True: 4, False: 2}
