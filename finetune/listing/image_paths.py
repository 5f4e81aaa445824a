"""Location of the images that a column of a table names: roots, missing endings, foreign paths.

    1.jpg, train/1.jpg     relative to the table, or to a folder of images beside it
    0a1b                   an id, whose file is 0a1b.jpg
    C:\\x\\images\\1.jpg      a path on another machine, found by its end if that is unique

Nothing is decoded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from finetune.config.formats import IMAGE_ENDINGS
from finetune.errors import DataError
from finetune.listing.walking import list_readable, walk_visible

_ADDRESS = ("http://", "https://", "s3://", "gs://", "hf://", "file://", "data:", "~")
SAMPLE = 100
"""First values of a column by which its root is chosen."""
_MOST_WALKED = 200_000  # files among which the ends of foreign paths are looked for


def is_image_file(name: str | Path) -> bool:
    """True if the name has the ending of an image format."""
    return Path(name).suffix.lower() in IMAGE_ENDINGS


def is_image_path(value: Any) -> bool:
    """True for a cell of a table that is a text with the ending of an image format."""
    return isinstance(value, str) and is_image_file(value)


def is_readable_file(path: Path) -> bool:
    """True if a file exists; False also for names that no system allows."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # no permission, thousands of characters, or a NUL
        return False


class Root(NamedTuple):
    """A folder that may hold the images of a table; of several, the lowest rank wins."""

    folder: Path
    rank: int = 0


@dataclass
class ImageFinder:
    """Lookup of images by name or by id in the folders around a table.

    Attributes:
        roots: the folders to which names may be relative.
        below: the folder in which images are found by the end of a foreign path.
        excluded: folders below it that belong to other splits.
    """

    roots: Sequence[Root]
    below: Path
    excluded: frozenset[Path] = frozenset()
    _listings: dict[Path, dict[str, list[Path]]] = field(default_factory=dict)
    _ends: dict[str, list[Path]] | None = None

    def find(self, root: Path, name: str) -> Path | None:
        """Return the image `name` in a folder, with or without the ending; None if it is absent."""
        path = root / name
        if not is_image_file(name):
            matches = self._listing(path.parent).get(path.name, [])
            return matches[0] if len(matches) == 1 else None
        if is_readable_file(path):
            return path
        # 1.jpg may be 1.JPG.
        matches = self._listing(path.parent).get(path.stem, [])
        return next((each for each in matches if each.name.lower() == path.name.lower()), None)

    def choose_root(self, names: Sequence[str], place: str) -> Path | None:
        """Return the folder that holds most of these images; None if none does.

        Raises DataError if two folders of the same rank hold the same names.
        """
        for rank in sorted({root.rank for root in self.roots}):
            found = {
                root.folder: {name for name in names if self.find(root.folder, name)}
                for root in self.roots
                if root.rank == rank
            }
            best = max(found, key=lambda folder: len(found[folder]))
            if not found[best]:
                continue
            twins = [folder for folder in found if folder != best and found[folder] & found[best]]
            if twins and rank:
                name = sorted(found[best] & found[twins[0]])[0]
                raise DataError(
                    f"{place}: {name!r} is an image in {best} and in {twins[0]}; choose one with"
                    f" data.images={best} or data.images={twins[0]}"
                )
            return best
        return None

    def find_by_end(self, name: str) -> tuple[Path, int] | None:
        """Return the only image whose path ends like `name`, and the number of equal parts."""
        parts = tuple(name.split("/"))
        matches = self._by_name().get(parts[-1], [])
        bare = not is_image_file(name)
        for count in range(len(parts), 0, -1):
            hits = [path for path in matches if _parts(path, bare)[-count:] == parts[-count:]]
            if hits:
                return (hits[0], count) if len(hits) == 1 else None
        return None

    def _listing(self, folder: Path) -> dict[str, list[Path]]:
        """Return the images in a folder by name without ending."""
        if folder not in self._listings:
            listing: dict[str, list[Path]] = {}
            for path in list_readable(folder):
                if is_image_file(path):
                    listing.setdefault(path.stem, []).append(path)
            self._listings[folder] = listing
        return self._listings[folder]

    def _by_name(self) -> dict[str, list[Path]]:
        """Return all images below the table's folder, by name with and without ending."""
        if self._ends is None:
            self._ends = {}
            for path in walk_visible(self.below, _MOST_WALKED):
                if is_image_file(path) and not self.excluded.intersection(path.parents):
                    self._ends.setdefault(path.name, []).append(path)
                    self._ends.setdefault(path.stem, []).append(path)
        return self._ends


class Located(NamedTuple):
    """The images of a column.

    Attributes:
        paths: a path for each value; values that name no image are left as they are.
        root: the folder that the names are relative to; None if they were found by their ends.
        foreign: the part of the first path that does not exist here; "" if there is none.
    """

    paths: list[str | None]
    root: Path | None
    foreign: str = ""


def locate_images(
    values: Sequence[str | None], finder: ImageFinder, place: str, default: Path, by_ends: bool
) -> Located | None:
    """Find the image of each value; None if none of the first values names one.

    With `by_ends`, foreign paths are looked for. A value that is not found is taken as relative to
    the chosen root, or to `default`.
    """
    first = sorted({portable_name(value) for value in values[:SAMPLE] if is_local(value)})
    root = finder.choose_root(first, place)
    if root is not None:
        return Located([_rooted(value, root, finder) for value in values], root)
    moved = _Moves(finder)
    if not by_ends or not any(moved.find(name) for name in first):
        return None
    paths = [_moved(value, moved, default) for value in values]
    return Located(paths, None, next(iter(moved.folders)))


def is_local(value: str | None) -> bool:
    """True for a value that may name a file, and is not an address."""
    return bool(value and value.strip()) and not str(value).lower().startswith(_ADDRESS)


def portable_name(value: str | None) -> str:
    """Return a path with / between its parts, as written on any system."""
    name = str(value).strip().replace("\\", "/")
    return name.removeprefix("./")


def _rooted(value: str | None, root: Path, finder: ImageFinder) -> str | None:
    """Return the image in the root, or the only one of this name below the table's folder."""
    if value is None or not is_local(value):
        return value
    name = portable_name(value)
    path = finder.find(root, name)
    if path is None:
        found = finder.find_by_end(name)
        if found is not None and found[1] == len(name.split("/")):
            path = found[0]
    return (path or root / name).as_posix()


def _moved(value: str | None, moves: _Moves, default: Path) -> str | None:
    if value is None or not is_local(value):
        return value
    name = portable_name(value)
    return (moves.find(name) or default / name).as_posix()


class _Moves:
    """Folders of another machine and the folders here that hold the same images."""

    def __init__(self, finder: ImageFinder) -> None:
        self._finder = finder
        self.folders: dict[str, Path] = {}

    def find(self, name: str) -> Path | None:
        for foreign, folder in self.folders.items():
            inside = name.removeprefix(foreign)
            if len(inside) < len(name) or not foreign:
                path = self._finder.find(folder, inside)
                if path is not None:
                    return path
        found = self._finder.find_by_end(name)
        if found is None:
            return None
        path, count = found
        foreign = "/".join(name.split("/")[:-count])
        self.folders[f"{foreign}/" if foreign else ""] = path.parents[count - 1]
        return path


def _parts(path: Path, bare: bool) -> tuple[str, ...]:
    """Return the parts of a path; `bare` leaves out the ending of the file."""
    return path.with_suffix("").parts if bare else path.parts
