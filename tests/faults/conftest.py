"""The oracle and the nursery that the fault tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_driver import Nursery, nursery
from oracle import Oracle

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """MLflow and its database library warn of what is their own; the oracle asks them after every fault."""
    for item in items:
        if FOLDER in item.path.parents:
            for name in ("DeprecationWarning", "FutureWarning", "ResourceWarning"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore::{name}"))
            item.add_marker(pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"))


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """What must hold after every fault."""
    return Oracle(tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="session")
def drivers() -> Iterator[Nursery]:
    """Forks drivers of the fake study."""
    with nursery() as opened:
        yield opened
