"""Reading of large JSON files with one object per line, in blocks that are stored on disk.

Only what needs no decision is read so: utf-8, an object on every line, and columns of one type.
Everything else is left to the reader of whole files, which says what it found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.io.files import cache_folder
from finetune.json_tables.json_values import JsonParser
from finetune.json_tables.stored_blocks import StoredBlocks, cast_block, common_schema
from finetune.tables.encodings import Decoder
from finetune.tables.records import as_dataset, from_records

LARGE = 2**26
"""Bytes from which on a file is read in blocks."""
READ_AS_A_WHOLE = (
    "read into memory as a whole, which takes some nine times its size, since it is not utf-8 with"
    " one JSON object on every line and one type in each column"
)
_BLOCK = 2**24  # bytes
_HEAD, _BLANK = 200, b"\xef\xbb\xbf \t\r\n"


def read_json_lines(
    path: Path, config: DataConfig, decoder: Decoder
) -> tuple[Dataset | None, list[str]]:
    """Read a large file of one object per line; also return notes. None for any other file."""
    if not path.is_file() or path.stat().st_size < LARGE:
        return None, []
    parser = JsonParser()
    try:
        table = _read_blocks(path, config, decoder, parser)
    except (UnicodeDecodeError, ValueError):  # of another encoding, or no JSON
        table = None
    except OSError as error:
        if str(error.filename) == str(path):  # the reader of whole files says why
            return None, []
        raise DataError(
            f"{path}: cannot be stored as a table in {cache_folder('tables')} ({error.strerror}); "
            "set the environment variable FINETUNE_CACHE to a folder on a disk with room for it"
        ) from error
    if table is None:
        return None, [f"{path}: {READ_AS_A_WHOLE}"]
    decoder.file_count += 1
    notes = [f"{path}: {parser.nans} NaN read as null, a missing value"] if parser.nans else []
    return as_dataset(table), notes


def _read_blocks(
    path: Path, config: DataConfig, decoder: Decoder, parser: JsonParser
) -> pa.Table | None:
    if config.field is not None or config.columns is not None or path.suffix.lower() == ".gz":
        return None
    with path.open("rb") as file:
        if not file.read(_HEAD).lstrip(_BLANK).startswith(b"{"):  # such as one long list
            return None
    with StoredBlocks(cache_folder("tables")) as blocks:
        for text in decoder.blocks(path, _BLOCK):
            block = _parse_block(text, parser, path)
            if block is None:
                return None
            blocks.write(block)
        schema = common_schema(blocks.schemas)
        if schema is None:
            return None
        table = pa.concat_tables([cast_block(block, schema) for block in blocks.read()])
    return table if len(table) > 1 else None  # one object may hold the rows


def _parse_block(text: str, parser: JsonParser, path: Path) -> pa.Table | None:
    """Return the table of some lines; None unless each is an object, and each column of one type.

    Raises ValueError for a line that is not JSON.
    """
    rows = [parser.parse(line) for line in _lines(text)]
    if not all(isinstance(row, dict) for row in rows):
        return None
    try:
        table, notes = from_records(rows, str(path))
    except DataError:  # the reader of whole files finds the line
        return None
    return None if notes else table.data.table


def _lines(text: str) -> Iterator[str]:
    # Not splitlines, which also splits at U+2028; JSON strings may contain that character.
    return (line for line in text.split("\n") if line.strip())
