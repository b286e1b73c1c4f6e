"""Collects the mistakes of a study, so that one run names all of them."""

import re
from types import TracebackType

from afp_ray.errors import ConfigError, DataError, SeveralConfigError, TaskError, UserError

_PLACE = re.compile(r":(\d+):(\d+)$")


class Mistakes:
    """The mistakes of a file, each place once; `with mistakes:` takes an error and goes on behind the block."""

    _taken: tuple[type[UserError], ...] = (ConfigError,)

    def __init__(self) -> None:
        self._errors: dict[str, UserError] = {}

    def __len__(self) -> int:
        return len(self._errors)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, self._taken):
            return False
        self.add(error)
        return True

    def add(self, error: UserError, *, key: str = "") -> None:
        """Note a mistake, unless its place has one: what is wrong with a value is checked more than once.

        Args:
            error: with its place.
            key: stands for the place where several mistakes share one.
        """
        self._errors.setdefault(key or error.where, error)

    def refuse(self) -> None:
        """Nothing when there was no mistake.

        Raises: the only one; SeveralConfigError of several, in the order of the file, `--set` after it.
        """
        errors = sorted(self._errors.values(), key=_in_file)
        if errors:
            raise errors[0] if len(errors) == 1 else SeveralConfigError(errors)


class Refusals(Mistakes):
    """What the parts of a study are refused for, each reason once; an error of a model goes on at once."""

    _taken = (ConfigError, DataError, TaskError)

    def add(self, error: UserError, *, key: str = "") -> None:
        """Note a refusal, of several each of them."""
        for one in error.mistakes if isinstance(error, SeveralConfigError) else (error,):
            super().add(one, key=key or f"{one.where} {one.problem}")


def _in_file(error: UserError) -> tuple[bool, int, int]:
    place = _PLACE.search(error.where)
    return (False, int(place[1]), int(place[2])) if place else (True, 0, 0)
