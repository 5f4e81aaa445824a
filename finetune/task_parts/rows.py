"""The rows of a task: which columns it reads, which rows are valid, and what their labels are."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from finetune.errors import DataError
from finetune.task_parts.samples import Row, RowTable, each_row


class Fixable(str):
    """A validation message about a fault that `encode` repairs, such as a box outside its image.

    With data.on_error=clip, a row whose faults are all of this kind is kept.
    """


class Finding(NamedTuple):
    """What a check found in the data: it harms a model, or what is measured of it.

    Attributes:
        harm: 3: results will be wrong or useless; 2: they will be worse; 1: worth knowing.
        topic: one or two words, such as "leakage".
        text: what was found, with its counts.
        remedy: the key or command that helps, or what to do.
        share: of the rows concerned, by which findings of equal harm are ranked.
        rows: {split: numbers of the rows concerned, from 1}.
    """

    harm: int
    topic: str
    text: str
    remedy: str
    share: float = 0.0
    rows: Mapping[str, Sequence[int]] = MappingProxyType({})


class Revision(NamedTuple):
    """A line of a reviewed table about one object of a row.

    Attributes:
        line: "object", its number in the row from 1, empty for one to add; "given", "suggested" and
            what else the task has written for it.
        place: the key and the file, for messages.
        drops: True to drop the object, False to give it what is suggested.
    """

    line: Row
    place: str
    drops: bool


class Revised(NamedTuple):
    """The cells of columns whose objects were revised, and how many were, {what: number}."""

    cells: dict[str, Sequence[Any]]
    counts: dict[str, int]


class Resolved(NamedTuple):
    """Values for keys that the config left open, and one sentence for each choice made."""

    keys: dict[str, Any]
    notes: list[str]


class Rows:
    """The data format of a task: the columns it reads, its valid rows and their labels.

    It is built from the task's config alone, without learned labels or a network, so validation
    gives the same result before and after training. The defaults accept any row.

    Attributes:
        config: the task's `resolved_` config.
    """

    label_unit = "rows"
    """Unit of `occurrences`, in the plural."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def inputs(self) -> list[str]:
        """Names of the columns needed to predict; [] if all of them are."""
        return []

    @property
    def targets(self) -> list[str]:
        """Names of the columns that hold the target; [] if the task does not say."""
        return []

    @property
    def certainty(self) -> int:
        """How surely the target's columns are the target, to choose the task of a dataset.

        0: by their values alone; 1: by usual names; 2: by names that mean nothing else.
        """
        return 1

    def describe(self, row: Row) -> str:
        """Render a row as it is read, for a person to check: "text 'Ad sales' -> label 'sport'".

        Shown before training. `row` has all of its columns; values are shortened.
        """
        read, wanted = (
            ", ".join(f"{name} {shorten(row[name])}" for name in columns if name in row)
            for columns in (self.inputs or list(row), self.targets)
        )
        return f"{read} -> {wanted}" if wanted else read

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        """Choose the columns to read, by their names and first values.

        `columns` maps each column to its first values. Without `with_targets`, choose only the
        input columns: rows to embed have no label. Raises DataError if a configured column is
        missing or the choice is ambiguous.
        """
        return Resolved({}, [])

    def complete(self, splits: Mapping[str, Iterable[Row]]) -> Resolved:
        """Fill keys that take the valid rows of all splits, such as classes of masks.

        Asked once they are open. The default fills none.
        """
        return Resolved({}, [])

    def validate(self, row: Row) -> Iterator[str]:
        """Yield a message for each fault of a row, worded so that the user can fix it.

        A label that is None is a fault. A row without the label column is not: it is a row to
        predict.
        """
        return iter(())

    def validate_many(self, rows: Sequence[Row]) -> list[list[str]]:
        """Return the faults of each row; override it if checking rows in bulk is faster."""
        return [list(self.validate(row)) for row in rows]

    def identity(self, row: Row) -> Any:
        """Return a hashable key of the row's content, by which duplicates and leakage are found.

        Splits made by share keep rows with equal keys together.
        """
        return repr(sorted(row.items()))

    def labels(self, row: Row) -> tuple[str, ...]:
        """Return the labels of a row without repetition; () if it has none.

        Used to stratify splits and to balance sampling.
        """
        return ()

    def occurrences(self, row: Row) -> tuple[str, ...]:
        """Return the labels of a row with repetition, such as that of each object of an image.

        They are counted for the run's header and the model card, in `label_unit`.
        """
        return self.labels(row)

    def truth(self, row: Row) -> Any:
        """Return a value that changes whenever the target of the row changes.

        It lets a resumed run notice edited labels. The default is `labels`.
        """
        return self.labels(row)

    def texts(self, row: Row) -> list[Any]:
        """Return the texts of a row that the network reads, for checks; [] if it reads none."""
        return []

    # ---- the same of all rows of a table: override these where columns are faster than rows

    def doubtful(self, rows: RowTable | Sequence[Row]) -> Sequence[int]:
        """Return the positions of rows that `validate` must see: all those with a fault, or more.

        The default returns all.
        """
        return range(len(rows))

    def identities_of(self, rows: RowTable | Sequence[Row]) -> Iterator[Any]:
        """Yield the identity of each row."""
        return map(self.identity, each_row(rows))

    def labels_of(self, rows: RowTable | Sequence[Row]) -> Iterator[tuple[str, ...]]:
        """Yield the labels of each row."""
        return map(self.labels, each_row(rows))

    def truths_of(self, rows: RowTable | Sequence[Row]) -> Iterator[Any]:
        """Yield the truth of each row."""
        return map(self.truth, each_row(rows))

    def texts_of(self, rows: RowTable | Sequence[Row]) -> Iterator[list[Any]]:
        """Yield the texts of each row."""
        return map(self.texts, each_row(rows))

    def count_labels(self, rows: RowTable | Sequence[Row]) -> tuple[Counter[str], int]:
        """Count the occurrences of each label, and the rows without one."""
        counts, unlabeled = Counter[str](), 0
        for row in each_row(rows):
            counts.update(labels := self.occurrences(row))
            unlabeled += not labels
        return counts, unlabeled

    def content_keys(self, rows: RowTable | Sequence[Row]) -> list[Hashable]:
        """Return short keys of all rows, equal for rows of equal identity."""
        return [content_key(identity) for identity in self.identities_of(rows)]

    def revise_objects(
        self, rows: RowTable | Sequence[Row], revisions: Mapping[int, Sequence[Revision]]
    ) -> Revised:
        """Apply reviewed lines about objects, {position of a row: lines}.

        Raises DataError, as by default: only some tasks have rows of several objects.
        """
        place = next(iter(revisions.values()))[0].place if revisions else "data.relabel"
        raise DataError(
            f"{place}: has a column 'object', but rows of {self.config.name} have no objects; give "
            "a file with a line for each row"
        )

    # ---- pictures, checks of one task, and rows that are made

    def size(self, row: Row) -> tuple[int, int] | None:
        """Return the height and width of a row's picture in pixels; None if it has none."""
        return None

    def thumbnail(self, row: Row, side: int) -> np.ndarray | None:
        """Return a row's picture in gray, uint8 [side, side], for checks; None if it has none."""
        return None

    def examine(self, split: str, rows: Iterable[Row], numbers: Sequence[int]) -> Iterator[Finding]:
        """Yield what only the task can find in a split, such as boxes of a few pixels.

        `numbers` are those of the rows in their table.
        """
        return iter(())

    def divide(self, row: Row, shares: Mapping[str, float]) -> dict[str, Row] | None:
        """Divide a row into disjoint ones: {split: row} for train and for each split of `shares`.

        Asked if a dataset has a single row, such as one large image, of which an area can be held
        out. None (the default) if rows cannot be divided.
        """
        return None

    def from_value(self, value: Any) -> Row:
        """Build a row from a bare value, such as a text or the path of an image, for prediction.

        Raises DataError if a bare value is not enough, as by default.
        """
        raise DataError(
            f"{self.config.name}: {value!r} is not a row; pass dicts with the columns that the "
            "model was trained on"
        )


def content_key(identity: Any) -> Hashable:
    """Return a digest of an identity that consists of texts; any other identity itself.

    The texts of millions of rows would otherwise be in memory while the rows are compared.
    """
    if not isinstance(identity, tuple) or not all(isinstance(each, str) for each in identity):
        return identity  # type: ignore[no-any-return]
    content = "\0".join([*map(str, map(len, identity)), *identity])  # the sizes tell them apart
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shorten(value: Any, limit: int = 80) -> str:
    """Render a value in at most about `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def validate_in_threads(rows: Rows, some: Sequence[Row]) -> list[list[str]]:
    """Validate rows in a thread pool: `Rows.validate_many` for checks that decode files."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda row: list(rows.validate(row)), some))
