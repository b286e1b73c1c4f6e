"""The paper's comparisons: every study passes `afp plan` where its data is, and every small form runs to its table."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import staged
import staged_hub

from afp_ray.comparison import best, compare
from afp_ray.comparison.published import BASELINES, published_names
from afp_ray.config.load import load_study
from afp_ray.errors import UserError
from afp_ray.ledger import replay
from afp_ray.planning.check import check_study
from afp_ray.records import TrialStatus
from afp_ray.search import make_arms
from afp_ray.store import StudyPaths, read_result
from afp_ray.study import run as run_study
from afp_ray.tracking import background
from services import cli

ROOT = Path(__file__).parent.parent / "search_spaces"
EVERY = sorted(ROOT.glob("**/*.yaml"))
PAPER = sorted((ROOT / "paper").glob("*.yaml"))
NUM_ROWS = 150


def overrides(path: Path) -> list[str]:
    """What makes a study fit the staged rows: fewer pairs, and a staged model where a package holds the weights."""
    study = load_study(path)
    fixed = study.fixed
    found = [f"data.num_pairs={NUM_ROWS}"] if fixed.get("data.num_pairs", 0) > NUM_ROWS else []
    if path.stem in ("xglm_search", "smollm2_search"):
        searched = {name: spec.model_dump(mode="json", exclude_defaults=True) for name, spec in study.tune.items()}
        found.append(f"tune={json.dumps(searched | {'data.num_pairs': {'choices': [50, NUM_ROWS]}})}")
    return [*found, "model.name=facebook/xglm-564M"] if fixed.get("model.name") == "smollm2" else found


@pytest.fixture(scope="module")
def staged_places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("staged")
    return {"data": staged.stage_data(folder / "data", num_rows=NUM_ROWS), "hub": staged_hub.stage_hub(folder / "hub")}


@pytest.fixture
def offline(staged_places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    staged.use(monkeypatch, **staged_places)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all studies, so that a trial that several of them share is trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize("path", EVERY, ids=lambda path: path.stem)
@pytest.mark.usefixtures("offline")
def test_every_study_passes_its_plan(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AFP_STORAGE", str(tmp_path / "runs"))
    study = load_study(path, overrides(path))
    sets = [part for override in overrides(path) for part in ("--set", override)]
    answer = planned([str(path), *sets], capsys)
    assert [arm["arm"] for arm in answer["arms"]] == [arm.name for arm in make_arms(study)]
    assert [arm["problem"] for arm in answer["arms"]] == [None] * len(answer["arms"])
    assert answer["trials"] >= len(answer["arms"])
    assert f"{len(answer['arms'])} arm" in answer["checks"][0]
    if study.small and path not in PAPER:  # those are checked as they run
        assert planned([str(path), "--small"], capsys)["checks"]
    assert not list(tmp_path.iterdir())


def planned(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> Any:
    assert cli.main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


SIZES = {
    "runtime.gpus_per_worker": "0",
    "runtime.cpus_per_worker": "1",
    "runtime.workers_per_trial": "1",
    "runtime.checkpoint_every_s": "null",
    "data.num_pairs": "40",
    "data.num_instructions": "40",
    "training.max_steps": "1",
    "training.batch_size": "4",
    "training.max_length": "64",
    "training.precision": "fp32",
    "evaluation.limit": "2",
    "evaluation.shots": "[0]",
    "evaluation.representation.num_pairs": "4",
    "seeds": "[0]",
}
"""What makes a full form small enough for two cores; the models, sources, tasks and arms stay."""


def run_full(name: str, storage: Path, capsys: pytest.CaptureFixture[str], **sets: str) -> tuple[int, str]:
    """Exit code and output of `afp run` on the full form of a study, at the sizes above."""
    both = {**SIZES, **sets}
    given = [part for field, value in both.items() for part in ("--set", f"{field}={value}")]
    arguments = ["run", str(ROOT / "paper" / f"{name}.yaml"), *given, "--executor", "local", "--storage", str(storage)]
    code = cli.main(arguments)
    return code, capsys.readouterr().out


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(background, "BackgroundProjector", staged.NoProjection)


@pytest.mark.slow
@pytest.mark.usefixtures("offline", "own_cache")
def test_the_published_recipe_runs_on_weights_in_a_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = run_full("afp_en_zh", tmp_path / "runs", capsys)
    assert code == 0, shown
    table = compare(StudyPaths(tmp_path / "runs", "paper-afp-en-zh"))
    assert [row.arm for row in table.arms] == ["base", "mcl", "mit", "cit", "mcl_mit", "afp_paper"]
    assert all(row.mean is not None and {cell.task for cell in row.cells} >= {"xnli", "pawsx"} for row in table.arms)
    assert "accuracy in % on test" in shown


SHARDED = {"runtime.sharding": "none", "runtime.gradient_checkpointing": "false"}
CHECKPOINTS = ("bloomz_560m", "bloomz_7b1", "polylm_1b7", "polylm_13b")


@pytest.mark.slow
@pytest.mark.usefixtures("offline", "own_cache")
def test_published_checkpoints_are_scored_beside_trained_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = run_full("checkpoints", tmp_path / "runs", capsys, **SHARDED)
    assert code == 0, shown
    paths = StudyPaths(tmp_path / "runs", "paper-checkpoints")
    rows = {row.arm: row for row in compare(paths).arms}
    assert len(rows) == 8
    scores = {
        trial.config["model"]["name"]: [score.value for score in read_result(paths.trial(trial.trial_id).result).scores]
        for trial in replay(paths.ledger).trials
        if trial.config["method"] in CHECKPOINTS
    }
    assert set(scores) == {"bigscience/bloomz-560m", "bigscience/bloomz-7b1", "DAMO-NLP-MT/polylm-1.7b",
                           "DAMO-NLP-MT/polylm-13b"}  # fmt: skip
    assert all(scores.values())


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_checkpoint_that_is_not_cached_fails_alone(
    tmp_path: Path,
    staged_places: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """PolyLM lies in no cache and there is no network: BLOOM and BLOOMZ stand in the table without it."""
    hub = tmp_path / "hub"
    hub.mkdir()
    for repository in staged_places["hub"].iterdir():
        if "polylm" not in repository.name:
            (hub / repository.name).symlink_to(repository)
    staged.use(monkeypatch, data=staged_places["data"], hub=hub)
    answer = planned([str(ROOT / "paper" / "checkpoints.yaml"), "--set", "data.num_pairs=40"], capsys)
    problems = {arm["arm"]: arm["problem"] for arm in answer["arms"] if arm["problem"]}
    assert set(problems) == {"polylm_1b7", "polylm_13b"}
    assert all("is not in the local hub cache and not to be had" in problem for problem in problems.values())
    assert answer["trials"] == 12
    methods = {"compare.method": "[base, bloomz_560m, polylm_1b7]"}
    code, shown = run_full("checkpoints", tmp_path / "runs", capsys, **SHARDED, **methods)
    assert code == 3, shown
    counts = Counter(trial.status for trial in replay(StudyPaths(tmp_path / "runs", "paper-checkpoints").ledger).trials)
    assert counts == {TrialStatus.DONE: 3, TrialStatus.FAILED: 1}
    assert "failed, so it is left out: CONFIG: " in shown
    assert "DAMO-NLP-MT/polylm-1.7b" in shown


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_without_data_a_study_of_the_paper_says_what_to_set(
    path: Path, staged_places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    staged.use(monkeypatch, data=tmp_path, hub=staged_places["hub"])
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
    study = load_study(path, ["training.max_steps=2"], small=True)  # two of five or eight
    check_study(study)
    paths = StudyPaths(storage, study.name)
    state = run_study(study, paths)
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
