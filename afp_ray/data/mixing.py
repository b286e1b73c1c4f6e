"""Draws the translation pairs and instructions of a trial: exact amounts, exact shares, every row used evenly.

Source: AFP, arXiv:2311.08089 (cross-lingual instructions, bilingual and multilingual); CoIT, arXiv:2308.04948
(translation tasks among the instructions). The published mixes flip a coin for each row; here the shares are quotas, so
that two trials that ask for the same mix get the same mix.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from afp_ray.config import DataConfig
from afp_ray.data.rows import Instruction, ParallelInstruction, TranslationPair
from afp_ray.errors import DataError
from afp_ray.languages import LANGUAGES

ANSWER_CLAUSE = "Answer in {language}:"
TRANSLATE_CLAUSE = "Translate into {language}:"
EQUALS_SIGN = "="
"""Ends the second form of a translation task, "sentence = translation"."""

_Item = TypeVar("_Item")
_Cell = tuple[str, str]
"""Languages of prompt and response."""
_TRIES = 20


def draw_pairs(pairs: Sequence[TranslationPair], *, num_pairs: int, seed: int) -> list[TranslationPair]:
    """Draw pairs without replacement, spread evenly over the languages.

    A language with fewer pairs than its even share gives all it has and the others make up for it. With one seed the
    pairs of a smaller draw are among those of a larger one, so that amounts can be compared.

    Args:
        pairs: candidates; their order matters to the draw.
        num_pairs: size of the result, >= 0.
        seed: of the draw.
    Returns: `num_pairs` pairs in random order.
    Raises: DataError when there are fewer than `num_pairs`.
    """
    by_language: dict[str, list[TranslationPair]] = {}
    for pair in pairs:
        by_language.setdefault(pair.target_language, []).append(pair)
    capacities = {language: len(rows) for language, rows in by_language.items()}
    if num_pairs > len(pairs):
        listed = ", ".join(f"{language} {count}" for language, count in capacities.items()) or "none"
        raise DataError(
            f"{num_pairs} pairs asked, but there are {len(pairs)} ({listed})",
            where="data.num_pairs",
            allowed=f"0 to {len(pairs)}",
            fix="lower data.num_pairs, or add a source",
        )
    drawn: list[TranslationPair] = []
    for language, count in _fill_evenly(capacities, num_pairs).items():
        drawn += _shuffled(by_language[language], seed, "pairs", language)[:count]
    return _shuffled(drawn, seed, "order of pairs")


def draw_instructions(
    rows: Sequence[ParallelInstruction], pairs: Sequence[TranslationPair], config: DataConfig, *, seed: int
) -> list[Instruction]:
    """Draw the instruction rows of a trial.

    With one target language the prompt's language is uniform and the response crosses over with `cross_probability`.
    With several, a row that does not cross has one language, uniform over all with the pivot, and a row that crosses
    goes between the pivot and a uniform target language, towards the pivot with `direction_probability`; no row goes
    between two target languages. A share `translation_share` of all rows are translation tasks made from `pairs`.

    Args:
        rows: parallel instructions in the pivot and every language; each is used equally often, +-1.
        pairs: pairs for the translation tasks; each is used equally often, +-1.
        config: amounts, languages and probabilities.
        seed: of the draw.
    Returns: exactly `config.num_instructions` rows in random order; every share exact to rounding.
    Raises: DataError when rows or pairs are needed and there are none, or a row lacks a language.
    """
    num_tasks = _rounded(config.num_instructions * config.translation_share)
    num_rows = config.num_instructions - num_tasks
    drawn: list[Instruction] = []
    if num_tasks:
        drawn += _translation_tasks(pairs, num_tasks, config.direction_probability, seed)
    if num_rows:
        drawn += _crossed(rows, num_rows, config, seed)
    return _shuffled(drawn, seed, "order of instructions")


def remove_heldout(
    pairs: Iterable[TranslationPair], heldout: Iterable[TranslationPair]
) -> tuple[list[TranslationPair], int]:
    """Take out training pairs that share a sentence, on either side, with a held-out pair.

    Returns: the other pairs in their order, and how many were taken out.
    """
    sentences = {(code, text) for pair in heldout for code, text in _sides(pair)}
    candidates = list(pairs)
    kept = [pair for pair in candidates if not any(side in sentences for side in _sides(pair))]
    return kept, len(candidates) - len(kept)


def _crossed(rows: Sequence[ParallelInstruction], num_rows: int, config: DataConfig, seed: int) -> list[Instruction]:
    if not rows:
        raise DataError(
            f"{num_rows} instructions asked, but no source gave any",
            where="data.num_instructions",
            allowed="0 without a source of instructions",
            fix="add an embedded or xquad source, or set data.num_instructions: 0",
        )
    cells = _cells(num_rows, config, random.Random(f"{seed} cells"))  # noqa: S311
    cells = _shuffled(cells, seed, "cells")
    order = _used_evenly(range(len(rows)), num_rows, seed, "instructions")
    _part_repeats(order, cells, random.Random(f"{seed} repeats"))  # noqa: S311
    return [_instruction(rows[index], cell) for index, cell in zip(order, cells, strict=True)]


def _cells(num_rows: int, config: DataConfig, rng: random.Random) -> list[_Cell]:
    """Languages of prompt and response of each row, in order of the cells."""
    pivot, targets = config.pivot, config.languages
    num_crossing = _rounded(num_rows * config.cross_probability)
    towards = [(target, pivot) for target in targets]
    away = [(pivot, target) for target in targets]
    same = [(language, language) for language in (pivot, *targets)]
    counts = _apportion(num_rows - num_crossing, same, rng)
    if len(targets) == 1:
        counts |= _apportion(num_crossing, towards + away, rng)
    else:
        num_towards = _rounded(num_crossing * config.direction_probability)
        counts |= _apportion(num_towards, towards, rng)
        counts |= _apportion(num_crossing - num_towards, away, rng)
    return [cell for cell, count in counts.items() for _ in range(count)]


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
    clause = ANSWER_CLAUSE.format(language=LANGUAGES[answered].name)
    return Instruction(f"{row.prompts[asked]} {clause}", row.responses[answered], asked, answered, row.content_id)


def _translation_tasks(
    pairs: Sequence[TranslationPair], num_tasks: int, direction_probability: float, seed: int
) -> list[Instruction]:
    if not pairs:
        raise DataError(
            f"{num_tasks} translation tasks asked, but there are no pairs to make them from",
            where="data.num_pairs",
            allowed="1 or more with data.translation_share above 0",
            fix="set data.num_pairs, or data.translation_share: 0",
        )
    rng = random.Random(f"{seed} translation tasks")  # noqa: S311
    num_towards = _rounded(num_tasks * direction_probability)
    forms = _apportion(num_towards, [(True, True), (True, False)], rng)
    forms |= _apportion(num_tasks - num_towards, [(False, True), (False, False)], rng)
    chosen = _shuffled([form for form, count in forms.items() for _ in range(count)], seed, "forms")
    order: list[TranslationPair] = []
    while len(order) + len(pairs) <= num_tasks:
        order += _shuffled(pairs, seed, "translation tasks", len(order))
    order += draw_pairs(pairs, num_pairs=num_tasks - len(order), seed=seed)
    return [_translation_task(pair, *form) for pair, form in zip(order, chosen, strict=True)]


def _translation_task(pair: TranslationPair, towards_pivot: bool, with_clause: bool) -> Instruction:
    (asked, prompt), (answered, response) = reversed(_sides(pair)) if towards_pivot else _sides(pair)
    ending = TRANSLATE_CLAUSE.format(language=LANGUAGES[answered].name) if with_clause else EQUALS_SIGN
    return Instruction(f"{prompt} {ending}", response, asked, answered, pair.content_id)


def _sides(pair: TranslationPair) -> tuple[tuple[str, str], tuple[str, str]]:
    return (pair.source_language, pair.source), (pair.target_language, pair.target)


def _used_evenly(items: Sequence[_Item], count: int, seed: int, name: str) -> list[_Item]:
    """`count` items, shuffled round after round, so that none is used twice more than another."""
    order: list[_Item] = []
    while len(order) < count:
        order += _shuffled(items, seed, name, len(order))
    return order[:count]


def _apportion(total: int, cells: Sequence[_Item], rng: random.Random) -> dict[_Item, int]:
    """`total` split evenly over `cells`; which of them get the remainder is drawn."""
    counts = dict.fromkeys(cells, total // len(cells))
    for cell in rng.sample(list(cells), total % len(cells)):
        counts[cell] += 1
    return counts


def _fill_evenly(capacities: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` split as evenly as the capacities allow; what a small one cannot take goes to the larger ones."""
    counts: dict[str, int] = {}
    by_size = sorted(capacities, key=lambda name: capacities[name])
    for place, name in enumerate(by_size):
        left = total - sum(counts.values())
        counts[name] = min(capacities[name], left // (len(by_size) - place))
    return {name: counts[name] for name in capacities}


def _shuffled(items: Iterable[_Item], seed: int, *names: object) -> list[_Item]:
    """A random order that depends on the seed and the names alone."""
    order = list(items)
    random.Random(" ".join(str(part) for part in (seed, *names))).shuffle(order)  # noqa: S311
    return order


def _rounded(value: float) -> int:
    return int(value + 0.5)
