"""The front of the command line: its version, its help, the nearest name to every misspelt one, completion."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fabricate import fabricate

import afp_ray
from services import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("runs")).storage


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"afp_ray {afp_ray.__version__}\n"


@pytest.mark.parametrize("words", [[], ["data"]])
def test_a_command_alone_shows_its_help_and_is_no_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Usage: {' '.join(['afp', *words])} [OPTIONS]")
    assert shown.err == ""


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["status", "dmeo"], "did you mean demo?"),
        (["plan", "dmo"], "did you mean demo?"),
        (["plan", "mit_vs_ci"], "did you mean paper/mit_vs_cit?"),
        (["watch", "demo"], "did you mean: afp resume demo --attach"),
        (["trian", "mine.yaml"], "did you mean: afp trial mine.yaml"),
        (["eval", "embeded"], "did you mean embedded?"),
        (["eval", "embedded", "--tasks", "xcopaa"], "did you mean xcopa?"),
        (["plan", "demo", "--set", "training.max_stesp=3"], "did you mean training.max_steps?"),
        (["best", "demo", "--metric", "xcoppa"], "did you mean xcopa?"),
        (["compare", "demo", "--format", "te"], "did you mean tex?"),
        (["plan", "demo", "--set", "budget.trails=3"], "did you mean budget.trials?"),
        (["plan", "demo", "--set", "tune.loss.temprature.low=0.1"], "did you mean loss.temperature?"),
        (["plan", "demo", "--set", "evaluation.tasks=[xcopaa]"], "did you mean xcopa?"),
    ],
)
def test_a_misspelt_name_is_answered_by_the_nearest(
    runs: Path, words: list[str], fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words, *(["--storage", str(runs)] if words[0] not in ("plan", "watch", "trian") else [])]) == 2
    assert f"fix    {fix}" in capsys.readouterr().err.splitlines()[-1]


def test_a_misspelt_model_folder_is_answered_by_the_one_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text("{}")
    assert cli.main(["eval", str(tmp_path / "lama"), "--storage", str(tmp_path)]) == 2
    assert f"did you mean {tmp_path / 'llama'}?" in capsys.readouterr().err


def test_a_misspelt_field_of_a_section_lists_that_section(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "demo", "--set", "training.max_stesp=3"]) == 2
    (allowed,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("allowed")]
    assert "training.batch_size" in allowed
    assert all(name.startswith("training.") for name in allowed.removeprefix("allowed  ").split(", "))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("afp best de", ["demo"]),
        ("afp best --storage nowhere de", []),
        ("afp plan paper/mit", ["paper/mit_vs_cit"]),
        ("afp run search_spaces/de", ["search_spaces/demo.yaml"]),
        ("afp run search_spa", ["search_spaces/"]),
        ("afp sta", ["status"]),
    ],
)
def test_the_shell_completes_studies_and_files(runs: Path, line: str, words: list[str]) -> None:
    environment = os.environ | {
        "_AFP_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
        "AFP_STORAGE": str(runs),
    }
    command = [sys.executable, "-m", "services.cli"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == words
