"""Prints how large and how tangled the code is: files, floors, circles, private names, and the two chains of calls.

The figures are a compass for whoever moves a wall: run it before and after. `--json` prints them for a comparison,
`--chains` also runs a tiny study and prints who calls whom from `afp run` to the first trial and from a batch to its
loss.
"""

import argparse
import ast
import contextlib
import io
import json
import sys
import tempfile
import tokenize
import traceback
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("afp_ray", "services")
LONG_FUNCTION, MANY_PARAMETERS = 60, 7


@cache
def sources(folder: str) -> tuple[Path, ...]:
    """Python files below a folder of the checkout."""
    return tuple(sorted((ROOT / folder).rglob("*.py")))


@cache
def tree_of(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text("utf-8"))


def product() -> list[Path]:
    """Files of the product: everything but tests, tools and benchmarks."""
    return [path for folder in PACKAGES for path in sources(folder)]


def name_of(path: Path) -> str:
    """Dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def num_lines(paths: list[Path] | tuple[Path, ...]) -> int:
    """Lines of all files together."""
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def imports_of(path: Path) -> dict[str, bool]:
    """Modules of the product that a file imports, and whether every import of it stands inside a function.

    What is imported for type checking alone is left out: it is no import when the code runs.
    """
    modules = {name_of(other) for other in product()}
    tree = tree_of(path)
    late = {id(node) for function in functions(tree) for node in ast.walk(function)}
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in node.body
        for inner in ast.walk(child)
    }
    imported: dict[str, bool] = {}
    for node in ast.walk(tree):
        if id(node) in typing or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for name in _names(node):
            module = name if name in modules else name.rpartition(".")[0]
            if module in modules and module != name_of(path):
                imported[module] = imported.get(module, True) and id(node) in late
    return imported


def _names(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Dotted names that one import statement binds."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def num_late_imports() -> int:
    """Import statements inside functions."""
    inside = (node for path in product() for function in functions(tree_of(path)) for node in ast.walk(function))
    return len({id(node) for node in inside if isinstance(node, ast.Import | ast.ImportFrom)})


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that reach each other, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups


def num_floors(graph: dict[str, set[str]]) -> int:
    """Length of the longest chain of rooms in which each imports the next; rooms in a circle share a floor."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, others in graph.items():
        rooms[_room(module)] |= {_room(other) for other in others} - {_room(module)}
    together = {room: min(group) for group in circles(rooms) for room in group}

    @cache
    def floor(room: str) -> int:
        members = {member for member in rooms if together.get(member, member) == room}
        below = {together.get(other, other) for member in members for other in rooms[member]} - {room}
        return 1 + max((floor(other) for other in below), default=0)

    return max(floor(together.get(room, room)) for room in list(rooms))


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "services" or len(parts) == 1 else parts[1]


def private_names() -> dict[str, list[str]]:
    """File to the private names of other libraries that it uses, `line name` each."""
    own = _defined_here()
    used: dict[str, list[str]] = {}
    for path in product():
        names = []
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own:
                names.append(f"{node.lineno} {node.attr}")
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in PACKAGES:
                named = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                names += [f"{node.lineno} {name}" for name in named if _is_private(name)][:1]
        if names:
            used[str(path.relative_to(ROOT))] = sorted(names, key=lambda name: int(name.split()[0]))
    return used


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_exit"  # `os._exit` is documented


def _defined_here() -> set[str]:
    """Names that the product itself gives to a function, class, attribute or variable."""
    own: set[str] = set()
    for path in product():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
                own.add(node.attr)
    return own


def _is_own(node: ast.expr) -> bool:
    """Whether an attribute of `node` is one that a method gives its own object."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def comments_per_100_lines() -> float:
    """Comment lines and trailing comments, directives to tools left out, per hundred lines."""
    count = 0
    for path in product():
        for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
            directive = token.string.lstrip("# ").startswith(("noqa", "type:", "pragma"))
            count += token.type == tokenize.COMMENT and not directive
    return 100 * count / num_lines(product())


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters without `self` and `cls`."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return sum(argument.arg not in ("self", "cls") for argument in named)


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function is a verb of the command line, whose options are its parameters."""
    return any("command" in ast.dump(decorator) for decorator in function.decorator_list)


