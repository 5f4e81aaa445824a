"""Splits that were opened and checked before, kept by the content of the files that they are from.

Only for tables of plain cells in files, read by a task in a package: rows that name other files, or
pass through a function of the user, may change with the same table.

    splits.json  <split>.arrow ...
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset

from finetune.batching.content_cache import entry_key, open_entry, store_entry
from finetune.config.formats import TABLES
from finetune.config.schema import DataConfig
from finetune.data.opening import Splits
from finetune.distributed.launch import this_process
from finetune.errors import DataError
from finetune.io.files import sha256_of
from finetune.io.references import is_pattern, locate
from finetune.tables.records import as_dataset
from finetune.tables.table_files import table_format
from finetune.task import Task
from finetune.task_parts.columns import window_size

FEWEST_BYTES = 4 * 2**20
"""Size of all files from which splits are kept: smaller ones are read and checked in a second."""
_KIND, _FACTS, _UNLABELED = "rows", "splits.json", "unlabeled"
_REFERENCES = ("source", "train", "validation", "test", "unlabeled")
_OTHERS = ("map", "drop", "relabel", "answers", "images", "subset")


def splits_key(config: DataConfig, task: Task) -> str | None:
    """Return the key of the splits of a config; None if they are not kept."""
    if task.config.reads_images or any(getattr(config, name) is not None for name in _OTHERS):
        return None
    try:
        paths = list(_files(config, task))
        if sum(path.stat().st_size for path in paths) < FEWEST_BYTES:
            return None
        files = [[str(path), sha256_of(path)] for path in paths]
    except (OSError, DataError, ValueError):  # which reading reports, or a source of another kind
        return None
    sections = [config.model_dump(mode="json"), task.config.model_dump(mode="json")]
    return entry_key(type(task), [sections, files])


def _files(config: DataConfig, task: Task) -> Iterator[Path]:
    """Yield the files that a config names. Raises ValueError for anything else."""
    for name in _REFERENCES:
        reference = getattr(config, name)
        if not isinstance(reference, str):
            continue
        path = None if is_pattern(reference) else locate(reference)
        if path is None and name in ("train", "validation", "test"):
            continue  # the name of a split: a table has what its file has
        if path is None or not path.is_file():
            raise ValueError(f"{reference} is not a file")
        kind = table_format(path) if config.format == "auto" else config.format
        if kind not in TABLES or any(e.claims(path, config.format) for e in task.config.formats):
            raise ValueError(f"{path} is not a table")
        yield path


def recall_splits(key: str, task: Task) -> Splits | None:
    """Return the splits of a key, and give the task the keys that they settle; None without."""
    folder = open_entry(_KIND, key)
    if folder is None:
        return None
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        tables = {name: _open_table(folder / f"{name}.arrow") for name in facts["tables"]}
        splits = Splits(
            tables["train"],
            tables.get("validation"),
            tables.get("test"),
            facts["notes"],
            {name: _unpack(numbers) for name, numbers in facts["numbers"].items()},
            tables.get(_UNLABELED),
            {name: set(numbers) for name, numbers in facts["leaked"].items()},
            facts["digests"],
        )
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    task.settle(facts["settled"])
    return splits


def keep_splits(key: str, task: Task, before: Mapping[str, Any], splits: Splits) -> Splits:
    """Keep splits, with the keys that they settled; return them memory-mapped where possible.

    `before` are the attributes of the task before it read the rows.
    """
    settled = {
        name: value
        for name, value in task.resolved_.model_dump().items()
        if value != getattr(before["resolved_"], name)
    }
    tables = dict(splits.named)
    if splits.unlabeled is not None:
        tables[_UNLABELED] = splits.unlabeled
    facts = {
        "tables": list(tables),
        "notes": splits.notes,
        "numbers": {name: _pack(numbers) for name, numbers in splits.numbers.items()},
        "leaked": {name: sorted(numbers) for name, numbers in splits.leaked.items()},
        "digests": dict(splits.digests),
        "settled": settled,
    }
    others = {name: value for name, value in vars(task).items() if name != "resolved_"}
    is_known = others == {name: value for name, value in before.items() if name != "resolved_"}
    if not is_known or not _survives_json(facts) or not this_process().is_main_process:
        return splits
    stored = store_entry(_KIND, key, partial(_write, facts, tables))
    return (recall_splits(key, task) if stored else None) or splits


def _write(facts: Mapping[str, Any], tables: Mapping[str, Dataset], folder: Path) -> None:
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")
    for name, rows in tables.items():
        schema, arrow = rows.features.arrow_schema, rows.with_format("arrow")
        with pa.ipc.new_file(folder / f"{name}.arrow", schema) as file:
            size = window_size(rows, rows.column_names)
            for start in range(0, len(rows), size):
                file.write_table(arrow[start : start + size].cast(schema))


def _open_table(path: Path) -> Dataset:
    return as_dataset(pa.ipc.open_file(pa.memory_map(str(path))).read_all())


def _pack(numbers: Sequence[int]) -> list[int] | dict[str, int]:
    if isinstance(numbers, range):
        return {"start": numbers.start, "stop": numbers.stop, "step": numbers.step}
    return list(numbers)


def _unpack(numbers: list[int] | dict[str, int]) -> Sequence[int]:
    return numbers if isinstance(numbers, list) else range(*numbers.values())


def _survives_json(facts: Mapping[str, Any]) -> bool:
    """True if facts are the same when they are read again: plain values, and no other kinds."""
    is_plain = all(
        type(number) is int
        for numbers in facts["numbers"].values()
        for number in (numbers if isinstance(numbers, list) else ())
    )
    try:
        return is_plain and bool(json.loads(json.dumps(facts)) == facts)
    except (TypeError, ValueError):
        return False
