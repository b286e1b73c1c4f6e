"""Takes secrets out of text that leaves: to the terminal, a page, the API, a log, the ledger, a tracking server.

A secret shows by its form (the user of a URL, a parameter of a query, a header, a token of a known make), or it is one
that this process knows: from its environment, or from a URI that a study or a command line names.
"""

import html
import io
import json
import os
import re
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

HIDDEN: Final = "***"
_VARIABLES: Final = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
    "AFP_TOKEN",
)
_URI_VARIABLES: Final = ("MLFLOW_TRACKING_URI", "AFP_STORAGE", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
_MIN_LENGTH: Final = 5
"""A shorter value is also a word or a number of ordinary text."""
_MAX_KNOWN: Final = 1_000
"""Secrets that are remembered, the latest ones: a service may read any number of studies."""

_ANY_URI = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30})://([^\s\"'<>]+)")
_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]{0,30})://([^\s\"'<>]*@)")
_WEB = frozenset({"http", "https", "ws", "wss", "ray"})
_HOST = re.compile(r"localhost|\[[0-9a-fA-F:.]*\]|[\w-]+(?:\.[\w-]+)+")
_NAME = (
    r"password|passwd|passphrase|pwd|secret|secret[_-]?(?:access[_-]?)?key|api[_-]?key|access[_-]?key(?:[_-]?id)?|"
    r"private[_-]?key|(?:access|auth|bearer|session|refresh|tracking|private|personal|hf|hub|github|gitlab|databricks)"
    r"[_-]?token"
)
_IS_NAME = re.compile(rf"(?i)(?:[\w-]*[_-])?(?:{_NAME}|authorization)")
_END = r"&\s\"'<>"
_QUERY = re.compile(
    r"(?i)((?:[?&;#]|%3f|%26|%3b|u0026)(?:amp;)?(?!viewStateShareKey=afp\b)[\w.-]{0,40}?"  # names a view of MLflow
    r"(?:token|key|keyid|password|passwd|pwd|pass|secret|sig|signature|credentials?|auth|authorization|accessid|jwt)"
    rf"(?:=|%3d))[^{_END}]+"
)
_ASSIGNED = re.compile(
    rf"(?<![\w-])([\w-]{{3,60}}+)([\"']?\s*[=:]\s*[\"']?)((?!(?:null|none|true|false)\b)[^{_END},;()\[\]{{}}]{{3,}})"
)
_AUTHORIZATION = re.compile(rf"(?i)(\bauthorization[\"']?\s*[:=]\s*[\"']?)[^{_END},;]+(?:(?:\s|%20|\+)+[^{_END},;]+)?")
_BEARER = re.compile(r"(?i)(\bbearer(?:\s|%20|\+)+)(?!tokens?\b|auth\w*\b|credentials?\b)[\w.~+/=:%-]{6,}")
_BASIC = re.compile(r"(\b[Bb]asic(?:\s|%20|\+)+)(?![A-Za-z]?[a-z-]+(?![\w+/=]))[\w+/=%-]{6,}")
_TOKEN = re.compile(
    r"\b(?:hf_(?:(?=[A-Za-z]*[0-9A-Z])[A-Za-z0-9]{8,}|[A-Za-z0-9]{16,})|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{6,}|"
    r"github_pat_\w{6,}|glpat-[\w-]{6,}|dapi[A-Za-z0-9]{6,}(?:-\d)?|(?:AKIA|ASIA)[A-Z0-9]{12,}|xox[abprs]-[\w-]{8,}|"
    r"eyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*|afp_[0-9a-f]{8}_[\w-]{8,})"
)


def _unassigned(match: re.Match[str]) -> str:
    return f"{match[1]}{match[2]}{HIDDEN}" if _IS_NAME.fullmatch(match[1]) else match[0]


# What a text must have, in small letters, for a form to be looked for: long pages have little of it.
_FORMS: Final = (
    (("=", "%3d"), _QUERY, rf"\1{HIDDEN}"),
    (("passw", "passphrase", "pwd", "secret", "key", "_token", "-token"), _ASSIGNED, _unassigned),
    (("authorization",), _AUTHORIZATION, rf"\1{HIDDEN}"),
    (("bearer",), _BEARER, rf"\1{HIDDEN}"),
    (("basic",), _BASIC, rf"\1{HIDDEN}"),
    (("hf_", "sk-", "gh", "glpat-", "dapi", "akia", "asia", "xox", "eyj", "afp_"), _TOKEN, HIDDEN),
)


_known: tuple[str, ...] = ()
_lock = threading.Lock()


def remember(*texts: str) -> None:
    """Know the secrets of URIs from now on, so that they are hidden also where a library quotes a part of one."""
    global _known
    found = dict.fromkeys(secret for text in texts if "://" in text for secret in _secrets_of(text))
    if found.keys() - set(_known):
        with _lock:
            _known = tuple(dict.fromkeys((*_known, *found)))[-_MAX_KNOWN:]


def remember_secret(value: str) -> None:
    """Know a text that is a secret as a whole, as the address of a webhook is."""
    global _known
    if len(value) >= _MIN_LENGTH:
        with _lock:
            _known = tuple(dict.fromkeys((*_known, value)))[-_MAX_KNOWN:]


