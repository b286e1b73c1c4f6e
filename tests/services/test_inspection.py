"""`afp data`: what an arm trains on is what a trial draws, measured by its own tokenizer, and written whole."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from afp_ray.config.load import load_study
from afp_ray.data import embedded
from afp_ray.planning.recipe import recipe_of
from afp_ray.trial.prepare import draw_rows, read_candidates
from services import cli
from services.inspection import spread
from services.studies import find

STUDY = """
name: small
fixed:
  model.name: embedded
  data.languages: [zh, th]
  data.num_pairs: 40
  data.num_instructions: 60
  training.max_steps: 1
  training.max_length: 24
  evaluation.tasks: [xcopa]
  evaluation.limit: 8
  evaluation.representation.num_pairs: 8
compare: {method: [base, cit, afp]}
"""


@pytest.fixture
def study(tmp_path: Path) -> str:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return str(file)


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main(["data", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_inspect_counts_what_the_trial_draws(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = answer(capsys, "inspect", study)
    recipe = recipe_of(load_study(study))
    assert shown["arm"] == recipe.arm == "afp"
    assert shown["other_arms"] == ["cit"]
    drawn = draw_rows(recipe.config, read_candidates(recipe.config))
    mix = Counter((row.prompt_language, row.response_language) for row in drawn.instructions)
    assert {(cell["prompt"], cell["response"]): cell["rows"] for cell in shown["mix"] if cell["rows"]} == mix
    pairs = Counter(pair.target_language for pair in drawn.pairs)
    assert {row["language"]: row["pairs_drawn"] for row in shown["amounts"]} == {"en": 0, **pairs}
    assert [row["source"] for row in shown["samples"][:5]] == [pair.source for pair in drawn.pairs[:5]]
    assert [row["target"] for row in shown["samples"][5:]] == [row.response for row in drawn.instructions[:5]]
    assert all(row["read"] == row["kept"] for row in shown["sources"])


def test_lengths_and_truncation_are_those_of_the_models_tokenizer(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from afp_ray.data.tokens import JOINT
    from afp_ray.models.load import load_tokenizer

    shown = answer(capsys, "inspect", study, "--arm", "cit")
    recipe = recipe_of(load_study(study), "cit")
    rows = draw_rows(recipe.config, read_candidates(recipe.config)).instructions
    tokenizer = load_tokenizer(recipe.config.model)
    own = [row for row in rows if row.response_language == "th"]
    tokens = [len(tokenizer(row.response, add_special_tokens=False)["input_ids"]) for row in own]
    found = next(row for row in shown["lengths"] if (row["what"], row["language"]) == ("responses", "th"))
    assert found["rows"] == len(own)
    assert found["per"] == "character"
    assert found["tokens"]["max"] == max(tokens)
    assert found["tokens"]["mean"] == pytest.approx(sum(tokens) / len(tokens))
    characters = sum(len("".join(row.response.split())) for row in own)
    assert found["fertility"] == pytest.approx(sum(tokens) / characters)
    wholes = [len(tokenizer(row.prompt + JOINT + row.response)["input_ids"]) + 1 for row in own]
    cut = next(row for row in shown["truncation"] if (row["what"], row["language"]) == ("instructions", "th"))
    assert cut["rows_cut"] == pytest.approx(sum(whole > 24 for whole in wholes) / len(wholes))
    assert 0 < cut["rows_lost"] < cut["rows_cut"] < 1
    assert not [row for row in shown["lengths"] if row["what"] == "pairs"]


@pytest.mark.parametrize("values, expected", [([4], (4, 4, 4, 4)), ([1, 2, 3, 10], (4, 2.5, 8.95, 10))])
def test_a_spread_has_its_closed_form(values: list[int], expected: tuple[float, ...]) -> None:
    found = spread(values)
    assert (found.mean, found.p50, found.p95, found.max) == pytest.approx(expected)


def test_the_table_names_every_language_and_ten_rows(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "inspect", study]) == 0
    out = capsys.readouterr().out
    for words in ("prompt \\ response", "pairs th", "responses zh", "a word", "a character", "10 rows of the draw"):
        assert words in out
    assert "\x1b" not in out
    assert max(len(line) for line in out.splitlines()) <= 160


def test_build_writes_the_drawn_rows_and_refuses_to_replace_them(
    study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    counts = answer(capsys, "build", study, "--output", str(file))
    assert (counts["pairs"], counts["instructions"]) == (40, 60)
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    assert Counter(row["kind"] for row in rows) == {"pair": 40, "instruction": 60}
    recipe = recipe_of(load_study(study))
    drawn = draw_rows(recipe.config, read_candidates(recipe.config))
    assert [row["target"] for row in rows[:40]] == [pair.target for pair in drawn.pairs]
    assert [row["prompt"] for row in rows[40:]] == [row.prompt for row in drawn.instructions]
    before = file.read_bytes()
    assert cli.main(["data", "build", study, "-o", str(file), "--arm", "cit"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert cli.main(["data", "build", study, "-o", str(file), "--arm", "cit", "--force"]) == 0
    assert "0 pairs, 60 instructions of arm cit" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(("rows", "."))] == ["rows.jsonl"]


def test_filter_says_what_it_drops_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four Chinese sides are in Latin script; nothing else is wrong."""
    good = [f"{pair.source}\t{pair.target}" for pair in embedded.translation_pairs("en", "zh", "train")[:30]]
    bad = [f"The {name} is in the garden today.\tThe {name} is here." for name in ("cat", "dog", "boy", "girl")]
    (tmp_path / "en-zh.tsv").write_text("\n".join([*good, *bad]) + "\n")
    file = tmp_path / "study.yaml"
    file.write_text(
        "name: noisy\nfixed:\n  model.name: embedded\n  data.filter: rules\n  data.num_pairs: 20\n"
        f"  data.sources: [{{kind: tsv, path: {tmp_path}/en-zh.tsv}}]\n"
        "  evaluation.tasks: [xcopa]\n  evaluation.representation: null\ncompare: {method: [mcl]}\n"
    )
    shown = answer(capsys, "filter", str(file))
    (row,) = shown["languages"]
    assert (row["kind"], row["language"], row["read"], row["kept"]) == ("pair", "zh", 34, 30)
    assert sum(reason["dropped"] for reason in shown["reasons"]) == 4
    examples = [text for reason in shown["reasons"] for item in reason["examples"] for text in item["sides"].values()]
    assert "The cat is here." in examples
    assert cli.main(["data", "filter", str(file)]) == 0
    out = capsys.readouterr().out
    assert "pairs zh" in out
    assert "The cat is here." in out
    assert answer(capsys, "inspect", str(file))["filtered"] == 4


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["inspect", "STUDY", "--arm", "base"], "arm 'base' trains on nothing"),
        (["inspect", "STUDY", "--arm", "mcl"], "there is no arm 'mcl'"),
        (["inspect", "STUDY", "--small"], "no small form"),
        (["filter", "STUDY"], "has no quality filter"),
        (["build", "STUDY", "-o", "/nowhere/at/all.jsonl"], "cannot be a file"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_a_fix(
    study: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", *(study if word == "STUDY" else word for word in arguments)]) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert "fix" in shown.err
    assert shown.out == ""


def test_a_searched_field_stands_at_its_first_value(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of(load_study(find("demo")))
    assert recipe.searched == {"data.num_pairs": 4000}
    assert recipe.config.data.num_pairs == 4000
