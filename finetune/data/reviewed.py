"""Reviewed label issues: training rows to drop, or to give the label that a reviewer confirmed.

A file has a line for each row, with its number `row`, its label `given` and, to relabel it, the
label `suggested`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.readers import from_object, only_split
from finetune.data.roles import Roles
from finetune.errors import DataError, nearest
from finetune.task_parts import Row, Rows, take_rows

GIVEN, SUGGESTED = "given", "suggested"


def joined(labels: Iterable[str]) -> str:
    """Return the labels of a row as the text of a cell."""
    return "; ".join(sorted(map(str, labels)))


def apply_reviewed(roles: Roles, config: DataConfig, task_rows: Rows) -> None:
    """Relabel and drop training rows by data.relabel and data.drop.

    Raises DataError for a file of other rows.
    """
    if config.relabel is not None:
        _relabel(roles, config.relabel, task_rows)
    if config.drop is not None:
        lines = _read("data.drop", config.drop, roles, task_rows, [])
        count = len(roles.tables["train"])
        roles.select("train", [place for place in range(count) if place not in lines])
        roles.notes.append(f"train: {len(lines)} of {count} rows dropped (data.drop={config.drop})")
        if not roles.tables["train"]:
            raise DataError(f"data.drop={config.drop}: lists all rows of train")


def _relabel(roles: Roles, path: str, task_rows: Rows) -> None:
    rows, targets, place = roles.tables["train"], task_rows.targets, f"data.relabel={path}"
    lines = _read("data.relabel", path, roles, task_rows, [GIVEN, SUGGESTED])
    labels = [task_rows.labels(row) for row in rows.select_columns(targets)]
    if len(targets) != 1 or any(len(row_labels) != 1 for row_labels in labels):
        raise DataError(f"{place}: needs one column with one label for each row; correct the data")
    cells: list[Any] = list(rows[targets[0]])
    known = {label: cell for (label,), cell in zip(labels, cells, strict=True)}
    changed = 0
    for position, line in lines.items():
        label = str(line[SUGGESTED] or "").strip()
        if not label or label == labels[position][0]:
            continue
        if label not in known:
            raise DataError(
                f"{place}: row {line['row']}: no row of train has the label {label!r}; "
                f"{nearest(label, known)}"
            )
        cells[position] = known[label]
        changed += 1
    roles.tables["train"] = _with_column(rows, targets[0], cells)
    roles.notes.append(f"train: {changed} of {len(rows)} rows relabeled ({place})")


def _with_column(rows: Dataset, name: str, cells: list[Any]) -> Dataset:
    changed = rows.remove_columns(name).add_column(name, cells, feature=rows.features[name])
    return changed.select_columns(rows.column_names)


def _read(key: str, path: str, roles: Roles, task_rows: Rows, columns: list[str]) -> dict[int, Row]:
    """Return {position in train: line} of a file. Raises DataError if it is of other rows."""
    place = f"{key}={path}"
    lines = only_split(from_object(path, DataConfig()), path, None)
    for name in ["row", *columns]:
        if name not in lines.column_names:
            raise DataError(f"{place}: has no column {name!r}; {nearest(name, lines.column_names)}")
    # Cells of a table may be text, and numbers of a spreadsheet 7.0.
    positions = {str(int(number)): at for at, number in enumerate(roles.numbers_of("train"))}
    named = [(str(line["row"]).strip().removesuffix(".0"), line) for line in lines]
    found = {positions[number]: line for number, line in named if number in positions}
    if len(found) < len(lines):
        raise DataError(
            f"{place}: {len(lines) - len(found)} of {len(lines)} lines name a row that train does "
            "not have, or one that another line names; give the file of these data"
        )
    if GIVEN in lines.column_names:
        rows = take_rows(roles.tables["train"].select_columns(task_rows.targets), found)
        for line, row in zip(found.values(), rows, strict=True):
            if (label := joined(task_rows.labels(row))) != str(line[GIVEN]):
                raise DataError(
                    f"{place}: row {line['row']} has the label {label!r}, not {line[GIVEN]!r}; "
                    "the data have changed since the file was written; find label issues again"
                )
    return found
