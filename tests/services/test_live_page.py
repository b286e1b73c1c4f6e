"""The live page in a real browser: a study that runs moves it, it finishes by itself, and nothing is complained of."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fabricate import add_curves, fabricate
from served import served, serving

from afp_ray.ledger import replay
from afp_ray.store import StudyPaths
from services.api import create_app
from services.client import Client
from services.tokens import Tokens

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PICTURES = os.environ.get("AFP_TEST_PICTURES")  # a folder, for whoever wants to look at what the tests saw
SMALL = {
    "name": "small",
    "fixed": {
        "data.languages": ["zh"],
        "data.num_pairs": 64,
        "data.num_instructions": 32,
        "training.max_steps": 40,
        "training.batch_size": 8,
        "evaluation.limit": 5,
        "evaluation.tasks": ["xcopa"],
    },
    "compare": {"method": ["base", "afp"]},
    "runtime": {"executor": "local"},
}


@contextmanager
def page_of(browser: "Browser", *, width: int = 1400, dark: bool = False) -> "Iterator[Page]":
    """A page; an error that it logs, or a request of anything but this machine, fails the test."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if "//127.0.0.1:" not in asked.url else None)
    yield page
    context.close()
    assert [line for line in wrong if "status of 401" not in line and not line.startswith(("data:", "blob:"))] == []


def keep(page: "Page", name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = fabricate(tmp_path_factory.mktemp("runs"))
    add_curves(paths)
    return paths


@pytest.fixture(scope="module")
def address(finished: StudyPaths) -> Iterator[str]:
    with serving(create_app(finished.storage)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.mark.slow
def test_the_page_goes_along_with_a_study_that_is_submitted(tmp_path: Path, browser: "Browser") -> None:
    token, _ = Tokens(tmp_path).new("bob", "submit")
    with served(tmp_path) as port, page_of(browser) as page:
        address = f"http://127.0.0.1:{port}"
        page.goto(address)
        page.get_by_text("There is no study yet.").wait_for()
        Client(address, token=token).submit(SMALL)
        page.get_by_role("link", name="small", exact=True).click(timeout=30_000)
        page.locator("#summary .state", has_text="running").wait_for(timeout=30_000)
        page.locator("#curves svg polyline").first.wait_for(timeout=90_000)
        seen = page.locator("#curves svg").first.get_attribute("aria-label") or ""
        assert re.search(r"afp, seed 0 [\d.]+ at step \d+", seen)
        keep(page, "live-running")
        page.locator("#summary .state", has_text="complete").wait_for(timeout=90_000)
        assert page.evaluate("document.getElementById('progress').value") == 2
        assert "2 of 2 trials done" in page.locator("#news").inner_text()
        assert page.locator("#trials tr").count() == 2
        page.locator("#rows tr").nth(1).wait_for(timeout=60_000)
        keep(page, "live-complete")
        page.get_by_role("link", name="All studies").click()
        page.locator("#studies .state", has_text="complete").wait_for(timeout=15_000)


@pytest.mark.parametrize("width, dark", [(1400, False), (800, True)])
def test_a_finished_study_fits_and_can_be_used_with_keys_alone(
    width: int, dark: bool, address: str, finished: StudyPaths, browser: "Browser"
) -> None:
    with page_of(browser, width=width, dark=dark) as page:
        page.goto(address)
        page.locator("#studies tr").first.wait_for()
        keep(page, f"list-{width}")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the studies"
        page.get_by_role("link", name="demo", exact=True).focus()
        page.keyboard.press("Enter")
        page.locator("#rows tr").nth(2).wait_for(timeout=30_000)
        page.locator("#curves svg").first.wait_for()
        assert page.evaluate("document.activeElement.id") == "study-title"
        assert page.title() == "demo - afp study"
        assert page.locator("#trials tr").count() == len(replay(finished.ledger).trials)
        assert page.locator("#description").inner_text() == "planted <script>alert(1)</script> & more_than 100 %"
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert back == ("rgb(20, 24, 31)" if dark else "rgb(255, 255, 255)")
        for table in page.locator("table").all():
            assert table.locator("thead th[scope=col]").count() > 1
        page.locator("#report-box summary").focus()
        page.keyboard.press("Enter")
        frame = page.frame_locator("#report-box iframe")
        frame.get_by_role("heading", name="demo").first.wait_for(timeout=30_000)
        keep(page, f"study-{width}")


def test_where_a_token_is_needed_the_page_asks_for_it_and_keeps_it_in_its_tab(
    finished: StudyPaths, browser: "Browser"
) -> None:
    token, _ = Tokens(finished.storage).new("anna", "read")
    with serving(create_app(finished.storage, is_open=False)) as port, page_of(browser) as page:
        page.goto(f"http://127.0.0.1:{port}")
        field = page.get_by_label("Token")
        field.fill("afp_00000000_wrong")
        page.keyboard.press("Enter")
        page.get_by_text("this token is unknown").wait_for()
        assert page.locator("#studies tr").count() == 0
        field.fill(token)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="demo", exact=True).click()
        page.locator("#rows tr").nth(2).wait_for(timeout=30_000)
        assert not field.is_visible()
        kept: Any = page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]")
        assert kept == [1, 0, ""]
        with page.expect_download() as saved:
            page.get_by_role("button", name="Save the report").click()
        assert "demo" in saved.value.suggested_filename
        assert "<h1>demo</h1>" in saved.value.path().read_text("utf-8")
