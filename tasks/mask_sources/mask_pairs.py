"""Pairing of image files with mask files by their names.

    1.jpg               1.png, 1_mask.png
    img_1.jpg           mask_1.png
    x_leftImg8bit.png   x_gtFine_labelIds.png    not x_gtFine_color.png, x_gtFine_instanceIds.png

Names are compared within the same subfolders; without them if each name is unique.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune.listing.image_paths import is_image_file
from finetune.listing.walking import walk_visible
from finetune.task_parts.samples import Row
from tasks.mask_sources.mask_layouts import MaskPair, bare_name, masks_beside, may_be_mask

_SUFFIX = re.compile(r"[-_ ](masks?|labels?|gt|seg|annotations?|trainids|labelids)$", re.IGNORECASE)
# Masks that show the same labels for people, or other things than classes.
_SECONDARY = re.compile(r"(colors?|instanceids|instances?|vis|overlay)$", re.IGNORECASE)
_INSTANCES = re.compile(r"instance_?ids?$", re.IGNORECASE)
_ENOUGH = 0.5  # share of images with a mask of the same name, from which no other names are tried


@dataclass
class PairedFiles:
    """The rows of a pair of folders, and the mask files that no row uses."""

    rows: list[Row]
    lone: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    """Further masks of images that have one."""

    @property
    def instances(self) -> list[str]:
        """The masks that hold objects and not classes, by their names."""
        masks = (Path(row["mask"]) for row in self.rows if row["mask"])
        return [mask.name for mask in masks if _INSTANCES.search(mask.stem)]


def pair_files(pair: MaskPair, root: Path) -> PairedFiles:
    """Return a row per image, in the order of their paths; its mask is None if it is missing."""
    images = [path for path in walk_visible(pair.images) if is_image_file(path)]
    masks = [path for path in walk_visible(pair.masks) if may_be_mask(path)] if pair.masks else []
    if pair.images == pair.masks:
        beside = masks_beside({path.stem for path in masks})
        masks = [path for path in masks if path.stem in beside]
        images = [path for path in images if path not in set(masks)]
    found = _match(images, masks, pair)
    by_image = {path: _choose(candidates) for path, candidates in found.items()}
    rows = [
        {
            "image": path.as_posix(),
            "mask": mask.as_posix() if (mask := by_image.get(path)) else None,
            "file": path.relative_to(root).as_posix(),
        }
        for path in images
    ]
    used = set(by_image.values())
    related = {mask for candidates in found.values() for mask in candidates}
    return PairedFiles(
        rows,
        [path for path in masks if path not in related],
        [path for path in masks if path in related - used],
    )


def _match(images: Sequence[Path], masks: Sequence[Path], pair: MaskPair) -> dict[Path, list[Path]]:
    """Return the masks of each image that has some, by the first way of naming that fits enough."""
    best: dict[Path, list[Path]] = {}
    for key in (_same_stem, _same_words, _same_words_anywhere):
        by_key: dict[str, list[Path]] = {}
        for mask in masks:
            by_key.setdefault(key(mask, pair.masks or mask.parent), []).append(mask)
        keys = {image: key(image, pair.images) for image in images}
        if key is not _same_stem and len(set(keys.values())) < len(keys):
            continue  # two images would share a mask
        found = {image: by_key[each] for image, each in keys.items() if each in by_key}
        if len(found) > len(best):
            best = found
        if best and len(best) >= _ENOUGH * len(images):
            break
    return best


def _choose(masks: Sequence[Path]) -> Path:
    """Return the mask to read of several of an image: the last by name that holds classes."""
    primary = [path for path in masks if not _SECONDARY.search(path.stem)]
    return (primary or list(masks))[-1]


def _same_stem(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    return (relative.parent / _SUFFIX.sub("", relative.stem)).as_posix()


def _same_words(path: Path, root: Path) -> str:
    relative = path.relative_to(root)
    return (relative.parent / bare_name(relative.stem)).as_posix()


def _same_words_anywhere(path: Path, root: Path) -> str:
    return bare_name(path.stem)
