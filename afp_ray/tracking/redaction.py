"""Takes secrets out of text before it leaves for a tracking server, a terminal, a page or a log."""

import os
import re

_URL = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)([^\s\"'<>`]*@[^\s\"'<>`]*)")
_QUERY = re.compile(
    r"(?i)([?&;](?:[a-z0-9_.-]*(?:token|key|password|passwd|pwd|secret|signature|credential)[a-z_-]*|sig)=)[^&\s\"'<>]+"
)
_HEADER = re.compile(r"\b((?i:bearer|basic)\s+)(?=[\w.~+/=-]*[A-Z0-9._~+/=])[\w.~+/=-]{8,}")
_FIELD = re.compile(
    r"(?i)([\"']?(?:password|passwd|secret|api_?key|secret_access_key)[\"']?\s*[:=]\s*[\"']?)[^\s\"',}&]+"
)
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16}|dapi[0-9a-f]{16,}"
    r"|glpat-[A-Za-z0-9_-]{10,}|xox[abprs]-[A-Za-z0-9-]{10,}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*)"
)
_VARIABLES = (
    *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("RAY_AUTH_TOKEN", "DATABRICKS_TOKEN"),
)
"""Of the environment; a value of theirs is a secret wherever it stands."""
_MIN_VALUE = 8


def redact(text: str) -> str:
    """`text` without user and password of a URL, secrets in queries, headers and fields, and tokens that show by form.

    A password may hold `/` and `@`: what stands before the last `@` of a URL goes. Hosts, paths and commits stay.
    """
    if "://" in text:
        text = _QUERY.sub(r"\1***", _URL.sub(_without_user, text))
    text = _TOKEN.sub("***", _FIELD.sub(r"\1***", _HEADER.sub(r"\1***", text)))
    for name in _VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= _MIN_VALUE:
            text = text.replace(value, "***")
    return text


def _without_user(match: re.Match[str]) -> str:
    scheme, rest = match.groups()
    first = rest.partition("/")[0]
    # `http://host:5000/a@b` has no user; a password with a slash in it is no port.
    is_port = first.rpartition(":")[2].isdigit() if ":" in first else True
    if "@" not in first and is_port and scheme.lower().startswith("http"):
        return match[0]
    return f"{scheme}***@{rest.rpartition('@')[2]}"
