"""All file formats and their file extensions, in one place.

The engine reads tables, folders and hub datasets; a task registers further formats, such as COCO,
in its config (`TaskConfig.formats`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from finetune.config.schema import DataConfig


class TableFormat(NamedTuple):
    """A file format that holds one table per file.

    Attributes:
        endings: the file extensions.
        reader: module:function that reads a file, (path, config, decoder) -> (rows, notes); the
            rows are a Dataset, or {split: Dataset}.
        compressed: True if a file may be compressed with gzip (.gz).
        keys: the keys of the section `data`, among `TABLE_KEYS`, that the reader follows.
    """

    endings: tuple[str, ...]
    reader: str
    compressed: bool = False
    keys: tuple[str, ...] = ()


TABLE_KEYS = ("columns", "field", "delimiter", "quote")
_CSV = "finetune.tables.delimited:read_csv", True, ("columns", "delimiter", "quote")
_JSON = "finetune.json_tables.json_files:read_json_file", True, ("columns", "field")
TABLES = {
    "csv": TableFormat((".csv",), *_CSV),
    "tsv": TableFormat((".tsv", ".tab"), *_CSV),
    "jsonl": TableFormat((".jsonl", ".ndjson", ".json"), *_JSON),
    "parquet": TableFormat((".parquet", ".pq"), "finetune.tables.table_files:read_parquet"),
    "arrow": TableFormat((".arrow", ".feather", ".ipc"), "finetune.tables.table_files:read_arrow"),
    # .txt files are read as documents where nothing else is to be read.
    "text": TableFormat((), "finetune.tables.plain_text:read_document"),
    "lines": TableFormat((), "finetune.tables.plain_text:read_lines"),
}
"""The table formats by name."""
FOLDERS = ("text-folder", "image-folder")
FORMATS = ("auto", *TABLES, *FOLDERS, "hub")
"""The values of data.format that every task accepts."""

TABLE_ENDINGS = frozenset(ending for each in TABLES.values() for ending in each.endings)
IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
    | {".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".ico", ".tga", ".heic", ".heif", ".npy"}
)
WEIGHT_ENDINGS = frozenset({".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt"})
FILE_ENDINGS = TABLE_ENDINGS | WEIGHT_ENDINGS | {".txt", ".gz", ".zip", ".yaml", ".yml"}
"""A reference with such an extension is a file; if the file is missing, no hub id is tried."""

WRITTEN_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""File extensions that predictions can be written as."""
WRITTEN_IMAGES = (".png", ".jpg", ".webp")
"""File extensions that contact sheets can be written as."""


class Unusable(NamedTuple):
    """A split that a source names but that has nothing to train or to evaluate on.

    Attributes:
        reason: what was looked for, what was seen there, and the remedy.
        is_absent: True if its files are missing; then a test split is left out with a note, unless
            a key names it. Exports list a test split whether or not they have one.
    """

    reason: str
    is_absent: bool = False


@dataclass(frozen=True)
class TaskTables:
    """The rows that a task's own format reader found in a source.

    Attributes:
        splits: {name: rows}; a row's "file" identifies it in messages.
        notes: sentences about what was read and what was skipped.
        keys: values for keys of the task's config that the source defines, such as class names;
            used only if the config leaves them open.
        unusable: {name: reason} of the splits that are refused if they are used.
    """

    splits: Mapping[str, Sequence[dict[str, Any]]]
    notes: Sequence[str] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)
    unusable: Mapping[str, Unusable] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFormat:
    """A data format that a single task reads.

    Attributes:
        name: its value of data.format. With a name from `FORMATS`, the format still applies only
            to paths that `fits` accepts.
        fits: function that returns True if a file or folder is in this format; used by
            data.format=auto.
        read: function that reads the rows of a file or folder, with the keys that control reading.
            Raises DataError.
        looks_for: the files and folders of the format in words, for the message that no format
            fits; "" leaves it out.
    """

    name: str
    fits: Callable[[Path], bool]
    read: Callable[[Path, DataConfig], TaskTables]
    looks_for: str = ""

    def claims(self, path: Path, format: str) -> bool:
        """Return True if this format reads `path` for a value of data.format."""
        if format == self.name and self.name not in FORMATS:
            return True
        return format in ("auto", self.name) and self.fits(path)
