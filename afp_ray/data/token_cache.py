"""Keeps tokenised rows on disk: made once for what decides them, mapped into memory by every process that asks.

`$AFP_CACHE/tokens`, or `~/.cache/afp_ray/tokens`, one file for each content. Files that were used longest ago are
removed beyond `$AFP_CACHE_GB` (20); a process that has one mapped keeps it. All of it can be removed at any time.
"""

import os
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from afp_ray.config.base import canonical_json
from afp_ray.data.rows import Instruction, TranslationPair
from afp_ray.data.tokenizer_content import tokenizer_fingerprint
from afp_ray.data.tokens import Chunk, InstructionTokens, PairTokens, Tokenizer, instruction_chunks, pair_chunks
from afp_ray.eviction import evict, max_cache_bytes
from afp_ray.store import cache_folder

FORMAT = 1
"""Raised when the columns, their meaning or the way of tokenising changes: files of another format are never read."""
WAIT_S = 3600.0
"""How long a process waits for the one that tokenises before it does so itself; one that died is not waited for."""


class _CannotStoreError(Exception):
    """The system refused to keep a file."""


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
    max_bytes = max_cache_bytes()
    content = canonical_json(
        {"format": FORMAT, "kind": kind, "rows": key, "tokenizer": tokenizer_fingerprint(tokenizer)}
    )
    path = cache_folder("tokens") / f"{kind}-{sha256(content.encode()).hexdigest()[:32]}.arrow"
    try:
        found = _found(path, content)
        if found is None:
            with _held(path):
                found = _found(path, content)  # another process may have made it meanwhile
                if found is None:
                    found = _made(path, content, make())
                    evict(path, max_bytes)
    except _CannotStoreError as error:
        warnings.warn(
            f"tokens cannot be kept in {path.parent} ({error}), so this process tokenises for itself. Set AFP_CACHE to "
            "a folder that can be written and has space.",
            RuntimeWarning,
            stacklevel=3,
        )
        return list(make())
    return found


def _found(path: Path, content: str) -> list[Chunk] | None:
    """What the cache has of `content`, marked as used now."""
    from afp_ray.data.token_file import read_token_file

    found = read_token_file(path, content)
    if found is not None:
        with suppress(OSError):  # a cache that cannot be written serves all the same
            os.utime(path)
    return found


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold the right to make `path`; the system gives it back when its holder dies.

    Raises: _CannotStoreError when the folder cannot be written, or the wait was too long.
    """
    from filelock import FileLock

    lock = FileLock(f"{path}.lock", timeout=WAIT_S)
    with _storing():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _made(path: Path, content: str, chunks: Iterable[Chunk]) -> list[Chunk]:
    """Write `chunks` beside `path`, one by one, move the file there whole, and read it.

    Raises: _CannotStoreError when the system refuses; whatever making the chunks raises.
    """
    from afp_ray.data.token_file import TokenFileWriter, read_token_file

    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")
    with _storing():
        writer = TokenFileWriter(partial, content)
    try:
        for chunk in chunks:
            with _storing():
                writer.append(chunk)
        with _storing():
            writer.finish()
            partial.replace(path)
    finally:
        with suppress(OSError):
            writer.close()
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    found = read_token_file(path, content)
    if found is None:
        raise _CannotStoreError("what was written cannot be read back")
    return found


@contextmanager
def _storing() -> Iterator[None]:
    """Tell a refusal of the system, such as a full disk, from an error in making the rows."""
    try:
        yield
    except (OSError, NotImplementedError) as error:
        raise _CannotStoreError(str(error)) from error
