"""Takes secrets out of text before it leaves for a tracking server or a log."""

import re

_USER = re.compile(r"(?<=//)[^/@\s\"]+@")
_QUERY = re.compile(r"(?i)([?&](?:[a-z_]*token|api_?key|key|password|passwd|secret|sig|signature)=)[^&\s\"']+")
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|AKIA[A-Z0-9]{16})\b")


def redact(text: str) -> str:
    """`text` without user and password of a URL, secrets in its query, and tokens that show by their form."""
    return _TOKEN.sub("***", _QUERY.sub(r"\1***", _USER.sub("***@", text)))
