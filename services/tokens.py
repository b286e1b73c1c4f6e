"""Bearer tokens of the service: made once, kept as hashes in a file of their owner alone, compared in constant time."""

import hashlib
import hmac
import os
import re
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import ValidationError

from afp_ray.config import StrictModel
from afp_ray.errors import ConfigError
from afp_ray.store import PRIVATE, write_json
from services.answer_cache import mark_of

Scope = Literal["read", "submit"]
"""`submit` may all that `read` may."""
FILE = ".tokens.json"
_FORM = re.compile(r"afp_([0-9a-f]{8})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_LIFETIME = re.compile(r"([1-9][0-9]{0,4})([mhdw])")


class TokenRecord(StrictModel):
    """What is kept of a token."""

    id: str
    name: str
    """Who has it."""
    scope: Scope
    sha256: str
    """Of the whole token: 256 random bits need no slow hash."""
    created_at: float
    expires_at: float | None = None
    """Null where it is good until it is revoked."""

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and time.time() >= self.expires_at


class _Content(StrictModel):
    tokens: tuple[TokenRecord, ...] = ()


class Tokens:
    """The tokens of the studies under one storage; a change of the file counts from the next request on.

    Args:
        storage: folder of the studies.
    """

    def __init__(self, storage: Path) -> None:
        self.file = storage / FILE
        self._lock = threading.Lock()
        self._mark: tuple[object, ...] | None = None
        self._records: tuple[TokenRecord, ...] = ()

    def records(self) -> tuple[TokenRecord, ...]:
        """All that are kept, expired ones too.

        Raises: ConfigError when the file is damaged, or others may read or write it.
        """
        with self._lock:
            mark = (*(mark_of(self.file) or ()), self._mode())
            if mark != self._mark:
                self._records = self._read()
                self._mark = mark
            return self._records

    def find(self, token: str) -> TokenRecord | None:
        """What is kept of a token that is good now; None for any other text."""
        match = _FORM.fullmatch(token)
        wanted = match[1] if match else ""
        record = next((record for record in self.records() if record.id == wanted), None)
        kept = record.sha256 if record else "0" * 64
        is_same = hmac.compare_digest(_digest(token), kept)
        return record if record and is_same and not record.is_expired else None

    def new(self, name: str, scope: Scope, *, lifetime_s: float | None = None) -> tuple[str, TokenRecord]:
        """Make a token.

        Args:
            name: of who gets it; one token has it.
            scope: what it may.
            lifetime_s: seconds until it expires; None for never.
        Returns: the token, which is kept nowhere, and what is kept of it.
        Raises: ConfigError for a name that is taken or none.
        """
        if not _NAME.fullmatch(name):
            allowed = "1 to 64 letters, digits, _ . @ - beginning with a letter or digit"
            raise ConfigError(f"{name[:80]!r} is no name of a token", where="NAME", allowed=allowed)
        with self._changing() as records:
            if any(record.name == name for record in records):
                raise ConfigError(
                    f"there is a token {name!r} already", where="NAME", fix=f"afp token revoke {name}, or another name"
                )
            token = f"afp_{secrets.token_hex(4)}_{secrets.token_urlsafe(32)}"
            now = time.time()
            record = TokenRecord(
                id=token[4:12],
                name=name,
                scope=scope,
                sha256=_digest(token),
                created_at=now,
                expires_at=None if lifetime_s is None else now + lifetime_s,
            )
            self._write((*records, record))
        return token, record

    def revoke(self, name: str) -> TokenRecord:
        """Forget a token, by its name or id.

        Raises: ConfigError where there is none.
        """
        with self._changing() as records:
            record = next((record for record in records if name in (record.name, record.id)), None)
            if record is None:
                allowed = ", ".join(record.name for record in records) or "there is no token"
                raise ConfigError(f"there is no token {name[:80]!r}", where="NAME", allowed=allowed)
            self._write(tuple(other for other in records if other is not record))
        return record

    @contextmanager
    def _changing(self) -> Iterator[tuple[TokenRecord, ...]]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.file}.lock", mode=PRIVATE):
            yield self.records()

    def _write(self, records: tuple[TokenRecord, ...]) -> None:
        write_json(self.file, _Content(tokens=records).model_dump(mode="json"), mode=PRIVATE)

    def _mode(self) -> int:
        try:
            return stat.S_IMODE(os.stat(self.file).st_mode)
        except OSError:
            return 0

    def _read(self) -> tuple[TokenRecord, ...]:
        if self._mode() & 0o077:
            problem = f"others may read or write {self.file}"
            raise ConfigError(problem, where=str(self.file), fix=f"chmod 600 {self.file}")
        try:
            return _Content.model_validate_json(self.file.read_bytes()).tokens
        except FileNotFoundError:
            return ()
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"the tokens cannot be read: {error}", where=str(self.file), fix="remove the file and make new tokens"
            ) from error


def seconds_of(lifetime: str) -> float:
    """Seconds of `30d`, `12h` and the like.

    Raises: ConfigError for another text.
    """
    match = _LIFETIME.fullmatch(lifetime)
    if not match:
        allowed = "a whole number and m, h, d or w: 30d"
        raise ConfigError(f"{lifetime[:40]!r} is no time", where="--expires", allowed=allowed)
    return int(match[1]) * _UNITS[match[2]]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
