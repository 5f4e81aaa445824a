"""Search for the images that an annotation file names by paths of another machine or folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path

from finetune.config.formats import IMAGE_ENDINGS
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file, is_readable_file
from finetune.listing.split_names import split_name
from finetune.listing.walking import walk_visible

_LOOKED_AT = 50  # names by which the folder of the images is chosen
_SHOWN = 3


class ImageSearch:
    """Lookup of image files by the names that annotations give them.

    All names of a source are looked up in one folder and in one way, so that a missing image is not
    replaced with one of another folder: as they are, without leading folders, with the ending of an
    image, or by their bare name below `root`.
    """

    def __init__(self, root: Path, places: Iterable[Path]) -> None:
        self.root = self._inside = root
        self.places = list(dict.fromkeys(places))
        self.place = self.places[0]
        """The folder in which the images are, or should be."""
        self.way = ""
        """Note on images that were found elsewhere than their names say."""

    def find(self, names: Sequence[str]) -> list[Path | None]:
        """Return the file of each name; None for a missing one."""
        some = names[:_LOOKED_AT]
        best = 0
        look_up: _Lookup = _as_it_is
        for way, each in self._ways(some):
            for place in self.places:
                count = sum(each(place, name) is not None for name in some)
                if count > best:
                    best, look_up, self.place, self.way = count, each, place, way
            if best and not self.way:
                break  # some are where their names say: the others are missing
        if self.way == self._by_name:
            self._narrow([path for name in some if (path := self._below(name))])
        return [look_up(self.place, name) for name in names]

    def expected(self, name: str) -> Path:
        """Return where an image should be, for one that is missing."""
        return self.place / clean_path(name)

    def _ways(self, names: Sequence[str]) -> Iterator[tuple[str, _Lookup]]:
        yield "", _as_it_is
        depth = max((len(_parts(name)) for name in names), default=1)
        for count in range(1, depth):
            yield "without the leading folders of their names", partial(_without_folders, count)
        yield "by adding the ending to their names", _with_ending
        yield self._by_name, lambda _, name: self._below(name)

    @property
    def _by_name(self) -> str:
        return f"by their bare names below {self.root}"

    def _narrow(self, found: Sequence[Path]) -> None:
        """Look only in the folder that holds most of the images found, if there is one."""
        tops = Counter(path.relative_to(self.root).parts[0] for path in found)
        (top, count), *_ = tops.most_common(1)
        if 2 * count > len(found) and (self.root / top).is_dir():
            self._inside = self.root / top

    def _below(self, name: str) -> Path | None:
        bare = clean_path(name).rpartition("/")[2]
        paths = [path for path in self._index.get(bare, []) if self._inside in path.parents]
        return paths[0] if len(paths) == 1 else None

    @cached_property
    def _index(self) -> dict[str, list[Path]]:
        """The images below the root by their name, and by their stem."""
        index: dict[str, list[Path]] = {}
        for path in walk_images(self.root):
            for key in {path.name, path.stem}:
                index.setdefault(key, []).append(path)
        return index


_Lookup = Callable[[Path, str], Path | None]


def _as_it_is(place: Path, name: str) -> Path | None:
    paths = (place / name, place / clean_path(name))
    return next((path for path in paths if is_readable_file(path)), None)


def _without_folders(count: int, place: Path, name: str) -> Path | None:
    parts = _parts(name)
    if len(parts) <= count or (splits_in(parts[:count]) - splits_in(place.parts)):
        return None  # test/1.jpg is not train/1.jpg
    path = place.joinpath(*parts[count:])
    return path if is_readable_file(path) else None


def _with_ending(place: Path, name: str) -> Path | None:
    # Kaggle's image_id has no file extension.
    if is_image_file(name):
        return None
    endings = dict.fromkeys((".jpg", ".png", ".jpeg", *sorted(IMAGE_ENDINGS)))
    paths = (place / f"{clean_path(name)}{ending}" for ending in endings)
    return next((path for path in paths if is_readable_file(path)), None)


def splits_in(parts: Iterable[str]) -> set[str]:
    """Return the splits that the parts of a path stand for."""
    return {split for part in parts if (split := split_name(part))}


def _parts(name: str) -> list[str]:
    return [part for part in clean_path(name).split("/") if part not in ("", ".", "..")]


def refuse_images_key(config: DataConfig, path: Path) -> None:
    """Raise DataError for data.images with a format whose folders hold the images."""
    if config.images is not None:
        raise DataError(
            f"data.images={config.images}: {path} holds its images in folders of its own; the key"
            " is for tables and annotations that name images, so remove it"
        )


def configured_places(folder: str, file: Path) -> list[Path]:
    """Return the folder data.images, which may be relative to that of an annotation file, or above.

    Raises DataError if there is no such folder.
    """
    path = Path(folder).expanduser()
    roots = (Path(), file.parent, file.parent.parent)
    places = [root / path for root in roots if (root / path).is_dir()]
    if not places:
        raise DataError(
            f"data.images: folder {folder!r} not found, neither here nor in {file.parent}"
        )
    return places


def walk_images(folder: Path) -> list[Path]:
    """Return the visible images in and below a folder, sorted."""
    return [path for path in walk_visible(folder) if is_image_file(path)]


def hidden_images(folders: Iterable[Path]) -> str:
    """Return a note on the hidden images in some folders, such as ._1.jpg of macOS; "" if none."""
    files = [path for folder in sorted(set(folders)) for path in sorted(folder.glob(".*"))]
    names = [path.name for path in files if is_image_file(path)]
    return f"hidden images, not read: {len(names)} ({listed(names, _SHOWN)})" if names else ""


def clean_path(name: str) -> str:
    """Return a path with forward slashes and without the drive of Windows."""
    text = name.strip().replace("\\", "/")
    drive, colon, rest = text.partition(":")
    return rest.lstrip("/") if colon and len(drive) == 1 else text


def find_suffix(
    name: str, roots: Iterable[Path], exists: Callable[[Path], bool] = os.path.exists
) -> Path | None:
    """Return the longest trailing part of a path that exists in one of some folders.

    `../train/images` and `C:\\data\\shapes\\train\\images` are both found as train/images. The name
    of a split is not left out: test/images is not images. The functions of os.path are False for
    names that no system allows.
    """
    parts = _parts(name)
    for start in range(len(parts)):
        if start and split_name(parts[start - 1]):
            return None
        for root in roots:
            path = root.joinpath(*parts[start:])
            if exists(path):
                return path
    return None
