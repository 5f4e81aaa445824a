"""A task by its name: an entry point, a module's class, or a class in a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import ConfigError
from finetune.registry import find_task, task_names

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


def test_installed_tasks_are_listed() -> None:
    assert "text-classification" in task_names()


def test_listing_imports_nothing() -> None:
    code = (
        "import sys; from finetune import registry; assert registry.task_names(); "
        "assert not {'tasks', 'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_entry_point_is_found() -> None:
    found = find_task("text-classification")
    assert found.name == "text-classification"


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"task.name.*'text-clasification'.*did you mean 'text-classification'"
    ):
        find_task("text-clasification")


@pytest.mark.parametrize("reference", ["my_tasks_file.py:Mine", "my_tasks_file:Mine"])
def test_class_in_a_file_is_found(my_file: Path, reference: str) -> None:
    found = find_task(reference)
    assert found.__name__ == "Mine"
    # A worker that is spawned, and a second call, must find the same class.
    assert find_task(reference) is found
    assert sys.modules[found.__module__].Mine is found  # type: ignore[attr-defined]


def test_class_in_a_module_is_found() -> None:
    assert find_task("tasks.text_classification:TextClassification") is find_task(
        "text-classification"
    )


def test_misspelt_class_is_answered_with_the_nearest(my_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"no class 'Mina'; did you mean 'Mine'\?"):
        find_task("my_tasks_file.py:Mina")


def test_file_that_would_hide_a_module_is_refused(my_file: Path) -> None:
    my_file.rename(my_file.with_name("json.py"))
    with pytest.raises(ConfigError, match="would hide the module 'json'.*rename"):
        find_task("json.py:Mine")


def test_class_that_is_no_task_is_refused(my_file: Path) -> None:
    with pytest.raises(ConfigError, match="not a subclass of finetune.task.Task"):
        find_task("my_tasks_file.py:NoTask")


def test_missing_file_is_named(my_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"'nowhere' is neither a file .*nor a module"):
        find_task("nowhere:Mine")


@pytest.mark.parametrize(
    ("code", "said"),
    [("def broken(:", "SyntaxError.*line 1"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_file_that_fails_is_named_each_time(my_file: Path, code: str, said: str) -> None:
    my_file.with_name("failing.py").write_text(code)
    for _ in range(2):
        with pytest.raises(ConfigError, match=rf"'failing.py' cannot be imported: {said}"):
            find_task("failing.py:Mine")


def test_missing_import_inside_a_file_is_named(my_file: Path) -> None:
    my_file.with_name("needs.py").write_text("import not_installed_anywhere")
    with pytest.raises(ConfigError, match="not_installed_anywhere"):
        find_task("needs.py:Mine")
