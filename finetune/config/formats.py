"""The formats of files by name, and the endings that tell them: the one list of both.

The engine reads tables, folders and data sets of a hub; a task registers further formats, such as
COCO, in its config (`TaskConfig.formats`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TABLES: dict[str, tuple[str, ...]] = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc"),
}
"""Files that are one table each; their readers are in `finetune.data.tables`."""
COMPRESSED = ("csv", "tsv", "jsonl")
"""Tables that may also end with .gz."""
FOLDERS = ("text-folder", "image-folder")
FORMATS = ("auto", *TABLES, *FOLDERS, "hub")
"""What data.format may be for every task."""

TABLE_ENDINGS = frozenset(ending for endings in TABLES.values() for ending in endings)
IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
    | {".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".ico", ".tga"}
)
WEIGHT_ENDINGS = frozenset({".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt"})
FILE_ENDINGS = TABLE_ENDINGS | WEIGHT_ENDINGS | {".txt", ".gz", ".zip", ".yaml", ".yml"}
"""A reference that ends so means a file: where that is missing, it is no id on a hub."""

WRITTEN_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""What predictions can be written as."""
WRITTEN_IMAGES = (".png", ".jpg", ".webp")
"""What sheets of images can be written as."""


@dataclass(frozen=True)
class TaskTables:
    """What a task has read of a source.

    Attributes:
        splits: {name: rows}; a row's "file" names it in messages.
        notes: sentences on what was and what was not read.
        keys: keys of the task's config that the source itself tells, such as the names of classes;
            they count where the config leaves them open.
    """

    splits: Mapping[str, Sequence[dict[str, Any]]]
    notes: Sequence[str] = ()
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataFormat:
    """A format that only some tasks read.

    Attributes:
        name: a value of data.format; a name of `FORMATS` only narrows what `fits` is asked for.
        fits: whether a file or folder is in this format, as data.format=auto asks.
        read: the rows of a file or folder. Raises DataError.
    """

    name: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], TaskTables]

    def claims(self, path: Path, format: str) -> bool:
        """Whether a path is read by this format under a value of data.format."""
        if format == self.name and self.name not in FORMATS:
            return True
        return format in ("auto", self.name) and self.fits(path)
