"""Collects the mistakes of a file, so that one run names all of them."""

import re
from types import TracebackType

from afp_ray.errors import ConfigError, SeveralConfigError

_PLACE = re.compile(r":(\d+):(\d+)$")


class Mistakes:
    """The mistakes of a file, each place once; `with mistakes:` takes an error and goes on behind the block."""

    def __init__(self) -> None:
        self._errors: dict[str, ConfigError] = {}

    def __len__(self) -> int:
        return len(self._errors)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, ConfigError):
            return False
        self.add(error)
        return True

    def add(self, error: ConfigError, *, key: str = "") -> None:
        """Note a mistake, unless its place has one: what is wrong with a value is checked more than once.

        Args:
            error: with its place.
            key: stands for the place where several mistakes share one.
        """
        self._errors.setdefault(key or error.where, error)

    def refuse(self) -> None:
        """Nothing when there was no mistake.

        Raises: ConfigError of the only one; SeveralConfigError of several, in the order of the file, `--set` after it.
        """
        errors = sorted(self._errors.values(), key=_in_file)
        if errors:
            raise errors[0] if len(errors) == 1 else SeveralConfigError(errors)


def _in_file(error: ConfigError) -> tuple[bool, int, int]:
    place = _PLACE.search(error.where)
    return (False, int(place[1]), int(place[2])) if place else (True, 0, 0)
