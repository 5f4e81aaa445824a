"""The COCO files of a folder, by split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from finetune.errors import DataError
from finetune.listing.split_names import split_of

_KEYS = {"images", "annotations", "categories"}
_HEAD = 4096  # characters to read before parsing: enough to reject a file that is not an object


def find_coco(path: Path, damaged: list[Path] | None = None) -> dict[str, list[Path]]:
    """Return the COCO files of a path by split: the file itself, or those in a folder.

    {} if there are none. A folder is searched directly, in annotations/ and in folders named after
    splits. The split of a file is taken from its name or its folder's, else it is "train". Files
    beside them that are not JSON are appended to `damaged`.
    """
    if path.is_file():
        return {"train": [path]} if _is_coco(path) else {}
    if not path.is_dir():
        return {}
    files: dict[str, list[Path]] = {}
    for file in json_files(path):
        if _is_coco(file, damaged):
            above = split_of(file.parent.name) if file.parent != path else None
            split = split_of(file.stem) or above or "train"
            files.setdefault(split, []).append(file)
    return files


def json_files(path: Path) -> list[Path]:
    """Return the JSON files of a folder that may be COCO annotations; [] if it is a file."""
    if not path.is_dir():
        return []
    places = [path, path / "annotations", *(p for p in sorted(path.iterdir()) if split_of(p.name))]
    return [file for place in places for file in sorted(place.glob("*.json"))]


def choose_file(path: Path, split: str, candidates: Sequence[Path]) -> Path:
    """Return the file of objects among several of a split, such as those of COCO itself."""
    if len(candidates) > 1:
        instances = [file for file in candidates if "instances" in file.stem.lower()]
        if len(instances) != 1:
            names = ", ".join(file.name for file in candidates)
            raise DataError(
                f"{path}: split {split} has several files: {names}; set data.{split} to one of them"
            )
        return instances[0]
    return candidates[0]


def _is_coco(file: Path, damaged: list[Path] | None = None) -> bool:
    if file.suffix.lower() != ".json":
        return False
    try:
        with file.open(encoding="utf-8-sig") as opened:
            head = opened.read(_HEAD).lstrip()
            if head.startswith(("[", '"')):
                return False
            if not head.startswith("{"):
                raise ValueError("not an object")
            opened.seek(0)
            content = json.load(opened)
    except (OSError, ValueError, RecursionError) as error:
        has_lines = getattr(error, "msg", "") == "Extra data"  # one object per line
        if damaged is not None and not has_lines and not file.name.startswith("."):
            damaged.append(file)
        return False
    return isinstance(content, dict) and content.keys() >= _KEYS
