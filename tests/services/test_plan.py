"""`afp plan`: overlap of training with evaluation, the strict gate, small forms and studies in folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from afp_ray.data import embedded
from afp_ray.ledger import Ledger
from afp_ray.planning.check import cached_fingerprints
from afp_ray.records import Job, LedgerEvent
from afp_ray.search import StudySearch
from afp_ray.store import StudyPaths
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
    assert "rows are in training as a whole or by a run of 30 characters" in shown
    assert "rows are in training as a whole or by a run of 13 words" in shown
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


def finish(study: str, storage: Path, number: int) -> None:
    """Write the first trials of a study into its ledger as finished, with the ids that they have."""
    config = studies.load(study, None, executor=None)
    search = StudySearch(config, cached_fingerprints(config))
    with Ledger.open(StudyPaths(storage, config.name), config) as ledger:
        for _ in range(number):
            job = search.next_job()
            assert isinstance(job, Job)
            common = {"trial_id": job.trial_id, "arm": job.arm, "seed": job.seed, "role": job.role, "attempt": 1}
            ledger.append(LedgerEvent(time=1.0, state="PLANNED", **common, config=job.config, params=job.params))
            ledger.append(LedgerEvent(time=2.0, state="DONE", **common, objective=0.5, splits=("validation", "test")))
        ledger.close("interrupted: SIGINT")


def test_what_ran_is_counted_by_id_and_a_study_that_differs_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = make_study(tmp_path, clean_rows())
    finish(study, tmp_path / "runs", 2)
    same = plan(capsys, study)
    assert (same["trials"], same["finished"], same["finished_otherwise"], same["differs"]) == (3, 2, 0, [])
    changed = ["--set", "fixed.data.num_pairs=21"]
    other = plan(capsys, study, *changed)
    # Base trains on nothing, so it is the same trial whatever the pairs are.
    assert {arm["arm"]: (arm["finished"], arm["left"]) for arm in other["arms"]} == {"base": (1, 0), "mcl": (0, 2)}
    assert (other["finished"], other["finished_otherwise"]) == (1, 1)
    assert other["differs"] == ["fixed.data.num_pairs: 20 -> 21"]
    assert cli.main(["plan", study, *changed]) == 0
    shown = capsys.readouterr().out
    assert "DIFFERS from the mine that ran: fixed.data.num_pairs: 20 -> 21" in shown
    assert "finished 1   to run 2" in shown and "1 finished trial of that name ran otherwise" in shown
    # The file under it changes, the study file does not.
    Path(study).with_name("pairs.tsv").write_text("".join(f"{a}.\t{b}.\n" for a, b in clean_rows()), "utf-8")
    moved = plan(capsys, study)
    assert (moved["finished"], moved["finished_otherwise"], moved["differs"]) == (1, 1, [])
