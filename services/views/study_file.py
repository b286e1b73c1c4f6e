"""A drafted study as the text of a study file, each choice with its reason behind it."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afp_ray.planning.draft import Draft

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]*")
_WORDS = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))
_MAX_LINE = 118
_HEAD = {
    "objective": "What the search maximizes, on the validation rows.",
    "fixed": "What all trials share.",
    "compare": "The arms of the table: `afp methods` lists what each trains on.",
    "seeds": "Each arm is searched at the first seed and confirmed at all of them.",
    "tune": "Searched inside each arm that does not pin the field.",
    "budget": "Search trials per arm, the same for every arm.",
}
_ORDER = ("name", "objective", "fixed", "compare", "seeds", "tune", "budget", "runtime")


def study_text(draft: "Draft", *, schema: str, made_by: str) -> str:
    """The file: its schema in the first line, which editors read."""
    lines = [f"# yaml-language-server: $schema={schema}", f"# Made by `{made_by}`; change what you like."]
    for name in sorted(draft.fields, key=_ORDER.index):
        value = draft.fields[name]
        if name in _HEAD:
            lines.append(f"\n# {_HEAD[name]}")
        if name in ("fixed", "tune", "compare") and isinstance(value, Mapping):
            lines.append(f"{name}:")
            lines += [_line(f"  {key}", inner, draft.comments.get(key, "")) for key, inner in value.items()]
        else:
            lines.append(_line(name, value, draft.comments.get(name, "")))
    return "\n".join(lines) + "\n"


def _line(name: str, value: Any, comment: str) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        indent = " " * (len(name) - len(name.lstrip()) + 2)
        text = f"{name}:" + "".join(f"\n{indent}- {flow(item)}" for item in value)
        return f"{name}:   # {comment}{text.removeprefix(f'{name}:')}" if comment else text
    text = f"{name}: {flow(value)}"
    if not comment:
        return text
    if len(text) + len(comment) + 5 <= _MAX_LINE:
        return f"{text:<44}  # {comment}"
    indent = name[: len(name) - len(name.lstrip())]
    return f"{indent}# {comment}\n{text}"


def flow(value: Any) -> str:
    """A value of JSON as YAML in one line."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{flow(key)}: {flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    if isinstance(value, float) and 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return json.dumps(value, ensure_ascii=False)
