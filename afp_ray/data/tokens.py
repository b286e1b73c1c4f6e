"""Tokenises pairs and instructions once, cuts them to length and says which tokens are supervised."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.errors import DataError

JOINT = " "
"""Stands between prompt and response."""
CHUNK = 1024

TokenArray = npt.NDArray[np.int32]


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of Hugging Face have it."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end-of-sequence token."""
        ...

    @property
    def pad_token_id(self) -> int | None:
        """Id that fills short rows, or None."""
        ...

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, Any]:
        """Token ids of each text under `input_ids`, with the special tokens that the tokenizer adds."""
        ...


class TokenRows:
    """Rows of token ids of different lengths in one flat array: (N tokens of all rows,) int32, and (rows + 1,) ends."""

    def __init__(self, rows: Iterable[TokenArray]) -> None:
        arrays = list(rows)
        self._flat = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
        self._ends = np.cumsum([0, *(len(row) for row in arrays)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> TokenArray:
        """(T,) ids of row `index`."""
        return self._flat[self._ends[index] : self._ends[index + 1]]


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """Pairs as token ids.

    Attributes:
        sources, targets: ids of each side, row by row.
        texts: the two sides of each row, for telling repeated sentences.
        dropped_tokens: tokens cut off.
        refused: rows with a side that has no tokens.
    """

    sources: TokenRows
    targets: TokenRows
    texts: list[tuple[str, str]]
    dropped_tokens: int
    refused: int


@dataclass(frozen=True, slots=True)
class TokenizedInstructions:
    """Instructions as token ids of prompt, response and end-of-sequence.

    Attributes:
        rows: ids, row by row.
        boundaries: first supervised position of each row, >= 1: nothing predicts position 0.
        dropped_tokens: tokens cut off, and all tokens of refused rows.
        refused: rows without a supervised token, because the prompt alone fills `max_length`.
    """

    rows: TokenRows
    boundaries: list[int]
    dropped_tokens: int
    refused: int

    def num_supervised(self, index: int) -> int:
        """Positions of row `index` that the instruction loss looks at."""
        return len(self.rows[index]) - self.boundaries[index]


def tokenize_pairs(pairs: Sequence[TranslationPair], tokenizer: Tokenizer, *, max_length: int) -> TokenizedPairs:
    """Tokenise both sides with the tokenizer's special tokens and cut them on the right.

    Args:
        pairs: rows; a row with a side that has no tokens is refused.
        tokenizer: callable on a list of texts.
        max_length: longest side in tokens.
    Raises: DataError when every row is refused.
    """
    sources = _tokenize([pair.source for pair in pairs], tokenizer)
    targets = _tokenize([pair.target for pair in pairs], tokenizer)
    kept = [index for index in range(len(pairs)) if len(sources[index]) and len(targets[index])]
    if pairs and not kept:
        raise DataError(f"none of {len(pairs)} pairs has tokens on both sides", fix="check the tokenizer of the model")
    cut = sum(max(0, len(side[index]) - max_length) for index in kept for side in (sources, targets))
    return TokenizedPairs(
        TokenRows(sources[index][:max_length] for index in kept),
        TokenRows(targets[index][:max_length] for index in kept),
        [(pairs[index].source, pairs[index].target) for index in kept],
        cut,
        len(pairs) - len(kept),
    )


def tokenize_instructions(
    instructions: Sequence[Instruction], tokenizer: Tokenizer, *, max_length: int
) -> TokenizedInstructions:
    """Tokenise "prompt response", append end-of-sequence and cut on the right.

    The response begins where the tokens of the whole text leave those of the prompt alone, so that a token which
    merges the end of the prompt with the start of the response is supervised. A tokenizer that ends texts with
    end-of-sequence itself gets no second one; one that adds none (BLOOM's) still teaches the model where to stop.

    Args:
        instructions: rows.
        tokenizer: callable on a list of texts, with an end-of-sequence token.
        max_length: longest row in tokens.
    Raises: DataError when the tokenizer has no end-of-sequence token, or every row is refused.
    """
    end = tokenizer.eos_token_id
    if end is None:
        if not instructions:
            return TokenizedInstructions(TokenRows([]), [], 0, 0)
        raise DataError(
            "the tokenizer has no end-of-sequence token, so a response could not end",
            where="model.name",
            fix="set eos_token in the model's tokenizer_config.json",
        )
    prompts = _tokenize([row.prompt for row in instructions], tokenizer)
    texts = _tokenize([row.prompt + JOINT + row.response for row in instructions], tokenizer)
    rows: list[TokenArray] = []
    boundaries: list[int] = []
    dropped = 0
    for prompt, ids in zip(prompts, texts, strict=True):
        ends_itself = len(ids) > 1 and ids[-1] == end
        whole = ids if ends_itself else np.append(ids, np.int32(end))
        boundary = max(1, _common_prefix(prompt, whole))
        cut = whole[:max_length]
        # A response without tokens of its own leaves end-of-sequence alone, which would teach to answer nothing.
        if boundary >= len(cut) or boundary >= len(whole) - 1:
            dropped += len(whole)
            continue
        dropped += len(whole) - len(cut)
        rows.append(cut)
        boundaries.append(boundary)
    if instructions and not rows:
        raise DataError(
            f"no response of {len(instructions)} instructions is left after cutting to {max_length} tokens",
            where="training.max_length",
            allowed=f"more than the shortest prompt, {min(len(prompt) for prompt in prompts)} tokens",
            fix="raise training.max_length",
        )
    return TokenizedInstructions(TokenRows(rows), boundaries, dropped, len(instructions) - len(rows))


def _tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> list[TokenArray]:
    """Ids of each text, uncut; a tokenizer is asked for many at once since that is what makes it fast."""
    ids: list[TokenArray] = []
    for first in range(0, len(texts), CHUNK):
        # Texts are cut later, with the tokens counted: a warning about their length would mislead.
        found = tokenizer(list(texts[first : first + CHUNK]), verbose=False)["input_ids"]
        ids += [np.asarray(row, dtype=np.int32) for row in found]
    return ids


def _common_prefix(first: TokenArray, second: TokenArray) -> int:
    """Number of equal ids at the start of both."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length
