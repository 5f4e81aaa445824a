"""Reading of one file by its format, into a table or the splits that it holds.

Parquet is decoded here and Arrow mapped into memory; other formats have files of their own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet
from datasets import Dataset

from finetune.config.formats import TABLE_KEYS, TABLES
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.tables.encodings import LARGE, MOST_EXPANSION, Decoder, expands_too_much
from finetune.tables.records import as_dataset, check_names, decode_dictionaries

_BY_SUFFIX = {ending: name for name, each in TABLES.items() for ending in each.endings}
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_ARROW_FILE = b"ARROW1\0\0"
_LONG = 8  # bytes of an int64
_ROWS_AT_ONCE = 1024
_LONGEST_LIST = 300  # characters
_INDEX = "__index_level_"  # the index of pandas
_REMEDIES = {
    **dict.fromkeys([".xlsx", ".xls", ".ods", ".numbers"], "export the sheet as CSV"),
    **dict.fromkeys([".zip", ".tar", ".7z", ".rar", ".bz2", ".xz", ".zst"], "unpack it"),
    **dict.fromkeys([".pkl", ".pickle"], "save the data as Parquet: a pickle may run any code"),
    **dict.fromkeys([".pdf", ".docx", ".doc", ".html", ".epub"], "export its text as .txt"),
}


def table_format(path: Path) -> str | None:
    """Return the format of a file by its ending, or None; .csv.gz and .jsonl.gz count as well."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        name = _BY_SUFFIX.get(suffixes[-2]) if len(suffixes) > 1 else None
        return name if name and TABLES[name].compressed else None
    return _BY_SUFFIX.get(suffixes[-1]) if suffixes else None


def is_text_file(path: Path) -> bool:
    """True for plain text, which is a document and no table: .txt and .txt.gz."""
    return path.name.lower().endswith((".txt", ".txt.gz"))


def read_table_splits(
    path: Path, config: DataConfig, decoder: Decoder
) -> tuple[dict[str, Dataset], list[str]]:
    """Read one file; return its splits, "train" if it has none, and notes on how they were read.

    Raises DataError if the format is unknown or a split has no rows.
    """
    _check_no_pointer(path)
    name = config.format if config.format in TABLES else table_format(path)
    if name is None and is_text_file(path):
        name = "text"
    if name is None:
        known = ", ".join(ending for each in TABLES.values() for ending in each.endings)
        remedy = _REMEDIES.get(path.suffix.lower(), "")
        raise DataError(
            f"{path}: unknown file ending; {remedy}{' or ' * bool(remedy)}use one of {known}, .txt"
            f" (csv, jsonl and txt also with .gz), or write data.format={'|'.join(TABLES)}"
        )
    module, _, function = TABLES[name].reader.partition(":")
    read, notes = getattr(import_module(module), function)(path, config, decoder)
    splits: dict[str, Dataset] = {"train": read} if isinstance(read, Dataset) else read
    for split, rows in splits.items():
        if not len(rows):
            place = f"{path}: {split} " if len(splits) > 1 else f"{path}: "
            columns = ", ".join(rows.column_names)[:_LONGEST_LIST]
            raise DataError(f"{place}has columns ({columns}) but no rows; add rows")
    set_keys = [key for key in TABLE_KEYS if getattr(config, key) is not None]
    idle = [f"data.{key}" for key in set_keys if key not in TABLES[name].keys]
    if idle:
        verb = "has" if len(idle) == 1 else "have"
        notes = [*notes, f"{path}: read as {name}, on which {', '.join(idle)} {verb} no effect"]
    return splits, notes


def _check_no_pointer(path: Path) -> None:
    """Raise DataError for the placeholder of a file that Git LFS has not fetched."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if is_pointer:
        raise DataError(
            f"{path}: is a pointer of Git LFS and not the file itself; fetch it with `git lfs pull`"
        )


def read_table(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read one file that holds one table. Raises DataError if it holds several splits."""
    splits, notes = read_table_splits(path, config, decoder)
    if len(splits) > 1:
        raise DataError(
            f"{path}: holds the splits {', '.join(splits)}, but one table is needed here; give the"
            f" file itself as the source, or choose one with data.field={next(iter(splits))}"
        )
    return next(iter(splits.values())), notes


