"""The direction of dependence (see CONTRIBUTING.md), proved by parsing every import."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib.metadata import entry_points, packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The rooms of the engine, low to high; what lies in a row may not import from its own row or from a
# higher one. Beside the rooms lie the modules that users and authors of tasks import.
LAYERS = [
    "errors",
    "config",
    "model",
    "task_parts",
    "task",
    "distributed",
    "methods io",
    "registry optim",
    "batching data reporting",
    "inference",
    "export",
    "training testing",
    "cli api",
    "__main__",
]
# The rooms of the adapters, likewise; the adapters themselves stand above all of them.
TASK_LAYERS = [
    "classification",
    "image",
    "backbones annotations",
    "text",
    "generation detection masks",
]
FEWEST, MOST = 4, 12  # files in a room
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


def room_of(module: str) -> str:
    """The room of a module, or its own name where it lies beside the rooms."""
    return module.split(".")[1]


def rooms(package: str) -> dict[str, list[str]]:
    """{room: its modules} of a package."""
    found: dict[str, list[str]] = {}
    for name in modules(package):
        if name.count(".") == 2:
            found.setdefault(room_of(name), []).append(name)
    return found


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


def test_every_room_of_the_engine_has_one_layer(engine: dict[str, Path]) -> None:
    listed = [name for names in LAYERS for name in names.split()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {room_of(name) for name in engine if "." in name}


@pytest.mark.parametrize(("package", "layers"), [("finetune", LAYERS), ("tasks", TASK_LAYERS)])
def test_lower_layers_never_import_higher_ones(package: str, layers: list[str]) -> None:
    level = {room: number for number, names in enumerate(layers) for room in names.split()}
    steps = [
        (name, found)
        for name, targets in graph(package).items()
        for found in targets
        if room_of(name) in level and room_of(name) != room_of(found)
    ]
    assert len(steps) > 30
    top = len(layers)
    wrong = [
        f"{name} imports {found}"
        for name, found in steps
        if level.get(room_of(found), top) >= level[room_of(name)]
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["finetune", "tasks"])
def test_rooms_hold_few_files_and_say_what_they_hold(package: str) -> None:
    for room, names in rooms(package).items():
        assert FEWEST <= len(names) <= MOST, f"{package}/{room} holds {len(names)} files"
        said = ast.get_docstring(parse(ROOT / package / room / "__init__.py")) or ""
        assert 2 <= len(said.splitlines()) <= 6, f"{package}/{room}/__init__.py: {said!r}"


def test_top_of_the_engine_holds_what_users_and_authors_of_tasks_import() -> None:
    files = [path for path in (ROOT / "finetune").iterdir() if path.is_file()]
    assert len(files) <= 10, sorted(path.name for path in files)


def test_no_two_modules_share_a_name(everything: dict[str, Path]) -> None:
    stems = Counter(path.stem for path in everything.values() if path.stem != "__init__")
    assert not [stem for stem, count in stems.items() if count > 1]


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


def test_no_two_functions_or_classes_share_a_public_name(everything: dict[str, Path]) -> None:
    """A reader who searches for a name is to find one thing. A command is called as what it runs."""
    homes: dict[str, list[str]] = {}
    for module, path in everything.items():
        if module == "finetune.cli.main":
            continue
        for node in parse(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_task_has_few_members() -> None:
    from finetune.task import Task

    own = {name for name in vars(Task) if not name.startswith("_")} | {"config", "resolved_"}
    assert len(own) <= 28, sorted(own)


def test_libraries_that_are_imported_are_declared(everything: dict[str, Path]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    declared = {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in wanted}
    declared |= {"pydantic-core"}  # the half of pydantic that it pins
    packages = packages_distributions()
    for path in everything.values():
        for name in {name.split(".")[0] for name in imports(path, typing=True)}:
            if name in sys.stdlib_module_names or name in ("finetune", "tasks"):
                continue
            owners = {owner.lower().replace("_", "-") for owner in packages[name]}
            assert owners & declared, f"{path}: imports {name}, which pyproject.toml does not name"


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
    [
        "import finetune",
        "from finetune.cli.main import app; app(['--help'], standalone_mode=False)",
    ],
    ids=["import", "help"],
)
def test_nothing_heavy_is_loaded_before_it_is_needed(statement: str) -> None:
    script = f"import sys\n{statement}\nprint(sorted({HEAVY!r} & sys.modules.keys()))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
