"""Rules of the architecture (see CONTRIBUTING.md), checked by parsing every module."""

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
# Packages and top-level modules of the engine, from low to high. A package may not import from
# another package of its own line or from a higher line.
LAYERS = [
    "errors",
    "config",
    "model",
    "task_parts",
    "task",
    "distributed",
    "methods io listing analysis",
    "registry optim",
    "tables",
    "json_tables",
    "batching data reporting",
    "checks robustness",
    "inference",
    "reports",
    "audit export semisupervised",
    "training testing",
    "exploration inspection labeling cluster",
    "search_space",
    "tuning",
    "searches",
    "commands api",
    "cli",
    "__main__",
]
# Likewise the packages of `tasks`; the task modules themselves are above all of them.
TASK_LAYERS = [
    "audits cells metrics",
    "classification pixels",
    "image",
    "backbones objects",
    "coco",
    "annotations",
    "mask_sources",
    "exports",
    "label_studio",
    "image_formats",
    "text prompts",
    "box_audits",
    "generation detection masks pretraining",
]
FEWEST, MOST = 4, 12  # files in a package
LONGEST_TEST_FILE = 400  # lines
MODEL_LIBRARIES = {"transformers", "timm", "torchvision", "segmentation_models_pytorch", "tasks"}
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HEAVY = {"torch", "transformers", "datasets", "accelerate", "peft", "timm", "pandas", "sklearn"}


def modules(package: str) -> dict[str, Path]:
    """Return all modules of a package of this repository, {dotted name: file}."""
    files = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    assert files, f"{package} has no modules: the test would prove nothing"
    return files


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(path: Path, *, typing: bool = False) -> Iterator[ast.AST]:
    """Yield every node of a module; those under `if TYPE_CHECKING:` only if `typing`."""
    waiting: list[ast.AST] = [parse(path)]
    while waiting:
        node = waiting.pop()
        yield node
        checks = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        children = node.orelse if checks and not typing else ast.iter_child_nodes(node)
        waiting.extend(children)


def imports(path: Path, *, typing: bool = False) -> set[str]:
    """Return the dotted names that a module imports; for `from a import b` both a and a.b."""
    names: set[str] = set()
    for node in nodes(path, typing=typing):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def graph(package: str) -> dict[str, set[str]]:
    """Return {module: modules of the same package that it imports at run time}."""
    files = modules(package)
    # The package itself is left out: its __init__ imports nothing at run time.
    edges = {name: (imports(path) & files.keys()) - {name, package} for name, path in files.items()}
    assert any(edges.values()), f"no module of {package} imports another: the parsing is broken"
    return edges


def subpackage_of(module: str) -> str:
    """Return the subpackage of a module, or the name of a top-level module."""
    return module.split(".")[1]


def subpackages(package: str) -> dict[str, list[str]]:
    """Return {subpackage: its modules} of a package."""
    members: dict[str, list[str]] = {}
    for name in modules(package):
        if name.count(".") == 2:
            members.setdefault(subpackage_of(name), []).append(name)
    return members


def location(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


@pytest.fixture(scope="module")
def engine() -> dict[str, Path]:
    return modules("finetune")


@pytest.fixture(scope="module")
def everything(engine: dict[str, Path]) -> dict[str, Path]:
    return engine | modules("tasks")


def test_engine_imports_no_task(engine: dict[str, Path]) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, path in engine.items()
        for target in imports(path, typing=True)
        if target.partition(".")[0] in ("tasks", "examples", "tests", "benchmarks")
    ]
    assert not wrong


def test_layers_list_every_package_of_the_engine_once(engine: dict[str, Path]) -> None:
    listed = [name for names in LAYERS for name in names.split()]
    assert len(listed) == len(set(listed))
    assert set(listed) == {subpackage_of(name) for name in engine if "." in name}


@pytest.mark.parametrize(("package", "layers"), [("finetune", LAYERS), ("tasks", TASK_LAYERS)])
def test_layers_import_only_lower_layers(package: str, layers: list[str]) -> None:
    level = {name: number for number, names in enumerate(layers) for name in names.split()}
    edges = [
        (name, target)
        for name, targets in graph(package).items()
        for target in targets
        if subpackage_of(name) in level and subpackage_of(name) != subpackage_of(target)
    ]
    assert len(edges) > 30
    top = len(layers)
    wrong = [
        f"{name} imports {target}"
        for name, target in edges
        if level.get(subpackage_of(target), top) >= level[subpackage_of(name)]
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["finetune", "tasks"])
def test_packages_have_few_files_and_a_short_docstring(package: str) -> None:
    for name, files in subpackages(package).items():
        assert FEWEST <= len(files) <= MOST, f"{package}/{name} has {len(files)} files"
        docstring = ast.get_docstring(parse(ROOT / package / name / "__init__.py")) or ""
        assert 2 <= len(docstring.splitlines()) <= 6, f"{package}/{name}/__init__.py: {docstring!r}"


