"""Tokenises pairs and instructions whole, and cuts them to length with every lost token counted."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.errors import DataError

JOINT = " "
"""Stands between prompt and response."""
CHUNK = 1024
"""Rows that are tokenised and stored together."""
KEY_BYTES = 16

TokenArray = npt.NDArray[np.int32]
_Row = TypeVar("_Row")


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


class Ragged(NamedTuple):
    """Rows of different lengths, end to end.

    Attributes:
        ids: (N,) int32, the tokens of all rows.
        offsets: (rows + 1,) int32; row i is `ids[offsets[i] : offsets[i + 1]]`.
    """

    ids: TokenArray
    offsets: TokenArray


Chunk = Mapping[str, Ragged | npt.NDArray[Any]]
"""Columns by name, of equally many rows: token ids, whole numbers (int32) or keys (16 bytes)."""


class TokenRows:
    """Rows of token ids in chunks that are never copied: all of them, or some, and perhaps cut on the right.

    Args:
        chunks: the stored rows.
        chosen: indices of stored rows, in the order in which this object counts them; None takes all.
        max_length: tokens that are kept of each row; None keeps all.

    Attributes:
        lengths: (rows,) int64 tokens of each chosen row, after cutting.
    """

    def __init__(
        self, chunks: Iterable[Ragged], *, chosen: npt.NDArray[np.int64] | None = None, max_length: int | None = None
    ) -> None:
        self._chunks = list(chunks)
        self._firsts = np.cumsum([0, *(len(chunk.offsets) - 1 for chunk in self._chunks)])
        self._chosen = chosen
        stored = [np.diff(chunk.offsets).astype(np.int64) for chunk in self._chunks]
        lengths = np.concatenate(stored) if stored else np.zeros(0, dtype=np.int64)
        if chosen is not None:
            lengths = lengths[chosen]
        self.lengths = lengths if max_length is None else np.minimum(lengths, max_length)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> TokenArray:
        """(T,) ids of row `index`; not to be written to."""
        row = index if self._chosen is None else int(self._chosen[index])
        chunk = int(np.searchsorted(self._firsts, row, side="right")) - 1
        ids, offsets = self._chunks[chunk]
        start = int(offsets[row - self._firsts[chunk]])
        return ids[start : start + int(self.lengths[index])]

    def take(self, chosen: npt.NDArray[np.int64], *, max_length: int) -> "TokenRows":
        """Rows `chosen` of this object, which holds all rows uncut, cut to `max_length`."""
        assert self._chosen is None
        return TokenRows(self._chunks, chosen=chosen, max_length=max_length)


@dataclass(frozen=True, slots=True)
class TokenizedPairs:
    """Pairs as token ids.

    Attributes:
        sources, targets: ids of each side, row by row.
        keys: digests of the two sides of each row, which differ wherever the texts or the sides do; they tell repeated
            sentences.
        dropped_tokens: tokens cut off.
        refused: rows with a side that has no tokens.
    """

    sources: TokenRows
    targets: TokenRows
    keys: list[tuple[bytes, bytes]]
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
        return int(self.rows.lengths[index]) - self.boundaries[index]


class PairTokens:
    """Pairs tokenised whole, fit for every `max_length`.

    Args:
        chunks: as `pair_chunks` makes them.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        held = list(chunks)
        self.sources, self.targets = (TokenRows(_ragged(held, name)) for name in ("source", "target"))
        self._keys = _joined(held, "source_key"), _joined(held, "target_key")

    def __len__(self) -> int:
        return len(self.sources)

    def cut(self, max_length: int) -> TokenizedPairs:
        """Leave out rows with an empty side and cut the others on the right.

        Raises: DataError when every row is left out.
        """
        lengths = np.stack([self.sources.lengths, self.targets.lengths])  # (2, rows)
        kept = np.flatnonzero((lengths > 0).all(axis=0))
        if len(self) and not len(kept):
            raise DataError(
                f"none of {len(self)} pairs has tokens on both sides", fix="check the tokenizer of the model"
            )
        source_keys, target_keys = (keys[kept].tolist() for keys in self._keys)
        return TokenizedPairs(
            self.sources.take(kept, max_length=max_length),
            self.targets.take(kept, max_length=max_length),
            list(zip(source_keys, target_keys, strict=True)),
            int(np.maximum(lengths[:, kept] - max_length, 0).sum()),
            len(self) - len(kept),
        )


class InstructionTokens:
    """Instructions tokenised whole, fit for every `max_length`.

    Args:
        chunks: as `instruction_chunks` makes them.
    """

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        held = list(chunks)
        self.rows = TokenRows(_ragged(held, "ids"))
        self.boundaries = _joined(held, "boundary")
        self._prompt_lengths = _joined(held, "prompt_length")

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, max_length: int) -> TokenizedInstructions:
        """Cut rows on the right and leave out those that lose their response.

        Raises: DataError when every row is left out.
        """
        whole = self.rows.lengths
        cut = np.minimum(whole, max_length)
        # A response without tokens of its own leaves end-of-sequence alone, which would teach to answer nothing.
        usable = (self.boundaries < cut) & (self.boundaries < whole - 1)
        kept = np.flatnonzero(usable)
        if len(self) and not len(kept):
            raise DataError(
                f"no response of {len(self)} instructions is left after cutting to {max_length} tokens",
                where="training.max_length",
                allowed=f"more than the shortest prompt, {self._prompt_lengths.min()} tokens",
                fix="raise training.max_length",
            )
        return TokenizedInstructions(
            self.rows.take(kept, max_length=max_length),
            self.boundaries[kept].tolist(),
            int(np.where(usable, whole - cut, whole).sum()),
            len(self) - len(kept),
        )