def read_parquet(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read a Parquet file, decoded in memory."""
    return _read(path, "as Parquet", lambda: _read_batches(path))


def read_parquet_range(path: Path, start: int, count: int) -> Dataset:
    """Read `count` rows of a Parquet file, from row `start` on, counted from 0."""
    return _read(path, "as Parquet", lambda: _read_range(path, start, count))[0]


def _read_range(path: Path, start: int, count: int) -> pa.Table:
    file = pa.parquet.ParquetFile(path, memory_map=True)
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    ends = list(accumulate(sizes))
    groups = [
        number
        for number, (size, end) in enumerate(zip(sizes, ends, strict=True))
        if end > start and end - size < start + count
    ]
    skipped = start - (ends[groups[0]] - sizes[groups[0]]) if groups else 0
    # A group may have a million rows: of those before the range, only a few are held at once.
    batches, wanted = [], count
    for batch in file.iter_batches(_ROWS_AT_ONCE, row_groups=groups) if groups else ():
        part = batch.slice(skipped, wanted)
        skipped = max(0, skipped - len(batch))
        wanted -= len(part)
        batches += [part] if len(part) else []
        if not wanted:
            break
    return pa.Table.from_batches(batches, file.schema_arrow)


def _read_batches(path: Path) -> pa.Table:
    """Read a Parquet file a few rows at a time, since its values may be repeated without limit."""
    # Not read_table, which turns a folder name such as year=2024 into a column.
    file, compressed = pa.parquet.ParquetFile(path, memory_map=True), path.stat().st_size
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    _check_expansion(path, sum(group.total_byte_size for group in groups), compressed)
    batches, size = [], 0
    for batch in file.iter_batches(_ROWS_AT_ONCE):
        size += batch.nbytes
        _check_expansion(path, size, compressed)
        batches.append(batch)
    return pa.Table.from_batches(batches, file.schema_arrow)


def _check_expansion(path: Path, size: int, compressed: int) -> None:
    if expands_too_much(size, compressed):
        raise DataError(
            f"{path}: {compressed} bytes expand to more than {LARGE >> 20} MiB,"
            f" {MOST_EXPANSION} times as much, as in a decompression bomb; write the file again"
            " without compression and dictionaries if you trust it"
        )


def read_arrow(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read an Arrow IPC file or stream, mapped into memory: it may be larger than that."""
    return _read(path, "as an Arrow file", lambda: _read_ipc(path))


def _read_ipc(path: Path) -> pa.Table:
    source = pa.memory_map(str(path))
    for size in _declared_sizes(source):
        _check_expansion(path, size, path.stat().st_size)
    source.seek(0)
    try:
        return pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source).read_all()


def _declared_sizes(source: pa.NativeFile) -> Iterator[int]:
    """Yield the bytes of all buffers up to each message of an Arrow file, as they declare them.

    A compressed buffer begins with its size, an int64, -1 if it is not compressed after all. The
    library allocates this much before it decompresses; it offers no limit and no access to it.
    """
    if source.read(len(_ARROW_FILE)) != _ARROW_FILE:  # a stream, without the header of a file
        source.seek(0)
    total, reader = 0, pa.ipc.MessageReader.open_stream(source)
    while True:
        try:
            message = reader.read_next_message()
        except (StopIteration, pa.ArrowInvalid):  # the end, or the footer of an old file
            return
        for start, length in _buffers(message):
            declared = struct.unpack_from("<q", message.body, start)[0] if length >= _LONG else 0
            total += max(declared, length)
        yield total


def _buffers(message: pa.ipc.Message) -> list[tuple[int, int]]:
    """Return (offset, length) of the compressed buffers in a message's body.

    They are in the metadata, a FlatBuffer of the tables in Arrow's Message.fbs.
    """
    content = memoryview(message.metadata)

    def field(table: int, number: int) -> int:
        """Return the place of a field of a table, 0 if the table lacks it."""
        fields = table - struct.unpack_from("<i", content, table)[0]
        is_known = 4 + 2 * number < struct.unpack_from("<H", content, fields)[0]
        offset = struct.unpack_from("<H", content, fields + 4 + 2 * number)[0] if is_known else 0
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return int(place + struct.unpack_from("<I", content, place)[0])

    if not (header := field(follow(0), 2)):
        return []
    batch = follow(header)
    if message.type == "dictionary" and (data := field(batch, 1)):
        batch = follow(data)
    buffers, compression = field(batch, 2), field(batch, 3)
    if message.type not in ("record batch", "dictionary") or not (buffers and compression):
        return []
    vector = follow(buffers)
    count = struct.unpack_from("<I", content, vector)[0]
    return [struct.unpack_from("<qq", content, vector + 4 + 16 * n) for n in range(count)]


def _decoded_size(column: pa.ChunkedArray) -> int:
    """Return the bytes of a column whose dictionaries are decoded."""
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    size = 0
    for chunk in column.chunks:
        values = chunk.dictionary
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            lengths = pc.binary_length(values).take(chunk.indices)
            size += pc.sum(lengths).as_py() or 0
        else:
            size += len(chunk) * (values.nbytes // max(len(values), 1))
    return size


def _read(path: Path, kind: str, read: Callable[[], pa.Table]) -> tuple[Dataset, list[str]]:
    try:
        table = read()
        # In full: an offset or a text that is damaged would end the process when it is read.
        table.validate(full=True)
    except (pa.ArrowException, OSError, OverflowError, ValueError, struct.error) as error:
        raise DataError(f"{path}: cannot be read {kind}: {error}") from error
    check_names(table.column_names, str(path))
    index = [name for name in table.column_names if name.startswith(_INDEX)]
    columns = {name: table.column(name) for name in table.column_names if name not in index}
    size = sum(_decoded_size(column) for column in columns.values())
    _check_expansion(path, size, path.stat().st_size)
    notes = [f"{path}: not read: {listed(index, 3)}, the index of pandas"] if index else []
    try:
        # `datasets` stores its column types, such as class names and images, in the metadata.
        decoded = pa.table(decode_dictionaries(columns))
        return as_dataset(decoded.replace_schema_metadata(table.schema.metadata)), notes
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{path}: a column has an unsupported type: {error}") from error
