"""Misspelled names of columns and splits, found in the first bytes of a file before it is read.

The readers decide what a file holds. Here a name is refused only if it does not occur where they
would look for it, and if a similar one does.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from finetune.config.formats import TABLES
from finetune.config.schema import DataConfig, RunConfig
from finetune.data.source import find_data
from finetune.errors import closest, raise_for_faults
from finetune.io.references import is_pattern
from finetune.listing.split_names import split_name
from finetune.listing.walking import walk_visible

_HEAD = 2**16
"""Bytes of a file that hold its header, or its first row."""
_WHOLE = 2**20
"""Bytes up to which a file is searched for the name of a split."""
_WALKED = 1000
"""Files of a folder among which the name of a split is looked for."""
_ROLES = ("train", "validation", "test")


def check_data_names(config: RunConfig) -> None:
    """Raise ConfigError for misspelled columns and splits of local data."""
    data = config.data
    reference = data.source or data.train
    place = None if reference is None or is_pattern(reference) else find_data(reference)
    if place is None:
        return
    faults = list(_split_faults(data, place)) if data.source is not None else []
    if place.is_file() and data.map is None and not isinstance(data.columns, list):
        faults += _column_faults(config, place)
    raise_for_faults("the config", faults)


def _column_faults(config: RunConfig, path: Path) -> Iterator[str]:
    head = _text(path, _HEAD)
    names = _columns(path, head, config.data.delimiter) if head else []
    for key, column in _column_keys(config) if names else ():
        is_there = column.lower() in (head or "").lower()
        if not is_there and (near := closest(column, names)):
            yield f"{key}: {path} has no column {column!r}; did you mean {near!r}?"


def _column_keys(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yield (key, column) for each column that a config names."""
    slices = config.report.slices
    keys: dict[str, str | list[str] | None] = {
        "data.group": config.data.group,
        "train.group_by": config.train.group_by,
        "report.groups": config.report.groups,
        "report.slices": slices if isinstance(slices, list) else None,
    }
    keys |= {f"task.{key}": getattr(config.task, key) for key in sorted(config.task.column_keys)}
    for key, value in keys.items():
        for column in [value] if isinstance(value, str) else value or ():
            if "{" not in column:  # a template of several columns
                yield key, column


def _columns(path: Path, head: str, delimiter: str | None) -> list[str]:
    """Return the names in the first line of a table, or the keys of its first row."""
    kind = next((name for name, each in TABLES.items() if path.suffix.lower() in each.endings), "")
    first = next((line for line in head.splitlines() if line.strip()), "")
    try:
        if kind in ("csv", "tsv"):
            character = delimiter or max(",;\t|", key=first.count)
            return [name.strip() for name in next(csv.reader([first], delimiter=character), [])]
        row = json.loads(first) if kind == "jsonl" else None
    except (ValueError, csv.Error, RecursionError):
        return []
    return list(row) if isinstance(row, dict) else []


def _split_faults(data: DataConfig, place: Path) -> Iterator[str]:
    """Yield the faults of names that are similar to train, validation or test, and no split."""
    for role in _ROLES:
        name = getattr(data, role)
        if not isinstance(name, str) or split_name(name) is not None or find_data(name):
            continue
        near = closest(name, _ROLES)
        if near is not None and not _mentions(place, name):
            yield f"data.{role}: {name!r} is not a split of {place}; did you mean {near!r}?"


def _mentions(place: Path, name: str) -> bool:
    """True if a name occurs in the names of files in a folder, or in a file, or may do so."""
    if place.is_dir():
        paths = list(walk_visible(place, _WALKED))
        return len(paths) >= _WALKED or any(name in str(path) for path in paths)
    text = _text(place, _WHOLE) if place.stat().st_size <= _WHOLE else None
    return text is None or name in text


def _text(path: Path, size: int) -> str | None:
    """Return the first bytes of a file as text; None unless they are utf-8."""
    with path.open("rb") as file:
        content = file.read(size)
    if len(content) == size:  # perhaps within a character
        content = content.rpartition(b"\n")[0]
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
