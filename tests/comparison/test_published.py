"""Published tables: their averages are the means of their cells, and studies name tables that exist."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from fabricate import fabricate, make_study
from pydantic import ValidationError

from afp_ray.comparison import compare
from afp_ray.comparison.published import (
    ReferenceTable,
    baseline,
    check_published,
    is_rounded,
    is_same_model,
    load_published,
    published_names,
)
from afp_ray.config import CHOICE_TASKS, GENERATED_SCORES
from afp_ray.errors import ConfigError
from afp_ray.languages import LANGUAGES
from afp_ray.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = {"shifcon_llama2"}  # groups of languages instead of languages


@pytest.mark.parametrize("name", published_names())
def test_every_printed_average_is_the_mean_of_its_cells(name: str) -> None:
    table = load_published(name)
    for model in table.models:
        for row in model.rows:
            cells = table.cells(row)
            for shots, printed in row.averages.items():
                own = [Decimal(str(value)) for key, value in cells.items() if shots in ("all", key[2])]
                agrees = abs(sum(own) / len(own) - printed) <= Decimal(1).scaleb(printed.as_tuple().exponent) / 2
                assert agrees != (shots in row.misprints), (model.label, row.label, shots)


def test_one_average_alone_is_misprinted() -> None:
    found = [
        (name, model.label, row.label, shots)
        for name in published_names()
        for model in load_published(name).models
        for row in model.rows
        for shots in row.misprints
    ]
    assert found == [("translation_flores", "XGLM-564M", "base", 5)]


@pytest.mark.parametrize("name", published_names())
def test_a_table_speaks_of_our_methods_tasks_and_languages(name: str) -> None:
    table = load_published(name)
    assert all(method in METHODS for model in table.models for row in model.rows for method in row.methods)
    assert all(
        0 <= value <= 100 for model in table.models for row in model.rows for part in row.values for value in part
    )
    if name not in NOT_OURS:
        for column in table.columns:
            task, _, language = column.partition("/")
            assert task in (*CHOICE_TASKS, *GENERATED_SCORES)
            assert language in LANGUAGES
            assert language in table.languages


def test_every_study_names_tables_that_exist() -> None:
    for file in ROOT.glob("search_spaces/**/*.yaml"):
        check_published(yaml.safe_load(file.read_text("utf-8")).get("published", []))


def test_known_cells_are_where_they_belong() -> None:
    coit = load_published("coit_en_zh")
    assert coit.cells(coit.models[0].rows[2])["pawsx", "zh", 5] == 56.1
    assert baseline("facebook/xglm-564M")["xnli", "sw", 0] == pytest.approx(0.361)
    assert baseline("/models/PolyLM-13B")["xwinograd", "zh", 0] == pytest.approx(0.766)
    assert baseline("embedded") == {}


@pytest.mark.parametrize(
    "value, printed, expected",
    [("48.15", "48.1", True), ("48.15", "48.2", True), ("6.15", "6.0", False), ("47.825", "47.83", True)],
)
def test_a_five_may_be_rounded_either_way(value: str, printed: str, expected: bool) -> None:
    assert is_rounded(Decimal(value), Decimal(printed)) is expected


@pytest.mark.parametrize(
    "ours, expected", [("facebook/xglm-564M", True), ("/data/xglm-564m/", True), ("xglm-1.7B", False), ("", False)]
)
def test_a_folder_with_the_checkpoints_name_is_the_checkpoint(ours: str, expected: bool) -> None:
    assert is_same_model("facebook/xglm-564M", ours) is expected
    assert is_same_model(None, ours) is False


def a_table(**changes: Any) -> dict[str, Any]:
    row = {"methods": ["base"], "values": [[50.0], [40.0]], "averages": {"all": 45.0}, **changes}
    return {
        "title": "t",
        "source": "s",
        "setting": "bilingual",
        "languages": ["en", "zh"],
        "metric": "accuracy",
        "shots": [0],
        "columns": ["xnli/en", "xnli/zh"],
        "models": [{"model": None, "label": "m", "confidence": "low", "reason": "r", "rows": [row]}],
    }


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"averages": {"all": 46.0}}, "the mean of its cells is 45"),
        ({"misprints": {"all": "it agrees"}}, "is printed as 45"),
        ({"values": [[50.0]]}, "does not have 2 columns of 1 values"),
    ],
)
def test_a_table_that_does_not_add_up_is_refused(changes: dict[str, Any], words: str) -> None:
    ReferenceTable.model_validate(a_table())
    with pytest.raises(ValidationError, match=words):
        ReferenceTable.model_validate(a_table(**changes))


def test_a_claim_that_the_cells_do_not_give_is_refused() -> None:
    rows = [{"methods": ["base"], "values": [[50.0], [40.0]]}, {"methods": ["afp"], "values": [[52.0], [41.0]]}]
    claim = {"text": "c", "better": ["afp"], "than": ["base"], "delta": "1.5"}
    models = [{"model": None, "label": "m", "confidence": "low", "reason": "r", "rows": rows}]
    ReferenceTable.model_validate({**a_table(), "models": models, "claims": [claim]})
    with pytest.raises(ValidationError, match=r"prints 1.6, the mean difference of the cells is 1.5"):
        ReferenceTable.model_validate({**a_table(), "models": models, "claims": [{**claim, "delta": "1.6"}]})


def test_an_unknown_table_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="no published table 'table_1'") as caught:
        check_published(["table_1"])
    assert "coit_en_zh" in caught.value.allowed


def test_the_paper_stands_beside_the_same_cells_of_ours(tmp_path: Path) -> None:
    """XNLI at 0 shots is all that the fabricated study shares with the table of five languages."""
    study = make_study(methods=("base", "cit")).model_copy(update={"published": ("mit_vs_cit_xnli", "baselines_0shot")})
    paths = fabricate(
        tmp_path, methods=("base", "cit"), accuracy={"base": 0.5, "cit": 0.7}, with_failure=False, study=study
    )
    comparison = compare(paths)
    assert [(table.table, table.model) for table in comparison.published] == [
        ("mit_vs_cit_xnli", "XGLM-564M"),
        ("mit_vs_cit_xnli", "BLOOM-560M"),
    ]  # the untrained checkpoints are none of ours, so their table says nothing here
    table = comparison.published[0]
    assert table.is_same_model is False
    base, mit, cit = table.rows
    assert (base.arm, mit.arm, cit.arm) == ("base", None, "cit")
    ours = {(cell.task, cell.language, cell.shots): cell for arm in comparison.arms[1:] for cell in arm.cells}
    for cell in cit.cells:
        own = ours.get((cell.task, cell.language, cell.shots))
        assert cell.ours == (own.mean if own else None)
        assert cell.vs_base == (own.vs_base.delta if own and own.vs_base else None)
    by_place = {(cell.language, cell.shots): cell for cell in cit.cells}
    assert by_place["zh", 0].paper == pytest.approx(0.422)
    assert by_place["zh", 0].paper_vs_base == pytest.approx(0.422 - 0.376)
    assert by_place["th", 0].ours is None
    assert by_place["zh", 5].ours is None
    shared = [by_place[code, 0] for code in ("en", "zh", "sw")]
    assert cit.mean.paper == pytest.approx(sum(cell.paper for cell in shared) / 3)
    assert cit.mean.ours == pytest.approx(sum(cell.ours or 0 for cell in shared) / 3)
    assert cit.mean.vs_base == pytest.approx(sum(cell.vs_base or 0 for cell in shared) / 3)
    assert cit.mean.ci95 is not None
    assert cit.mean.ci95[0] < (cit.mean.vs_base or 0) < cit.mean.ci95[1]
    assert all(cell.vs_base is None for cell in base.cells)
    assert mit.mean.ours is None
    assert mit.mean.paper == pytest.approx(0.422), "over the cells that the study scored, as the rows beside it"


def test_an_arm_without_pairs_is_not_set_beside_one_that_has_them(tmp_path: Path) -> None:
    study = make_study(methods=("base", "afp")).model_copy(update={"published": ("figure_4b",)})
    study = study.model_copy(update={"compare": {"method": ("base", "afp", "bloomz_560m")}})
    paths = fabricate(
        tmp_path,
        methods=("base", "afp", "bloomz_560m"),
        accuracy={"base": 0.5, "afp 0": 0.8, "afp 50": 0.7, "bloomz_560m 0": 0.6, "bloomz_560m 50": 0.6},
        with_failure=False,
        study=study,
        num_instructions=(0, 50),
    )
    (claim,) = compare(paths).published[0].claims
    assert claim.arm == "afp 50"
