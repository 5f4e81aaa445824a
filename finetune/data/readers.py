"""A data reference, or data made in Python -> named splits: all kinds of sources meet here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from finetune.config.formats import FORMATS, DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.data.encodings import Decoder
from finetune.data.folders import read_folder
from finetune.data.image_files import complete_paths, read_picture_files, undecoded
from finetune.data.records import from_columns, from_frame, from_records, is_frame
from finetune.data.tables import read_table
from finetune.errors import DataError, nearest
from finetune.io.references import locate


@dataclass(frozen=True)
class Tables:
    """Named splits, and a sentence for each thing that was settled while they were read."""

    splits: dict[str, Dataset]
    notes: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    """Keys of the task that the source itself tells, such as the names of classes."""


def read(reference: str, config: DataConfig, formats: Sequence[DataFormat] = ()) -> Tables:
    """The splits behind a reference; a source without splits is one, "train".

    What the task knows how to read, it reads; all else is read here.
    """
    pictures = read_picture_files(reference)
    if pictures is not None:
        return Tables({"train": pictures})
    path = locate(reference)
    if path is None:
        _check_hub_is_meant(reference, config)
        return _as_stored(_read_hub(reference, config))
    for each in formats:
        if each.claims(path, config.format):
            return from_task(each.read(path), reference)
    if config.format not in FORMATS:
        known = {*FORMATS, *(each.name for each in formats)}
        raise DataError(
            f"{reference}: this task does not read data.format={config.format}; "
            f"{nearest(config.format, known)} Or name the task that the data is for"
        )
    decoder = Decoder(config.encoding)
    if path.is_file():
        rows, notes = read_table(path, config, decoder)
        splits = {"train": complete_paths(rows, path.parent)}
    elif config.format == "hub" or config.subset is not None:
        return _as_stored(_read_hub(str(path), config))
    else:
        splits, notes = read_folder(path, config, decoder)
    return _as_stored(Tables(splits, decoder.notes() + notes))


def from_task(found: TaskTables, reference: str) -> Tables:
    """What a task has read, as tables. Raises DataError for a split without rows."""
    tables = Tables({}, list(found.notes), dict(found.keys))
    for name, rows in found.splits.items():
        if not rows:
            raise DataError(f"{reference}: split {name} has no rows")
        tables.splits[name], notes = from_records(rows, reference)
        tables.notes.extend(notes)
    return tables


def from_object(value: Any, config: DataConfig, formats: Sequence[DataFormat] = ()) -> Tables:
    """The splits of data made in Python, or of a reference.

    A table is a Dataset, a DataFrame, a list of dicts or a dict of columns; several are a
    DatasetDict or a dict of tables and references.
    """
    if isinstance(value, str | Path):
        return read(str(value), config, formats)
    if isinstance(value, Mapping) and holds_splits(value):
        tables = Tables({})
        for name, part in value.items():
            own = _one_table(part, config, f"data[{name!r}]", formats)
            tables.splits[str(name)] = own.splits["train"]
            tables.notes.extend(own.notes)
            tables.keys.update(own.keys)
    else:
        tables = _one_table(value, config, "data", formats)
    return _as_stored(tables)


def holds_splits(value: Mapping[Any, Any]) -> bool:
    """Whether a dict means splits and not columns: its values are tables or references."""
    return isinstance(value, DatasetDict) or all(
        isinstance(part, str | Path | Dataset | Mapping)
        or is_frame(part)
        or (isinstance(part, Sequence) and all(isinstance(row, Mapping) for row in part[:1]))
        for part in value.values()
    )


def _one_table(value: Any, config: DataConfig, place: str, formats: Sequence[DataFormat]) -> Tables:
    """A table, or a reference that leads to one, as the split "train"."""
    if isinstance(value, str | Path):
        tables = read(str(value), config, formats)
        return replace(tables, splits={"train": only_split(tables.splits, str(value))})
    rows, notes = _made_in_python(value, place)
    return Tables({"train": rows}, notes)


def _made_in_python(value: Any, place: str) -> tuple[Dataset, list[str]]:
    if isinstance(value, Dataset):
        return value, []
    if is_frame(value):
        return from_frame(value, place)
    if isinstance(value, Mapping):
        columns = {str(name): list(values) for name, values in value.items()}
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{name!r} has {len(values)}" for name, values in columns.items())
            raise DataError(f"{place}: columns of different lengths: {lengths}")
        return from_columns(columns, place)
    if isinstance(value, list | tuple):
        for number, row in enumerate(value, start=1):
            if not isinstance(row, Mapping):
                raise DataError(
                    f"{place}: row {number} is {row!r:.80}, not a dict like {{'text': ...}}"
                )
        return from_records(value, place)
    raise DataError(
        f"{place}: {type(value).__name__} is not a data set; give a path, a hub id, a Dataset, a"
        " DatasetDict, a DataFrame, a list of dicts, or a dict of splits (a data set that streams"
        " must be loaded whole)"
    )


def only_split(splits: Mapping[str, Dataset], place: str, split: str | None = None) -> Dataset:
    """The one split there is, or the one that `split` names."""
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split in splits:
        return splits[str(split)]
    wanted = "holds several splits" if split is None else f"holds no split {split!r}"
    raise DataError(f"{place}: {wanted}; choose one with split=NAME: {', '.join(splits)}")


def _check_hub_is_meant(reference: str, config: DataConfig) -> None:
    if config.format not in ("auto", "hub"):
        raise DataError(
            f"{reference}: no such file or folder, and data.format={config.format} rules out a hub"
            " data set; mend the path, or write data.format=auto"
        )


def _read_hub(reference: str, config: DataConfig) -> Tables:
    """A data set of the hub, or a local folder in its layout; `datasets` runs no code of it."""
    try:
        loaded = load_dataset(reference, name=config.subset, revision=config.revision)
    except DatasetNotFoundError as error:
        pinned = f" with a revision {config.revision!r}" if config.revision else ""
        raise DataError(
            f"{reference}: is no file or folder here, and the hub has no such data set{pinned};"
            " mend the name, or log in with `hf auth login` if it is private or gated"
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"{reference}: is no file or folder here, and the hub cannot be reached ({error});"
            " mend the path, or download the data set where there is a network"
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        # Among them: a subset that must be chosen, a data set that only its own code can read.
        keys = f"data.subset={config.subset}, data.revision={config.revision}"
        raise DataError(f"{reference}: cannot be loaded with {keys}: {error}") from error
    assert isinstance(loaded, DatasetDict)
    return Tables(dict(loaded))


def _as_stored(tables: Tables) -> Tables:
    """The tables with pictures not decoded, and None for the class number -1, by which benchmarks
    hide labels.
    """
    splits = {}
    for split, rows in tables.splits.items():
        rows = undecoded(rows)
        for column, feature in rows.features.items():
            if isinstance(feature, ClassLabel):
                rows = _hide(rows, column)
        splits[split] = rows
    return replace(tables, splits=splits)


def _hide(rows: Dataset, column: str) -> Dataset:
    numbers = rows.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    known = pc.if_else(pc.greater_equal(numbers, 0), numbers, None)
    if known.null_count == numbers.null_count:
        return rows
    order, feature = rows.column_names, rows.features[column]
    with_nulls = rows.remove_columns(column).add_column(column, known, feature=feature)
    return with_nulls.select_columns(order)
