"""Folders of images whose names are classes: levels, splits inside, and what is not a class.

    cat/1.jpg   cat/far/1.jpg   cat/train/1.jpg

Only names are read.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file
from finetune.listing.split_names import splits_of_siblings
from finetune.listing.walking import list_visible, walk_visible

IMAGE_FOLDERS = frozenset(
    [
        "images",
        "image",
        "imgs",
        "img",
        "pictures",
        "photos",
        "pics",
        "jpegimages",
        "jpg",
        "jpeg",
        "png",
        "frames",
    ]
)
"""Names of folders that say that images are in it, and not of which class."""
_MASK_FOLDERS = frozenset(
    ["masks", "mask", "annotations", "annotation", "labels", "gt", "segmentations"]
)
_MASK_NAME = re.compile(r"(.+)[-_](?:mask|seg|segmentation|groundtruth|gt)(?:_\d+)?", re.IGNORECASE)
_NAMED = 3


def count_image_files(folder: Path) -> int:
    """Count the images in a folder and in its class folders."""
    return sum(map(is_image_file, walk_visible(folder)))


class ClassFolders:
    """The images in class folders, and what was found beside them.

    Attributes:
        paths, labels: the images and their classes; labels is None for a folder without classes.
        unread: other files.
        notes: sentences on how the classes were read.
    """

    def __init__(self, folder: Path, level: int | None) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.unread: list[Path] = []
        inside: dict[Path, tuple[str, ...]] = {}
        loose = []
        for child in list_visible(folder):
            files = walk_visible(child) if child.is_dir() else [child]
            images = [path for path in files if is_image_file(path)]
            masks = masks_among(images)
            images = [path for path in images if path not in masks]
            if masks:
                names = listed((path.name for path in sorted(masks)), _NAMED)
                self.notes.append(
                    f"warning: {child}: masks beside their images, not read: {len(masks)} ({names})"
                )
            self.unread += [path for path in files if not is_image_file(path)]
            if not child.is_dir():
                loose += images
                continue
            inside |= {path: path.relative_to(folder).parts[:-1] for path in images}
            if not images:
                self.notes.append(f"{folder}: no image in the class folder {child.name}")
        if inside and loose:
            raise DataError(
                f"{folder}: images outside the class folders: {len(loose)}, such as"
                f" {loose[0].name}; move each into the folder of its class"
            )
        generic = {parts[0].lower() for parts in inside.values()} <= IMAGE_FOLDERS
        is_single = len({parts[0] for parts in inside.values()}) == 1
        is_flat = not inside or (generic and is_single and not _has_classes(inside.values()))
        self.paths = loose or list(inside)
        self.labels = None if is_flat else self._labels(inside, level)

    def _labels(self, inside: Mapping[Path, tuple[str, ...]], level: int | None) -> list[str]:
        """Return the class of each image: the name of its folder at one level."""
        parts = list(inside.values())
        depth = min(map(len, parts))
        if level is not None and not (1 <= level <= depth or level == -1):
            path = next(path for path, names in inside.items() if len(names) < max(level, 1))
            raise DataError(
                f"data.class_level={level}: {path} has fewer folders above it; write 1 to {depth},"
                " or -1 for the folder of the file"
            )
        chosen = level or self._choose_level(parts, depth)
        labels = [names[chosen - 1 if chosen > 0 else -1] for names in parts]
        deeper = [names for names in parts if len(names) > 1]
        if deeper and (chosen != -1 or len({*map(len, parts)}) > 1):
            place = {1: "first", 2: "second", 3: "third", -1: "last"}.get(chosen, f"{chosen}th")
            self.notes.append(
                f"{self.folder}: classes are the folders of the {place} level"
                f" ({listed(sorted(set(labels)), _NAMED)}); {len(deeper)} images are deeper,"
                f" such as in {'/'.join(deeper[0])} (data.class_level)"
            )
        return labels

    def _choose_level(self, parts: Sequence[tuple[str, ...]], depth: int) -> int:
        """Return the level that names the classes. Raises DataError if several may."""
        if depth == 1:  # some images are in the class folders themselves
            return 1
        levels: dict[int, list[str]] = {}
        for level in range(1, depth + 1):
            labels = [names[level - 1] for names in parts]
            same = any(_is_same_partition(labels, other) for other in levels.values())
            if len(set(labels)) > 1 and not same:
                levels[level] = labels
        if len(levels) > 1:
            readings = " or ".join(
                f"{listed(sorted(set(labels)), _NAMED)} (data.class_level={level})"
                for level, labels in levels.items()
            )
            raise DataError(
                f"{self.folder}: images are {depth} folders deep, and the classes may be"
                f" {readings}; choose the level of the folders that are the classes"
            )
        return next(iter(levels), 1)


def masks_among(images: Sequence[Path]) -> set[Path]:
    """Return the images that are masks of others in their folder: 1_mask.png beside 1.png."""
    stems = {path.with_suffix("") for path in images}
    found = ((path, _MASK_NAME.fullmatch(path.stem)) for path in images)
    return {path for path, match in found if match and path.with_name(match[1]) in stems}


def _has_classes(folders: Collection[tuple[str, ...]]) -> bool:
    """True if the only folder images/ holds folders that are not splits."""
    inner = {parts[1] for parts in folders if len(parts) > 1}
    return len(inner) > 1 and not splits_of_siblings(sorted(inner))


def _is_same_partition(one: Sequence[str], other: Sequence[str]) -> bool:
    return len(set(zip(one, other, strict=True))) == len(set(one)) == len(set(other))


def are_classes(
    folder: Path, used: Sequence[Path], folders: Sequence[Path], level: int | None
) -> bool:
    """True if folders named like splits are classes, as in bus, car, train, by data.class_level.

    Raises DataError if that is in doubt: all folders hold images directly, others have no split
    name, and there is no table.
    """
    others = [child for child in folders if child not in used]
    if not others or any(child.is_file() for child in used):
        return False
    if not all(holds_only_images(child) for child in folders):
        return False
    if level is not None:
        return True
    splits = [child.name for child in used]
    raise DataError(
        f"{folder}: {listed(splits, _NAMED)} may be a split or one of {len(folders)} classes beside"
        f" {listed((child.name for child in others), _NAMED)}; write data.class_level=1 if these"
        f" folders are classes, or data.source={used[0]} to read that folder alone"
    )


def holds_only_images(folder: Path) -> bool:
    """True for a folder that holds images, and no folders."""
    children = list_visible(folder)
    return any(map(is_image_file, children)) and not any(child.is_dir() for child in children)


def find_splits_in_classes(
    folder: Path, folders: Sequence[Path]
) -> dict[str, dict[str, list[Path]]]:
    """Return {class: {split: folders}} if every folder holds split folders and nothing else.

    Raises DataError if these hold classes themselves: then each folder is a dataset of its own.
    """
    classes: dict[str, dict[str, list[Path]]] = {}
    for child in folders if len(folders) > 1 else ():
        inside = list_visible(child)
        names = splits_of_siblings([each.name for each in inside if each.is_dir()])
        if "train" not in names.values() or len(names) < len(inside):
            return {}
        for each in inside:
            classes.setdefault(child.name, {}).setdefault(names[each.name], []).append(each)
    nested = [
        each
        for splits in classes.values()
        for paths in splits.values()
        for path in paths
        for each in list_visible(path)
        if each.is_dir()
    ]
    if nested:
        raise DataError(
            f"{folder}: contains several datasets with splits of their own"
            f" ({listed(classes, _NAMED)}); choose one, such as data.source={folders[0]}"
        )
    return classes


def check_not_masks(folder: Path, children: Sequence[Path]) -> None:
    """Raise DataError for images/ beside masks/, which are not two classes."""
    names = {
        child.name.lower() for child in children if child.is_dir() and count_image_files(child)
    }
    if not (names & IMAGE_FOLDERS and names & _MASK_FOLDERS):
        return
    if names <= IMAGE_FOLDERS | _MASK_FOLDERS:
        raise DataError(
            f"{folder}: {listed(sorted(names), _NAMED)} look like images and their masks, not like"
            " two classes; choose a task that reads masks, or write data.format=image-folder if"
            " they are classes"
        )
