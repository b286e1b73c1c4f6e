"""Rows, a tokenizer without libraries, and what the processes of the token cache's tests run."""

import hashlib
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.token_cache import cached_instructions, cached_pairs
from afp_ray.data.tokens import InstructionTokens, PairTokens


class Letters:
    """One id for each lower-case letter and the space; knows nothing else. Ids of `vocabulary` start at 2."""

    eos_token_id: int | None = 1
    pad_token_id: int | None = 0

    def __init__(self, vocabulary: str = "abcdefghijklmnopqrstuvwxyz ") -> None:
        self._ids = {letter: place for place, letter in enumerate(vocabulary, start=2)}

    def get_vocab(self) -> dict[str, int]:
        return self._ids

    def __call__(self, text: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[self._ids[letter] for letter in one if letter in self._ids] for one in text]}


def word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def make_pairs(count: int) -> list[TranslationPair]:
    """Rows of many lengths; sentences repeat on both sides, and every 97th row has a side without tokens."""
    return [
        TranslationPair(
            word(number // 2) * (1 + number % 7),
            "船" if number % 97 == 5 else word(number % 900),
            "en",
            "sw",
            str(number),
        )
        for number in range(count)
    ]


def make_instructions(count: int) -> list[Instruction]:
    """Rows of many lengths; every 89th prompt is long, every 83rd response has no tokens."""
    return [
        Instruction(
            f"where is {word(number)}" * (9 if number % 89 == 3 else 1),
            "船" if number % 83 == 4 else word(number) * (1 + number % 5),
            "en",
            "sw",
            str(number),
        )
        for number in range(count)
    ]


def digest(tokens: PairTokens | InstructionTokens) -> str:
    """Hash of all ids and of what the cut leaves of them."""
    found = hashlib.sha256()
    cut = tokens.cut(24)
    sides = (cut.sources, cut.targets) if hasattr(cut, "sources") else (cut.rows,)
    for side in sides:
        for index in range(len(side)):
            found.update(side[index].tobytes() + b"|")
    found.update(repr((cut.dropped_tokens, cut.refused, getattr(cut, "keys", None))).encode())
    return found.hexdigest()


def logged(rows: Sequence[Any], log: Path) -> Callable[[], Sequence[Any]]:
    """Gives `rows` and notes in `log` that it was asked."""

    def make() -> Sequence[Any]:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return rows

    return make


def ask_at_once(barrier: Any, answers: Any, folder: str) -> None:
    """Ask for pairs and instructions as soon as every process is ready to."""
    os.environ["AFP_CACHE"] = folder
    pairs, instructions, tokenizer = make_pairs(1500), make_instructions(1500), Letters()
    barrier.wait()
    found = (
        digest(cached_pairs("p", tokenizer, logged(pairs, Path(folder) / "pairs.log"))),
        digest(cached_instructions("i", tokenizer, logged(instructions, Path(folder) / "instructions.log"))),
    )
    answers.put(found)


def build_forever(started: Any, folder: str) -> None:
    """Begin to make the pairs of `ask_at_once` and never end."""
    os.environ["AFP_CACHE"] = folder

    class Endless(Sequence[TranslationPair]):
        """The first rows come, the next ones never do."""

        def __len__(self) -> int:
            return 5000

        def __getitem__(self, index: Any) -> Any:
            if index.start == 0:
                return make_pairs(1024)
            started.set()
            signal.pause()

    cached_pairs("p", Letters(), Endless)
