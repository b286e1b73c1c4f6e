"""The report as a reader sees it: widths, paper, dark scheme, script, and that nothing leaves or enters the page."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from fabricate import add_curves, add_representation, fabricate

from afp_ray.comparison import compare
from afp_ray.records import Comparison
from afp_ray.store import StudyPaths
from services.reports import write_reports
from services.views.formats import grid_latex, grid_markdown
from services.views.tables import ablation_grid

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

WIDTHS = (1400, 800)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    paths = fabricate(tmp_path_factory.mktemp("runs"))
    add_curves(paths)
    add_representation(paths)
    write_reports(paths)
    return paths


@pytest.fixture(scope="module")
def table(paths: StudyPaths) -> Comparison:
    return compare(paths)


@pytest.fixture(scope="module")
def context(browser: "Browser") -> "Iterator[BrowserContext]":
    context = browser.new_context(accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext", paths: StudyPaths) -> "Iterator[Page]":
    """The report, opened as a file; whatever the browser complains of, or asks for, fails the test."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url != paths.report.as_uri() else None)
    page.goto(paths.report.as_uri())
    yield page
    page.close()
    assert [line for line in wrong if not line.startswith("blob:")] == []


OVERFLOWING = """() => {
  document.querySelectorAll("details").forEach((each) => { each.open = true; });
  const width = document.documentElement.clientWidth;
  const all = [...document.body.querySelectorAll("*")];
  const shown = all.filter((each) => !each.closest("svg") || each.tagName === "svg");
  const wide = shown.filter((each) => each.getBoundingClientRect().right > width + 0.5);
  return wide.map((each) => each.outerHTML.slice(0, 80));
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(page: "Page", width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_tables_of_many_languages_lie_beside_or_below_each_other(
    browser: "Browser", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fabricate.LANGUAGES", ("ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur"))
    wide = fabricate(tmp_path, methods=("base", "afp"))
    write_reports(wide)
    page = browser.new_page()
    page.goto(wide.report.as_uri())
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(OVERFLOWING) == []
        boxes = [table.bounding_box() for table in page.locator("table:visible, figure:visible").all()]
        shown = [(box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]) for box in boxes if box]
        assert len(shown) > 10
        for number, (left, top, right, bottom) in enumerate(shown):
            for x, y, x_end, y_end in shown[:number]:
                assert left >= x_end - 1 or right <= x + 1 or top >= y_end - 1 or bottom <= y + 1
    page.close()


def test_paper_holds_every_column(page: "Page") -> None:
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 between the margins of a browser
    assert page.evaluate(OVERFLOWING) == []
    assert page.locator(".tools:visible, nav:visible, button.save:visible").count() == 0
    assert len(page.pdf(format="A4")) > 20_000


def test_words_of_pictures_stay_inside_them(page: "Page") -> None:
    outside = page.evaluate(
        """() => [...document.querySelectorAll("svg text")].filter((text) => {
          const own = text.getBoundingClientRect(), svg = text.closest("svg").getBoundingClientRect();
          return own.width && (own.left < svg.left - 1 || own.right > svg.right + 1 || own.bottom > svg.bottom + 1);
        }).map((text) => text.textContent)"""
    )
    assert outside == []


def test_pictures_have_names_and_controls_can_be_reached(page: "Page") -> None:
    pictures = page.get_by_role("img")
    assert pictures.count() >= 6
    assert all(
        len(label) > 20 for label in pictures.evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    )
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#failures"  # of the line on how far it is
    unnamed = page.get_by_role("button").evaluate_all(
        "all => all.filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim())).length"
    )
    assert unnamed == 0
    assert page.get_by_role("heading", level=1).inner_text() == "demo"


def test_a_table_is_sorted_by_a_click_and_by_the_keyboard(page: "Page") -> None:
    box = page.locator('.table[data-caption="ablation"]')
    first = "tbody tr td:first-child"

    def arms() -> list[str]:
        return box.locator("table").first.locator(first).all_inner_texts()

    assert arms() == ["majority", "base", "mcl", "afp"]
    head = box.locator('th[data-words="mean"]')
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert arms() == ["base", "mcl", "afp", "majority"]  # which always says the first choice, and that is right here
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert arms() == ["majority", "afp", "mcl", "base"]
    assert all(
        part == arms() for part in [each.locator(first).all_inner_texts() for each in box.locator("table").all()]
    )


def test_a_table_is_copied_in_the_words_of_the_commands(page: "Page", table: Comparison) -> None:
    grid = ablation_grid(table)

    def copied(form: str) -> str:
        page.get_by_role("button", name=f"Copy the table ablation as {form}").click()
        page.get_by_role("status").filter(has_text=f"copied as {form}").wait_for()
        return str(page.evaluate("navigator.clipboard.readText()"))

    assert copied("LaTeX") == grid_latex(grid, "ablation", "tab:ablation")
    assert copied("Markdown") == grid_markdown(grid)
    assert list(csv.reader(io.StringIO(copied("CSV")))) == [grid.header, *grid.rows]


def test_a_picture_is_saved_as_a_file_with_colours_of_its_own(page: "Page", tmp_path: Path) -> None:
    page.emulate_media(color_scheme="dark")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save the picture demo-tasks.svg").click()
    file = tmp_path / saved.value.suggested_filename
    saved.value.save_as(file)
    assert file.name == "demo-tasks.svg"
    drawn = ElementTree.fromstring(file.read_text())
    texts = [mark for mark in drawn.iter() if mark.tag.endswith("text")]
    assert any(text.text == "afp" for text in texts)
    assert {text.get("fill") for text in texts} == {"rgb(28, 35, 48)", "rgb(91, 100, 114)"}  # those of white paper
    assert "var(" not in file.read_text()


CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const straight = (c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [x, y, z] = [r, g, b].map((c) => straight(c / 255));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const over = (front, back, alpha) => front.slice(0, 3).map((c, i) => alpha * c + (1 - alpha) * back[i]);
  const page = numbers(getComputedStyle(document.body).backgroundColor);
  const behind = (each) => {
    const box = each.getBoundingClientRect();
    let back = page;
    for (let up = each; up; up = up.parentElement) {
      const colour = numbers(getComputedStyle(up).backgroundColor);
      if (!(colour.length === 4 && colour[3] === 0)) { back = colour; break; }
    }
    const svg = each.closest("svg");
    for (const rect of svg ? svg.querySelectorAll("rect") : []) {
      const own = rect.getBoundingClientRect(), style = getComputedStyle(rect);
      const across = own.left <= box.left && own.right >= box.right;
      const inside = across && own.top <= box.top + 4 && own.bottom >= box.bottom - 4;
      if (inside) back = over(numbers(style.fill), back, style.opacity * style.fillOpacity);
    }
    return back;
  };
  const low = [];
  for (const each of document.querySelectorAll("p, li, td, th, h1, h2, h3, a, button, figcaption, summary, svg text")) {
    if (!each.textContent.trim() || !each.getClientRects().length) continue;
    const style = getComputedStyle(each);
    const own = numbers(each.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(own), light(behind(each))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${each.textContent.trim().slice(0, 40)}`);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_in_both_schemes(page: "Page", scheme: Any) -> None:
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate(CONTRASTS) == []


def test_the_policy_lets_no_other_script_run_and_nothing_load(
    context: "BrowserContext", paths: StudyPaths, tmp_path: Path
) -> None:
    text = paths.report.read_text()
    file = tmp_path / "report.html"
    file.write_text(
        text.replace(
            "</main>", '</main><script>document.title = "run"</script><img src="x.png" onerror="document.title = 1">'
        )
    )
    page = context.new_page()
    asked: list[str] = []
    page.on("requestfinished", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.title() == "demo - afp report"
    assert page.get_by_role("button").count() > 0  # its own script did run
    assert asked == [file.as_uri()]
    page.close()


def test_without_script_the_page_shows_the_same_and_has_no_buttons(browser: "Browser", paths: StudyPaths) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(paths.report.as_uri())
    assert page.locator("button").count() == 0
    assert page.locator("svg").count() >= 6
    assert page.locator("table").count() >= 4
    assert re.search(r"‡|†", page.locator("main").inner_text())
    context.close()
