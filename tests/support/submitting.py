"""A service whose studies are driven by nobody: drivers that hold the lease of a study and do nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from afp_ray.config import StudyConfig
from afp_ray.errors import ConfigError
from afp_ray.ledger import Ledger
from afp_ray.store import StudyPaths
from services.api import create_app
from services.drivers import StartedDriver
from services.intake import Rules


class FakeDrivers:
    """Starts drivers in this process; `refuses` and `is_slow` decide how the next ones begin."""

    def __init__(self) -> None:
        self.started: list[tuple[str, StudyConfig]] = []
        self.ended: list[str] = []
        self.refuses = ""
        self.is_slow = False
        self._ledgers: dict[str, Ledger] = {}

    def __call__(self, study: StudyConfig, paths: StudyPaths) -> StartedDriver:
        self.started.append((study.name, study))
        if not self.refuses and not self.is_slow:
            self._ledgers[study.name] = Ledger.open(paths, study)
        return FakeDriver(self, study.name)

    def close(self, name: str, note: str) -> None:
        """Let a driver end."""
        self._ledgers.pop(name).close(note)

    def release(self) -> None:
        """Let all of them end without a word."""
        for ledger in self._ledgers.values():
            ledger.release()


class FakeDriver:
    job = None

    def __init__(self, drivers: FakeDrivers, name: str) -> None:
        self._drivers, self._name = drivers, name

    def exit_code(self) -> int | None:
        if self._drivers.refuses:
            return 2
        return None if self._drivers.is_slow or self._name in self._drivers._ledgers else 0

    def refusal(self) -> ConfigError:
        return ConfigError(self._drivers.refuses, where="model.name")

    def end(self) -> None:
        self._drivers.ended.append(self._name)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@contextmanager
def client_of(storage: Path, drivers: FakeDrivers, *, trusts: bool = False, **settings: Any) -> Iterator[Any]:
    """A client of the application itself, whose requests share a loop as they do in a server."""
    from fastapi.testclient import TestClient

    app = create_app(storage, hosts=["*"], rules=Rules(drivers, trusts=trusts), **settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
