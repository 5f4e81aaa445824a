"""Reading of every kind of data source into named splits.

A source is a file, a folder, a dataset of the hub or data made in Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError, DatasetsError

from finetune.config.formats import FORMATS, DataFormat, TaskTables, Unusable
from finetune.config.schema import DataConfig
from finetune.data.folders import read_folder
from finetune.data.image_files import complete_paths, disable_image_decoding, read_image_files
from finetune.errors import DataError, nearest
from finetune.io.references import locate, suggest_beside
from finetune.listing.walking import describe_contents, list_readable, walk_visible
from finetune.tables.encodings import Decoder
from finetune.tables.records import from_columns, from_frame, from_records, is_frame
from finetune.tables.table_files import read_table_splits, table_format

_WALKED = 10_000  # files of a folder among which a table is looked for
_DEEPEST = 3  # folders in one another, of which each is the only one
_DOCUMENTATION = re.compile(r"(readme|license|licence|citation|changelog)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Tables:
    """Named splits, and one sentence for each choice made while reading them."""

    splits: dict[str, Dataset]
    notes: list[str] = field(default_factory=list)
    keys: dict[str, Any] = field(default_factory=dict)
    """Task keys that the source defines, such as the names of the classes."""
    unusable: dict[str, Unusable] = field(default_factory=dict)
    """The splits that are refused if they are used."""


def read_reference(
    reference: str, config: DataConfig, formats: Sequence[DataFormat] = ()
) -> Tables:
    """Read the splits that a reference names; a source without splits gives one, "train".

    The task's own `formats` take precedence over the formats read here.
    """
    images = read_image_files(reference)
    if images is not None:
        return Tables({"train": images})
    path = locate(reference)
    if path is None:
        _check_allows_hub(reference, config)
        return _find_images(_as_stored(_read_hub(reference, config)), config)
    by_task = read_by_task(path, reference, config, formats)
    if by_task is not None:
        return by_task
    if config.format not in FORMATS:
        known = {*FORMATS, *(each.name for each in formats)}
        raise DataError(
            f"{reference}: this task does not read data.format={config.format}; "
            f"{nearest(config.format, known)} Or choose the task that reads this format"
        )
    try:
        return _read_local(path, config)
    except DataError as error:
        add_lookup(error, path, formats)
        raise


def read_by_task(
    path: Path, reference: str, config: DataConfig, formats: Sequence[DataFormat]
) -> Tables | None:
    """Read a path, or the only folder in it, in the first of a task's formats that claims it.

    None if there is none. An archive often holds its dataset in a folder or two.
    """
    place = path
    for _ in range(_DEEPEST):
        for each in formats:
            if each.claims(place, config.format):
                tables = from_task(each.read(place, config), reference)
                tables.notes.extend(_note_other_formats(each, place, config, formats))
                if place != path:
                    tables.notes.insert(0, f"{path}: read its only folder, {place}")
                return tables
        children = [child for child in list_readable(place) if not _is_documentation(child)]
        if len(children) != 1 or not children[0].is_dir():
            return None
        place = children[0]
    return None


def _is_documentation(path: Path) -> bool:
    """True for a file that is about the data, such as README.txt."""
    return path.suffix.lower() in (".md", ".pdf", ".html") or bool(_DOCUMENTATION.match(path.name))


def _note_other_formats(
    read: DataFormat, path: Path, config: DataConfig, formats: Sequence[DataFormat]
) -> list[str]:
    """Note the other formats that a source could be read in."""
    if config.format != "auto":
        return []
    others = [each.name for each in formats if each.looks_for and each != read and each.fits(path)]
    keys = " or ".join(f"data.format={name}" for name in others)
    return [f"{path}: read as {read.name}; {keys} would read its other annotations"] * bool(keys)


def _read_local(path: Path, config: DataConfig) -> Tables:
    """Read a file or a folder that is in no format of the task."""
    decoder = Decoder(config.encoding)
    if path.is_file():
        splits, notes = read_table_splits(path, config, decoder)
        for name, rows in splits.items():
            splits[name], image_notes = complete_paths(rows, path, config)
            notes = [*notes, *image_notes]
    elif config.format == "hub" or config.subset is not None:
        return _as_stored(_read_hub(str(path), config))
    else:
        splits, notes = read_folder(path, config, decoder)
    return _as_stored(Tables(splits, decoder.notes() + notes))


def add_lookup(error: DataError, path: Path | None, formats: Sequence[DataFormat]) -> None:
    """Add to an error what the task's formats looked for at a path, and what is there.

    For a folder this comes first. How it fails as folders of classes is left out, which a task with
    formats of its own does not learn from.
    """
    wanted = [each.looks_for for each in formats if each.looks_for]
    if path is None or not wanted:
        return
    where = f"; found in {path}: {describe_contents(path)}" if path.is_dir() else ""
    lookup = f"{path}: not in a format of this task; looked for {'; '.join(wanted)}{where}"
    if not path.is_dir():
        message = f"{error}\n{lookup}"
    elif any(map(table_format, walk_visible(path, _WALKED))):
        message = f"{lookup}\nread as tables: {error}"
    else:
        message = lookup
    error.args = (message,)


def from_task(task_tables: TaskTables, reference: str) -> Tables:
    """Convert what a task has read to tables. Raises DataError for a split without rows."""
    tables = Tables({}, list(task_tables.notes), dict(task_tables.keys), dict(task_tables.unusable))
    for name, rows in task_tables.splits.items():
        if not rows:
            raise DataError(f"{reference}: split {name} has no rows")
        tables.splits[name], notes = from_records(rows, reference)
        tables.notes.extend(notes)
    return tables


def from_object(value: Any, config: DataConfig, formats: Sequence[DataFormat] = ()) -> Tables:
    """Read the splits of data made in Python, or of a reference.

    A table is a Dataset, a DataFrame, a list of dicts or a dict of columns. Splits are a
    DatasetDict, or a dict of tables and references.
    """
    if isinstance(value, str | Path):
        return read_reference(str(value), config, formats)
    if isinstance(value, Mapping) and holds_splits(value):
        tables = Tables({})
        for name, part in value.items():
            table = _one_table(part, config, f"data[{name!r}]", formats)
            tables.splits[str(name)] = table.splits["train"]
            tables.notes.extend(table.notes)
            tables.keys.update(table.keys)
    else:
        tables = _one_table(value, config, "data", formats)
    return _as_stored(tables)


def holds_splits(value: Mapping[Any, Any]) -> bool:
    """True if a dict holds splits and not columns: its values are tables or references."""
    return isinstance(value, DatasetDict) or all(
        isinstance(part, str | Path | Dataset | Mapping)
        or is_frame(part)
        or (isinstance(part, Sequence) and all(isinstance(row, Mapping) for row in part[:1]))
        for part in value.values()
    )


def _one_table(value: Any, config: DataConfig, place: str, formats: Sequence[DataFormat]) -> Tables:
    """Return a table, or the one that a reference names, as the split "train"."""
    if isinstance(value, str | Path):
        tables = read_reference(str(value), config, formats)
        return replace(tables, splits={"train": only_split(tables, str(value))})
    rows, notes = _from_python(value, place)
    return _find_images(Tables({"train": rows}, notes), config)


def _from_python(value: Any, place: str) -> tuple[Dataset, list[str]]:
    if isinstance(value, Dataset):
        return value, []
    if is_frame(value):
        return from_frame(value, place)
    if isinstance(value, Mapping):
        columns = {str(name): list(values) for name, values in value.items()}
        if len({len(values) for values in columns.values()}) > 1:
            lengths = ", ".join(f"{name!r} has {len(values)}" for name, values in columns.items())
            raise DataError(f"{place}: columns have different lengths: {lengths}")
        return from_columns(columns, place)
    if isinstance(value, list | tuple):
        for number, row in enumerate(value, start=1):
            if not isinstance(row, Mapping):
                raise DataError(
                    f"{place}: row {number} is {row!r:.80}; expected a dict like {{'text': ...}}"
                )
        return from_records(value, place)
    raise DataError(
        f"{place}: {type(value).__name__} is not a dataset; pass a path, a hub id, a Dataset, a"
        " DatasetDict, a DataFrame, a list of dicts, or a dict of splits (streaming datasets are"
        " not supported; load it without streaming)"
    )


def _find_images(tables: Tables, config: DataConfig) -> Tables:
    """Resolve the images in data.images that rows name which are not in a file."""
    if config.images is None:
        return tables
    splits, notes = {}, list(tables.notes)
    for name, rows in tables.splits.items():
        splits[name], image_notes = complete_paths(rows, Path("data"), config)
        notes += image_notes
    return replace(tables, splits=splits, notes=notes)


def only_split(
    tables: Tables, place: str, split: str | None = None, *, takes_split: bool = False
) -> Dataset:
    """Return the split that `split` names, or the only one. Raises DataError if it is ambiguous.

    `takes_split` is True where users can set the key "split".
    """
    splits = tables.splits
    check_usable(tables, split or ("" if splits else next(iter(tables.unusable), "")))
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split in splits:
        return splits[str(split)]
    fault = "has several splits" if split is None else f"has no split {split!r}"
    remedy = "choose one with split=NAME" if takes_split else "give the file or folder of one"
    raise DataError(f"{place}: {fault}; {remedy}: {', '.join(splits)}")


def check_usable(tables: Tables, split: str) -> None:
    """Raise DataError if the source names a split that cannot be used."""
    if split in tables.unusable:
        raise DataError(tables.unusable[split].reason)


def _check_allows_hub(reference: str, config: DataConfig) -> None:
    """Raise DataError if data.format excludes a dataset of the hub."""
    if config.format not in ("auto", "hub"):
        raise DataError(
            f"{reference}: no such file or folder, and data.format={config.format} excludes data"
            " sets of the hub; correct the path, or write data.format=auto"
        )


def _read_hub(reference: str, config: DataConfig) -> Tables:
    """Load a dataset of the hub, or a local folder in its layout.

    `datasets` does not run code of the dataset.
    """
    near = suggest_beside(reference)
    try:
        loaded = load_dataset(reference, name=config.subset, revision=config.revision)
    except DatasetNotFoundError as error:
        pinned = f" at revision {config.revision!r}" if config.revision else ""
        raise DataError(
            f"{reference}: no such file or folder{near}, and the hub has no such dataset{pinned};"
            " correct the name, or log in with `hf auth login` if it is private or gated"
        ) from error
    except ConnectionError as error:
        raise DataError(
            f"{reference}: no such file or folder{near}, and the hub cannot be reached ({error});"
            " correct the path, or download the dataset on a machine with network access"
        ) from error
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        # Such as a missing subset, or a dataset that needs its own loading script.
        keys = f"data.subset={config.subset}, data.revision={config.revision}"
        raise DataError(f"{reference}: cannot be loaded with {keys}: {error}") from error
    assert isinstance(loaded, DatasetDict)
    return Tables(dict(loaded))


def _as_stored(tables: Tables) -> Tables:
    """Disable the decoding of images, and turn hidden labels (class -1 of benchmarks) into None."""
    splits = {}
    for split, rows in tables.splits.items():
        rows = disable_image_decoding(rows)
        for column, feature in rows.features.items():
            if isinstance(feature, ClassLabel):
                rows = _nullify_hidden(rows, column)
        splits[split] = rows
    return replace(tables, splits=splits)


def _nullify_hidden(rows: Dataset, column: str) -> Dataset:
    numbers = rows.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
    known = pc.if_else(pc.greater_equal(numbers, 0), numbers, None)
    if known.null_count == numbers.null_count:
        return rows
    order, feature = rows.column_names, rows.features[column]
    with_nulls = rows.remove_columns(column).add_column(column, known, feature=feature)
    return with_nulls.select_columns(order)
