"""The package from Python: page and notebook run, answers are those of the commands, mistakes are their texts."""

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fabricate import fabricate
from served import serving

import afp_ray as afp
from services.answers import best_answer, comparison_answer
from services.api import create_app
from services.views.formats import to_csv

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fabricate(tmp_path_factory.mktemp("runs")).storage


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the page and the notebook have their study."""
    folder = tmp_path_factory.mktemp("python")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("AFP_STORAGE", str(folder / "runs"))
        yield folder / "runs"


def test_the_blocks_of_the_page_run_in_order(storage: Path) -> None:
    page = (DOCS / "python.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 5
    names: dict[str, Any] = {}
    with serving(create_app(storage)) as port, contextlib.redirect_stdout(io.StringIO()) as said:
        for block in blocks:
            exec(block.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), names)
    assert "[3 of 3 done]" in said.getvalue()
    assert "did you mean training.max_steps?" in said.getvalue()


def test_the_notebook_shows_what_the_page_ran(storage: Path) -> None:
    """Every cell that ends in an answer has something to show for a notebook; the finished study is not run again."""
    cells = re.split(r"^# %%.*\n", (DOCS / "first_study.py").read_text("utf-8"), flags=re.MULTILINE)
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(cell, names)
        last = next(reversed(cell.strip().splitlines()), "")
        if re.match(r"best$|afp\.", last):
            shown.append(eval(last, names)._repr_html_())
    plan, run, table, best, frame = shown
    assert "finished 3" in plan and "complete" in run
    assert afp.compare("first").headline.text.split(" ")[0] in table
    assert "<td>afp</td>" in table and names["best"].arm in best
    assert names["best"].trials[0] in frame


def test_answers_are_those_of_the_commands(finished: Path) -> None:
    best = afp.best("demo", storage=finished)
    assert best.model_dump() == best_answer(finished, "demo").model_dump()
    assert isinstance(best.config, afp.TrialConfig)
    assert best.config.method == best.arm == "afp"
    table = afp.compare("demo", storage=str(finished))
    assert table.model_dump() == comparison_answer(finished, ["demo"]).model_dump()
    assert afp.status("demo", storage=finished) == afp.status(storage=finished)[0]


def test_the_frame_of_a_comparison_has_the_numbers_of_its_cells(finished: Path) -> None:
    table = afp.compare("demo", storage=finished)
    frame = table.to_frame()
    assert len(frame) == len(to_csv(table).splitlines()) - 1
    for arm in table.arms:
        rows = frame[frame.arm == arm.arm].set_index(["task", "language"])
        for cell in arm.cells:
            row = rows.loc[(cell.task, cell.language)]
            assert row["mean"] == cell.mean
            assert (row["shots"], row["n_seeds"]) == (cell.shots, arm.n_seeds)
            if cell.vs_base is not None:
                assert (row["delta"], row["p"]) == (cell.vs_base.delta, cell.vs_base.p)
    formula = table.model_copy(update={"arms": (table.arms[0].model_copy(update={"arm": "=1"}),)})
    assert set(formula.to_frame().arm) == {"majority", "=1"}


def test_trials_are_a_sequence_and_a_frame(finished: Path) -> None:
    trials = afp.trials("demo", storage=finished)
    frame = trials.to_frame()
    assert list(frame.index) == [trial.trial_id for trial in trials]
    assert len(trials[:2]) == 2 and trials[0].trial_id == frame.index[0]
    assert set(frame.arm) == {"base", "mcl", "afp"}
    assert frame.loc[trials[1].trial_id, "objective"] == pytest.approx(trials[1].objective)


def test_a_notebook_reads_nothing_of_the_data_as_markup(finished: Path) -> None:
    table = afp.compare("demo", storage=finished)
    hostile = table.model_copy(
        update={"arms": (table.arms[0].model_copy(update={"arm": "<script>alert(1)</script>"}), *table.arms[1:])}
    )
    for answer in (hostile, afp.best("demo", storage=finished), afp.status("demo", storage=finished)):
        page = answer._repr_html_()
        assert "<script" not in page and "{" not in re.sub(r"&\w+;", "", page)
    assert "&lt;script&gt;" in hostile._repr_html_()


def test_a_mistake_in_a_mapping_is_shown_where_it_stands() -> None:
    with pytest.raises(afp.ConfigError) as caught:
        afp.load({"name": "x", "compare": {"method": ["base", "afpp"]}})
    assert re.match(r"<study>:\d+:\d+", caught.value.where)
    assert '"afpp"' in caught.value.problem
    with pytest.raises(afp.ConfigError, match="of the type object"):
        afp.load({"name": "x", "description": object()})
    with pytest.raises(afp.ConfigError, match="finite"):
        afp.load({"name": "x", "fixed": {"loss.temperature": float("nan")}})
    with pytest.raises(afp.UserError, match="there is no study 'nowhere'"):
        afp.best("nowhere")


def test_a_study_is_the_same_from_a_name_a_mapping_and_itself() -> None:
    study = afp.load("demo", sets={"training.max_steps": 50})
    assert study.fixed["training.max_steps"] == 50
    assert afp.load(study) == study == afp.load(study.model_dump(mode="json"))
    assert afp.load("demo", sets={"seeds": [3]}).seeds == (3,)
    assert afp.load({"name": "a", "fixed": {"model.name": Path("/models/a")}}).fixed["model.name"] == "/models/a"


def test_the_face_is_there_at_once_and_names_what_it_has() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import afp_ray as afp; spent = time.perf_counter() - start\n"
        "assert spent < 0.1, spent\n"
        "assert not {'pydantic', 'services', 'pandas'} & {name.split('.')[0] for name in sys.modules}\n"
        "assert set(afp.__all__) <= set(dir(afp))\n"
        "assert all(getattr(afp, name) is not None for name in afp.__all__)\n"
        "try: afp.nothing\n"
        "except AttributeError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DOCS.parent)
    assert done.stdout == "module 'afp_ray' has no attribute 'nothing'\n"
