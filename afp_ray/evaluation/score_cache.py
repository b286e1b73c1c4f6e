"""Keeps what a model answered, for whoever asks the same model the same again: log-likelihoods and generated texts.

`$AFP_CACHE/scores`, or `~/.cache/afp_ray/scores`, one file for each cell. A file is named by the content of everything
that decides the answers: weights, configuration and device of the model, tokenizer, every prompt and choice as it is
rendered, version of the task, decoding, and the code that scores. No name and no path enters, so that two checkpoints
cannot share an answer, whatever they are called and wherever they lie. What was used longest ago is removed beyond
`$AFP_CACHE_GB` (20); `AFP_CACHE_SCORES=0` turns all of it off. Any file can be removed at any time.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afp_ray.cache import (
    CacheRefusedError,
    cache_folder,
    evict,
    mark_used,
    max_cache_bytes,
    storing,
    write_whole,
)
from afp_ray.config.base import canonical_json
from afp_ray.config.trial import SCORE_VERSION
from afp_ray.errors import ConfigError

FORMAT = 1
"""Raised when the columns or their meaning change: files of another format are never read."""
_KEY, _NOTE, _CHECKSUM = b"afp_key", b"afp_note", b"afp_checksum"
_EVICT_EVERY = 256
Answers = list[Any]
"""Log-likelihoods of the choices of each question, or a text for each prompt."""


def is_caching_wanted() -> bool:
    """Whether `$AFP_CACHE_SCORES` leaves the cache on, as it is without it.

    Raises: ConfigError for a value other than 0 and 1.
    """
    value = os.environ.get("AFP_CACHE_SCORES", "").strip()
    if value not in ("", "0", "1"):
        raise ConfigError(
            f"AFP_CACHE_SCORES is {value!r}",
            where="environment",
            allowed="0 (score everything anew) or 1",
            fix="unset it to keep scores",
        )
    return value != "0"


class ScoreCache:
    """Answers of one model, from the disk where they are there.

    The weights are read when the first answer is asked for, and must not change while this lives.

    Args:
        model, tokenizer: what is scored.
    Raises: ConfigError for a bad `$AFP_CACHE_GB`.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._folder, self._max_bytes = cache_folder("scores"), max_cache_bytes()
        self._num_kept = self.num_found = self.num_made = 0
        self._may_keep = True
        self._task: tuple[str, int] = ("", 0)

    @cached_property
    def _common(self) -> dict[str, Any]:
        """What decides every answer of this model."""
        from afp_ray.evaluation.weights_digest import code_digest, model_fingerprint, tokenizer_digest

        return {
            "format": FORMAT,
            "score_version": SCORE_VERSION,
            "model": model_fingerprint(self._model),
            "tokenizer": tokenizer_digest(self._tokenizer),
            "code": code_digest(),
        }

    def of_task(self, name: str, version: int) -> None:
        """What is asked from here on belongs to that version of that task."""
        self._task = (name, version)

    def find(self, asked: Mapping[str, Any], prompts: Sequence[Any]) -> tuple[Answers, Mapping[str, int]] | None:
        """What the same model answered when it was asked the same before, or None.

        Args:
            asked: everything beside prompts and task that decides the answers: their kind and settings.
            prompts: what is asked, as JSON, one entry per answer.
        Returns: one answer per prompt, and counts of what was cut.
        """
        path, key = self._entry(asked, prompts)
        answers = _read(path, key, len(prompts))
        if answers is not None:
            mark_used(path)
            self.num_found += 1
        return answers

    def keep(self, asked: Mapping[str, Any], prompts: Sequence[Any], answers: Answers, note: Mapping[str, int]) -> None:
        """Keep answers and counts for `find`; a disk that cannot take them is told of once."""
        self.num_made += 1
        if self._may_keep:
            self._write(*self._entry(asked, prompts), answers, note)

    def _entry(self, asked: Mapping[str, Any], prompts: Sequence[Any]) -> tuple[Path, str]:
        """File and key of what is asked."""
        digest = hashlib.sha256(canonical_json(list(prompts)).encode()).hexdigest()
        key = canonical_json({**self._common, "task": self._task, "asked": dict(asked), "prompts": digest})
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.parquet", key

    def _write(self, path: Path, key: str, answers: Answers, note: Mapping[str, int]) -> None:
        try:
            with storing():
                self._folder.mkdir(parents=True, exist_ok=True)
                # Not brought to the disk at once: what a power cut leaves is told by its checksum and made again.
                table = _table(key, answers, note)
                write_whole(path, lambda file: pq.write_table(table, file, compression="zstd"))
                if self._num_kept % _EVICT_EVERY == 0:
                    with suppress(FileNotFoundError):  # another process may make room at the same time
                        evict(path, self._max_bytes)
            self._num_kept += 1
        except CacheRefusedError as error:
            self._may_keep = False
            warnings.warn(
                f"scores cannot be kept in {self._folder} ({error}). Set AFP_CACHE to a folder that can be written and "
                "has space, or AFP_CACHE_SCORES=0.",
                RuntimeWarning,
                stacklevel=4,
            )


def _table(key: str, answers: Answers, note: Mapping[str, int]) -> pa.Table:
    """One row per answer; the key, the counts and a checksum of all of it stand in the head."""
    kind = pa.string() if answers and isinstance(answers[0], str) else pa.list_(pa.float64())
    counts = canonical_json(dict(note))
    head = {_KEY: key.encode(), _NOTE: counts.encode(), _CHECKSUM: _checksum(key, answers, counts).encode()}
    return pa.table({"answer": pa.array(answers, type=kind)}, metadata=head)


def _read(path: Path, key: str, count: int) -> tuple[Answers, Mapping[str, int]] | None:
    """The answers of a file; None when there is none, it is not whole, or it answers something else."""
    try:
        table = pq.read_table(path, memory_map=False)
        head = table.schema.metadata or {}
        answers = [value if isinstance(value, str) else tuple(value) for value in table["answer"].to_pylist()]
        counts = head[_NOTE].decode()
        if head[_KEY].decode() != key or head[_CHECKSUM].decode() != _checksum(key, answers, counts):
            return None
        return (answers, json.loads(counts)) if len(answers) == count else None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _checksum(key: str, answers: Sequence[Any], note: str) -> str:
    """SHA-256 of everything that a file holds; floats by their shortest exact form."""
    content = canonical_json([key, note, [list(answer) if isinstance(answer, tuple) else answer for answer in answers]])
    return hashlib.sha256(content.encode()).hexdigest()