def test_engine_has_few_top_level_modules() -> None:
    files = [path for path in (ROOT / "finetune").iterdir() if path.is_file()]
    assert len(files) <= 10, sorted(path.name for path in files)


def test_module_names_are_unique(everything: dict[str, Path]) -> None:
    stems = Counter(path.stem for path in everything.values() if path.stem != "__init__")
    assert not [stem for stem, count in stems.items() if count > 1]


@pytest.mark.parametrize("package", ["finetune", "tasks"])
def test_imports_have_no_cycles(package: str) -> None:
    TopologicalSorter(graph(package)).prepare()  # raises CycleError with the circle


def test_engine_does_not_check_task_names(engine: dict[str, Path]) -> None:
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
                wrong.append(f"{location(path, node)}: {node.value!r}")
            compared: list[ast.expr] = []
            if isinstance(node, ast.Compare):
                compared = [node.left, *node.comparators]
            elif isinstance(node, ast.Match):
                compared = [node.subject]
            wrong += [
                f"{location(path, node)}: {ast.unparse(each)}"
                for each in compared
                if _is_task_name(each)
            ]
    assert not wrong


def _is_task_name(expression: ast.expr) -> bool:
    """True for expressions such as `task.name`, `live.task.name` or `type(task).__name__`."""
    text = ast.unparse(expression)
    return text.endswith(("task.name", "task_name", "task).name", "task).__name__"))


def _docstrings(path: Path) -> Iterator[ast.expr]:
    """Yield the docstrings of modules, classes, functions and fields."""
    for node in nodes(path, typing=True):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def test_engine_does_not_check_model_classes(engine: dict[str, Path]) -> None:
    checks, wrong = 0, []
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
                checks += 1
                for part in ast.walk(node.args[1]):
                    root = homes.get(part.id, part.id) if isinstance(part, ast.Name) else ""
                    if root.partition(".")[0] in MODEL_LIBRARIES:
                        wrong.append(f"{location(path, node)}: {ast.unparse(node)}")
    assert checks > 10, "hardly any isinstance was found: the parsing is broken"
    assert not wrong


def test_public_names_are_unique(everything: dict[str, Path]) -> None:
    """Searching for a name finds one definition. Commands share the name of what they run."""
    homes: dict[str, set[str]] = {}  # an overloaded function has several definitions
    for module, path in everything.items():
        if module.startswith("finetune.cli."):
            continue
        for node in parse(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, set()).add(module)
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}


def test_task_has_few_members() -> None:
    from finetune.task import Task

    members = {name for name in vars(Task) if not name.startswith("_")} | {"config", "resolved_"}
    assert len(members) <= 28, sorted(members)


def test_imported_libraries_are_declared_as_dependencies(everything: dict[str, Path]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = chain(project["dependencies"], *project["optional-dependencies"].values())
    declared = {re.split(r"[^\w.-]", text)[0].lower().replace("_", "-") for text in wanted}
    declared |= {"pydantic-core"}  # pinned by pydantic
    declared |= {"pytorch-grad-cam"}  # what grad-cam is imported as; it need not be installed
    packages = packages_distributions()
    for path in everything.values():
        for name in {name.split(".")[0] for name in imports(path, typing=True)}:
            if name in sys.stdlib_module_names or name in ("finetune", "tasks"):
                continue
            owners = {owner.lower().replace("_", "-") for owner in packages.get(name, [name])}
            assert owners & declared, f"{path}: imports {name}, which pyproject.toml lacks"


def test_except_clauses_name_their_exceptions(everything: dict[str, Path]) -> None:
    handlers = [
        (path, node)
        for path in everything.values()
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
    ]
    assert len(handlers) > 10, "hardly any except was found: the parsing is broken"
    assert not [location(path, node) for path, node in handlers if node.type is None]


def test_engine_and_tasks_do_not_pickle(everything: dict[str, Path]) -> None:
    wrong = []
    for path in everything.values():
        roots = {name.partition(".")[0] for name in imports(path, typing=True)}
        wrong += [f"{path.name} imports {name}" for name in roots & PICKLES]
        for node in nodes(path):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "torch.load",
                "torch.save",
            ):
                wrong.append(location(path, node))
    assert not wrong


@pytest.mark.parametrize(
    "statement",
    [
        "import finetune",
        "from finetune.cli.main import app; app(['--help'], standalone_mode=False)",
    ],
    ids=["import", "help"],
)
def test_import_and_help_load_no_heavy_library(statement: str) -> None:
    script = f"import sys\n{statement}\nprint(sorted({HEAVY!r} & sys.modules.keys()))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in sorted((ROOT / "tests").rglob("*.py"))
    }
    assert len(lengths) > 30, "hardly any test file was found"
    assert {name: length for name, length in lengths.items() if length > LONGEST_TEST_FILE} == {}
