"""The model of a trial is handed on whole: a folder that stock transformers loads, and a version in MLflow."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fabricate import fabricate, make_config, make_result, make_study
from huggingface_hub import ModelCard
from tiny_models import build_model, build_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from afp_ray.config.model import ModelConfig
from afp_ray.ledger import replay
from afp_ray.models.manifest import verify_manifest
from afp_ray.store import StudyPaths
from afp_ray.training.checkpoint import save_checkpoint
from services import cli
from services.model_export import _licence_of
from services.trial_references import find_trial

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyPaths:
    """A finished study whose confirmed trials have tiny checkpoints, each of its own."""
    paths = fabricate(tmp_path_factory.mktemp("runs"), seeds=(0, 1))
    for number, trial in enumerate(replay(paths.ledger).trials[1:4]):
        save_checkpoint(build_model("llama", seed=number), build_tokenizer(), paths.trial(trial.trial_id).checkpoint)
    return paths


def export(study: StudyPaths, *words: str) -> int:
    return cli.main(["export", *words, "--storage", str(study.storage)])


def logits(folder: Path | str) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True)(IDS).logits)


def test_a_folder_gives_the_logits_of_the_trial_and_says_what_it_is(
    study: StudyPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = find_trial("demo:afp", study.storage)
    folder = tmp_path / "handed" / "on"
    assert export(study, "demo:afp", "--hf", str(folder), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["trial_id"], answer["folder"], answer["form"]) == (trial.trial_id, str(folder), "merged")
    assert torch.equal(logits(folder), logits(trial.files.checkpoint))
    assert AutoTokenizer.from_pretrained(str(folder)).encode("w1 w2") == [5, 6]
    verify_manifest(folder)
    card = ModelCard.load(folder / "README.md")
    assert card.data.language == ["en", "zh", "sw"] and card.data.license == "apache-2.0"
    results = {(item.dataset_type, item.dataset_config): item.metric_value for item in card.data.eval_results}
    scores = {(s.task, s.language): s.value for s in trial.result().scores if s.is_main and s.split == "test"}
    assert results == {cell: pytest.approx(value, abs=1e-4) for cell, value in scores.items()}
    for words in (
        "## Against the base model",
        "[",
        "## Data",
        "## Recipe",
        "## Licence",
        f"afp reproduce {trial.trial_id}",
    ):
        assert words in card.text
    assert export(study, "demo:afp", "--hf", str(folder)) == 2  # it is not empty
    assert "--force" in capsys.readouterr().err
    assert export(study, "demo:afp", "--hf", str(folder), "--force", "--license", "mit") == 0
    assert ModelCard.load(folder / "README.md").data.license == "mit"


def test_merged_adapters_are_told_of(study: StudyPaths, tmp_path: Path) -> None:
    config = make_config(make_study(), "afp", 0, {"training.lora.rank": 4})
    folder = study.storage / "trials" / "10a0000000000000"
    make_result(config, "10a0000000000000", folder, accuracy=0.6, splits=("test",))
    save_checkpoint(build_model("llama"), build_tokenizer(), folder / "checkpoint")
    assert export(study, "10a0", "--hf", str(tmp_path / "lora")) == 0
    text = (tmp_path / "lora" / "README.md").read_text()
    assert "LoRA adapters of rank 4, **merged** into these weights" in text and "Against the base" not in text


def test_a_model_that_was_not_trained_is_exported_as_it_is(study: StudyPaths, tmp_path: Path) -> None:
    assert export(study, "demo:base", "--hf", str(tmp_path / "base")) == 0
    assert torch.isfinite(logits(tmp_path / "base")).all()
    assert "as it is, scored by afp_ray" in (tmp_path / "base" / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo:afp:1", "--hf", "x"], "runtime.keep_checkpoints: all"),
        (["demo:afp"], "nothing was asked for"),
        (["demo", "--optuna", "x", "--hf", "y"], "--optuna exports a study"),
        (["01", "--hf", "x"], "no trial begins with"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    study: StudyPaths, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert export(study, *words) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_refused(study: StudyPaths, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = find_trial("demo:mcl:1", study.storage).files.checkpoint / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 255]))
    assert export(study, "demo:mcl:1", "--hf", str(tmp_path / "x")) == 2
    assert "is damaged" in capsys.readouterr().err and not (tmp_path / "x").exists()
    file.write_bytes(whole)


@pytest.mark.parametrize(
    ("card", "licence"), [("---\nlicense: cc-by-4.0\n---\n# x", "cc-by-4.0"), ("license: mit", ""), (None, "")]
)
def test_the_licence_is_that_of_the_base_models_card(card: str | None, licence: str, tmp_path: Path) -> None:
    save_checkpoint(build_model("llama"), build_tokenizer(), tmp_path / "model")
    if card is not None:
        (tmp_path / "model" / "README.md").write_text(card)
    assert _licence_of(ModelConfig(name=str(tmp_path / "model"))) == licence


def test_the_registry_holds_one_version_a_model_and_an_alias(
    study: StudyPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    uri = f"sqlite:///{study.storage}/mlflow.db"

    def logged(*words: str) -> Any:
        assert export(study, *words, "--mlflow", "--json") == 0
        return json.loads(capsys.readouterr().out)

    best, other, again = logged("demo:best"), logged("demo:mcl"), logged("demo:best")
    assert again == best and (best["registered"], best["alias"]) == ("demo/1", "best")
    assert (other["registered"], other["alias"]) == ("demo/2", "mcl")
    client = mlflow.MlflowClient(tracking_uri=uri)
    assert client.get_model_version_by_alias("demo", "best").version == 1
    model = client.get_logged_model(best["model"])
    assert model.tags["afp.trial_id"] == best["trial_id"] and str(model.status).endswith("READY")
    source = Path(client.get_model_version_by_alias("demo", "best").source.removeprefix("file://"))
    assert torch.equal(logits(source), logits(find_trial("demo:best", study.storage).files.checkpoint))
    assert (source / "README.md").read_text().startswith("---")
