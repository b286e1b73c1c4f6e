"""`afp plan`: overlap of training with evaluation, the strict gate, small forms and studies in folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from afp_ray.data import embedded
from services import cli, studies
from services.studies import find, shipped_names

STUDY = """
name: mine
fixed:
  model.name: embedded
  data.sources: [{{kind: tsv, path: "{pairs}"}}]
  data.languages: [zh]
  data.num_pairs: 20
  evaluation.tasks: [xnli]
  evaluation.representation: null
compare: {{method: [base, mcl]}}
seeds: [0, 1]
small:
  seeds: [0]
  fixed: {{data.num_pairs: 10}}
"""


def make_study(folder: Path, rows: list[tuple[str, str]]) -> str:
    pairs = folder / "pairs.tsv"
    pairs.write_text("".join(f"{source}\t{target}\n" for source, target in rows), "utf-8")
    file = folder / "study.yaml"
    file.write_text(STUDY.format(pairs=pairs), "utf-8")
    return str(file)


def clean_rows() -> list[tuple[str, str]]:
    return [(pair.source, pair.target) for pair in embedded.translation_pairs("en", "zh", "train")[:30]]


def leaked_rows() -> list[tuple[str, str]]:
    """Premises and hypotheses of five test rows, with their translations."""
    sides = [embedded.task_rows("xnli", code, "test")[:5] for code in ("en", "zh")]
    return [(str(en[name]), str(zh[name])) for en, zh in zip(*sides, strict=True) for name in ("premise", "hypothesis")]


def plan(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    assert cli.main(["plan", *arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))


def test_a_clean_study_passes_the_strict_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(tmp_path, clean_rows())
    (report,) = plan(capsys, study, "--strict")["overlap"]
    assert report["training_texts"] == 60
    assert sum(cell["suspect"] for cell in report["cells"]) == 0
    assert {(cell["task"], cell["language"], cell["split"]) for cell in report["cells"]} == {
        ("xnli", language, split) for language in ("en", "zh") for split in ("validation", "test")
    }
    assert cli.main(["plan", study]) == 0
    assert "none is in training as a whole" in capsys.readouterr().out


def test_leaked_rows_are_shown_and_refused_when_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(tmp_path, [*clean_rows(), *leaked_rows()])
    assert cli.main(["plan", study]) == 0
    shown = capsys.readouterr().out
    assert "OVERLAP xnli/zh test" in shown
    (report,) = plan(capsys, study, "--strict", code=7)["overlap"]
    suspects = {(cell["language"], cell["split"]): cell["suspect"] for cell in report["cells"]}
    assert suspects["en", "test"] >= 5
    assert suspects["zh", "test"] >= 5
    assert cli.main(["plan", study, "--strict"]) == 7
    assert "--strict" in capsys.readouterr().err


def test_a_small_form_has_its_own_name_and_amounts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = make_study(tmp_path, clean_rows())
    whole, small = plan(capsys, study), plan(capsys, study, "--small")
    assert (whole["study"], small["study"]) == ("mine", "mine-small")
    assert small["trials"] < whole["trials"]
    assert cli.main(["data", "inspect", study, "--small", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"] == 10


def test_a_study_without_a_small_form_says_so_with_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "smollm2", "--small"]) == 2
    shown = capsys.readouterr().err
    assert "no small form" in shown
    assert "smollm2.yaml" in shown


def test_an_unknown_published_table_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = Path(make_study(tmp_path, clean_rows()))
    study.write_text(study.read_text() + "published: [table_1]\n")
    assert cli.main(["run", str(study)]) == 2
    assert "there is no published table 'table_1'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_studies_in_folders_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "share"
    (installed / "paper").mkdir(parents=True)
    (installed / "paper" / "table.yaml").write_text("name: table\n")
    monkeypatch.setattr(studies, "_SHIPPED", (tmp_path / "none", installed))
    assert find("paper/table") == installed / "paper" / "table.yaml"
    assert shipped_names() == ["paper/table"]


def test_a_folder_of_the_name_does_not_hide_a_study_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("demo").name == "demo.yaml"


def test_a_study_that_ran_is_not_made_small_afterwards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fabricate import fabricate

    fabricate(tmp_path / "runs")
    assert cli.main(["resume", "demo", "--small"]) == 2
    assert "afp resume demo-small" in capsys.readouterr().err
