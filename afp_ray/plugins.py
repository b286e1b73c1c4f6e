"""What installed packages add: methods, tasks and sources, by their entry points; no package is loaded to find them.

The groups are `afp_ray.methods`, `afp_ray.tasks` and `afp_ray.sources`; docs/plugins.md says what each holds.
"""

import functools
import importlib.metadata
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from afp_ray.errors import AfpError, ConfigError

METHODS, TASKS, SOURCES = "afp_ray.methods", "afp_ray.tasks", "afp_ray.sources"
_WORDS = {METHODS: "method", TASKS: "task", SOURCES: "source kind"}
_P = ParamSpec("_P")
_T = TypeVar("_T")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Plugin:
    """A method, task or source of another package.

    Attributes:
        group, name: of its entry point.
        package, version: that have it.
        value: where the package has it, as `module:attribute`.
    """

    group: str
    name: str
    package: str
    version: str
    value: str

    @property
    def where(self) -> str:
        """What errors call it."""
        return f"{self.package} {self.version} ({self.group}: {self.name} = {self.value})"

    @contextmanager
    def answering(self, what: str) -> Iterator[None]:
        """Let what the package raises in the block be an error with its name; errors of ours pass.

        Args:
            what: follows the name in the message.
        """
        try:
            yield
        except AfpError:
            raise
        except Exception as error:  # foreign code: what it raises is its own
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ConfigError(
                f"{_WORDS[self.group]} {self.name!r} {what}: {reason}",
                where=self.where,
                fix=f"mend or update {self.package}, or leave {self.name} out of the study",
            ) from error

    def guarded(self, call: Callable[_P, _T], what: str) -> Callable[_P, _T]:
        """`call` of the package, whose errors bear its name."""

        @functools.wraps(call)
        def answered(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with self.answering(what):
                return call(*args, **kwargs)

        return answered

    def load(self, kind: type) -> Any:
        """What the entry point names, once it is imported.

        Args:
            kind: that it has to be.
        Raises: ConfigError with package and fix when it cannot be imported, or is something else.
        """
        with self.answering("cannot be loaded"):
            content = importlib.metadata.EntryPoint(self.name, self.value, self.group).load()
        if not isinstance(content, kind):
            raise ConfigError(
                f"{_WORDS[self.group]} {self.name!r} is a {type(content).__name__}",
                where=self.where,
                allowed=f"a {kind.__name__} (docs/plugins.md)",
                fix=f"mend {self.package}",
            )
        return content


def is_name(text: str) -> bool:
    """Whether a method, task or source can be called so."""
    return _NAME.fullmatch(text) is not None


def find(group: str) -> Mapping[str, Plugin]:
    """The plug-ins of a group by name, of every package that this process can import.

    Raises: ConfigError for a name that cannot be one, or that two packages give.
    """
    return _find(group, tuple(sys.path))


@cache
def _find(group: str, _path: tuple[str, ...]) -> Mapping[str, Plugin]:
    plugins: dict[str, Plugin] = {}
    for entry in importlib.metadata.entry_points(group=group):
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("unknown package", "")
        plugin = Plugin(group, entry.name, package, version, entry.value)
        if not is_name(entry.name):
            raise ConfigError(
                f"{entry.name!r} cannot be the name of a {_WORDS[group]}",
                where=plugin.where,
                allowed="a letter, then letters, digits and _, all lower-case, at most 64",
                fix=f"rename it in {package}",
            )
        if (other := plugins.get(entry.name)) is not None and other != plugin:
            raise ConfigError(
                f"two packages give the {_WORDS[group]} {entry.name!r}",
                where=f"{other.where} and {plugin.where}",
                fix=f"pip uninstall {other.package}, or {package}",
            )
        plugins[entry.name] = plugin
    return MappingProxyType(plugins)


class Names(Collection[str]):
    """The names of a group: our own, and those that plug-ins add. Packages are looked for when it is asked.

    Args:
        group: of the entry points.
        own: names of this package.
        reserved: further names that no plug-in may have.
    """

    def __init__(self, group: str, own: Collection[str], reserved: Collection[str] = ()) -> None:
        self.group, self.own, self._reserved = group, tuple(own), tuple(reserved)

    def plugins(self) -> Mapping[str, Plugin]:
        """The plug-ins by name.

        Raises: ConfigError when one has a name of ours, and as `find`.
        """
        plugins = find(self.group)
        for name in plugins:
            if name in self.own or name in self._reserved:
                raise ConfigError(
                    f"{_WORDS[self.group]} {name!r} of {plugins[name].package} has a name that afp_ray has itself",
                    where=plugins[name].where,
                    fix=f"rename it in {plugins[name].package}, or pip uninstall {plugins[name].package}",
                )
        return plugins

    def is_taken(self, name: str) -> bool:
        """Whether nothing else may have this name."""
        return name in self or name in self._reserved

    def __contains__(self, name: object) -> bool:
        """Whether it is a name of ours or of a plug-in."""
        return name in self.own or (isinstance(name, str) and name in self.plugins())

    def __iter__(self) -> Iterator[str]:
        """Our own names, then those of plug-ins."""
        yield from (*self.own, *self.plugins())

    def __len__(self) -> int:
        return len(self.own) + len(self.plugins())


def used_packages(config: Any) -> dict[str, str]:
    """Versions of the packages whose plug-ins a configuration names, by `plugin <package>`.

    Args:
        config: a study or trial as JSON; a plug-in counts where its name is a text or key anywhere in it.
    """
    words = set(_words(config))
    plugins = [plugin for group in _WORDS for name, plugin in find(group).items() if name in words]
    return {f"plugin {plugin.package}": plugin.version for plugin in plugins}


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (key for key in value if isinstance(key, str))
        for inner in value.values():
            yield from _words(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _words(inner)
