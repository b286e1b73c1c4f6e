"""The documentation as a site: built strictly, with every page and link, and nothing loaded from elsewhere."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Addresses(HTMLParser):
    """What a page loads, and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "a" and named.get("href"):
            self.links.append(str(named["href"]))
        elif address := named.get("src") or (named.get("href") if tag == "link" else None):
            self.loaded.append(address)


def pages(site: Path) -> Iterator[tuple[Path, Addresses]]:
    for file in sorted(site.rglob("*.html")):
        if file.name != "404.html":  # is served at any address, so its links begin at the root
            addresses = Addresses()
            addresses.feed(file.read_text("utf-8"))
            yield file, addresses


def test_every_page_of_the_repository_is_there(site: Path) -> None:
    names = {file.stem for file in (ROOT / "docs").glob("*.md")} | {"index", "contributing", "changelog"}
    assert names <= {file.stem for file in site.glob("*.html")}
    assert "Which cross-lingual alignment recipe works" in (site / "index.html").read_text("utf-8")


def test_pages_load_files_of_the_site_alone(site: Path) -> None:
    for file, addresses in pages(site):
        for address in addresses.loaded:
            assert not re.match(r"(https?:)?//", address), f"{file.name} loads {address}"
            assert (file.parent / unquote(urldefrag(address)[0])).is_file(), f"{file.name} loads {address}"
    styles = [text for sheet in site.rglob("*.css") for text in re.findall(r"url\(([^)]*)\)", sheet.read_text("utf-8"))]
    assert not [address for address in styles if "//" in address and not address.strip("\"'").startswith("data:")]


def test_links_lead_to_files_of_the_site_also_where_they_lead_out_of_docs(site: Path) -> None:
    for file, addresses in pages(site):
        for address in addresses.links:
            target = unquote(urldefrag(address)[0])
            if target and not re.match(r"(https?|mailto):", target):
                assert (file.parent / target).is_file(), f"{file.name} links to {address}"
    home = (site / "index.html").read_text("utf-8")
    assert 'href="study-file.html"' in home and 'href="files/search_spaces/index.html"' in home
    assert (site / "files" / "search_spaces" / "demo.yaml").read_bytes() == (
        ROOT / "search_spaces" / "demo.yaml"
    ).read_bytes()


def test_search_needs_no_server(site: Path) -> None:
    """Its index is a script beside the pages, and a worker that browsers refuse to files has its stand-in."""
    script = (site / "search" / "search_index.js").read_text("utf-8")
    index = json.loads(script.removeprefix("var __index = "))
    texts = [page["text"] for page in index["docs"] if page["location"].startswith("study-file")]
    assert any("Softmax temperature" in text for text in texts)
    assert 'src="assets/iframe-worker.js"' in (site / "search.html").read_text("utf-8")
    assert (site / "assets" / "iframe-worker.js").is_file()
