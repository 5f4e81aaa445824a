"""Permission to run code that a file of a model or a run names.

A name that the user types is imported as it is. A name in a task.json or a stored config may have
been written by anyone: it is imported if it belongs to an installed package, or if the user trusts
it. A model from a hub never brings code of its own.
"""

from __future__ import annotations

import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from finetune.errors import ConfigError
from finetune.io.files import sha256_of
from finetune.registry import module_file
from finetune.reporting.console import Console

_CODE_KEYS = {
    **dict.fromkeys(("task", "task.name"), "task.name"),
    **dict.fromkeys(("method", "method.name"), "method.name"),
    **dict.fromkeys(("map", "data.map"), "data.map"),
    **dict.fromkeys(("trust_remote_code", "model.trust_remote_code"), "model.trust_remote_code"),
}
"""The keys of a config that name code, or permit that of a model, as they may be written."""
DIGITS = 16  # of the SHA-256 that identifies a file in messages


def check_stored_task(name: str, file: Path, *, trust_code: bool) -> None:
    """Raise ConfigError for the class of a task that is neither installed nor trusted.

    `name` is an entry point, module:Class or file.py:Class, and `file` contains it.
    """
    if ":" in name and not _is_installed(name.rpartition(":")[0]):
        check_stored_code("task.name", name, file, trust_code=trust_code)


def check_stored_code(key: str, name: str, file: Path, *, trust_code: bool) -> None:
    """Announce the code that the `key` of a stored file names; raise ConfigError if not trusted.

    A function is not exempt because its package is installed: called with a row, functions such as
    subprocess.run do harm.
    """
    code = f"{name} ({_describe(name)})"
    if not trust_code:
        raise ConfigError(
            f"{file}: {key} names the code {code}, which you have not named yourself, so it does "
            "not run; review it, then add --trust-code (in Python trust_code=True)"
        )
    Console(stderr=True).print(f"running code that {file} names in {key}: {code}")


def check_stored_config(
    entries: Mapping[str, Any],
    file: Path,
    *,
    trust_code: bool,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Raise ConfigError for code that a stored config names, before `load_config` imports it.

    `entries` are the keys in `file`, nested or not; `given`, which the user typed, replace them.
    Metrics, which only an evaluation runs, are checked there.
    """
    typed = dict(_code_keys(given))
    for key, value in _code_keys(entries):
        if key in typed or not value:
            continue
        name = str(value)
        if key == "data.map":
            check_stored_code(key, name, file, trust_code=trust_code)
        elif key == "model.trust_remote_code":
            check_stored_code(key, "auto_map", file, trust_code=trust_code)
        elif ":" in name and not _is_installed(name.rpartition(":")[0]):
            check_stored_code(key, name, file, trust_code=trust_code)


def _code_keys(entries: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (key with its section, value) of the entries that may name code."""
    for key, value in entries.items():
        if isinstance(value, Mapping):
            pairs = {f"{key}.{leaf}": each for leaf, each in value.items()}
        else:
            pairs = {key: value}
        for each, item in pairs.items():
            full = _CODE_KEYS.get(each)
            if full is not None:
                yield full, item


def _is_installed(module: str) -> bool:
    """True if importing a module runs nothing but installed code, or nothing new."""
    file = module_file(module)
    if file.is_file():  # takes precedence over modules of that name
        loaded = {getattr(each, "__file__", None) for each in list(sys.modules.values())}
        return str(file.resolve()) in loaded
    if module in sys.modules:
        return True
    found = _find_module(module)
    return found is not None and any(found.is_relative_to(root) for root in _package_folders())


def _package_folders() -> Iterator[Path]:
    """Yield the folders into which packages are installed."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    folders += [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
    yield from map(Path, dict.fromkeys(folders))


def _find_module(module: str) -> Path | None:
    """Return the file of a module, without importing its package."""
    package, *names = module.split(".")
    try:
        spec = find_spec(package)
    except ValueError:  # a module without a spec, such as __main__
        spec = None
    if spec is None:
        return None
    if not names:
        return Path(spec.origin) if spec.has_location and spec.origin else None
    paths = [Path(root, *names) for root in spec.submodule_search_locations or ()]
    candidates = [
        each for path in paths for each in (path.with_suffix(".py"), path / "__init__.py")
    ]
    return next((path for path in candidates if path.is_file()), None)


def _describe(name: str) -> str:
    """Name the file of some code and its digest, as far as they can be told without running it."""
    module = name.rpartition(":")[0] or name
    candidates = [module_file(module), Path(name), Path(name) / f"{Path(name).name}.py"]
    path = next((path for path in candidates if path.is_file()), None) or _find_module(module)
    if path is None or not path.is_file():
        return "no file on this machine"
    return f"{path}, sha256 {sha256_of(path)[:DIGITS]}"
