"""Methods, tasks and sources of another package: used as ours are, told by name and package where they fail."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_site import announce, install

import afp_ray as afp
from afp_ray.config import TrialConfig, trial_id
from afp_ray.config.load import load_study
from afp_ray.data import embedded
from afp_ray.evaluation import tasks
from afp_ray.ledger import replay
from afp_ray.methods import METHODS
from afp_ray.store import StudyPaths, read_result
from afp_ray.trial.check import fingerprints
from services import cli

METHODS_GROUP, TASKS_GROUP, SOURCES_GROUP = "afp_ray.methods", "afp_ray.tasks", "afp_ray.sources"


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("afp_example", "afp_broken")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for language in ("zh", "sw"):
        pairs = embedded.translation_pairs("en", language, "train")[:40]
        lines = [f"{pair.source} ||| {pair.target}\n" for pair in pairs]
        (folder / f"corpus.en-{language}").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages that this process sees, still empty."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    forget_modules()


def study_of(corpus: Path) -> dict[str, Any]:
    return {
        "name": "plugged",
        "objective": {"metric": "colours"},
        "fixed": {
            "data.sources": [{"kind": "bitext", "path": str(corpus)}],
            "data.languages": ["zh", "sw"],
            "data.num_pairs": 60,
            "training.max_steps": 2,
            "training.batch_size": 4,
            "evaluation.tasks": ["colours", "xcopa"],
            "evaluation.limit": 8,
            "evaluation.representation": None,
        },
        "compare": {"method": ["base", "mean_align"]},
        "runtime": {"executor": "local"},
    }


def test_a_package_adds_a_method_a_task_and_a_source(
    site: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plan, run, compare and continue through the command; not a line of ours knows the package."""
    install(site)
    file = tmp_path / "plugged.yaml"
    file.write_text(json.dumps(study_of(corpus)), "utf-8")
    storage = ["--storage", str(tmp_path / "runs")]
    assert cli.main(["plan", str(file), *storage]) == 0
    assert "mean_align" in capsys.readouterr().out
    assert cli.main(["run", str(file), *storage, "--json"]) == 0
    capsys.readouterr()
    assert cli.main(["compare", "plugged", *storage, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [arm["arm"] for arm in table["arms"]] == ["base", "mean_align"]
    cells = {(cell["task"], cell["language"]) for cell in table["arms"][1]["cells"]}
    assert cells == {(task, language) for task in ("colours", "xcopa") for language in ("en", "zh", "sw")}

    paths = StudyPaths(tmp_path / "runs", "plugged")
    state = replay(paths.ledger)
    assert state.packages["plugin afp-example"] == "1.0"
    trained = next(trial for trial in state.trials if trial.arm == "mean_align")
    result = read_result(paths.trial(trained.trial_id).result)
    assert result.environment["plugin afp-example"] == "1.0"
    assert result.config["loss"]["pooling"] == "mean" and result.training.steps == 2
    colours = [score for score in result.scores if score.task == "colours"]
    assert {(score.metric, score.n) for score in colours} == {("accuracy", 6)}

    # Another version: trained rows may be others, so the ledger refuses; what was not trained keeps its id.
    before = {trial.arm: trial.trial_id for trial in state.trials}
    assert ids_of(result.config) == before["mean_align"]
    next(site.glob("*.dist-info")).rename(tmp_path / "old")
    newer = tmp_path / "newer"
    install(newer, version="1.1")
    sys.path.insert(0, str(newer))
    try:
        assert cli.main(["resume", "plugged", *storage]) == 2
        error = capsys.readouterr().err
        assert "packages.plugin afp-example: 1.0 -> 1.1" in error and "pip install afp-example==1.0" in error
        assert ids_of(result.config) != before["mean_align"]
        base = read_result(paths.trial(before["base"]).result)
        assert ids_of(base.config) == before["base"]
    finally:
        sys.path.remove(str(newer))


def ids_of(config: dict[str, Any]) -> str:
    trial = TrialConfig.model_validate(config)
    return trial_id(trial, fingerprints(trial))


def test_what_a_task_asks_is_in_the_id(site: Path) -> None:
    install(site)
    evaluation = {"tasks": ["colours"], "representation": None, "languages": ["en"]}
    config = {"method": "base", "evaluation": evaluation, "training": {"max_steps": 0}}
    before = ids_of(config)
    assert ids_of(config) == before
    code = site / "afp_example" / "colours.py"
    code.write_text(code.read_text("utf-8").replace('} ="', '} is"'), "utf-8")
    forget_modules()
    tasks._task_of.cache_clear()  # another process would import the code as it is now
    assert ids_of(config) != before
    tasks._task_of.cache_clear()


def test_the_lists_name_the_package(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(site)
    assert cli.main(["methods"]) == 0
    assert "of the package afp-example 1.0; trains on pairs; fields pinned: 5" in capsys.readouterr().out
    assert cli.main(["tasks"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "colours choice, of the package afp-example 1.0, 3 languages with 12 rows: en zh sw" in shown
    assert cli.main(["task", "show", "colours", "--language", "zh", "--rows", "1"]) == 0
    assert '"牛奶 ="' in capsys.readouterr().out


def refused(study: dict[str, Any]) -> afp.ConfigError:
    with pytest.raises(afp.ConfigError) as caught:
        afp.plan(study)
    return caught.value


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ({METHODS_GROUP: {"afp": "x:Y"}}, "method 'afp' of other has a name that afp_ray has itself"),
        ({TASKS_GROUP: {"mgsm": "x:Y"}}, "task 'mgsm' of other has a name that afp_ray has itself"),
        ({TASKS_GROUP: {"mean": "x:Y"}}, "task 'mean' of other has a name that afp_ray has itself"),
        ({SOURCES_GROUP: {"tsv": "x:Y"}}, "source kind 'tsv' of other has a name that afp_ray has itself"),
        ({METHODS_GROUP: {"mean_align": "x:Y"}}, "two packages give the method 'mean_align'"),
        ({TASKS_GROUP: {"My Task": "x:Y"}}, "'My Task' cannot be the name of a task"),
    ],
)
def test_names_that_clash_are_refused_whatever_the_study_uses(
    site: Path, groups: dict[str, dict[str, str]], problem: str
) -> None:
    install(site)
    announce(site, "other", "2.0", groups)
    with pytest.raises(afp.ConfigError) as caught:
        afp.load("demo")
    assert caught.value.problem == problem
    assert "other 2.0" in caught.value.where and "other" in caught.value.fix


BROKEN = {
    "method_gone": "afp_broken:GONE",
    "method_list": "afp_broken:LIST",
    "method_pins": "afp_broken:PINS",
    "method_bad": "afp_broken:BAD",
}


@pytest.mark.parametrize(
    ("method", "problem", "fix"),
    [
        ("method_gone", "cannot be loaded: AttributeError", "mend or update broken"),
        ("method_list", "'method_list' is a list", "mend broken"),
        ("method_pins", "pins 'loss.poling', which is no field", "did you mean loss.pooling?"),
        ("method_bad", "pins loss.pooling = 'median': Input should be 'last', 'mean' or 'max'", "mend broken"),
    ],
)
def test_a_method_that_does_not_serve_is_told_with_its_package(
    site: Path, corpus: Path, method: str, problem: str, fix: str
) -> None:
    announce(site, "broken", "3.1", {METHODS_GROUP: BROKEN})
    lines = ["LIST = []", "PINS = {'loss.poling': 'mean'}", "BAD = {'loss.pooling': 'median'}"]
    (site / "afp_broken.py").write_text("\n".join(lines), "utf-8")
    error = refused({"name": "x", "compare": {"method": ["base", method]}})
    assert problem in str(error)
    assert fix in error.fix
    assert "broken 3.1" in str(error)


def test_tasks_and_sources_that_raise_are_told_with_their_package(site: Path, corpus: Path) -> None:
    announce(
        site,
        "broken",
        "3.1",
        {TASKS_GROUP: {"torn": "afp_broken:TASK"}, SOURCES_GROUP: {"mud": "afp_broken:SOURCE"}},
    )
    (site / "afp_broken.py").write_text(
        """
from afp_ray.data.readers.pair_source import PairSource
from afp_ray.evaluation.task import Task
ROW = {"id": "1", "content_id": "1"}
TASK = Task(name="torn", fields=(), render=lambda row, *_: row["premise"], rows=lambda language, part: [ROW])
SOURCE = PairSource(locate=lambda path, *_: (path / "rows",), read=lambda files, *_: iter([int(files[0].read_text())]))
""",
        "utf-8",
    )
    error = refused({"name": "x", "fixed": {"evaluation.tasks": ["torn"]}, "compare": {"method": ["base"]}})
    assert error.problem == "task 'torn' cannot render a row: KeyError: 'premise'"
    assert error.where == "broken 3.1 (afp_ray.tasks: torn = afp_broken:TASK)"
    (corpus / "rows").write_text("many", "utf-8")
    study = {**study_of(corpus), "compare": {"method": ["base", "mcl"]}, "objective": {"metric": "xcopa"}}
    study["fixed"] |= {"data.sources": [{"kind": "mud", "path": str(corpus)}], "evaluation.tasks": ["xcopa"]}
    error = refused(study)
    assert error.problem.startswith("source kind 'mud' cannot read its files: ValueError: invalid literal")
    assert "broken 3.1" in error.where and "mend or update broken" in error.fix


def test_names_that_nobody_has_list_those_that_are_installed(site: Path) -> None:
    install(site)
    with pytest.raises(afp.ConfigError) as caught:
        load_study({"name": "x", "compare": {"method": ["base", "mean_aling"]}})
    assert "mean_align" in caught.value.allowed and caught.value.fix == "did you mean mean_align?"
    assert set(METHODS) > {"afp", "mean_align"} and len(METHODS) == len(set(METHODS))
    schema = TrialConfig.model_json_schema()
    assert "mean_align" in json.dumps(schema) and "colours" in json.dumps(schema) and "bitext" in json.dumps(schema)


def test_a_language_that_the_task_lacks_is_told_with_those_it_has(site: Path) -> None:
    install(site)
    study = {"name": "x", "fixed": {"evaluation.tasks": ["colours"], "data.languages": ["th"]}}
    with pytest.raises(afp.UserError) as caught:
        afp.plan({**study, "compare": {"method": ["base"]}})
    assert caught.value.problem == "colours has no validation rows in 'th'"
    assert set(caught.value.allowed.split(", ")) == {"en", "zh", "sw"}
