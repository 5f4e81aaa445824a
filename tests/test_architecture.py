"""The direction of dependence (see CONTRIBUTING.md), proved by parsing every import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the top of the house to its ground. A module may import what stands on its floor or below;
# a package's name stands for all of its modules. A new module must be given a floor here.
FLOORS = [
    "__main__",
    "cli api",
    "run finish account assembly header arguments measurement bulk embedding comparison conversion inspection contact_sheet catalogue starter",
    "loop contrastive hub journal results",
    "building evaluation features prediction export solver testing",
    "losses",
    "live",
    "data methods optim ema casting registry defaults tasks",
    "schema",
    "folder overrides notation shipped card limits metadata processes trackers checkpoint integrity sharding task model sources config",
    "patience console plotting tabulation writing signals licences synonyms errors",
]
MODEL_LIBRARIES = {"transformers", "timm", "torchvision", "segmentation_models_pytorch", "tasks"}
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HEAVY = {"torch", "transformers", "datasets", "accelerate", "peft", "timm", "pandas", "sklearn"}


def modules(package: str) -> dict[str, Path]:
    """{dotted name: file} of all modules of a package of this repository."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert found, f"{package} holds no module: the test would prove nothing"
    return found


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(path: Path, *, typing: bool = False) -> Iterator[ast.AST]:
    """Every node of a module, without what stands under `if TYPE_CHECKING:` unless `typing`."""
    waiting: list[ast.AST] = [parse(path)]
    while waiting:
        node = waiting.pop()
        yield node
        checks = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        children = node.orelse if checks and not typing else ast.iter_child_nodes(node)
        waiting.extend(children)


def imports(path: Path, *, typing: bool = False) -> set[str]:
    """Dotted names that a module imports, anywhere in it; of `from a import b` both a and a.b."""
    found: set[str] = set()
    for node in nodes(path, typing=typing):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def graph(package: str) -> dict[str, set[str]]:
    """{module: modules of the same package that it imports while it runs}."""
    files = modules(package)
    # `import finetune` costs and brings nothing, so the package itself is no node that matters.
    edges = {name: (imports(path) & files.keys()) - {name, package} for name, path in files.items()}
    assert any(edges.values()), f"no module of {package} imports another: the parsing is broken"
    return edges


def floor_of(module: str) -> int:
    """The index of a module's floor; the package `finetune` itself, which holds names only, is the
    ground, and `tasks` with all of its modules stands on one.
    """
    if module == "finetune":
        return len(FLOORS)
    name = module.removeprefix("finetune.").partition(".")[0]
    found = [level for level, names in enumerate(FLOORS) if name in names.split()]
    assert len(found) == 1, f"{module} stands on {len(found)} floors; give it one in FLOORS"
    return found[0]


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


@pytest.fixture(scope="module")
def engine() -> dict[str, Path]:
    return modules("finetune")


@pytest.fixture(scope="module")
def everything(engine: dict[str, Path]) -> dict[str, Path]:
    return engine | modules("tasks")


def test_engine_imports_no_task(engine: dict[str, Path]) -> None:
    wrong = [
        f"{name} imports {found}"
        for name, path in engine.items()
        for found in imports(path, typing=True)
        if found.partition(".")[0] in ("tasks", "examples", "tests", "benchmarks")
    ]
    assert not wrong


def test_every_module_stands_on_one_floor(everything: dict[str, Path]) -> None:
    for name in everything:
        floor_of(name)
    listed = {name for names in FLOORS for name in names.split()} - {"tasks"}
    assert listed == {name.split(".")[1] for name in everything if name.startswith("finetune.")}


def test_no_module_imports_from_a_higher_floor(everything: dict[str, Path]) -> None:
    steps = [
        (name, found)
        for name, path in everything.items()
        for found in imports(path) & everything.keys()
        if found != name
    ]
    assert len(steps) > 100
    wrong = [f"{name} imports {found}" for name, found in steps if floor_of(found) < floor_of(name)]
    assert not wrong


@pytest.mark.parametrize("package", ["finetune", "tasks"])
def test_modules_import_each_other_in_no_circle(package: str) -> None:
    TopologicalSorter(graph(package)).prepare()  # raises CycleError with the circle


def test_engine_asks_for_no_task_by_name(engine: dict[str, Path]) -> None:
    names = {point.name for point in entry_points(group="finetune.tasks")}
    assert names, "no task is installed"
    wrong = []
    for path in engine.values():
        docstrings = {id(value) for value in _docstrings(path)}
        for node in nodes(path):
            if (
                isinstance(node, ast.Constant)
                and node.value in names
                and id(node) not in docstrings
            ):
                wrong.append(f"{place(path, node)}: {node.value!r}")
            asked: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                asked = [node.left, *node.comparators]
            elif isinstance(node, ast.Match):
                asked = [node.subject]
            wrong += [f"{place(path, node)}: {ast.unparse(x)}" for x in asked if _is_task_name(x)]
    assert not wrong


def _is_task_name(asked: ast.expr) -> bool:
    """Whether an expression is `task.name`, `live.task.name`, `type(task).__name__` ..."""
    text = ast.unparse(asked)
    return text.endswith(("task.name", "task_name", "task).name", "task).__name__"))


def _docstrings(path: Path) -> Iterator[ast.expr]:
    """Texts that stand alone: docstrings of modules, classes, functions and fields."""
    for node in nodes(path, typing=True):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def test_engine_asks_for_no_concrete_model(engine: dict[str, Path]) -> None:
    questions, wrong = 0, []
    for path in engine.values():
        homes = {
            alias.asname or alias.name: str(node.module)
            for node in nodes(path, typing=True)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in nodes(path):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "isinstance",
                "issubclass",
            ):
                questions += 1
                for part in ast.walk(node.args[1]):
                    root = homes.get(part.id, part.id) if isinstance(part, ast.Name) else ""
                    if root.partition(".")[0] in MODEL_LIBRARIES:
                        wrong.append(f"{place(path, node)}: {ast.unparse(node)}")
    assert questions > 10, "hardly any isinstance was found: the parsing is broken"
    assert not wrong


def test_no_exception_is_caught_without_a_name(everything: dict[str, Path]) -> None:
    handlers = [
        (path, node)
        for path in everything.values()
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
    ]
    assert len(handlers) > 10, "hardly any except was found: the parsing is broken"
    assert not [place(path, node) for path, node in handlers if node.type is None]


def test_nothing_is_pickled(everything: dict[str, Path]) -> None:
    wrong = []
    for path in everything.values():
        roots = {name.partition(".")[0] for name in imports(path, typing=True)}
        wrong += [f"{path.name} imports {name}" for name in roots & PICKLES]
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "torch.load",
                "torch.save",
            ):
                wrong.append(place(path, node))
    assert not wrong


@pytest.mark.parametrize(
    "statement",
    ["import finetune", "from finetune.cli import app; app(['--help'], standalone_mode=False)"],
    ids=["import", "help"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str) -> None:
    script = f"import sys\n{statement}\nprint(sorted({HEAVY!r} & sys.modules.keys()))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
