"""Checkpoints as people have them: pickled weights, adapters, pointers, indexes and code of their own."""

import importlib.util
import json
import os
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from filelock import FileLock
from tiny_models import FAMILIES, build_model, build_tokenizer

from afp_ray.config import ModelConfig
from afp_ray.errors import ModelError
from afp_ray.models import describe as models_describe
from afp_ray.models import pickled, weight_files
from afp_ray.models.check import check_checkpoint
from afp_ray.models.custom_code import code_digest
from afp_ray.models.describe import describe
from afp_ray.models.load import load_model, load_tokenizer
from services import cli

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 123456789\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refusal(folder: Path | str, **config: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_checkpoint(ModelConfig(name=str(folder), **config))
    assert caught.value.fix
    return caught.value


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def save_pickled(model: Any, folder: Path, *, num_shards: int = 1, legacy: bool = False) -> None:
    """As `save_pretrained(safe_serialization=False)` of earlier versions wrote it: tied weights share their memory."""
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    weights = model.state_dict()
    names = sorted(weights)
    if num_shards == 1:
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        return
    placed = {}
    for number in range(num_shards):
        file = f"pytorch_model-{number + 1:05d}-of-{num_shards:05d}.bin"
        part = names[number::num_shards]
        torch.save({name: weights[name] for name in part}, folder / file)
        placed |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def untied_llama() -> Any:
    model = transformers.LlamaForCausalLM(FAMILIES["llama"]())
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model.eval()


@pytest.mark.parametrize("family", ["xglm", "gpt2", "bloom", "llama", "untied"])
@pytest.mark.parametrize("form", [{}, {"num_shards": 3}, {"legacy": True}], ids=["one", "sharded", "legacy"])
def test_pickled_weights_are_those_of_the_library(family: str, form: dict[str, Any], tmp_path: Path) -> None:
    model = untied_llama() if family == "untied" else build_model(family)
    folder = tmp_path / "pickled"
    save_pickled(model, folder, **form)
    before = sorted(path.name for path in folder.iterdir())
    stock = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=False)
    assert check_checkpoint(ModelConfig(name=str(folder))) == frozenset()
    ours = load_model(ModelConfig(name=str(folder)), cache=None).model
    theirs = dict(stock.state_dict())
    assert dict(ours.state_dict()).keys() == theirs.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    head, embedding = ours.get_output_embeddings().weight, ours.get_input_embeddings().weight
    assert (head is embedding) == (family != "untied")
    assert sorted(path.name for path in folder.iterdir()) == before  # nothing is written beside the weights


def test_a_conversion_is_done_once_and_again_when_the_weights_change(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pickled"
    save_pickled(build_model("xglm"), folder)
    monkeypatch.setattr(pickled, "PIECE_BYTES", 4000)
    config = ModelConfig(name=str(folder))
    first = load_model(config, cache=None).model
    made = [path for path in (cache / "models").iterdir() if path.is_dir()]
    (converted,) = made
    names = json.loads((converted / "model.safetensors.index.json").read_text())["weight_map"]
    assert "lm_head.weight" not in names  # tied: written once
    assert len(set(names.values())) > 1  # pieces
    stamp = converted.stat().st_mtime_ns
    again = load_model(config, cache=None).model
    assert all(torch.equal(left, right) for left, right in zip(first.parameters(), again.parameters(), strict=True))
    assert converted.stat().st_mtime_ns == stamp
    save_pickled(build_model("xglm", seed=1), folder)
    other = load_model(config, cache=None).model
    assert not torch.equal(other.get_input_embeddings().weight, first.get_input_embeddings().weight)


def test_conversions_used_longest_ago_make_room_and_none_in_use_goes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, seed: int = 0) -> Path:
        if not (tmp_path / name).is_dir():
            save_pickled(build_model("xglm", seed=seed), tmp_path / name)
        before = folders()
        load_model(ModelConfig(name=str(tmp_path / name)), cache=None)
        return next(iter(folders() - before), Path())

    def folders() -> set[Path]:
        return set((cache / "models").glob("pickled-*/"))

    def age(folder: Path, days: float) -> None:
        used = time.time() - 24 * 3600 * days
        os.utime(folder / "config.json", (used, used))

    oldest, old, recent = (load(name, seed) for seed, name in enumerate(("a", "b", "c")))
    size = sum(path.stat().st_size for path in oldest.iterdir())
    for folder, days in ((oldest, 9.0), (old, 3.0), (recent, 0.5)):
        age(folder, days)
    monkeypatch.setenv("AFP_CACHE_GB", str(3.5 * size / 1e9))
    with FileLock(f"{oldest}.lock"):  # somebody is about to read it
        newest = load("d", 3)
        assert folders() == {oldest, old, recent, newest}
    load("b")  # used again, so that it is in use
    another = load("e", 4)
    assert folders() == {old, recent, newest, another}
    monkeypatch.setenv("AFP_CACHE_GB", "0")
    age(recent, 1.1)
    last = load("f", 5)
    assert folders() == {old, newest, another, last}
    assert not list((cache / "models").glob(".pickled*"))
    assert load("c").name == recent.name, "what went is converted again"


