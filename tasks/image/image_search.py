"""Search for the images that an annotation file names by paths of another machine or folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from finetune.config.formats import IMAGE_ENDINGS
from finetune.errors import DataError, listed
from finetune.io.image_paths import is_image_file
from finetune.io.split_names import split_name
from finetune.io.walking import walk_visible

_LOOKED_AT = 50  # names by which the folder of the images is chosen
_SHOWN = 3


class ImageSearch:
    """Lookup of image files by the names that annotations give them.

    The names of one source are all looked up in the same way, so that a missing image is not
    replaced with one of another folder: as they are in each of `places`, without their leading
    folders, with the ending of an image, or by their bare name below `root`.
    """

    def __init__(self, root: Path, places: Iterable[Path]) -> None:
        self.root = root
        self.places = list(dict.fromkeys(places))
        self.way = ""
        """How the images were found if not where their names say, for a note."""

    def find(self, names: Sequence[str]) -> list[Path | None]:
        """Return the file of each name; None for a missing one."""
        ways = {
            "": self._direct,
            "without the leading folders of their names": self._without_folders,
            "by adding the ending to their names": self._with_ending,
            f"by their bare names below {self.root}": self._below,
        }
        some = names[:_LOOKED_AT]
        self._sort_places(some)
        counts = {way: sum(map(bool, map(look_up, some))) for way, look_up in ways.items()}
        # By their names as they are if any is found so: the others are missing.
        self.way = "" if counts[""] else max(counts, key=lambda way: counts[way])
        return [ways[self.way](name) for name in names]

    def expected(self, name: str) -> Path:
        """Return where an image should be, for one that is missing."""
        return self.places[0] / clean_path(name)

    def _sort_places(self, names: Sequence[str]) -> None:
        """Move the place that holds most of the first names to the front."""
        counts = {
            place: sum((place / clean_path(name)).is_file() for name in names)
            for place in self.places
        }
        self.places.sort(key=lambda place: counts[place] < max(counts.values()))

    def _direct(self, name: str) -> Path | None:
        paths = (place / each for place in self.places for each in (name, clean_path(name)))
        return next((path for path in paths if path.is_file()), None)

    def _without_folders(self, name: str) -> Path | None:
        return find_suffix(name, self.places, Path.is_file)

    def _with_ending(self, name: str) -> Path | None:
        # Kaggle's image_id has no file extension.
        endings = dict.fromkeys((".jpg", ".png", ".jpeg", *sorted(IMAGE_ENDINGS)))
        name = clean_path(name)
        paths = (place / f"{name}{each}" for place in self.places for each in endings)
        return None if is_image_file(name) else next((p for p in paths if p.is_file()), None)

    def _below(self, name: str) -> Path | None:
        bare = clean_path(name).rpartition("/")[2]
        paths = self._index.get(bare, [])
        return paths[0] if len(paths) == 1 else None

    @cached_property
    def _index(self) -> dict[str, list[Path]]:
        """The images below the root by their name, and by their stem."""
        index: dict[str, list[Path]] = {}
        for path in walk_images(self.root):
            for key in {path.name, path.stem}:
                index.setdefault(key, []).append(path)
        return index


def configured_places(folder: str, file: Path) -> list[Path]:
    """Return the folder data.images, which may be relative to that of an annotation file.

    Raises DataError if there is no such folder.
    """
    path = Path(folder).expanduser()
    places = [place for place in (path, file.parent / path) if place.is_dir()]
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
    name: str, roots: Iterable[Path], exists: Callable[[Path], bool] = Path.exists
) -> Path | None:
    """Return the longest trailing part of a path that exists in one of some folders.

    `../train/images` and `C:\\data\\shapes\\train\\images` are both found as train/images. The name
    of a split is not left out: test/images is not images.
    """
    parts = [part for part in clean_path(name).split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        if start and split_name(parts[start - 1]):
            return None
        for root in roots:
            path = root.joinpath(*parts[start:])
            if exists(path):
                return path
    return None
