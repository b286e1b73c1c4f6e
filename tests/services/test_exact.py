"""Through the command: the rows of a small evaluation have in a large one the scores and texts that they had."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import transformers
from exact_cases import ALL

from afp_ray.models.describe import EMBEDDED_FOLDER
from services import cli

LONGEST_SHORT = 14
"""Tokens after which `longrope` models use other frequencies here: some questions are shorter, some longer."""


def saved(name: str, folder: Path) -> Path:
    """A random model of the embedded vocabulary, with the embedded tokenizer."""
    config = ALL[name]()
    config.vocab_size = 4096
    rope = getattr(config, "rope_parameters", None) or {}
    if "original_max_position_embeddings" in rope:
        rope["original_max_position_embeddings"] = config.original_max_position_embeddings = LONGEST_SHORT
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(EMBEDDED_FOLDER / file, folder / file)
    return folder


def predictions(folder: Path, storage: Path, limit: int, tasks: str) -> dict[tuple[Any, ...], dict[str, Any]]:
    arguments = ["--tasks", tasks, "--languages", "en,zh", "--limit", str(limit), "--split", "test"]
    arguments += ["--set", "evaluation.generation.max_new_tokens=8", "--storage", str(storage)]
    assert cli.main(["eval", str(folder), *arguments]) == 0
    (file,) = storage.glob("trials/*/predictions/test.parquet")
    names = ("task", "language", "shots", "demo_seed", "example_id")
    return {tuple(row[name] for name in names): row for row in pq.read_table(file).to_pylist()}


@pytest.mark.parametrize("name", ["llama longrope", "phi3 longrope", "mamba"])
def test_rows_of_a_small_evaluation_score_the_same_in_a_large_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_CACHE_SCORES", "0")
    folder = saved(name, tmp_path / "model")
    few = predictions(folder, tmp_path / "few", 3, "xcopa,translation")
    many = predictions(folder, tmp_path / "many", 30, "xcopa,translation")
    assert few.keys() < many.keys()
    assert {task for task, *_ in few} == {"xcopa", "translation", "translation_to_pivot"}
    for key, row in few.items():
        other = many[key]
        if row["log_likelihoods"]:
            assert row["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=1e-4)
        assert {**row, "log_likelihoods": None} == {**other, "log_likelihoods": None}
    texts = {row["text"] for row in many.values() if row["text"]}
    assert len(texts) > 30, "a model of any kind of cache writes"


STUDY = """
name: long
fixed:
  model.name: {model}
  data.languages: [zh]
  data.num_pairs: 20
  training.max_steps: 2
  training.max_length: 64
  evaluation.tasks: [xcopa]
  evaluation.representation: null
runtime: {{executor: ray, workers_per_trial: 2, sharding: full}}
compare: {{method: [base, mcl]}}
"""


def test_texts_that_shared_weights_cannot_run_side_by_side_are_refused_by_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.format(model=saved("llama longrope", tmp_path / "model")), "utf-8")
    assert cli.main(["plan", str(study)]) == 2
    said = capsys.readouterr().err
    assert f"beyond {LONGEST_SHORT} tokens" in said
    assert f"set training.max_length: {LONGEST_SHORT}" in said
    assert cli.main(["plan", str(study), "--set", f"fixed.training.max_length={LONGEST_SHORT}"]) == 0
