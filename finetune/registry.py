"""Lookup of tasks and methods: by entry point, module:Class, or file.py:Class.

Listing the names imports none of them.
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

from finetune.config.loading import ConfigRegistry
from finetune.config.schema import MethodConfig, TaskConfig
from finetune.errors import ConfigError, FinetuneError, nearest
from finetune.methods import METHODS

if TYPE_CHECKING:  # these load torch, which listing names must not
    from finetune.methods.base import Method
    from finetune.task import Task

METHOD_GROUP = "finetune.methods"


def task_names() -> dict[str, EntryPoint]:
    """Return the entry points of the installed tasks, without importing them."""
    return {point.name: point for point in entry_points(group="finetune.tasks")}


def method_names() -> dict[str, EntryPoint]:
    """Return the built-in methods and those of installed packages, without importing them."""
    built_in = (EntryPoint(name, place, METHOD_GROUP) for name, place in METHODS.items())
    return {point.name: point for point in (*built_in, *entry_points(group=METHOD_GROUP))}


def find_task(name: str) -> type[Task]:
    """Return the class of a task.

    Raises ConfigError if the name is unknown or the class cannot be imported.
    """
    task_class: type[Task] = _find("task", name, task_names())
    return task_class


def find_method(name: str) -> type[Method]:
    """Return the class of a method.

    Raises ConfigError if the name is unknown or the class cannot be imported.
    """
    method_class: type[Method] = _find("method", name, method_names())
    return method_class


def make_method(config: MethodConfig) -> Method:
    """Create the method that a config section describes."""
    return find_method(config.name)(config)


def make_task(config: TaskConfig) -> Task:
    """Create the task that a config section describes."""
    return find_task(config.name)(config)


def find_task_config(name: str) -> type[TaskConfig]:
    """Return the config class of a task, without importing the task where its package allows it."""
    exported: type[TaskConfig] | None = _exported_config(task_names().get(name), TaskConfig)
    return exported or find_task(name).Config


def find_method_config(name: str) -> type[MethodConfig]:
    """Return the config class of a method, as `find_task_config` does."""
    exported: type[MethodConfig] | None = _exported_config(method_names().get(name), MethodConfig)
    return exported or find_method(name).Config


def _exported_config(point: EntryPoint | None, base: type) -> Any:
    """Return what a package exports as <name of the class>Config; None if there is no such class.

    The module of a task or method imports torch, its config need not: a package that exports the
    config lets faults in it be reported within a second.
    """
    if point is None or "." not in point.module:
        return None
    try:
        package = importlib.import_module(point.module.rpartition(".")[0])
    except ImportError:  # reported when the task or method itself is imported
        return None
    config = getattr(package, f"{point.attr}Config", None)
    return config if isinstance(config, type) and issubclass(config, base) else None


INSTALLED = ConfigRegistry(task=find_task_config, method=find_method_config, methods=method_names)
"""The installed tasks and methods, for `load_config`."""


def _find(kind: str, name: str, points: Mapping[str, EntryPoint]) -> Any:
    """Find a task or method by entry point, module:Class or file.py:Class."""
    key = f"{kind}.name"
    if ":" in name:
        return _from_module(name, kind, key)
    if name not in points:
        raise ConfigError(
            f"{key}: unknown {kind} {name!r}; {nearest(name, points)} "
            f"(for your own {kind}, write file.py:Class)"
        )
    point = points[name]
    try:
        return _checked(point.load(), name, kind, key)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}: {name!r} ({point.value}) cannot be imported: {error}{_shadow(point)}"
        ) from error


def _from_module(name: str, kind: str, key: str) -> Any:
    module_name, _, class_name = name.rpartition(":")  # C: may be a drive
    if not class_name.isidentifier():
        raise ConfigError(f"{key}: no class name in {name!r}; write file.py:Class")
    module = _import(module_name, key)
    members = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    if class_name not in vars(module):
        base = _base(kind)
        candidates = [key for key, member in members.items() if issubclass(member, base)]
        raise ConfigError(
            f"{key}: {module_name} has no class {class_name!r}; {nearest(class_name, candidates)}"
        )
    return _checked(vars(module)[class_name], name, kind, key)


def find_object(name: str, key: str) -> Any:
    """Return the object at file.py:name or module:name. Raises ConfigError that names `key`."""
    module_name, _, object_name = name.rpartition(":")
    if not (module_name and object_name.isidentifier()):
        raise ConfigError(
            f"{key}: no function name in {name!r}; write file.py:function or module:function"
        )
    module = _import(module_name, key)
    if object_name not in vars(module):
        candidates = [name for name, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"{key}: {module_name} has no {object_name!r}; {nearest(object_name, candidates)}"
        )
    return vars(module)[object_name]


def module_file(module_name: str) -> Path:
    """Return the file in the working folder that takes precedence over a module of this name."""
    is_file = module_name.endswith(".py")
    return Path(module_name if is_file else f"{module_name.replace('.', '/')}.py")


def _import(module_name: str, config_key: str) -> ModuleType:
    """Import a module from a file in the working folder if there is one, else from sys.path."""
    file = module_file(module_name)
    try:
        if not file.is_file() or _resolves_to(module_name, file):
            return importlib.import_module(module_name)
        # Spawned workers unpickle the class by this name, so it must be in sys.modules.
        key = file.stem
        known = sys.modules.get(key)
        if known is not None and getattr(known, "__file__", None) == str(file.resolve()):
            return known
        if known is not None:
            raise ConfigError(
                f"{config_key}: {file} would shadow the imported module {key!r}; rename the file"
            )
        spec = importlib.util.spec_from_file_location(key, file.resolve())
        assert spec is not None and spec.loader is not None, file
        module = importlib.util.module_from_spec(spec)
        sys.modules[key] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[key]  # partially initialized; the next lookup would take it as complete
            raise
        return module
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{config_key}: {module_name!r} is neither a file ({file} in {Path.cwd()}) "
            f"nor a module: {error}"
        ) from error
    except FinetuneError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{config_key}: {module_name!r} cannot be imported: {type(error).__name__}: {error}; "
            "fix that file"
        ) from error


def _resolves_to(module_name: str, file: Path) -> bool:
    """True if importing this name loads this very file, which must not be loaded twice."""
    try:
        spec = importlib.util.find_spec(module_name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin == str(file.resolve())


def _base(kind: str) -> type:
    """Return the base class of tasks or of methods, whose import takes seconds."""
    if kind == "task":
        from finetune.task import Task

        return Task
    from finetune.methods.base import Method

    return Method


def _checked(value: object, name: str, kind: str, key: str) -> Any:
    base = _base(kind)
    if not (isinstance(value, type) and issubclass(value, base)):
        raise ConfigError(
            f"{key}: {name!r} is {value!r}, not a subclass of {base.__module__}.{base.__name__}"
        )
    return value


def _shadow(point: EntryPoint) -> str:
    """Return a sentence that names the module which may shadow the package of an entry point."""
    package = point.value.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(package)
    origin = spec.origin if spec is not None else None
    if not origin:
        return ""
    remedy = "if that is not this kit's, rename or move it"
    return f". The package {package!r} was found at {origin}; {remedy}"
