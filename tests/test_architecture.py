"""The plan of the house: who may import whom, which library lives in which room, and what stays light."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tools.figures_of_the_house import circles, imports_of, name_of, product

ROOT = Path(__file__).parent.parent

# From right (knows nothing) to left (knows all); rooms of one level are strangers to each other.
LEVELS: list[set[str]] = [
    {"errors", "redaction", "reporter"},
    {"languages", "plugins"},
    {"config"},
    {"records"},
    {"methods", "ledger", "store", "lfs", "cache"},
    {"remote"},
    {"data", "models", "losses", "statistics"},
    {"training", "evaluation"},
    {"trial"},
    {"tracking", "search", "comparison"},
    {"planning"},
    {"execution"},
    {"study"},
    {"services"},
    {"face"},
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
# Rooms of one level that may know each other: the ledger's file is named by the store's plan.
NEIGHBOURS = {("ledger", "store")}
HOME = {
    "ray": {"execution"},
    "mlflow": {"tracking"},
    "optuna": {"search"},
    "scipy": {"statistics"},
    "sklearn": {"data"},
    "datasets": {"data"},
    "fsspec": {"remote"},
    "transformers": {"models"},
    "peft": {"models"},
    "fastapi": {"services"},
    "uvicorn": {"services"},
    "typer": {"services"},
    "matplotlib": {"services"},
}
# Reading a version string is no use of the library.
VERSION_ONLY = {("trial", "transformers")}


def modules() -> list[Path]:
    return sorted([*ROOT.glob("afp_ray/**/*.py"), *ROOT.glob("services/**/*.py")])


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "services" if parts[0] == "services" else parts[1]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@cache
def imports(path: Path) -> set[str]:
    """Every dotted name that the file imports, anywhere in it, `TYPE_CHECKING` blocks left out."""
    tree = tree_of(path)
    names: set[str] = set()
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped.update(inner for child in node.body for inner in ast.walk(child))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            base = node.module or ""
            names.update(f"{base}.{alias.name}" for alias in node.names)
            names.add(base)
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_to_its_right(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in LEVEL, f"{room} has no place in the house; add it to LEVELS and docs/architecture.md"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "services":
            assert room in ("services", "face"), f"{path.name} imports {name}: services are above"
        if parts[0] != "afp_ray" or len(parts) == 1 or parts[1] == "__version__":
            continue
        other = parts[1]
        if other == room or (room, other) in NEIGHBOURS:
            continue
        assert LEVEL[other] < LEVEL[room], f"{room} imports {name}; allowed: rooms to its right"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name_of(path): set(imports_of(path)) for path in product()}
    assert len(graph) > 300
    assert circles(graph) == []


def test_the_page_draws_the_same_rooms_and_levels() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    line = next(line for line in page.splitlines() if line.startswith("`face >"))
    drawn = [set(re.findall(r"\w+", level)) for level in line.split(" > ")]
    assert drawn[::-1] == LEVELS
    table = page.partition("## Rooms")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`(\w+)(?:\.py|/)`", cell)} == set(LEVEL)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_heavy_library_lives_in_one_room(path: Path) -> None:
    room = room_of(path)
    for name in imports(path):
        library = name.split(".")[0]
        if library in HOME and (room, library) not in VERSION_ONLY:
            assert room in HOME[library], f"{room} imports {library}; its room is {', '.join(HOME[library])}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_opens_with_its_job_and_stays_readable(path: Path) -> None:
    text = path.read_text("utf-8")
    docstring = ast.get_docstring(tree_of(path))
    assert docstring, f"{path} has no opening sentence"
    assert len(text.splitlines()) <= 420, f"{path} has {len(text.splitlines())} lines; split it by job"


# Where a trial fails, a projection fails, or a foreign system speaks: docs/architecture.md says which is which.
EDGES = Counter(
    {
        "afp_ray/evaluation/workers.py": 1,
        "afp_ray/execution/cluster.py": 1,
        "afp_ray/execution/driver.py": 2,
        "afp_ray/execution/preemption.py": 1,
        "afp_ray/execution/tune_bridge.py": 1,
        "afp_ray/execution/worker.py": 1,
        "afp_ray/models/hub.py": 2,
        "afp_ray/plugins.py": 1,
        "afp_ray/remote.py": 1,
        "afp_ray/tracking/background.py": 1,
        "services/edge.py": 1,
    }
)


def test_any_exception_is_caught_at_edges_alone() -> None:
    caught = Counter(
        str(path.relative_to(ROOT))
        for path in modules()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and (node.type is None or ast.unparse(node.type) == "Exception")
    )
    assert caught == EDGES


def test_names_that_a_module_offers_exist() -> None:
    offering = [path for path in modules() if "\n__all__ = " in path.read_text("utf-8")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in offering]
    for module in map(importlib.import_module, names):
        assert len(module.__all__) == len(set(module.__all__)), f"{module.__name__} offers a name twice"
        assert not [name for name in module.__all__ if not hasattr(module, name)], module.__name__
        if module.__name__ == "afp_ray":  # the face: all that it offers is of other rooms
            continue
        room = module.__name__.split(".")[:2]
        offered = {name: getattr(module, name) for name in module.__all__}
        homes = {
            name: str(it.__module__) for name, it in offered.items() if inspect.isclass(it) or inspect.isroutine(it)
        }
        others = [name for name, home in homes.items() if home[:8] == "afp_ray." and home.split(".")[:2] != room]
        assert not others, f"{module.__name__} offers names of other rooms"


def test_no_module_bears_the_name_of_a_library_it_wraps() -> None:
    assert not [path for path in modules() if path.stem in HOME]


RAY_INTERNALS = ROOT / "afp_ray" / "execution" / "ray_internals.py"


def names_that_ray_keeps_to_itself(path: Path) -> Iterator[str]:
    """Imports of private modules and names of Ray; where a file imports Ray, all private names that are not our own."""
    tree = tree_of(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "ray" and (any(part.startswith("_") for part in parts) or parts[:2] in RAYS_OWN):
            yield name
    if any(name.split(".")[0] == "ray" for name in imports(path)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in names_of_ours():
                yield node.attr
            elif isinstance(node, ast.keyword) and node.arg and is_private(node.arg):
                yield node.arg


RAYS_OWN = (["ray", "core"], ["ray", "dashboard"])  # private, though no underscore says so


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_exit"  # `os._exit` is documented


@cache
def names_of_ours() -> frozenset[str]:
    """Private names that the product gives to functions, variables and attributes of its own objects."""
    nodes = [node for path in modules() for node in ast.walk(tree_of(path))]
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    variables = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    return frozenset(functions | variables | attributes)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_private_names_of_ray_stand_in_one_file(path: Path) -> None:
    private = list(names_that_ray_keeps_to_itself(path))
    assert bool(private) is (path == RAY_INTERNALS), f"{private}; {RAY_INTERNALS.name} is their one place"


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement, absent",
    [
        (
            "import afp_ray.config",
            {"scipy", "sklearn", "torch", "ray", "optuna", "mlflow", "transformers", "datasets", "fastapi", "numpy"},
        ),
        (
            "import afp_ray as afp; dir(afp)",
            {"pydantic", "yaml", "pandas", "services", "torch", "ray", "optuna", "mlflow", "transformers", "numpy"},
        ),
        ("from afp_ray import load, StudyConfig", {"services", "pandas", "torch", "ray", "optuna", "mlflow", "numpy"}),
        ("import afp_ray.config.load", {"torch", "ray", "optuna", "mlflow", "transformers", "datasets", "fastapi"}),
        ("import afp_ray.ledger, afp_ray.store", {"torch", "ray", "optuna", "mlflow", "transformers", "datasets"}),
        (
            "import services.cli, services.commands.results, services.reports",
            {"matplotlib"},
        ),
        (
            "import services.cli",
            {"scipy", "sklearn", "torch", "ray", "optuna", "mlflow", "transformers", "datasets", "fastapi", "numpy"},
        ),
        ("import afp_ray.trial.run", {"torch", "ray", "optuna", "mlflow", "transformers", "datasets", "fastapi"}),
        (
            "import afp_ray.execution.ray_executor, afp_ray.execution.tune_bridge, afp_ray.execution.trainable",
            {"torch", "mlflow", "transformers", "datasets", "fastapi"},  # the driver's part: torch is the actors'
        ),
        (
            "import afp_ray.training.loop, afp_ray.evaluation.scoring",
            {"ray", "optuna", "mlflow", "datasets", "fastapi"},
        ),
    ],
)
def test_light_rooms_load_no_heavy_library(statement: str, absent: set[str]) -> None:
    assert not loaded_after(statement) & absent


def test_a_trial_runs_without_the_orchestration_libraries() -> None:
    """The GPU benchmark and a plain cluster node have torch and transformers alone."""
    blocked = "import sys\nfor name in ('ray', 'optuna', 'mlflow', 'datasets', 'fastapi'): sys.modules[name] = None\n"
    loaded_after(
        blocked + "import afp_ray.trial.run, afp_ray.training.loop, afp_ray.data.batches, afp_ray.evaluation.run"
    )
