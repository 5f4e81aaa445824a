"""The configs that ship with the kit, by name."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from finetune.config.formats import TABLE_ENDINGS
from finetune.config.text_files import is_special
from finetune.errors import ConfigError, nearest


def find_config(name: str | Path) -> Path:
    """Find a config by its path, or a shipped one by its name (task/data or data).

    Raises ConfigError with the nearest name.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() in TABLE_ENDINGS:
            raise ConfigError(
                f"CONFIG: {str(name)!r} is a data file, not a config; pass it as data={name}, or "
                f"write a config for it with `finetune init {name}`"
            )
        return path
    if is_special(path):
        raise ConfigError(f"CONFIG: {str(name)!r} is a pipe or a device; name a file")
    if (path / "config.yaml").is_file():
        raise ConfigError(
            f"CONFIG: {str(name)!r} is the folder of a run; name its config: {path / 'config.yaml'}"
        )
    shipped = shipped_configs()
    matches = [file for key, file in shipped.items() if str(name) in (key, file.stem)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = [key for key, file in shipped.items() if file in matches]
        raise ConfigError(
            f"CONFIG: {str(name)!r} is ambiguous: {' or '.join(names)}; give the full name"
        )
    if any(key.startswith(f"{name}/") for key in shipped):
        raise ConfigError(f"CONFIG: {str(name)!r} is a task; write task={name}")
    stems = Counter(file.stem for file in shipped.values())
    siblings = [str(file) for file in path.parent.glob("*.y*ml")]
    siblings += [str(file.parent) for file in path.parent.glob("*/config.yaml")]  # runs
    names = [*shipped, *(stem for stem, count in stems.items() if count == 1), *siblings]
    raise ConfigError(
        f"CONFIG: there is no file {str(name)!r} and no shipped config of that name; "
        f"{nearest(str(name), names)}"
    )


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs, {"task/data": file}."""
    spec = find_spec("finetune")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    for folder in (package / "configs", package.parent / "configs"):  # in the wheel; in a checkout
        if folder.is_dir():
            return {
                path.relative_to(folder).with_suffix("").as_posix(): path
                for path in sorted(folder.rglob("*.yaml"))
            }
    return {}
