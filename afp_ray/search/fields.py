"""The dotted fields of a trial that a study may set, and the error for one that is none."""

import difflib
from collections.abc import Iterable

from afp_ray.config.fields import trial_fields
from afp_ray.errors import ConfigError


def require_fields(names: Iterable[str], section: str) -> None:
    """Refuse a name that is no field of a trial.

    Args:
        names: dotted names as the study has them.
        section: the part of the study that they come from: `fixed`, `compare` or `tune`.
    Raises: ConfigError with the nearest names and the fields of the same group.
    """
    for name in names:
        if name not in trial_fields():
            near = _nearest(name)
            raise ConfigError(
                f"{name!r} is no field of a trial",
                where=f"{section}.{name}",
                allowed=", ".join(_neighbours(name, near)),
                fix=f"did you mean {near!r}?" if near else "take one of the allowed fields",
            )


def _nearest(name: str) -> str | None:
    """The field that was probably meant: by its last part first, since groups are often left out."""
    last = name.rpartition(".")[2]
    lasts = {field.rpartition(".")[2]: field for field in reversed(trial_fields())}
    if last in lasts:
        return lasts[last]
    close = difflib.get_close_matches(name, trial_fields(), n=1, cutoff=0.75)
    similar = [lasts[part] for part in difflib.get_close_matches(last, lasts, n=1, cutoff=0.7)]
    return next(iter(close + similar), None)


def _neighbours(name: str, near: str | None) -> list[str]:
    """Fields of the group that `name` is in, or else of the group of `near`; failing both, the groups."""
    for group in (name.partition(".")[0], (near or "").partition(".")[0]):
        fields = [field for field in trial_fields() if field.startswith(f"{group}.")]
        if fields:
            return fields
    return list(dict.fromkeys(field.partition(".")[0] + (".*" if "." in field else "") for field in trial_fields()))
