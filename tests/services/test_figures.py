"""Pictures as files for a paper: the same ones as on the page, in colours of their own, without boxes for letters."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fabricate import fabricate

from services.cli import main
from services.views.figures import write_figures
from services.views.pictures import STYLES, Circle, Dots, Line, Mark, Picture, Text
from services.views.pictures import Path as Polyline


def picture(*marks: Mark, name: str = "one") -> Picture:
    return Picture(name, "One", "", "one mark", 100, 60, marks)


def test_every_picture_of_the_page_is_written_as_svg_and_pdf(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = fabricate(tmp_path, methods=("base", "afp"))
    folder = tmp_path / "figures"
    asked = ["report", "demo", "--storage", str(tmp_path), "--figures", str(folder), "--json"]
    assert main(asked) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    names = {file.stem for file in folder.iterdir()}
    assert names == {"retrieval", "tasks", "forest-afp", "heat-afp", "layers-afp", "cost"}
    assert {file.name for file in folder.iterdir()} == {f"{name}.{form}" for name in names for form in ("svg", "pdf")}
    assert {str(file) for file in folder.iterdir()} <= set(files)
    page = paths.report.read_text()
    assert all(f'id="picture-{name}"' in page for name in names)
    for file in folder.glob("*.svg"):
        drawn = ElementTree.fromstring(file.read_text())
        assert not [mark for mark in drawn.iter() if mark.get("class")]
        assert "var(" not in file.read_text()
    assert all(file.read_bytes()[:5] == b"%PDF-" for file in folder.glob("*.pdf"))


def test_every_kind_of_mark_is_drawn_and_no_letter_becomes_a_box(tmp_path: Path) -> None:
    points = [(1.0, 2.0), (3.0, 4.0)]
    marks: list[Mark] = [Line(0, 0, 9, 9, "zero"), Polyline(points, "curve"), Dots(points, "dots", "c1")]
    marks += [Circle(5, 5, 2, kind) for kind in ("open", "full", "speck")]
    marks += [
        Text(5, 50, "ไทย 中文 −2.0 $x$ ‡", kind) for kind in STYLES if kind in ("words", "strong", "quiet", "name")
    ]
    files = write_figures(
        [picture(*marks), picture(*marks)], tmp_path
    )  # a missing glyph is a warning, so an error here
    assert [file.name for file in files] == ["one.svg", "one.pdf", "one-2.svg", "one-2.pdf"]
    assert "ไทย 中文" in files[0].read_text()
    assert files[1].read_bytes() == files[3].read_bytes()  # no time of day is in it
