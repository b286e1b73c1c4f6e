"""What all tests share: how their files are dealt out, caches of the session's own, and one Ray cluster."""

import gc
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

SUPPORT = str(Path(__file__).parent / "support")
CLUSTER = "ray"
"""Stands for all files of the shared cluster."""


settings.register_profile("busy", deadline=None)  # the clock of a busy machine tells nothing of an example
settings.load_profile("busy")
os.environ.pop("COLUMNS", None)  # xdist gives its own to its workers, and what is piped is never folded
gc.disable()  # until all is collected: what that imports stays, and the collector would look at it again and again


def pytest_collection_finish() -> None:
    """Begin to look for what can go."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep a file's tests, and all files of the shared cluster, in one process where several run them.

    Fixtures of a module are made once then, and there is one cluster in all. Long files are dealt out first: one that
    came last would be waited for.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        is_in_order = False

        def _assign_work_unit(self, node: Any) -> None:
            if not self.is_in_order:
                self.is_in_order = True
                counts = {scope: len(ids) for scope, ids in self.workqueue.items()}
                for scope in longest_first(config.rootpath, counts):
                    self.workqueue.move_to_end(scope)
            super()._assign_work_unit(node)

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return CLUSTER if "shared_cluster" in _text(config.rootpath / file) else file

    return ByFile(config, log)


def longest_first(root: Path, counts: Mapping[str, int]) -> list[str]:
    """Files in the order in which they are dealt out, from their numbers of tests: those of the cluster come first."""

    def expected_s(file: str) -> float:
        text = _text(root / file)
        all_are_slow = re.search(r"^pytestmark\b.*\bslow\b", text, re.MULTILINE)
        return 0.1 * counts[file] + 10.0 * (counts[file] if all_are_slow else text.count("pytest.mark.slow"))

    return sorted(counts, key=lambda scope: -math.inf if scope == CLUSTER else -expected_s(scope))


@cache
def _text(file: Path) -> str:
    return file.read_text("utf-8")


@pytest.fixture(scope="module", autouse=True)
def nothing_old_is_collected() -> None:
    """Whatever is there when a file begins stays: a collection need not look at all libraries, half a second a time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium driven by Playwright, for tests that look at pages as a reader does; skipped without one.

    It ends with the file: while its driver lives, its event loop runs in this thread, and no other test could run one.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install .[dev])")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("there is no chromium on the PATH")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(autouse=True)
def no_secrets_of_others() -> Iterator[None]:
    """What a test's studies hid is a word like any other in the next test."""
    from afp_ray.redaction import forget

    forget()
    yield
    forget()


@pytest.fixture(autouse=True)
def no_cluster_of_others(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shared cluster, which stays connected to the end, is there for the files that ask for it alone."""
    ray = sys.modules.get("ray")
    if "shared_cluster" not in _text(request.path) and ray is not None and ray.is_initialized():
        monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.fixture(scope="session", autouse=True)
def own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Rows and tokens that tests keep are their own, for this run alone, and never the user's."""
    patch = pytest.MonkeyPatch()
    patch.setenv("AFP_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Products of float32 in float32 on a card: what differs otherwise is tf32, not our code."""
    import torch

    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = allowed


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[str]:
    """The address of a cluster of two CPUs with its own ports and folder, shared since starting one takes seconds."""
    from afp_ray.execution.cluster import DRIVER_ENVIRONMENT, WORKER_ENVIRONMENT, set_environment, start_local
    from afp_ray.execution.cluster_auth import keep_token_private

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SUPPORT, os.environ.get("PYTHONPATH", "")]))
    set_environment({"TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "1"})  # a failed group waits so long, twice
    set_environment(DRIVER_ENVIRONMENT)
    set_environment(WORKER_ENVIRONMENT)
    keep_token_private(make=True)
    import ray
    from forked_python import forked_by_ray

    with (
        tempfile.TemporaryDirectory(prefix="afp-test-", ignore_cleanup_errors=True) as folder,
        forked_by_ray(RAY_AUTH_MODE="token"),  # as Ray's own start sets it
    ):
        start_local(folder, num_cpus=2)
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()
