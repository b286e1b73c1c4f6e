"""The JSON schema of the study file takes what the loader takes, refuses its mistakes, and tells an editor the rest."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from afp_ray.config.document import parse_document, read_document
from afp_ray.config.fields import trial_fields
from afp_ray.config.load import load_study
from afp_ray.config.schema import study_schema
from afp_ray.errors import ConfigError
from services import cli

FILES = sorted((Path(__file__).resolve().parents[2] / "search_spaces").glob("**/*.yaml"))


@cache
def validator() -> Draft202012Validator:
    schema = study_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_study_that_ships_fits_the_schema(file: Path) -> None:
    assert not list(validator().iter_errors(read_document(file).values))


ACCEPTED = """\
name: a
pruner: asha
fixed:
  data: {languages: [zh], filter_limits: {near_duplicate: null}}
  training: {lora.rank: 8, max_steps: 10}
  loss.layer: middle
compare: {method: [base, afp], loss: {pooling: [last, mean]}}
arms: {full: {method: afp}, wide: {training: {batch_size: 32}}}
tune:
  loss: {temperature: {low: 0.1, high: 1, when: {training.batch_size: [8, 16]}}}
  training.learning_rate: {choices: [1.0e-5, 1.0e-4]}
small: {fixed: {training: null, data.languages: [th]}, seeds: [0], budget: {trials: 1}}
"""
MISTAKES = [
    ("fixed: {training.max_stesp: 1}", "fixed"),
    ("fixed: {training: {max_stesp: 1}}", "fixed/training"),
    ("fixed: {loss.temperature: 0}", "fixed/loss.temperature"),
    ("fixed: {loss.pooling: frist}", "fixed/loss.pooling"),
    ("fixed: {seed: 1}", "fixed"),
    ("compare: {method: [base, apf]}", "compare/method/1"),
    ("compare: {method: afp}", "compare/method"),
    ("arms: {full: {loss.poling: mean}}", "arms/full"),
    ("tune: {loss.pooling: {low: 1, high: 2}}", "tune/loss.pooling"),
    ("tune: {loss.temperature: {low: 1}}", "tune/loss.temperature"),
    ("tune: {loss.layer: {choices: [1], wehn: {}}}", "tune/loss.layer"),
    ("small: {name: b}", "small"),
    ("seeds: []", "seeds"),
    ("budgets: {trials: 1}", ""),
]


def test_what_the_loader_takes_fits_the_schema(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(ACCEPTED)
    load_study(file)
    assert not list(validator().iter_errors(read_document(file).values))


@pytest.mark.parametrize(("text", "place"), MISTAKES)
def test_a_mistake_is_refused_by_the_schema_and_by_the_loader(tmp_path: Path, text: str, place: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(f"name: a\n{text}\n")
    with pytest.raises(ConfigError):
        load_study(file)
    errors = list(validator().iter_errors(parse_document(file.read_text(), "study.yaml").values))
    assert {"/".join(map(str, error.absolute_path)) for error in errors} == {place}


def test_every_field_of_a_trial_completes_with_its_text() -> None:
    schema = study_schema()
    names = schema["$defs"]["Fields"]["properties"]
    for name in set(trial_fields()) - {"seed"}:
        assert name in names
        assert schema["$defs"][f"field:{name}"].get("description"), name
    assert "\n" not in json.dumps(schema["$defs"]).replace("\\n", "\n")


def test_the_command_writes_the_schema_and_replaces_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["schema"]) == 0
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    file = tmp_path / "study.schema.json"
    for _ in range(2):
        assert cli.main(["schema", "--output", str(file)]) == 0
    assert json.loads(file.read_text()) == printed == study_schema()
    assert f"$schema={file.name}" in capsys.readouterr().out
    file.write_text('{"title": "another"}')
    assert cli.main(["schema", "--output", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert file.read_text() == '{"title": "another"}'
