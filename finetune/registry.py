"""Tasks and methods by name: entry points, module:Class, or file.py:Class.

Listing names imports nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from finetune.config.loading import Kinds
from finetune.errors import ConfigError, FinetuneError, nearest
from finetune.methods import METHODS

if TYPE_CHECKING:  # they load torch, and listing names must not
    from finetune.config.schema import MethodConfig
    from finetune.methods.base import Method
    from finetune.task import Task

METHOD_GROUP = "finetune.methods"


def task_names() -> dict[str, EntryPoint]:
    """The installed tasks by name, not imported."""
    return {point.name: point for point in entry_points(group="finetune.tasks")}


def method_names() -> dict[str, EntryPoint]:
    """The methods of this kit and of installed packages by name, not imported."""
    own = (EntryPoint(name, place, METHOD_GROUP) for name, place in METHODS.items())
    return {point.name: point for point in (*own, *entry_points(group=METHOD_GROUP))}


def find_task(name: str) -> type[Task]:
    """The class of a task.

    Raises ConfigError if there is none of that name, or if it cannot be imported.
    """
    from finetune.task import Task

    found: type[Task] = _find("task", name, task_names(), Task)
    return found


def find_method(name: str) -> type[Method]:
    """The class of a method.

    Raises ConfigError if there is none of that name, or if it cannot be imported.
    """
    from finetune.methods.base import Method

    found: type[Method] = _find("method", name, method_names(), Method)
    return found


def make_method(config: MethodConfig) -> Method:
    """The method that a config section asks for."""
    return find_method(config.name)(config)


INSTALLED = Kinds(
    task=lambda name: find_task(name).Config,
    method=lambda name: find_method(name).Config,
    methods=method_names,
)
"""What is installed, for `load_config`."""


def _find(what: str, name: str, points: Mapping[str, EntryPoint], base: type) -> Any:
    """A subclass of `base` by its name, or as module:Class or file.py:Class."""
    key = f"{what}.name"
    if ":" in name:
        return _from_module(name, key, base)
    if name not in points:
        raise ConfigError(
            f"{key}: unknown {what} {name!r}; {nearest(name, points)} "
            f"A {what} of your own is file.py:Class."
        )
    point = points[name]
    try:
        return _checked(point.load(), name, key, base)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}: {name!r} ({point.value}) cannot be imported: {error}{_shadow(point)}"
        ) from error


def _from_module(name: str, key: str, base: type) -> Any:
    module_name, _, class_name = name.rpartition(":")  # C: may be a drive
    if not class_name.isidentifier():
        raise ConfigError(f"{key}: {name!r} names no class; write file.py:Class")
    module = _import(module_name, key)
    kinds = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    classes = [key for key, kind in kinds.items() if issubclass(kind, base)]
    if class_name not in vars(module):
        raise ConfigError(
            f"{key}: {module_name} has no class {class_name!r}; {nearest(class_name, classes)}"
        )
    return _checked(vars(module)[class_name], name, key, base)


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


def _checked(found: object, name: str, key: str, base: type) -> Any:
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"{key}: {name!r} is {found!r}, not a subclass of {base.__module__}.{base.__name__}"
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
