"""Reviewed label issues, which change the training rows: data.relabel and data.drop.

A table has a line for each issue, with the number `row` of its row, the label `given` and, to
relabel it, the label `suggested`. Lines with a column `object` are about one object of a row, such
as a box:

    {"row": 7, "object": 2, "kind": "class", "given": "cat", "suggested": "dog", ...}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.data.image_files import NO_IMAGES
from finetune.data.readers import from_object, only_split
from finetune.data.roles import Roles
from finetune.errors import DataError, listed, nearest
from finetune.task_parts.rows import Revision, Rows
from finetune.task_parts.samples import Row, take_rows

GIVEN, SUGGESTED, OBJECT = "given", "suggested", "object"
_DELIMITERS = (";", "; ", ",", ", ", "|", " ")
_Lines = dict[int, list[Row]]
"""{position in train: its lines}"""


def joined(labels: Iterable[str]) -> str:
    """Return the labels of a row as the text of a cell."""
    return "; ".join(sorted(map(str, labels)))


def apply_reviewed(roles: Roles, config: DataConfig, task_rows: Rows) -> None:
    """Relabel and drop training rows, or objects of them, by data.relabel and data.drop.

    Raises DataError for a file of other rows.
    """
    files = {"relabel": config.relabel, "drop": config.drop}
    tables = {name: _Reviewed(f"data.{name}={path}", path) for name, path in files.items() if path}
    about_objects = {name: table for name, table in tables.items() if table.is_about_objects}
    if about_objects:
        _revise_objects(roles, about_objects, task_rows)
    if "relabel" in tables.keys() - about_objects:
        _relabel(roles, tables["relabel"], task_rows)
    if "drop" in tables.keys() - about_objects:
        lines, count = tables["drop"].by_row(roles, task_rows), len(roles.tables["train"])
        roles.select("train", [place for place in range(count) if place not in lines])
        roles.notes.append(f"train: {len(lines)} of {count} rows dropped (data.drop={config.drop})")
        if not roles.tables["train"]:
            raise DataError(f"data.drop={config.drop}: lists all rows of train")


class _Reviewed:
    """A reviewed table; `place` is the key that names it, for messages."""

    def __init__(self, place: str, path: str) -> None:
        self.place = place
        # Else numbers would be taken for names of images that lie beside the table.
        try:
            self.lines = only_split(from_object(path, DataConfig(images=NO_IMAGES)), path, None)
        except DataError as error:
            raise DataError(f"{place.partition('=')[0]}: {error}") from error
        self.is_about_objects = OBJECT in self.lines.column_names

    def by_row(self, roles: Roles, task_rows: Rows) -> dict[int, Row]:
        """Return {position in train: line}, one line a row. Raises DataError for other rows."""
        found = self.find(roles, [])
        if GIVEN in self.lines.column_names:
            rows = take_rows(roles.tables["train"].select_columns(task_rows.targets), found)
            for (line,), row in zip(found.values(), rows, strict=True):
                if (label := joined(task_rows.labels(row))) != str(line[GIVEN] or ""):
                    raise DataError(
                        f"{self.place}: row {line['row']} has the label {label!r}, not "
                        f"{line[GIVEN]!r}; the data have changed since the file was written; find "
                        "label issues again"
                    )
        return {position: line for position, (line,) in found.items()}

    def find(self, roles: Roles, columns: Iterable[str], *, several: bool = False) -> _Lines:
        """Return the lines of each row. Raises DataError for rows that train does not have."""
        for name in ["row", *columns]:
            if name not in self.lines.column_names:
                raise DataError(
                    f"{self.place}: has no column {name!r}; "
                    f"{nearest(name, self.lines.column_names)}"
                )
        # Cells of a table may be text, and numbers of a spreadsheet 7.0.
        positions = {str(int(number)): at for at, number in enumerate(roles.numbers_of("train"))}
        named = [(str(line["row"]).strip().removesuffix(".0"), line) for line in self.lines]
        found = _Lines()
        for number, line in named:
            if number in positions:
                found.setdefault(positions[number], []).append(line)
        times = Counter(number for number, _ in named)
        wrong = [
            number
            for number, count in times.items()
            if number not in positions or (count > 1 and not several)
        ]
        if wrong:
            bad = sum(times[each] - (each in positions) for each in wrong)
            other = "" if several else ", or one that another line names"
            raise DataError(
                f"{self.place}: {bad} of {len(named)} lines name a row that train does not have"
                f"{other}: {listed(wrong, 5)}; give the file of these data"
            )
        return found


# ---- labels of rows


def _relabel(roles: Roles, table: _Reviewed, task_rows: Rows) -> None:
    rows, targets = roles.tables["train"], task_rows.targets
    table.find(roles, [GIVEN, SUGGESTED])
    lines = table.by_row(roles, task_rows)
    labels = list(task_rows.labels_of(rows.select_columns(targets)))
    if not targets or not any(labels):
        raise DataError(f"{table.place}: rows of this task have no labels; remove the key")
    cells: dict[str, list[Any]] = {name: list(rows[name]) for name in targets}
    before = {name: list(values) for name, values in cells.items()}  # of which cells are made
    writer, changed = _LabelWriter(before, labels, task_rows), 0
    is_single = all(len(each) == 1 for each in labels)
    for position, line in lines.items():
        wanted = _wanted(line, single=is_single)
        if not wanted or set(wanted) == set(labels[position]):
            continue
        place = f"{table.place}: row {line['row']}"
        for name, value in writer.cells_of(wanted, place).items():
            cells[name][position] = value
        changed += 1
    for name in targets:
        rows = _with_column(rows, name, cells[name])
    roles.tables["train"] = rows
    roles.notes.append(f"train: {changed} of {len(rows)} rows relabeled ({table.place})")


def _wanted(line: Row, *, single: bool) -> list[str]:
    text = str(line[SUGGESTED] or "").strip()
    parts = [text] if single else [part.strip() for part in text.split(";")]
    return [part for part in dict.fromkeys(parts) if part]


class _LabelWriter:
    """Writer of labels as cells of the target columns, in the form that the rows of train have."""

    def __init__(
        self,
        cells: Mapping[str, Sequence[Any]],
        labels: Sequence[tuple[str, ...]],
        task_rows: Rows,
    ) -> None:
        self._cells, self._labels, self._rows = cells, labels, task_rows
        self._places = {frozenset(each): place for place, each in enumerate(labels)}
        self._known = {label: place for place, each in enumerate(labels) for label in each}

    def cells_of(self, wanted: Sequence[str], place: str) -> Row:
        """Return a cell for each target column. Raises DataError for labels that no row has."""
        for label in wanted:
            if label not in self._known:
                raise DataError(
                    f"{place}: no row of train has the label {label!r}; "
                    f"{nearest(label, self._known)}"
                )
        for cells in self._candidates(wanted):
            if set(self._rows.labels(cells)) == set(wanted):
                return cells
        raise DataError(
            f"{place}: no row of train has just the labels {joined(wanted)!r}, and no cell is "
            "read as these; correct the labels in the data"
        )

    def _candidates(self, wanted: Sequence[str]) -> Iterator[Row]:
        alike = self._places.get(frozenset(wanted))
        if alike is not None:
            yield {name: values[alike] for name, values in self._cells.items()}
        elif len(self._cells) > 1:  # a column for each label
            yield {name: self._indicator(name, name in wanted) for name in self._cells}
        else:
            ((name, values),) = self._cells.items()
            if isinstance(values[self._known[wanted[0]]], list):
                items = [self._item(values, label) for label in wanted]
                yield {name: items}
            else:
                yield from ({name: mark.join(wanted)} for mark in _DELIMITERS)

    def _indicator(self, name: str, is_true: bool) -> Any:
        places = (p for p, each in enumerate(self._labels) if (name in each) == is_true)
        return self._cells[name][next(places, 0)]

    def _item(self, values: Sequence[Any], label: str) -> Any:
        """Return the item of a list that is read as a label."""
        place = self._known[label]
        at = list(self._labels[place]).index(label)
        return values[place][at] if at < len(values[place]) else label


def _with_column(rows: Dataset, name: str, cells: list[Any]) -> Dataset:
    changed = rows.remove_columns(name).add_column(name, cells, feature=rows.features[name])
    return changed.select_columns(rows.column_names)


# ---- objects of rows


def _revise_objects(roles: Roles, tables: Mapping[str, _Reviewed], task_rows: Rows) -> None:
    """Change, add and drop the objects that tables name; all numbers are those of the data."""
    revisions = dict[int, list[Revision]]()
    for name, table in tables.items():
        columns = [GIVEN, SUGGESTED] if name == "relabel" else []
        for position, lines in table.find(roles, columns, several=True).items():
            some = [Revision(line, table.place, drops=name == "drop") for line in lines]
            revisions.setdefault(position, []).extend(some)
    rows = roles.tables["train"]
    revised = task_rows.revise_objects(rows, revisions)
    for name, cells in revised.cells.items():
        rows = _with_column(rows, name, list(cells))
    roles.tables["train"] = rows
    places = " ".join(table.place for table in tables.values())
    counts = ", ".join(f"{count} {what}" for what, count in revised.counts.items() if count)
    roles.notes.append(
        f"train: objects of {len(revisions)} of {len(rows)} rows revised: "
        f"{counts or 'none changed'} ({places})"
    )
