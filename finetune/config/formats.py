"""The formats of files by name, and the endings that tell them: the one list of both.

The engine reads tables, folders and data sets of a hub; a task registers further formats, such as
COCO, in its config (`TaskConfig.formats`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class TableFormat(NamedTuple):
    """A format of files that are one table each.

    Attributes:
        endings: what names of such files end with.
        reader: module:function that reads one, (path, config, decoder) -> (rows, notes).
        compressed: whether a file may also end with .gz.
    """

    endings: tuple[str, ...]
    reader: str
    compressed: bool = False


TABLES = {
    "csv": TableFormat((".csv",), "finetune.data.tables:read_csv", compressed=True),
    "tsv": TableFormat((".tsv", ".tab"), "finetune.data.tables:read_csv", compressed=True),
    "jsonl": TableFormat(
        (".jsonl", ".ndjson", ".json"), "finetune.data.tables:read_jsonl", compressed=True
    ),
    "parquet": TableFormat((".parquet", ".pq"), "finetune.data.tables:read_parquet"),
    "arrow": TableFormat((".arrow", ".feather", ".ipc"), "finetune.data.tables:read_arrow"),
}
"""Tables by the name of their format."""
FOLDERS = ("text-folder", "image-folder")
FORMATS = ("auto", *TABLES, *FOLDERS, "hub")
"""What data.format may be for every task."""

TABLE_ENDINGS = frozenset(ending for each in TABLES.values() for ending in each.endings)
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
