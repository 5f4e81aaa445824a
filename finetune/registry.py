"""A task by its name: an entry point of `finetune.tasks`, module:Class or file.py:Class.

Listing names imports nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from finetune.errors import ConfigError, FinetuneError, nearest

if TYPE_CHECKING:  # it loads torch, and listing names must not
    from finetune.task import Task


def task_names() -> dict[str, EntryPoint]:
    """The installed tasks by name, not imported."""
    return {point.name: point for point in entry_points(group="finetune.tasks")}


def find_task(name: str) -> type[Task]:
    """The class of a task.

    Raises ConfigError if there is none of that name, or if it cannot be imported.
    """
    if ":" in name:
        return _from_module(name)
    points = task_names()
    if name not in points:
        raise ConfigError(
            f"task.name: no task is called {name!r}; {nearest(name, points)} "
            "A task of your own is file.py:Class."
        )
    point = points[name]
    try:
        return _checked(point.load(), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"task.name: {name!r} ({point.value}) cannot be imported: {error}{_shadow(point)}"
        ) from error


def _from_module(name: str) -> type[Task]:
    module_name, _, class_name = name.rpartition(":")  # C: may be a drive
    if not class_name.isidentifier():
        raise ConfigError(f"task.name: {name!r} names no class; write file.py:Class")
    from finetune.task import Task

    module = _import(module_name, "task.name")
    kinds = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    classes = [key for key, kind in kinds.items() if issubclass(kind, Task)]
    if class_name not in vars(module):
        raise ConfigError(
            f"task.name: {module_name} has no class {class_name!r}; {nearest(class_name, classes)}"
        )
    return _checked(vars(module)[class_name], name)


def find_object(name: str, key: str) -> Any:
    """What stands under file.py:name or module:name. Raises ConfigError that names `key`."""
    module_name, _, object_name = name.rpartition(":")
    if not (module_name and object_name.isidentifier()):
        raise ConfigError(
            f"{key}: {name!r} names nothing; write file.py:function, or module:function"
        )
    module = _import(module_name, key)
    if object_name not in vars(module):
        own = [name for name, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"{key}: {module_name} has no {object_name!r}; {nearest(object_name, own)}"
        )
    return vars(module)[object_name]


def _import(module_name: str, asked_by: str) -> ModuleType:
    """A module from a file in the working folder if there is one, else from the import path."""
    path = module_name if module_name.endswith(".py") else f"{module_name.replace('.', '/')}.py"
    file = Path(path)
    try:
        if not file.is_file() or _leads_to(module_name, file):
            return importlib.import_module(module_name)
        # Spawned workers find the class again by this name, so it must stand in sys.modules.
        key = file.stem
        known = sys.modules.get(key)
        if known is not None and getattr(known, "__file__", None) == str(file.resolve()):
            return known
        if known is not None:
            raise ConfigError(
                f"{asked_by}: {file} would hide the module {key!r} that is in use; rename the file"
            )
        spec = importlib.util.spec_from_file_location(key, file.resolve())
        assert spec is not None and spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]  # half a module, which the next look would take for the whole
            raise
        return module
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{asked_by}: {module_name!r} is neither a file ({file} in {Path.cwd()}) "
            f"nor a module: {error}"
        ) from error
    except FinetuneError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{asked_by}: {module_name!r} cannot be imported: {type(error).__name__}: {error}; "
            "mend that file"
        ) from error


def _leads_to(module_name: str, file: Path) -> bool:
    """Whether an import by this name gives this very file, which must not be loaded twice."""
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin == str(file.resolve())


def _checked(found: object, name: str) -> type[Task]:
    from finetune.task import Task

    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(
            f"task.name: {name!r} is {found!r}, which is no subclass of finetune.Task"
        )
    return found


def _shadow(point: EntryPoint) -> str:
    """The sentence that names a foreign module which hides the package of an entry point."""
    package = point.value.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(package)
    origin = spec.origin if spec is not None else None
    if not origin:
        return ""
    remedy = "if that is not this kit's, rename or move it"
    return f". The package {package!r} was found at {origin}; {remedy}"
