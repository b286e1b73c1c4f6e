"""The paper's comparisons: every study passes `afp plan` where its data is, and every small form runs to its table."""

import re
from pathlib import Path

import pytest
import staged

from afp_ray.comparison import best, compare
from afp_ray.comparison.published import BASELINES, published_names
from afp_ray.config.load import load_study
from afp_ray.errors import UserError
from afp_ray.records import TrialStatus
from afp_ray.search import make_arms
from afp_ray.store import StudyPaths
from afp_ray.tracking import background
from services.driver import check_study, drive
from services.planning import plan_answer

ROOT = Path(__file__).parent.parent / "search_spaces"
EVERY = sorted(ROOT.glob("**/*.yaml"))
PAPER = sorted((ROOT / "paper").glob("*.yaml"))
NUM_ROWS = 150


def overrides(path: Path) -> list[str]:
    """What makes a study fit the staged rows: fewer pairs, and a staged model where a package holds the weights."""
    fixed = load_study(path).fixed
    found = [f"data.num_pairs={NUM_ROWS}"] if fixed.get("data.num_pairs", 0) > NUM_ROWS else []
    return [*found, "model.name=facebook/xglm-564M"] if fixed.get("model.name") == "smollm2" else found


@pytest.fixture(scope="module")
def staged_places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("staged")
    return {"data": staged.stage_data(folder / "data", num_rows=NUM_ROWS), "hub": staged.stage_hub(folder / "hub")}


@pytest.fixture
def offline(staged_places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    staged.use(monkeypatch, **staged_places)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all studies, so that a trial that several of them share is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
@pytest.mark.usefixtures("offline")
def test_every_study_passes_its_plan(path: Path, tmp_path: Path) -> None:
    study = load_study(path, overrides(path))
    answer = plan_answer(study, tmp_path)
    assert [arm.arm for arm in answer.arms] == [arm.name for arm in make_arms(study)]
    assert answer.trials >= len(answer.arms)
    assert answer.checks
    if study.small:
        assert plan_answer(load_study(path, small=True), tmp_path).checks
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_without_data_a_study_of_the_paper_says_what_to_set(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    staged.use(monkeypatch, data=tmp_path, hub=staged.stage_hub(tmp_path / "hub"))
    monkeypatch.delenv("AFP_DATA_DIR")
    with pytest.raises(UserError) as caught:
        check_study(load_study(path))
    assert "AFP_DATA_DIR" in caught.value.problem
    assert "export AFP_DATA_DIR=" in caught.value.fix


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_file_of_the_paper_says_what_it_is(path: Path) -> None:
    comment = path.read_text(encoding="utf-8").partition("\nname: ")[0]
    study, small = load_study(path), load_study(path, small=True)
    is_bilingual = study.fixed["data.languages"] == ["zh"]
    assert ("bilingual" in comment.lower()) == is_bilingual or "multilingual" in comment.lower()
    assert re.search(r"\bbilingual\b" if is_bilingual else r"\bmultilingual\b", study.description, re.IGNORECASE)
    assert f"afp run search_spaces/paper/{path.name}\n" in comment
    assert f"afp run search_spaces/paper/{path.name} --small" in comment
    assert study.name == f"paper-{path.stem.replace('_', '-')}"
    assert study.seeds == (0, 1, 2)
    assert study.objective.split == "validation"
    assert (study.runtime.executor, small.runtime.executor) == ("ray", "local")
    assert not small.tune
    assert small.published == study.published
    assert set(study.published) <= set(published_names())


# The filter and the scores of all instructions go over the whole embedded corpus.
SLOW = {"data_quality", "keep_best"}
SMALL_FORMS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in SLOW else []) for path in PAPER
]


@pytest.mark.parametrize("path", SMALL_FORMS)
def test_every_small_form_runs_to_its_table(path: Path, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AFP_DATA_DIR", raising=False)
    monkeypatch.setattr(background, "BackgroundProjector", staged.NoProjection)
    study = load_study(path, small=True)
    check_study(study)
    paths = StudyPaths(storage, study.name)
    state = drive(study, paths)
    assert (state.closed, {trial.status for trial in state.trials}) == ("complete", {TrialStatus.DONE})
    table = compare(paths)
    assert [row.arm for row in table.arms] == [arm.name for arm in make_arms(study)]
    assert all(row.mean is not None and row.cells for row in table.arms)
    assert all(trial.objective is not None for trial in state.trials)
    beside = {paper.table: paper for paper in table.published}
    assert set(beside) == set(study.published) - {BASELINES}  # untrained scores stand beside the model they are of
    for paper in beside.values():
        assert all(row.arm in {arm.arm for arm in table.arms} for row in paper.rows)
        assert all(any(cell.ours is not None for cell in row.cells) for row in paper.rows)
    chosen = best(paths)
    assert chosen.arm in {row.arm for row in table.arms}
    assert chosen.objective == f"{study.objective.direction} {study.objective.metric}"


def test_every_published_comparison_has_its_study() -> None:
    named = {name for path in PAPER for name in load_study(path).published}
    assert set(published_names()) - named == {"shifcon_llama2"}  # another paper's, in languages it does not list


def test_bilingual_and_multilingual_stand_in_one_table(storage: Path) -> None:
    table = compare(*(StudyPaths(storage, f"paper-{name}-small") for name in ("bilingual", "multilingual")))
    arms = {row.arm: row for row in table.arms}
    assert len(arms) == 6
    assert all({cell.language for cell in row.cells} == {"en", "zh", "th", "tr", "sw"} for row in arms.values())