def forget() -> None:
    """Know no secret any more but those of the environment."""
    global _known
    _known = ()


def redact(text: str) -> str:
    """`text` with every secret as `***`; hosts, paths and hashes stay."""
    pattern = _literal(_values())
    return _by_form(pattern.sub(HIDDEN, text) if pattern else text)


def redacted(value: Any) -> Any:
    """A JSON value whose texts are redacted; so is what stands under a name such as `password`."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: HIDDEN if _hides(key, inner) else redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    return value


def redact_json(text: str, *, indent: int | None = None) -> str:
    """A JSON document with its secrets as `***`, written anew with that indent; the very text where there are none.

    Value by value, so that what is taken out of a text never takes its quotation marks along.
    """
    if redact(text) == text:
        return text
    return json.dumps(redacted(json.loads(text)), indent=indent, ensure_ascii=False)


class RedactedText(io.TextIOWrapper):
    """A stream of text, such as a log, into which no secret is written."""

    def write(self, text: str, /) -> int:
        """Write `text` with every secret as `***`; returns the characters given."""
        super().write(redact(text))
        return len(text)

    def write_as_is(self, text: str, /) -> int:
        """Write what has no secret any more and must not be cut, as JSON."""
        return super().write(text)


def _hides(key: Any, value: Any) -> bool:
    return isinstance(key, str) and isinstance(value, str) and bool(value) and bool(_IS_NAME.fullmatch(key))


def _by_form(text: str) -> str:
    if "://" in text and "@" in text:
        text = _URL.sub(lambda match: f"{match[1]}://{_without_user(match[1].lower(), match[2])}", text)
    small = text.lower()
    for signs, pattern, instead in _FORMS:
        if any(sign in small for sign in signs):
            text = pattern.sub(instead, text)
    return text


def _without_user(scheme: str, rest: str) -> str:
    """What follows `scheme://`, up to its last `@`, without user and password.

    A password may hold `/` and `@`, which databases accept as they are; a path may hold `@` as well. So everything up
    to the last `@` is hidden, unless what stands before the first `/` is clearly a host.
    """
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    name, colon, after = authority.partition(":") if "[" not in authority else (authority, "", "")
    if "@" in authority:
        user = authority.rpartition("@")[0]
        return f"{HIDDEN}@" if ":" in user else f"{HIDDEN}@{rest[len(user) + 1 :]}"
    is_port = not after or after.isdigit()
    if not colon or (is_port and scheme in _WEB and _HOST.fullmatch(name)):
        return rest
    return f"{HIDDEN}@"


def _secrets_of(text: str) -> Iterator[str]:
    """What the URIs in a text must not show beside themselves, in every form in which a library might quote it.

    A library that splits a URI at the first `/` or `@` of a password shows what it took for a port, a host or a path.
    """
    for match in _ANY_URI.finditer(text):
        scheme, rest = match[1].lower(), match[2]
        until, _, after = rest.rpartition("@")
        found = []
        if until and _without_user(scheme, f"{until}@").startswith(HIDDEN):
            user, _, password = until.partition(":")
            host = re.split(r"[/?#]", after, maxsplit=1)[0].partition(":")[0]
            ends = [password[cut.end() :] for cut in re.finditer(r"[/@?#:]", password)]
            found += [password, *re.split(r"[/@?#:]", password), *(f"{end}@{host}" for end in ends if end and host)]
            yield from _in_quotes(user)
            for part in re.split(r"[/@?#:]", password):
                yield from _in_quotes(part)
        found += [hit[0].removeprefix(hit[1]) for form in (_QUERY, _BEARER, _BASIC) for hit in form.finditer(match[0])]
        for secret in found:
            if len(secret) >= _MIN_LENGTH:
                yield from {secret, unquote(secret)}


def _in_quotes(word: str) -> Iterator[str]:
    """A word that is too short, or too common, to be hidden wherever it stands, as errors name it."""
    if len(word) >= 2:
        yield from (f"'{word}'", f'user "{word}"')


def _values() -> tuple[str, ...]:
    """Every secret that this process knows, the longest first."""
    given = {os.environ.get(name, "").strip() for name in _VARIABLES}
    known = {one for one in given if len(one) >= _MIN_LENGTH} | set(_known)
    for name in _URI_VARIABLES:
        if uri := os.environ.get(name):
            known |= set(_secrets_of(uri))
    return tuple(sorted(known, key=lambda one: (-len(one), one)))


@lru_cache(maxsize=8)
def _literal(values: tuple[str, ...]) -> re.Pattern[str] | None:
    """Finds the values as they are, in JSON, in HTML and in a URL; none of them as a part of a longer word."""
    forms = {
        form: None
        for value in values
        for form in (
            value,
            json.dumps(value, ensure_ascii=False)[1:-1],
            html.escape(value),
            quote(value, safe=""),
            quote(value),
        )
    }
    if not forms:
        return None
    # A folder of a secret's name is none, unless an `@` shows that a URI was cut there.
    words, ends = ("|".join(re.escape(one) for one in forms if ("@" in one) == is_end) for is_end in (False, True))
    parts = [rf"(?<![\w/])(?:{words})(?!\w)" if words else "", rf"(?<!\w)(?:{ends})(?!\w)" if ends else ""]
    return re.compile("|".join(filter(None, parts[::-1])))
