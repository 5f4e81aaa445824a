"""Listing of folders without what operating systems and other programs leave in them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from finetune.config.formats import IMAGE_ENDINGS, TABLE_ENDINGS
from finetune.config.text_files import is_special
from finetune.errors import DataError, format_count, listed

_LEFTOVERS = frozenset(
    {"thumbs.db", "desktop.ini", "icon\r", "@eadir", "#recycle", "$recycle.bin"}
    | {"system volume information", "lost+found"}
)
_LEFTOVER_FOLDERS = frozenset(
    {"__MACOSX", ".ipynb_checkpoints", ".AppleDouble", "@eaDir", "#recycle", "$RECYCLE.BIN"}
)
_DATA_ENDINGS = IMAGE_ENDINGS | TABLE_ENDINGS | {".txt", ".xml"}
_NAMED = 3
_MOST_NAMED = 8


def is_stray(name: str) -> bool:
    """True for a file or folder that is never data: hidden ones, ._1.jpg, __MACOSX, Thumbs.db."""
    return name.startswith((".", "__")) or name.lower() in _LEFTOVERS


def is_utf8(name: str) -> bool:
    """False for a name whose bytes on disk are not UTF-8; Python marks them by lone surrogates."""
    return name.isascii() or not any("\udc80" <= character <= "\udcff" for character in name)


def list_visible(folder: Path) -> list[Path]:
    """Return the children of a folder sorted by name, without strays, pipes and devices."""
    return [folder / entry.name for entry in _scan(folder)]


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return the visible entries of a folder sorted by name.

    Raises DataError for a name that is not UTF-8, which neither a table nor a message can hold.
    """
    with os.scandir(folder) as entries:
        visible = [each for each in entries if not is_stray(each.name) and _is_plain(each)]
    for entry in visible:
        if not is_utf8(entry.name):
            raise DataError(
                f"{folder}: the name of {os.fsencode(entry.name)!r} is not UTF-8; rename it"
            )
    return sorted(visible, key=lambda each: each.name)  # paths sort differently on Windows


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """False for a pipe, which can block forever, and for a device, which may have no end."""
    try:
        return entry.is_file() or entry.is_dir() or not is_special(Path(entry.path))
    except OSError:  # such as a circle of links
        return True


def list_readable(folder: Path) -> list[Path]:
    """Return the children of a folder without strays; [] if it cannot be read."""
    try:
        return list_visible(folder)
    except (OSError, ValueError):  # missing, not a folder, no permission, or no possible name
        return []


def walk_visible(folder: Path, most: int | None = None) -> list[Path]:
    """Return all files below a folder sorted by path, without strays, pipes and devices.

    The walk ends after about `most` files, if given.
    """
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        with contextlib.suppress(OSError):  # a folder that may not be read
            for entry in reversed(_scan(waiting.pop())):
                is_folder = entry.is_dir()
                if is_folder and not entry.is_symlink():
                    waiting.append(Path(entry.path))
                elif not is_folder:
                    found.append(Path(entry.path))
        if most is not None and len(found) > most:
            break
    return sorted(found)


def note_strays(folder: Path) -> list[str]:
    """Return a note that counts the strays below a folder that are named like data."""
    strays = []
    for place, folders, files in os.walk(folder):
        inside = any(part in _LEFTOVER_FOLDERS for part in Path(place).relative_to(folder).parts)
        # Other hidden folders, such as .git, hold what their programs keep there.
        folders[:] = [name for name in folders if name in _LEFTOVER_FOLDERS or not is_stray(name)]
        names = (name for name in files if inside or name.startswith("._"))
        strays += [Path(place, name) for name in names if _is_named_like_data(name)]
    if not strays:
        return []
    examples = listed((path.relative_to(folder).as_posix() for path in sorted(strays)), _NAMED)
    count = format_count(len(strays), "file")
    return [f"{folder}: ignored {count} that other programs left beside the data: {examples}"]


def _is_named_like_data(name: str) -> bool:
    return Path(name).suffix.lower() in _DATA_ENDINGS


def describe_contents(path: Path) -> str:
    """List what a folder contains: its folders, and its files by ending, for messages."""
    if not path.is_dir():
        return "no such folder" if not path.exists() else "a file"
    children = list_visible(path)
    folders = [f"{child.name}/" for child in children if child.is_dir()]
    endings: dict[str, list[str]] = {}
    for child in (child for child in children if not child.is_dir()):
        endings.setdefault(child.suffix.lower(), []).append(child.name)
    files = [
        names[0] if len(names) == 1 else f"{len(names)} {ending or 'files without ending'}"
        for ending, names in endings.items()
    ]
    shown = [*folders, *files]
    rest = f" and {len(shown) - _MOST_NAMED} more" if len(shown) > _MOST_NAMED else ""
    return (", ".join(shown[:_MOST_NAMED]) + rest) or "nothing"
