"""Draws the instructions of a trial: exact amounts, exact shares, every row used evenly.

Source: AFP, arXiv:2311.08089 (cross-lingual instructions, bilingual and multilingual); CoIT, arXiv:2308.04948
(translation tasks among the instructions); CrossIn, arXiv:2404.11932 (crossing between any two languages); N-fold
instructions, Bactrian-X, arXiv:2305.15011. The published mixes flip a coin for each row; here the shares are quotas, so
that two trials that ask for the same mix get the same mix.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TypeVar

from afp_ray.config import DataConfig
from afp_ray.data.drawing import draw_pairs, remove_heldout, rounded, shuffled, shuffled_indices, sides
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair
from afp_ray.errors import DataError
from afp_ray.languages import language_row

ANSWER_CLAUSE = "Answer in {language}:"
TRANSLATE_CLAUSE = "Translate into {language}:"
EQUALS_SIGN = "="
"""Ends the second form of a translation task, "sentence = translation"."""

__all__ = [
    "ANSWER_CLAUSE",
    "EQUALS_SIGN",
    "TRANSLATE_CLAUSE",
    "draw_instructions",
    "draw_pairs",
    "remove_heldout",
]

_Item = TypeVar("_Item")
_Cell = tuple[str, str]
"""Languages of prompt and response."""
_TRIES = 20


def draw_instructions(
    rows: Sequence[ParallelInstruction], pairs: Sequence[TranslationPair], config: DataConfig, *, seed: int
) -> list[Instruction]:
    """Draw the instruction rows of a trial.

    With one target language the prompt's language is uniform and the response crosses over with `cross_probability`.
    With several, a row that does not cross has one language, uniform over all with the pivot, and a row that crosses
    goes between the pivot and a uniform target language, towards the pivot with `direction_probability`; no row goes
    between two target languages. With `crossing: any` it goes from a uniform language, the pivot or not, to a uniform
    other one, whatever the `direction_probability`. A share `translation_share` of all rows are translation tasks made
    from `pairs`.

    With f `instruction_folds`, n rows are made of n/f instructions, rounded up, and each of these goes to f different
    pairs of languages, as far as the mix has them: with f languages and nothing crossing, each of them comes once in
    every language.

    Args:
        rows: parallel instructions in the pivot and every language; each drawn one is used equally often, +-1. They
            are read one by one as they are drawn.
        pairs: the drawn pairs, of which the translation tasks are made; each is used equally often, +-1.
        config: amounts, languages and probabilities.
        seed: of the draw.
    Returns: exactly `config.num_instructions` rows, or all there are, in random order; every share exact to rounding.
    Raises: DataError when rows or pairs are needed and there are none, or a row lacks a language.
    """
    total = config.num_instructions
    if total == "all":
        total = all_instructions(len(rows), len(pairs), config)
    num_tasks = rounded(total * config.translation_share)
    num_rows = total - num_tasks
    drawn: list[Instruction] = []
    if num_tasks:
        drawn += _translation_tasks(pairs, num_tasks, config, seed)
    if num_rows:
        drawn += _crossed(rows, num_rows, config, seed)
    return shuffled(drawn, seed, "order of instructions")


def all_instructions(num_rows: int, num_pairs: int, config: DataConfig) -> int:
    """Rows that `num_instructions: all` stands for: each instruction once a fold, and the tasks of their share.

    Args:
        num_rows: parallel instructions that there are.
        num_pairs: drawn pairs, each of which is one task where all rows are translation tasks.
        config: share of translation tasks, and folds.
    """
    if config.translation_share == 1:
        return num_pairs
    return rounded(num_rows * config.num_folds / (1 - config.translation_share))


def _crossed(rows: Sequence[ParallelInstruction], num_rows: int, config: DataConfig, seed: int) -> list[Instruction]:
    if not rows:
        raise DataError(
            f"{num_rows} instructions asked, but no source gave any",
            where="data.num_instructions",
            allowed="0 without a source of instructions",
            fix="add an embedded or xquad source, or set data.num_instructions: 0",
        )
    counts = _cells(num_rows, config, random.Random(f"{seed} cells"))  # noqa: S311
    placed = (
        _placed_once(len(rows), counts, seed)
        if config.num_folds == 1
        else _folded(len(rows), counts, config.num_folds, seed)
    )
    return [_instruction(rows[index], cell) for index, cell in placed]


def _placed_once(num_rows: int, counts: Mapping[_Cell, int], seed: int) -> list[tuple[int, _Cell]]:
    """Index and cell of each instruction: cells at random, those of a repeated row parted."""
    cells = shuffled([cell for cell, count in counts.items() for _ in range(count)], seed, "cells")
    order = _used_evenly(num_rows, len(cells), seed, "instructions")
    _part_repeats(order, cells, random.Random(f"{seed} repeats"))  # noqa: S311
    return list(zip(order, cells, strict=True))


def _folded(num_rows: int, counts: Mapping[_Cell, int], num_folds: int, seed: int) -> list[tuple[int, _Cell]]:
    """Index and cell of each instruction: few instructions, each in as many different cells as its rows allow.

    The chosen instructions are dealt to one cell after another, round after round. A cell meets one of them twice only
    where it has more rows than there are instructions, which no other way of dealing could avoid.
    """
    total = sum(counts.values())
    num_chosen = min(num_rows, -(-total // num_folds))
    chosen = shuffled_indices(num_rows, seed, "instructions", 0)[:num_chosen]
    cells = [cell for cell in shuffled(counts, seed, "cells") for _ in range(counts[cell])]
    return [(chosen[place % num_chosen], cell) for place, cell in enumerate(cells)]


def _cells(num_rows: int, config: DataConfig, rng: random.Random) -> dict[_Cell, int]:
    """Number of rows by the languages of prompt and response."""
    pivot, targets = config.pivot, config.languages
    num_crossing = rounded(num_rows * config.cross_probability)
    towards = [(target, pivot) for target in targets]
    away = [(pivot, target) for target in targets]
    same = [(language, language) for language in (pivot, *targets)]
    counts = _apportion(num_rows - num_crossing, same, rng)
    if len(targets) == 1:
        counts |= _apportion(num_crossing, towards + away, rng)
    elif config.crossing == "any":
        counts |= _apportion(num_crossing, list(permutations((pivot, *targets), 2)), rng)
    else:
        num_towards = rounded(num_crossing * config.direction_probability)
        counts |= _apportion(num_towards, towards, rng)
        counts |= _apportion(num_crossing - num_towards, away, rng)
    return counts


def _part_repeats(order: Sequence[int], cells: list[_Cell], rng: random.Random) -> None:
    """Swap cells so that a row used several times gets different ones, as far as a few tries find a place."""
    used: Counter[tuple[int, _Cell]] = Counter(zip(order, cells, strict=True))
    for place, index in enumerate(order):
        for _ in range(_TRIES):
            if used[index, cells[place]] <= 1:
                break
            other = rng.randrange(len(cells))
            if used[index, cells[other]] or used[order[other], cells[place]]:
                continue
            used.subtract([(index, cells[place]), (order[other], cells[other])])
            cells[place], cells[other] = cells[other], cells[place]
            used.update([(index, cells[place]), (order[other], cells[other])])


def _instruction(row: ParallelInstruction, cell: _Cell) -> Instruction:
    asked, answered = cell
    for language in cell:
        if language not in row.prompts or language not in row.responses:
            raise DataError(
                f"instruction {row.content_id} is not there in {language}",
                where="data.languages",
                allowed=", ".join(row.prompts),
                fix=f"remove {language}, or use a source that has it",
            )
    clause = ANSWER_CLAUSE.format(language=language_row(answered).name)
    return Instruction(f"{row.prompts[asked]} {clause}", row.responses[answered], asked, answered, row.content_id)


def _translation_tasks(
    pairs: Sequence[TranslationPair], num_tasks: int, config: DataConfig, seed: int
) -> list[Instruction]:
    if not pairs:
        raise DataError(
            f"{num_tasks} translation tasks asked, but there are no pairs to make them from",
            where="data.num_pairs",
            allowed="1 or more with data.translation_share above 0",
            fix="set data.num_pairs, or data.translation_share: 0",
        )
    rng = random.Random(f"{seed} translation tasks")  # noqa: S311
    num_towards = rounded(num_tasks * config.direction_probability)
    forms = _apportion(num_towards, [(True, True), (True, False)], rng)
    forms |= _apportion(num_tasks - num_towards, [(False, True), (False, False)], rng)
    chosen = shuffled([form for form, count in forms.items() for _ in range(count)], seed, "forms")
    order: list[TranslationPair] = []
    while len(order) + len(pairs) <= num_tasks:
        order += [pairs[index] for index in shuffled_indices(len(pairs), seed, "translation tasks", len(order))]
    # The pairs came by the languages' temperature; following their amounts applies it once, not twice.
    temperature = None if config.language_temperature is None else 1.0
    order += draw_pairs(pairs, num_pairs=num_tasks - len(order), seed=seed, temperature=temperature)
    return [_translation_task(pair, *form) for pair, form in zip(order, chosen, strict=True)]


def _translation_task(pair: TranslationPair, towards_pivot: bool, with_clause: bool) -> Instruction:
    (asked, prompt), (answered, response) = reversed(sides(pair)) if towards_pivot else sides(pair)
    ending = TRANSLATE_CLAUSE.format(language=language_row(answered).name) if with_clause else EQUALS_SIGN
    return Instruction(f"{prompt} {ending}", response, asked, answered, pair.content_id)


def _used_evenly(num_items: int, count: int, seed: int, name: str) -> list[int]:
    """`count` places of `num_items`, shuffled round after round, so that none is used twice more than another."""
    order: list[int] = []
    while len(order) < count:
        order += shuffled_indices(num_items, seed, name, len(order))[: count - len(order)]
    return order


def _apportion(total: int, cells: Sequence[_Item], rng: random.Random) -> dict[_Item, int]:
    """`total` split evenly over `cells`; which of them get the remainder is drawn."""
    counts = dict.fromkeys(cells, total // len(cells))
    for cell in rng.sample(list(cells), total % len(cells)):
        counts[cell] += 1
    return counts
