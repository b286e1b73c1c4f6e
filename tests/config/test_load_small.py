"""The small form of a study file: what it replaces, what it keeps, and where its mistakes are reported."""

from pathlib import Path

import pytest

from afp_ray.config import StudyConfig
from afp_ray.config.load import load_study
from afp_ray.errors import ConfigError
from afp_ray.ledger import study_hash

FULL = """\
name: table
description: a comparison
objective: {metric: xcopa, split: validation, direction: maximize}
fixed:
  model.name: facebook/xglm-564M
  data.sources:
    - {kind: opus100, path: "${AFP_DATA_DIR}/opus100"}
  data.num_pairs: 100000
  training: {max_steps: 5000, precision: bf16}
  evaluation.representation.source: {kind: flores, path: "${AFP_DATA_DIR}/flores"}
compare: {method: [base, mcl, afp]}
seeds: [0, 1, 2]
tune:
  loss.temperature: {low: 0.01, high: 0.5, log: true}
budget: {trials: 20, gpu_hours: 5}
runtime: {executor: ray, gpus_per_worker: 1, cpus_per_worker: 4}
published: [coit_en_zh]
"""
SMALL = """\
small:
  fixed:
    model.name: embedded
    data:
      sources: null
      num_pairs: 40
    training.max_steps: 3
    evaluation.representation.source: null
  seeds: [7]
  tune: {}
  budget: {trials: 1}
  runtime: {executor: local}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "table.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path, *overrides: str, small: bool = True) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_study(path, overrides, small=small)
    return caught.value


def test_fixed_is_merged_by_name_and_a_null_takes_a_name_out(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, FULL + SMALL), small=True)
    assert study.fixed == {
        "model.name": "embedded",
        "data.num_pairs": 40,
        "training.max_steps": 3,
        "training.precision": "bf16",
    }


def test_every_other_field_is_replaced_whole_and_what_is_not_named_stays(tmp_path: Path) -> None:
    path = write(tmp_path, FULL + SMALL)
    full, study = load_study(path), load_study(path, small=True)
    assert (study.seeds, study.tune, study.budget.trials, study.budget.gpu_hours) == ((7,), {}, 1, None)
    assert (study.runtime.executor, study.runtime.gpus_per_worker, study.runtime.cpus_per_worker) == ("local", 0, 1)
    assert (study.compare, study.objective, study.published) == (full.compare, full.objective, full.published)
    compared = SMALL + "  compare: {method: [base], loss.layer: [0, 1]}\n"
    assert load_study(write(tmp_path, FULL + compared), small=True).compare == {
        "method": ("base",),
        "loss.layer": (0, 1),
    }


def test_a_small_form_is_a_study_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path, FULL + SMALL)
    study = load_study(path, small=True)
    assert (study.name, study.small) == ("table-small", {})
    assert StudyConfig.model_validate_json(study.model_dump_json()) == study
    plain = write(tmp_path, FULL.replace("name: table", "name: table-small"))
    assert study_hash(study) != study_hash(load_study(plain))


def test_the_full_form_is_as_if_it_had_no_small_one(tmp_path: Path) -> None:
    full = load_study(write(tmp_path, FULL + SMALL))
    plain = load_study(write(tmp_path, FULL))
    assert full.model_copy(update={"small": {}}) == plain
    assert study_hash(full) == study_hash(plain)
    assert set(full.small) == {"fixed", "seeds", "tune", "budget", "runtime"}


def test_a_set_comes_after_the_small_form(tmp_path: Path) -> None:
    path = write(tmp_path, FULL + SMALL)
    study = load_study(path, ["training.max_steps=9", "seeds=[1, 2]", "name=other"], small=True)
    assert (study.fixed["training.max_steps"], study.seeds, study.name) == (9, (1, 2), "other")
    assert load_study(path, ["training.max_steps=9"]).fixed["training.max_steps"] == 9


def test_a_study_without_a_small_form_says_what_to_add(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    error = refused(path)
    assert str(path) in error.where
    assert "no small form" in error.problem
    assert "small:" in error.fix


MISTAKES = [
    # a line of the small form, what replaces it, line:column (FULL has 17 lines), words of the message
    ("training.max_steps: 3", "training.max_stepz: 3", "24:5", "unknown field 'training.max_stepz'"),
    ("training.max_steps: 3", "training.max_steps: few", "24:25", "training.max_steps"),
    ("training.max_steps: 3", "loss.layer: null", "24:5", "takes out loss.layer"),
    ("num_pairs: 40", "num_pairs: -1", "23:18", "data.num_pairs = -1"),
    ("num_pairs: 40", "num_pears: 40", "23:7", "unknown field 'data.num_pears'"),
    ("  seeds: [7]", "  seeds: [7, 7]", "26:10", "`seeds` repeats a value"),
    ("  seeds: [7]", "  sedes: [7]", "26:3", "no field 'sedes'"),
    ("  seeds: [7]", "  name: tiny", "26:3", "no field 'name'"),
    ("  seeds: [7]", "  training.max_steps: 3", "26:3", "no field 'training.max_steps'"),
    ("  tune: {}", "  compare: {model.name: [embedded]}", "20:17", "model.name is in both"),
    ("  tune: {}", "  tune: {loss.layer: {low: 3, high: 1, int: true}}", "27:28", "low 3 is above high 1"),
    ("  tune: {}", "  objective: {metric: bleurt}", "27:23", "objective.metric"),
    ("{executor: local}", "{executor: locl}", "29:23", "executor"),
]


@pytest.mark.parametrize("small", [False, True], ids=["full", "small"])
@pytest.mark.parametrize("right, wrong, position, words", MISTAKES, ids=[row[1].strip()[:30] for row in MISTAKES])
def test_a_slip_in_the_small_form_is_found_at_its_line_whichever_form_is_loaded(
    tmp_path: Path, right: str, wrong: str, position: str, words: str, small: bool
) -> None:
    assert right in SMALL
    path = write(tmp_path, FULL + SMALL.replace(right, wrong))
    error = refused(path, small=small)
    assert words in error.problem
    assert error.where.startswith(f"{path}:{position}")


def test_near_names_and_fields_of_a_trial_get_a_hint(tmp_path: Path) -> None:
    assert "did you mean seeds?" in refused(write(tmp_path, FULL + SMALL.replace("  seeds:", "  seedz:"))).fix
    misplaced = SMALL.replace("  seeds: [7]", "  model.name: embedded")
    assert "goes under fixed" in refused(write(tmp_path, FULL + misplaced)).fix


def test_a_mistake_of_the_file_that_the_small_form_keeps_points_at_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, FULL.replace("precision: bf16", "precision: fp8") + SMALL)
    assert refused(path).where == f"{path}:9:42"


@pytest.mark.parametrize("text", ["small: 5\n", "small: [a]\n"])
def test_a_small_form_is_a_mapping(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, FULL + text)
    assert refused(path).where.startswith(f"{path}:18:8")


def test_the_small_form_is_not_set_from_the_command_line(tmp_path: Path) -> None:
    error = refused(write(tmp_path, FULL + SMALL), "small={seeds: [1]}", small=False)
    assert error.where == "--set small={seeds: [1]}"
