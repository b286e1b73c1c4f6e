"""A folder is described from its files alone, and what cannot be trained is refused with its file and its remedy."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import build_model

from afp_ray.config.model import ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models import describe as describe_module
from afp_ray.models.describe import describe


def edit(file: Path, **changes: Any) -> None:
    document = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def refusal(folder: Path, **config: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        describe(ModelConfig(name=str(folder), **config))
    assert caught.value.fix, "every refusal says what to do"
    return caught.value


def test_sizes_of_every_family(saved_model: Path, family_model: Any) -> None:
    family_model.config.save_pretrained(saved_model)
    found = describe(ModelConfig(name=str(saved_model)))
    limit = None if found.model_type == "bloom" else 64
    assert (found.num_layers, found.hidden_size, found.vocab_size, found.max_positions) == (3, 32, 64, limit)
    assert found.folder == str(saved_model.resolve())
    assert found.revision is None


def test_sizes_of_a_nested_text_config(saved_model: Path) -> None:
    nested = {"hidden_size": 32, "num_hidden_layers": 3, "max_position_embeddings": 128}
    document = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": nested}
    (saved_model / "config.json").write_text(json.dumps(document))
    found = describe(ModelConfig(name=str(saved_model)))
    assert (found.num_layers, found.hidden_size, found.vocab_size, found.max_positions) == (3, 32, None, 128)


def test_fingerprint_follows_content_and_not_place(saved_model: Path, tmp_path: Path) -> None:
    first = describe(ModelConfig(name=str(saved_model))).fingerprint
    moved = saved_model.rename(tmp_path / "moved")
    assert describe(ModelConfig(name=str(moved))).fingerprint == first
    build_model("llama", seed=1).save_pretrained(moved)
    second = describe(ModelConfig(name=str(moved))).fingerprint
    edit(moved / "tokenizer_config.json", model_max_length=17)
    third = describe(ModelConfig(name=str(moved))).fingerprint
    assert len({first, second, third}) == 3


def test_fingerprint_of_a_big_file_sees_size_header_and_ends(
    saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describe_module, "WHOLE_FILE_BYTES", 1000)
    weights = saved_model / "model.safetensors"
    first = describe(ModelConfig(name=str(saved_model))).fingerprint
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert describe(ModelConfig(name=str(saved_model))).fingerprint != first


@pytest.mark.parametrize(
    "model_type, architecture, said",
    [
        ("bert", "BertForMaskedLM", "encoder-only"),
        ("xlm-roberta", "XLMRobertaForMaskedLM", "encoder-only"),
        ("xlm-roberta", None, "encoder-only"),
        ("electra", "ElectraForPreTraining", "encoder-only"),
        ("mt5", "MT5ForConditionalGeneration", "encoder-decoder"),
        ("bart", "BartForCausalLM", "encoder-decoder"),
        ("brand-new", "BrandNewForMaskedLM", "BrandNewForMaskedLM"),
        ("brand-new", "BrandNewForConditionalGeneration", "BrandNewForConditionalGeneration"),
        ("llama", "LlamaForSequenceClassification", "LlamaForSequenceClassification"),
    ],
)
def test_other_kinds_are_refused(saved_model: Path, model_type: str, architecture: str | None, said: str) -> None:
    edit(saved_model / "config.json", model_type=model_type, architectures=[architecture] if architecture else None)
    error = refusal(saved_model)
    assert said in error.problem
    assert "XGLM" in error.allowed
    assert str(saved_model) in error.where


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(saved_model: Path, missing: str) -> None:
    (saved_model / missing).unlink()
    error = refusal(saved_model)
    assert missing in error.where + error.problem + error.allowed
    assert str(saved_model) in error.where


def test_a_missing_shard_is_named(saved_model: Path) -> None:
    build_model("llama").save_pretrained(saved_model, max_shard_size="20KB")
    (saved_model / "model.safetensors").unlink(missing_ok=True)
    assert describe(ModelConfig(name=str(saved_model))).num_layers == 3
    shard = sorted(saved_model.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert refusal(saved_model).where == str(shard)


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_truncated_weight_file_is_refused(saved_model: Path, cut: int) -> None:
    weights = saved_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:cut])
    error = refusal(saved_model)
    assert "truncated" in error.problem
    assert error.where == str(weights)


@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": "llama"}', "{}"])
def test_a_broken_config_is_refused(saved_model: Path, content: str) -> None:
    (saved_model / "config.json").write_text(content)
    refusal(saved_model)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    error = refusal(Path(name)) if name.startswith("/") else _refused_name(name)
    assert "does not exist" in error.problem
    assert "hub id" in error.allowed


def _refused_name(name: str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        describe(ModelConfig(name=name))
    return caught.value


def test_a_name_that_no_hub_knows_is_refused() -> None:
    assert "neither a folder nor a hub id" in _refused_name("not a hub id").problem


def test_a_hub_model_is_read_from_the_local_cache(
    tmp_path: Path, saved_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text((saved_model / "config.json").read_text())
    code = (
        "from afp_ray.config.model import ModelConfig\nfrom afp_ray.models.describe import describe\n"
        "found = describe(ModelConfig(name='someone/tiny'))\nprint(found.num_layers, found.revision, found.folder)\n"
        f"assert describe(ModelConfig(name='someone/tiny', revision='{commit}')).fingerprint == found.fingerprint\n"
        "from afp_ray.errors import ModelError\n"
        "try:\n    describe(ModelConfig(name='someone/absent'))\nexcept ModelError as error:\n    print(error)\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"3 {commit} None\n")
    assert "hf download someone/absent" in done.stdout


@pytest.mark.parametrize("revision", [None, "main", "v1.0"])
def test_remote_code_needs_a_commit(revision: str | None) -> None:
    with pytest.raises(ModelError, match="trust_remote_code") as caught:
        describe(ModelConfig(name="someone/tiny", trust_remote_code=True, revision=revision))
    assert "commit" in caught.value.allowed


def test_describing_loads_neither_torch_nor_transformers(saved_model: Path) -> None:
    code = (
        "import sys\nfrom afp_ray.config.model import ModelConfig\nfrom afp_ray.models.describe import describe\n"
        f"describe(ModelConfig(name={str(saved_model)!r}))\n"
        "print({'torch', 'transformers', 'huggingface_hub', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"
