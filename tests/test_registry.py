"""Lookup of tasks by entry point, module:Class, or file.py:Class."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from finetune.errors import ConfigError
from finetune.registry import (
    METHOD_GROUP,
    find_method,
    find_method_config,
    find_task,
    find_task_config,
    method_names,
    task_names,
)

MINE = """
from tasks import TextClassification

class Mine(TextClassification):
    name = "mine"

class NoTask:
    pass
"""


@pytest.fixture
def my_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "my_tasks_file.py"
    file.write_text(MINE)
    monkeypatch.delitem(sys.modules, "my_tasks_file", raising=False)
    return file


def test_task_names_lists_installed_tasks() -> None:
    assert "text-classification" in task_names()


def test_task_names_imports_no_task() -> None:
    code = (
        "import sys; from finetune import registry; assert registry.task_names(); "
        "assert not {'tasks', 'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_find_task_loads_an_entry_point() -> None:
    task = find_task("text-classification")
    assert task.name == "text-classification"


def test_find_task_suggests_the_nearest_name() -> None:
    with pytest.raises(
        ConfigError, match=r"task.name.*'text-clasification'.*did you mean 'text-classification'"
    ):
        find_task("text-clasification")


@pytest.mark.parametrize("reference", ["my_tasks_file.py:Mine", "my_tasks_file:Mine"])
def test_find_task_loads_a_class_from_a_file(my_file: Path, reference: str) -> None:
    task = find_task(reference)
    assert task.__name__ == "Mine"
    # Spawned workers and a second call must get the same class.
    assert find_task(reference) is task
    assert sys.modules[task.__module__].Mine is task  # type: ignore[attr-defined]


def test_find_task_loads_a_class_from_a_module() -> None:
    assert find_task("tasks.text_classification:TextClassification") is find_task(
        "text-classification"
    )


def test_find_task_suggests_the_nearest_class(my_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no class 'Mina'; did you mean 'Mine'\?"):
        find_task("my_tasks_file.py:Mina")


def test_find_task_rejects_a_file_that_shadows_a_module(my_file: Path) -> None:
    my_file.rename(my_file.with_name("json.py"))
    with pytest.raises(ConfigError, match="would shadow the imported module 'json'.*rename"):
        find_task("json.py:Mine")


def test_find_task_rejects_a_class_that_is_not_a_task(my_file: Path) -> None:
    with pytest.raises(ConfigError, match="not a subclass of finetune.task.Task"):
        find_task("my_tasks_file.py:NoTask")


def test_find_task_reports_a_missing_file(my_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nowhere' is neither a file .*nor a module"):
        find_task("nowhere:Mine")


@pytest.mark.parametrize(
    ("code", "message"),
    [("def broken(:", "SyntaxError.*line 1"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_find_task_reports_a_failing_file_each_time(my_file: Path, code: str, message: str) -> None:
    my_file.with_name("failing.py").write_text(code)
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"'failing.py' cannot be imported: {message}"):
            find_task("failing.py:Mine")


def test_find_task_reports_a_missing_import_in_a_file(my_file: Path) -> None:
    my_file.with_name("needs.py").write_text("import not_installed_anywhere")
    with pytest.raises(ConfigError, match="not_installed_anywhere"):
        find_task("needs.py:Mine")


# ---- configs without the class


def test_configs_are_those_of_the_classes() -> None:
    for name in task_names():
        assert find_task_config(name) is find_task(name).Config
    for name in method_names():
        assert find_method_config(name) is find_method(name).Config


def test_config_of_a_package_that_does_not_export_it_is_that_of_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package, exports in (("quick", "from quick.keys import MineConfig\n"), ("plain", "")):
        folder = tmp_path / package
        folder.mkdir()
        (folder / "__init__.py").write_text(exports)
        (folder / "keys.py").write_text(
            "from finetune.config.schema import MethodConfig\n"
            "class MineConfig(MethodConfig):\n    name: str = 'mine'\n    depth: int = 1\n"
        )
        (folder / "mine.py").write_text(
            "from finetune.methods.base import Method\n"
            f"from {package}.keys import MineConfig\n"
            "class Mine(Method):\n    Config = MineConfig\n    def apply(self, model): return []\n"
        )
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(name, f"{name}.mine:Mine", METHOD_GROUP) for name in ("quick", "plain")]
    monkeypatch.setattr("finetune.registry.entry_points", lambda group: points)
    for name in ("quick", "plain"):
        assert "depth" in find_method_config(name).model_fields
        assert (f"{name}.mine" in sys.modules) == (name == "plain")