def figures() -> dict[str, Any]:
    """Every figure but the chains."""
    graph = {name_of(path): set(imports_of(path)) for path in product()}
    importers: dict[str, int] = defaultdict(int)
    for others in graph.values():
        for other in others:
            importers[other] += 1
    every = [(path, function) for path in product() for function in functions(tree_of(path))]
    private = private_names()
    circular = circles(graph)
    return {
        "files, afp_ray": len(sources("afp_ray")),
        "lines, afp_ray": num_lines(sources("afp_ray")),
        "files, services": len(sources("services")),
        "lines, services": num_lines(sources("services")),
        "files, tests": len(sources("tests")),
        "lines, tests": num_lines(sources("tests")),
        "floors of rooms": num_floors(graph),
        "late imports": num_late_imports(),
        "circles of files": len(circular),
        "files in a circle": sum(map(len, circular)),
        "private names of other libraries": sum(map(len, private.values())),
        "files with private names": len(private),
        "modules with a single importer": sum(importers[name] == 1 for name in graph),
        f"functions over {LONG_FUNCTION} lines": sum(
            (function.end_lineno or 0) - function.lineno >= LONG_FUNCTION for _, function in every
        ),
        f"functions over {MANY_PARAMETERS} parameters, commands left out": sum(
            num_parameters(function) > MANY_PARAMETERS and not is_command(function) for _, function in every
        ),
        "comments per 100 lines": round(comments_per_100_lines(), 1),
    }


def chains() -> dict[str, list[str]]:
    """Functions on the way from `afp run` to the first trial, and from a batch to its loss, in a tiny study.

    The study trains on the embedded model in this process; both chains are read off the stack when they end.
    """
    import afp_ray.trial.run
    from afp_ray import losses
    from services import cli

    seen: dict[str, list[str]] = {}

    def watched(function: Any, key: str) -> Any:
        def called(*arguments: Any, **keywords: Any) -> Any:
            if key not in seen:
                seen[key] = _stack()
            return function(*arguments, **keywords)

        return called

    _replace(afp_ray.trial.run.run_trial, watched(afp_ray.trial.run.run_trial, "from `afp run` to the first trial"))
    _replace(losses.contrastive_loss, watched(losses.contrastive_loss, "from a batch to its loss"))
    study = (
        "name: chains\nfixed: {data.languages: [zh], data.num_pairs: 8, training.max_steps: 1, "
        "training.batch_size: 4, evaluation.tasks: [xcopa], evaluation.limit: 2, "
        "evaluation.representation.num_pairs: 4}\ncompare: {method: [mcl]}\nseeds: [0]\nbudget: {trials: 1}\n"
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, "study.yaml")
        path.write_text(study, "utf-8")
        code = cli.main(["run", str(path), "--executor", "local", "--storage", folder])
    if code:
        raise SystemExit(f"the tiny study ended with {code}")
    trial = seen["from `afp run` to the first trial"]
    seen["from a batch to its loss"] = seen["from a batch to its loss"][len(trial) :]
    return seen


def _replace(function: Any, other: Any) -> None:
    """Put `other` under every name by which a loaded module knows `function`."""
    own_name = function.__name__
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in PACKAGES and getattr(module, own_name, None) is function:
            setattr(module, own_name, other)


def _stack() -> list[str]:
    """The product's own functions on the stack, outermost first."""
    own = []
    for frame in traceback.extract_stack():
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES:
            own.append(f"{path.relative_to(ROOT)}:{frame.lineno} {frame.name}")
    return own


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--chains", action="store_true", help="run a tiny study and print the chains of calls")
    parser.add_argument("--where", action="store_true", help="list the private names and the circles")
    asked = parser.parse_args()
    content = figures()
    if asked.chains:
        content |= {f"calls {name}": steps for name, steps in chains().items()}
    if asked.where:
        content["private"] = private_names()
        content["circles"] = circles({name_of(path): set(imports_of(path)) for path in product()})
    if asked.json:
        print(json.dumps(content, indent=1))
        return
    for name, value in content.items():
        if isinstance(value, int | float):
            print(f"{name:60} {value}")
            continue
        print(f"{name} ({len(value)})")
        for step in value.items() if isinstance(value, dict) else value:
            print(f"    {step}")


if __name__ == "__main__":
    main()
