"""Presets: how a study trains on a card, by the memory that is computed for its own model."""

import json
from pathlib import Path

import pytest

from afp_ray.config.load import load_study
from afp_ray.errors import ConfigError
from afp_ray.planning import presets
from afp_ray.planning.presets import FORMS, choose_preset
from services import cli
from services.studies import load

STUDY = "name: tight\nfixed: {training.batch_size: 64, training.pair_batch_size: 512, training.max_length: 128}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY + "compare: {method: [base, mcl, afp]}\n")
    return path


def test_a_card_with_room_takes_every_weight_and_the_whole_batch(file: Path) -> None:
    preset = choose_preset(load_study(file), "80gb")
    assert preset.values == {"training.precision": "bf16"}
    assert preset.arm == "afp"
    assert 0 < preset.peak_bytes < preset.usable_bytes


@pytest.mark.parametrize("room", [400_000_000, 150_000_000, 100_000_000])
def test_a_tight_card_is_filled_and_not_overfilled(file: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    card = round((room + 750_000_000) / 0.94)
    monkeypatch.setattr(presets, "CARDS", {"24gb": card})
    study = load_study(file)
    preset = choose_preset(study, "24gb")
    assert preset.peak_bytes <= preset.usable_bytes
    form = {name: value for name, value in preset.values.items() if "_size" not in name}
    assert form in [dict(form) for form in FORMS]
    sizes = [name for name in preset.values if name.endswith("_size")]
    assert sizes  # the batch does not fit in one pass
    chosen = load_study(file, preset.overrides)
    larger = chosen.runtime.model_copy(update={name.partition(".")[2]: preset.values[name] + 1 for name in sizes})
    models = presets._trained(chosen.model_copy(update={"runtime": larger}), {})
    assert max(model.peak(model.asked) for _, model in models) > preset.usable_bytes


def test_a_card_that_holds_nothing_is_refused_with_what_it_takes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "CARDS", {"24gb": 800_000_000, "48gb": 48 * 10**9})
    with pytest.raises(ConfigError, match="at least") as caught:
        choose_preset(load_study(file), "24gb")
    assert caught.value.allowed == "larger: 48gb"


def test_values_stand_where_the_file_has_them_and_below_what_is_set(file: Path) -> None:
    file.write_text(STUDY.replace("{", "{training.precision: fp32, "))
    assert load(str(file), preset="24gb").fixed["training.precision"] == "bf16"
    kept = load(str(file), ["training.precision=bf16_resident"], preset="24gb")
    assert kept.fixed["training.precision"] == "bf16_resident"
    file.write_text(STUDY + "compare: {training.precision: [fp32, bf16]}\n")
    assert "training.precision" not in load(str(file), preset="24gb").fixed


def test_the_record_of_a_study_keeps_what_a_preset_chose(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "CARDS", {"24gb": 1_100_000_000})
    study = load(str(file), preset="24gb")
    record = file.with_name("study.json")  # as a run writes it, and a resumed study reads it
    record.write_text(json.dumps(study.model_dump(mode="json")))
    assert load(str(record)) == study
    assert study.runtime.pair_chunk_size is not None


def test_the_command_says_what_was_chosen_and_what_it_takes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(file), "--preset", "24gb", "--json", "--storage", str(file.parent)]) == 0
    shown = capsys.readouterr()
    json.loads(shown.out)
    assert 'preset 24gb  training.precision="bf16"' in shown.err
    assert "GB computed for arm afp, of 21.8 GB" in shown.err
    assert cli.main(["plan", str(file), "--preset", "12gb"]) == 2
    assert "allowed  24gb, 48gb, 80gb" in capsys.readouterr().err


def test_an_untrained_study_has_nothing_to_choose(file: Path) -> None:
    file.write_text("name: base\ncompare: {method: [base]}\n")
    assert choose_preset(load_study(file), "24gb").values == {}
