"""Check of the folder of an exploration before anything is written to it; imports no torch."""

from __future__ import annotations

from pathlib import Path

from finetune.errors import ConfigError

FEATURES = "features.parquet"
"""The vectors, the first file of an exploration; its parts lie beside it until it is complete."""


def check_folder(folder: Path) -> None:
    """Raise ConfigError for a file, and for a folder of other files than those of an exploration.

    Tables and pictures that are written among data would be read as data the next time.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"-o {folder}: is a file; name a folder")
    found = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    if found and not any(name.startswith(FEATURES) for name in found):
        raise ConfigError(
            f"-o {folder}: holds other files, such as {found[0]}; name a new folder, or that of an "
            "earlier exploration, whose files are replaced"
        )
