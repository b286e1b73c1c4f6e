"""Tokenised rows by what decides them: made once, mapped into memory by every process that asks.

One file for each content under `$AFP_CACHE/tokens`; see `afp_ray.cache`.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from afp_ray.cache import CacheRefusedError, cache_folder, get_or_make, storing
from afp_ray.config.base import canonical_json
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.tokenizer_content import tokenizer_fingerprint
from afp_ray.data.tokens import Chunk, InstructionTokens, PairTokens, Tokenizer, instruction_chunks, pair_chunks

FORMAT = 1
"""Raised when the columns, their meaning or the way of tokenising changes: files of another format are never read."""


def cached_pairs(key: str, tokenizer: Tokenizer, make_rows: Callable[[], Sequence[TranslationPair]]) -> PairTokens:
    """Tokens of the pairs that `make_rows` gives, from the cache when it has them.

    Args:
        key: names everything that decides the rows, as `recipe_keys` does.
        tokenizer: of Hugging Face; its content enters the name of the file.
        make_rows: called when the cache lacks the tokens, by one of the processes that ask at the same time.
    Raises: ConfigError for a bad `$AFP_CACHE_GB`; whatever `make_rows` or the tokenizer raises.
    """
    return PairTokens(_cached("pairs", key, tokenizer, lambda: pair_chunks(make_rows(), tokenizer)))


def cached_instructions(
    key: str, tokenizer: Tokenizer, make_rows: Callable[[], Sequence[Instruction]]
) -> InstructionTokens:
    """Tokens of the instructions that `make_rows` gives, from the cache when it has them; see `cached_pairs`.

    Raises: DataError when the tokenizer has no end-of-sequence token; as `cached_pairs`.
    """
    return InstructionTokens(
        _cached("instructions", key, tokenizer, lambda: instruction_chunks(make_rows(), tokenizer))
    )


def _cached(kind: str, key: str, tokenizer: Tokenizer, make: Callable[[], Iterable[Chunk]]) -> list[Chunk]:
    from afp_ray.data.token_file import read_token_file  # with pyarrow; what is in memory needs neither

    content = canonical_json(
        {"format": FORMAT, "kind": kind, "rows": key, "tokenizer": tokenizer_fingerprint(tokenizer)}
    )
    path = cache_folder("tokens") / f"{kind}-{sha256(content.encode()).hexdigest()[:32]}.arrow"
    try:
        return get_or_make(
            path, lambda file: read_token_file(file, content), lambda file: _write(file, content, make())
        )
    except CacheRefusedError as error:
        warnings.warn(
            f"tokens cannot be kept in {path.parent} ({error}), so this process tokenises for itself. Set AFP_CACHE to "
            "a folder that can be written and has space.",
            RuntimeWarning,
            stacklevel=3,
        )
        return list(make())


def _write(path: Path, content: str, chunks: Iterable[Chunk]) -> None:
    """Write `chunks` one by one.

    Raises: CacheRefusedError when the system refuses; whatever making the chunks raises.
    """
    from afp_ray.data.token_file import TokenFileWriter

    with storing():
        writer = TokenFileWriter(path, content)
    try:
        for chunk in chunks:
            with storing():
                writer.append(chunk)
        with storing():
            writer.finish()
    finally:
        with suppress(OSError):
            writer.close()