def test_one_check_looks_at_each_weight_file_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    look = weight_files._check_file
    monkeypatch.setattr(weight_files, "_check_file", lambda file: (seen.append(file), look(file))[1])
    whole, pickled_one = tmp_path / "whole", tmp_path / "pickled"
    save_pickled(build_model("llama"), pickled_one)
    build_model("llama").save_pretrained(whole)
    for file in pickled_one.glob("token*"):
        shutil.copy(file, whole)
    for folder in (whole, pickled_one):
        seen.clear()
        check_checkpoint(ModelConfig(name=str(folder)))
        assert len(seen) == 1
    os.utime(whole / "model.safetensors", (1, 1))
    check_checkpoint(ModelConfig(name=str(whole)))
    assert len(seen) == 2, "a file that changed is looked at again"


class Harmful:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, legacy: bool) -> None:
    folder, victim = tmp_path / "pickled", tmp_path / "victim"
    save_pickled(build_model("llama"), folder)
    content = {"model.embed_tokens.weight": torch.zeros(2), "x": Harmful(victim)}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    for error in (refusal(folder), _loading(folder)):
        assert error.where == str(folder / "pytorch_model.bin")
        assert "could run code" in error.problem
    assert not victim.exists()


def _loading(folder: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(ModelConfig(name=str(folder)), cache=None)
    return caught.value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "damaged"),
        (POINTER.encode(), "a Git LFS pointer, not the file itself"),
        (pickle.dumps({"a": 1}), "damaged|more than weights|no tensor"),
    ],
)
def test_what_is_no_weight_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    folder = tmp_path / "pickled"
    save_pickled(build_model("llama"), folder)
    (folder / "pytorch_model.bin").write_bytes(content)
    error = refusal(folder)
    assert error.where == str(folder / "pytorch_model.bin")
    assert any(word in error.problem for word in words.split("|")), error.problem


def test_a_cut_pickle_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    save_pickled(build_model("llama"), folder)
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-2000])
    assert refusal(folder).where == str(file)


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\x", "missing-00002-of-00002.bin"])
def test_an_index_may_name_files_beside_it_alone(saved_model: Path, index: str, name: str) -> None:
    (saved_model / "model.safetensors").unlink()
    (saved_model / index).write_text(json.dumps({"weight_map": {"a": name}}))
    error = refusal(saved_model)
    assert name in error.problem or repr(name) in error.problem
    assert ("outside" in error.problem) == (not name.startswith("missing"))


def test_links_to_files_are_files(saved_model: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (saved_model / "model.safetensors").rename(blob)
    (saved_model / "model.safetensors").symlink_to(blob)
    assert check_checkpoint(ModelConfig(name=str(saved_model))) == frozenset()
    blob.unlink()
    assert "link to nothing" in refusal(saved_model).problem


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_pointer_of_git_lfs_is_called_one(saved_model: Path, name: str) -> None:
    (saved_model / name).write_text(POINTER)
    error = refusal(saved_model)
    assert error.problem == f"{name} is a Git LFS pointer, not the file itself"
    assert error.where == str(saved_model / name)
    assert "git lfs pull" in error.fix


def test_an_adapter_is_called_one_with_its_base(saved_model: Path) -> None:
    (saved_model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/base"}))
    both = refusal(saved_model)
    assert "some/base" in both.problem
    assert "move adapter_config.json" in both.fix
    assert "merge_and_unload" in both.fix
    (saved_model / "model.safetensors").rename(saved_model / "adapter_model.safetensors")
    for missing in ("", "config.json"):
        if missing:
            (saved_model / missing).unlink()
        alone = refusal(saved_model)
        assert "an adapter of some/base" in alone.problem
        assert "merge_and_unload().save_pretrained" in alone.fix


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "nothing_known"}, "nothing_known"),
        ({"num_hidden_layers": 10**9}, "the weights have 3"),
        ({"vocab_size": 7}, "vocab_size 7"),
        ({"vocab_size": 10**9}, "vocab_size 1000000000"),
        ({"hidden_size": "many"}, "hidden_size"),
    ],
)
def test_a_config_of_other_weights_is_refused(saved_model: Path, changes: dict[str, Any], words: str) -> None:
    edit(saved_model / "config.json", **changes)
    assert words in refusal(saved_model).problem


