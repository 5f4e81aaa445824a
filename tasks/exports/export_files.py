"""Search for the files of an export, which are recognized by their first keys alone."""

from __future__ import annotations

import csv
import io
import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune.errors import DataError, listed
from finetune.listing.split_names import split_of
from finetune.listing.walking import describe_contents, list_visible

Fits = Callable[[Path], bool]
_TOKEN = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[{}\[\]]', re.DOTALL)
_TOKENS = 4000  # brackets and strings to look at: some objects of an export, not all
_DEEPEST = 4
_MOST_BYTES = 1 << 20  # between the strings that are looked at: embedded images may be longer


@dataclass(frozen=True)
class JsonHead:
    """The beginning of a JSON file: its first bracket, and the keys by depth, from 1."""

    bracket: str = ""
    keys: Mapping[int, frozenset[str]] = field(default_factory=dict)

    def at(self, depth: int) -> frozenset[str]:
        """Return the keys at a depth."""
        return self.keys.get(depth, frozenset())


def json_head(file: Path) -> JsonHead:
    """Return the beginning of a JSON file; an empty one if it cannot be read or is not JSON."""
    if file.suffix.lower() != ".json":
        return JsonHead()
    try:
        stat = file.stat()
        return _head(file, stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError):
        return JsonHead()


@lru_cache(maxsize=1024)
def _head(file: Path, changed: int, size: int) -> JsonHead:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _scan(data)


def _scan(data: mmap.mmap) -> JsonHead:
    depth, bracket, keys, skipped = 0, "", dict[int, set[str]](), 0
    for number, token in enumerate(_TOKEN.finditer(data)):
        if number > _TOKENS or token.start() - skipped > _MOST_BYTES:
            break
        skipped += len(token[0])
        word = token[0][:1]
        if not bracket:
            if word not in (b"{", b"[") or data[: token.start()].strip(b"\xef\xbb\xbf \t\r\n"):
                return JsonHead()
            bracket = word.decode()
        if word in (b"{", b"["):
            depth += 1
        elif word in (b"}", b"]"):
            depth -= 1
        elif token[2] and depth <= _DEEPEST:
            keys.setdefault(depth, set()).add(token[1][1:-1].decode("utf-8", "replace"))
    return JsonHead(bracket, {depth: frozenset(names) for depth, names in keys.items()})


def find_exports(path: Path, ending: str, fits: Fits) -> dict[str, list[Path]]:
    """Return the files of an export by split: a file, or those in a folder; {} if there are none.

    A folder is searched directly and in the folders inside it. The split of a file is taken from
    its name or that of its folder, else it is "train".
    """
    if path.is_file():
        return {"train": [path]} if path.suffix.lower() == ending and fits(path) else {}
    if not path.is_dir():
        return {}
    children = list_visible(path)
    folders = [child for child in children if child.is_dir()]
    splits: dict[str, list[Path]] = {}
    direct = [file for file in children if _has(file, ending) and fits(file)]
    for file in direct:
        splits.setdefault(split_of(file.stem) or "train", []).append(file)
    for folder in folders:
        if direct and not split_of(folder.name):
            continue
        inside = (file for file in list_visible(folder) if _has(file, ending) and fits(file))
        for file in inside:
            split = split_of(folder.name) or split_of(file.stem) or "train"
            splits.setdefault(split, []).append(file)
    return splits


def only_export(path: Path, split: str, files: Sequence[Path]) -> Path:
    """Return the only file of a split. Raises DataError if there are several."""
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise DataError(
            f"{path}: split {split} has several exports: {names}; set data.{split} to one of them"
        )
    return files[0]


def _has(file: Path, ending: str) -> bool:
    return file.suffix.lower() == ending and file.is_file()


def load_json(file: Path) -> Any:
    """Return the content of a JSON file. Raises DataError if it is not valid."""
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not a valid JSON file: {error}") from error


def first_cells(file: Path) -> list[str]:
    """Return the cells of the first line of a CSV; [] if it cannot be read."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            return next(csv.reader(opened), [])
    except (OSError, ValueError, csv.Error):
        return []


def csv_lines(file: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line of a CSV with any. Raises DataError."""
    lines = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in lines:
            if any(cells):
                yield lines.line_num, cells
    except csv.Error as error:
        raise DataError(
            f"{file}, line {lines.line_num}: cannot be read: {error}; correct the line"
        ) from error


@contextmanager
def naming_file(file: Path, tool: str, needs: str) -> Iterator[None]:
    """Turn errors about a malformed structure into a DataError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise DataError(
            f"{file}: not a valid export of {tool}: {type(error).__name__} {error}; expected"
            f" {needs}"
        ) from error


def as_dict(value: Any, name: str) -> Mapping[str, Any]:
    """Return a value that must be an object. Raises TypeError."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {value!r:.60}, not an object")
    return value


def as_list(value: Any, name: str) -> Sequence[Any]:
    """Return a value that must be a list. Raises TypeError."""
    if not isinstance(value, list):
        raise TypeError(f"{name} is {value!r:.60}, not a list")
    return value


def label_name(value: Any) -> str:
    """Return a label as text, "" if there is none. Raises ValueError for other than a name."""
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise ValueError(f"label {value!r:.60} is not a name")
    return str(value).strip()


def no_export(path: Path, tool: str, looked_for: str) -> DataError:
    """Return the error for a path without an export of a tool."""
    found = "" if path.is_file() else f"; found {describe_contents(path)}"
    return DataError(f"{path}: no export of {tool} found; expected {looked_for}{found}")


def show_count(counts: Mapping[str, int], most: int = 6) -> str:
    """Return "points (3), lines (2)": names in the plural read well beside any count."""
    return listed((f"{name} ({count})" for name, count in counts.items()), most)