def tokenize_pairs(pairs: Sequence[TranslationPair], tokenizer: Tokenizer, *, max_length: int) -> TokenizedPairs:
    """Tokenise both sides with the tokenizer's special tokens and cut them on the right.

    Args:
        pairs: rows; a row with a side that has no tokens is refused.
        tokenizer: callable on a list of texts.
        max_length: longest side in tokens.
    Raises: DataError when every row is refused.
    """
    return PairTokens(pair_chunks(pairs, tokenizer)).cut(max_length)


def tokenize_instructions(
    instructions: Sequence[Instruction], tokenizer: Tokenizer, *, max_length: int
) -> TokenizedInstructions:
    """Tokenise "prompt response", append end-of-sequence and cut on the right, as `instruction_chunks` says.

    Args:
        instructions: rows.
        tokenizer: callable on a list of texts, with an end-of-sequence token.
        max_length: longest row in tokens.
    Raises: DataError when the tokenizer has no end-of-sequence token, or every row is refused.
    """
    return InstructionTokens(instruction_chunks(instructions, tokenizer)).cut(max_length)


def pair_chunks(pairs: Sequence[TranslationPair], tokenizer: Tokenizer) -> Iterator[Chunk]:
    """Both sides as ids, `source` and `target`, and their keys, `source_key` and `target_key`; at least one chunk."""
    for part in _parts(pairs):
        sources, targets = [pair.source for pair in part], [pair.target for pair in part]
        yield {
            "source": _end_to_end(_tokenize(sources, tokenizer)),
            "target": _end_to_end(_tokenize(targets, tokenizer)),
            "source_key": _digests(sources, "source"),
            "target_key": _digests(targets, "target"),
        }


def instruction_chunks(instructions: Sequence[Instruction], tokenizer: Tokenizer) -> Iterator[Chunk]:
    """Whole rows as `ids`, their first supervised position, `boundary`, and `prompt_length`; at least one chunk.

    The response begins where the tokens of the whole text leave those of the prompt alone, so that a token which
    merges the end of the prompt with the start of the response is supervised. A tokenizer that ends texts with
    end-of-sequence itself gets no second one; one that adds none (BLOOM's) still teaches the model where to stop.

    Raises: DataError when there are rows and the tokenizer has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None and instructions:
        raise DataError(
            "the tokenizer has no end-of-sequence token, so a response could not end",
            where="model.name",
            fix="set eos_token in the model's tokenizer_config.json",
        )
    for part in _parts(instructions):
        prompts = _tokenize([row.prompt for row in part], tokenizer)
        texts = _tokenize([row.prompt + JOINT + row.response for row in part], tokenizer)
        rows = [ids if len(ids) > 1 and ids[-1] == end else [*ids, end] for ids in texts]
        boundaries = [max(1, _common_prefix(prompt, row)) for prompt, row in zip(prompts, rows, strict=True)]
        yield {
            "ids": _end_to_end(rows),
            "boundary": np.array(boundaries, dtype=np.int32),
            "prompt_length": np.array([len(prompt) for prompt in prompts], dtype=np.int32),
        }


def _parts(rows: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    """`rows` in slices of `CHUNK`; one empty slice when there are none, so that its columns are known all the same."""
    for first in range(0, max(1, len(rows)), CHUNK):
        yield rows[first : first + CHUNK]


def _tokenize(texts: list[str], tokenizer: Tokenizer) -> list[Any]:
    """Ids of each text, uncut; a tokenizer is asked for many at once since that is what makes it fast."""
    if not texts:
        return []
    # Texts are cut later, with the tokens counted: a warning about their length would mislead.
    return list(tokenizer(texts, verbose=False)["input_ids"])


def _end_to_end(rows: Sequence[Sequence[int]]) -> Ragged:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return Ragged(np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(offsets[-1])), offsets)


def _digests(texts: Sequence[str], side: str) -> npt.NDArray[Any]:
    """(rows,) keys of 16 bytes: equal texts of one side share theirs, and no others do in practice."""
    person = side.encode()
    digests = (
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES, person=person).digest()
        for text in texts
    )
    return np.frombuffer(b"".join(digests), dtype=f"V{KEY_BYTES}")


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of equal ids at the start of both."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differ[0]) if len(differ) else length


def _ragged(chunks: Sequence[Chunk], name: str) -> list[Ragged]:
    columns = [chunk[name] for chunk in chunks]
    assert all(isinstance(column, Ragged) for column in columns)
    return columns  # type: ignore[return-value]


def _joined(chunks: Sequence[Chunk], name: str) -> npt.NDArray[Any]:
    return np.concatenate([np.asarray(chunk[name]) for chunk in chunks])