@pytest.mark.parametrize("content", ["not JSON", "{}", '{"version": "1.0"}'])
def test_a_tokenizer_that_does_not_load_is_refused(saved_model: Path, content: str) -> None:
    (saved_model / "tokenizer.json").write_text(content)
    assert "tokenizer" in refusal(saved_model).problem


def add_token(folder: Path, content: str, number: int = 64) -> None:
    file = folder / "tokenizer.json"
    stored = json.loads(file.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    stored["added_tokens"].append({"id": number, "content": content, "special": True, **flags})
    file.write_text(json.dumps(stored))


def test_a_token_beyond_the_embedding_is_refused_where_a_text_uses_it(saved_model: Path) -> None:
    vocabulary = load_tokenizer(ModelConfig(name=str(saved_model))).get_vocab()
    for number in range(len(vocabulary), 64):
        add_token(saved_model, f"<fill{number}>", number)
    add_token(saved_model, "<picture>")
    config = ModelConfig(name=str(saved_model))
    assert check_checkpoint(config) == {"<picture>"}
    tokenizer = load_tokenizer(config)
    assert tokenizer(["w1 w2", "w3"])["input_ids"] == [[5, 6], [7]]
    assert tokenizer("w1")["input_ids"] == [5]
    with pytest.raises(ModelError, match="<picture>"):
        tokenizer(["w1", "w2 <picture>"])


def test_a_text_with_such_a_token_is_found_by_the_plan(
    saved_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = load_tokenizer(ModelConfig(name=str(saved_model))).get_vocab()
    for number in range(len(vocabulary), 64):
        add_token(saved_model, f"<fill{number}>", number)
    add_token(saved_model, "<picture>")
    rows = [f"This is sentence {number}\t这是第{number}句" for number in range(40)]
    pairs = tmp_path / "pairs.tsv"
    study = tmp_path / "study.yaml"
    study.write_text(
        f"name: x\nfixed: {{model.name: {saved_model}, data.languages: [zh], data.num_pairs: 20,\n"
        f"  data.sources: [{{kind: tsv, path: {pairs}}}], training.max_steps: 2, training.batch_size: 4,\n"
        "  training.max_length: 32, evaluation.tasks: [xcopa], evaluation.limit: 4,\n"
        "  evaluation.representation.num_pairs: 4}\ncompare: {method: [mcl]}\n"
    )
    arguments = ["plan", str(study), "--storage", str(tmp_path / "runs")]
    pairs.write_text("\n".join(rows))
    assert cli.main(arguments) == 0
    pairs.write_text("\n".join([*rows[:-1], "A picture <picture> here\t这里有一张图片"]))
    assert cli.main(arguments) == 2
    assert "<picture>" in capsys.readouterr().err


def test_a_padding_token_beyond_the_embedding_pads_with_the_end(saved_model: Path) -> None:
    vocabulary = load_tokenizer(ModelConfig(name=str(saved_model))).get_vocab()
    for number in range(len(vocabulary), 64):
        add_token(saved_model, f"<fill{number}>", number)
    add_token(saved_model, "[PAD]")
    edit(saved_model / "tokenizer_config.json", pad_token="[PAD]")
    tokenizer = load_tokenizer(ModelConfig(name=str(saved_model)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_ids_that_end_a_text_are_part_of_what_a_model_is(saved_model: Path) -> None:
    file = saved_model / "generation_config.json"
    config = ModelConfig(name=str(saved_model))
    stated = json.loads((saved_model / "config.json").read_text()).get("eos_token_id")
    file.unlink(missing_ok=True)
    plain = describe(config).fingerprint
    prints = []
    for content in ({"eos_token_id": stated}, {"eos_token_id": stated, "temperature": 0.7}):
        file.write_text(json.dumps(content))
        prints.append(describe(config).fingerprint)
    assert prints == [plain, plain]  # says the same, or what a study says itself
    file.write_text(json.dumps({"eos_token_id": [2, 7]}))
    other = describe(config).fingerprint
    file.write_text(json.dumps({"eos_token_id": [7, 9]}))
    assert len({plain, other, describe(config).fingerprint}) == 3


@pytest.mark.parametrize("change", [{"repetition_penalty": 1.5}, {"suppress_tokens": [5]}, {"no_repeat_ngram_size": 2}])
def test_changes_of_logits_are_part_of_what_a_trial_is(
    change: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(Path(pickled.__file__).parent / "embedded", folder)
    (folder / "manifest.json").unlink()
    file = folder / "generation_config.json"
    arguments = ["eval", str(folder), "--tasks", "xcopa", "--languages", "en", "--limit", "2", "--json"]
    ids = []
    for content in ({}, {"repetition_penalty": 1.0, "top_p": 0.6, "do_sample": False}, change):
        file.write_text(json.dumps({"eos_token_id": 2, **content}))
        assert cli.main([*arguments, "--storage", str(tmp_path / "runs")]) == 0
        ids.append(json.loads(capsys.readouterr().out)["trial_id"])
    assert ids[0] == ids[1] != ids[2]
    edit(folder / "config.json", **change)  # states the same in both files: config.json alone tells the difference
    assert describe(ModelConfig(name=str(folder))).fingerprint != ids[2]


def test_the_shipped_model_keeps_its_name() -> None:
    assert describe(ModelConfig()).fingerprint.startswith(SHIPPED)


SHIPPED = "4d50b1af407a1356"


def with_code(folder: Path) -> None:
    (folder / "configuration_own.py").write_text(
        "from transformers import LlamaConfig\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    )
    (folder / "modeling_own.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_own import OwnConfig\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    names = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    edit(folder / "config.json", model_type="own", architectures=["OwnForCausalLM"], auto_map=names)


def test_code_of_a_folder_runs_only_when_it_is_pinned(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with_code(saved_model)
    assert "trust_remote_code: true" in refusal(saved_model).fix
    unpinned = refusal(saved_model, trust_remote_code=True)
    digest = code_digest(saved_model)
    assert f"model.revision: {digest}" in unpinned.fix
    assert "modeling_own.py" in unpinned.fix
    pinned = ModelConfig(name=str(saved_model), trust_remote_code=True, revision=digest)
    check_checkpoint(pinned)
    assert type(load_model(pinned, cache=None).model).__name__ == "OwnForCausalLM"
    first = describe(pinned).fingerprint
    with (saved_model / "modeling_own.py").open("a") as file:
        file.write("# changed\n")
    assert "does not pin it" in refusal(saved_model, trust_remote_code=True, revision=digest).problem
    again = pinned.model_copy(update={"revision": code_digest(saved_model)})
    assert describe(again).fingerprint != first


def test_code_that_writes_texts_runs_only_when_it_is_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library runs this file when it loads a model, and no configuration names it."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, victim = tmp_path / "model", tmp_path / "victim"
    shutil.copytree(Path(pickled.__file__).parent / "embedded", folder)
    (folder / "manifest.json").unlink()
    (folder / "custom_generate").mkdir()
    code = f"open({str(victim)!r}, 'w').close()\ndef generate(model, **rest):\n    raise NotImplementedError\n"
    (folder / "custom_generate" / "generate.py").write_text(code)
    arguments = ["eval", str(folder), "--tasks", "xcopa", "--languages", "en", "--limit", "2"]
    arguments += ["--storage", str(tmp_path / "runs"), "--set", "model.trust_remote_code=true"]
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err
    assert "generate.py" in shown
    assert not victim.exists()
    digest = code_digest(folder)
    assert digest in shown
    assert cli.main([*arguments, "--set", f"model.revision={digest}"]) == 0
    assert victim.exists()


@pytest.mark.parametrize("trusted", [False, True])
def test_a_tokenizer_of_another_repository_is_refused(saved_model: Path, trusted: bool) -> None:
    names = {"AutoTokenizer": ["some/where--tokenization_own.OwnTokenizer", None]}
    edit(saved_model / "tokenizer_config.json", auto_map=names)
    digest = code_digest(saved_model)
    config = {"trust_remote_code": True, "revision": digest} if trusted else {}
    if trusted:
        assert "some/where" in refusal(saved_model, **config).problem
    else:
        check_checkpoint(ModelConfig(name=str(saved_model)))


@pytest.mark.parametrize("threshold", [None, 1000])
def test_weights_without_checksums_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold: int | None
) -> None:
    """`torch.serialization.set_crc32_options(False)` leaves archives whose ends are equal for other weights."""
    if threshold is not None:
        monkeypatch.setattr(models_describe, "WHOLE_FILE_BYTES", threshold)
    monkeypatch.setattr(models_describe, "EDGE_BYTES", 1000)
    folder = tmp_path / "pickled"
    model = build_model("llama")
    config = ModelConfig(name=str(folder))
    prints, loaded = [], []
    torch.serialization.set_crc32_options(False)
    try:
        for seed in (0, 1):
            torch.manual_seed(seed)
            model.model.layers[1].mlp.up_proj.weight.data.normal_()
            save_pickled(model, folder)
            prints.append(describe(config).fingerprint)
            loaded.append(load_model(config, cache=None).model.state_dict()["model.layers.1.mlp.up_proj.weight"])
            assert torch.equal(loaded[-1], model.model.layers[1].mlp.up_proj.weight)
    finally:
        torch.serialization.set_crc32_options(True)
    assert prints[0] != prints[1]


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "pickled"
    save_pickled(build_model("llama"), folder)
    config = ModelConfig(name=str(folder))
    load_model(config, cache=None)
    (made,) = [path for path in (cache / "models").iterdir() if path.is_dir()]
    left = made.rename(made.with_name(f".{made.name}.x1y2"))
    load_model(config, cache=None)
    assert made.is_dir()
    assert not left.exists()


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece reads the file")
def test_a_tokenizer_that_needs_a_reader_names_it(saved_model: Path) -> None:
    (saved_model / "tokenizer.json").unlink()
    (saved_model / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    (saved_model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    assert "pip install sentencepiece, which reads tokenizer.model" in refusal(saved_model).fix


def test_code_of_another_repository_is_refused(saved_model: Path) -> None:
    with_code(saved_model)
    edit(saved_model / "config.json", auto_map={"AutoModelForCausalLM": "some/where--modeling_own.OwnForCausalLM"})
    error = refusal(saved_model, trust_remote_code=True, revision="0" * 40)
    assert "some/where" in error.problem


@pytest.mark.parametrize(
    ("name", "plain", "revision"),
    [
        ("facebook/xglm-564M@refs/pr/4", "facebook/xglm-564M", "refs/pr/4"),
        ("a/b@v1.0", "a/b", "v1.0"),
        ("gpt2@" + "a" * 40, "gpt2", "a" * 40),
        ("./a@b", "./a@b", None),
        ("/x/y@z", "/x/y@z", None),
        ("a/b/c@d", "a/b/c@d", None),
    ],
)
def test_a_hub_id_may_name_its_revision(name: str, plain: str, revision: str | None) -> None:
    config = ModelConfig(name=name)
    assert (config.name, config.revision) == (plain, revision)
    assert ModelConfig.model_validate(config.model_dump()) == config
    if revision:
        assert ModelConfig(name=plain, revision=revision) == config
        with pytest.raises(ValueError, match="leave one of them out"):
            ModelConfig(name=name, revision="other")


def test_a_folder_with_the_sign_in_its_name_is_a_folder(saved_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_model.rename(saved_model.with_name("tiny@2"))
    monkeypatch.chdir(folder.parent)
    config = ModelConfig(name="tiny@2")
    assert config.revision is None
    assert describe(config).folder == str(folder)


def test_a_folder_has_no_revision(saved_model: Path) -> None:
    assert "which has none" in refusal(saved_model, revision="main").problem


def test_the_command_scores_pickled_weights_as_it_scores_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the shipped tokenizer, so that texts are read."""
    shipped = Path(pickled.__file__).parent / "embedded"
    scores = []
    for kind in ("safe", "pickled"):
        folder = tmp_path / kind
        shutil.copytree(shipped, folder)
        (folder / "manifest.json").unlink()
        if kind == "pickled":
            model = transformers.AutoModelForCausalLM.from_pretrained(folder)
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
            (folder / "model.safetensors").unlink()
        arguments = ["eval", str(folder), "--tasks", "xcopa", "--languages", "en,zh", "--limit", "6", "--json"]
        assert cli.main(arguments) == 0
        scores.append(json.loads(capsys.readouterr().out)["scores"])
    assert scores[0] == scores[1]
