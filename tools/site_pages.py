"""A hook of MkDocs: pages at the top of the repository become pages of the site, and links out of docs/ lead there.

README.md is the home page, CONTRIBUTING.md and CHANGELOG.md are pages of their own. A file that a page links to is
copied under `files/`; a folder becomes a page that lists its files.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site by their file at the top of the repository."""
COPIES = "files"
SHIM = "assets/iframe-worker.js"
_LINK = re.compile(r'(\]\(|(?:src|srcset|href)=")(?!https?://|mailto:|#)([^)"#\s]+)((?:#[^)"\s]*)?[)"])')
"""Of Markdown and of HTML inside it: what stands before the address, its file, and the rest."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top, and everything outside docs/ that any page links to."""
    for name, uri in TOP.items():
        files.append(File.generated(config, uri, content=(ROOT / name).read_text("utf-8")))
    files.append(File.generated(config, SHIM, abs_src_path=str(Path(__file__).with_name("iframe-worker.js"))))
    pages = {ROOT / name: name for name in TOP} | {path: "" for path in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        for match in _LINK.finditer(page.read_text("utf-8")):
            _add(files, config, (page.parent / match[2]).resolve())
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Let the links of a page lead to where their files are on the site."""
    top = {uri: name for name, uri in TOP.items()}
    source = ROOT / top.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if page.file.src_uri.startswith(f"{COPIES}/"):
        return markdown
    here = str(PurePosixPath(page.file.src_uri).parent)

    def turned(match: re.Match[str]) -> str:
        path = (source.parent / match[2]).resolve()
        if not path.exists() or ROOT not in path.parents:
            return match[0]  # an example in words, or a slip that the strict build tells
        target = relpath(_uri(path), here)
        is_html = not match[1].startswith("]")  # which MkDocs leaves as it is
        return f"{match[1]}{re.sub('[.]md$', '.html', target) if is_html else target}{match[3]}"

    return _LINK.sub(turned, markdown)


def _uri(path: Path) -> str:
    """Where the site has a file or folder of the repository."""
    name = path.relative_to(ROOT).as_posix()
    if name in TOP:
        return TOP[name]
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return f"{COPIES}/{name}/index.md" if path.is_dir() else f"{COPIES}/{name}"


def _add(files: Files, config: Any, path: Path) -> None:
    if ROOT not in path.parents or not path.exists():
        return
    uri = _uri(path)
    if not uri.startswith(f"{COPIES}/") or files.get_file_from_path(uri) is not None:
        return
    if path.is_file():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
        return
    inside = sorted(member for member in path.rglob("*") if member.is_file() and "__pycache__" not in member.parts)
    for member in inside:
        _add(files, config, member)
    lines = [f"- [{member.relative_to(path)}]({member.relative_to(path)})" for member in inside]
    text = "\n".join([f"# {path.relative_to(ROOT)}", "", *lines, ""])
    page = File.generated(config, uri, content=text)
    page.inclusion = page.inclusion.NOT_IN_NAV
    files.append(page)
