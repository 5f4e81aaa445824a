"""Layouts of folders with images and masks: which folder holds what of which split.

    train/images/   train/masks/                  images and masks inside a split
    images/train/   annotations/train/            splits inside images and masks (ADE20K, mmseg)
    leftImg8bit/train/CITY/  gtFine/train/CITY/   Cityscapes, also with a folder around leftImg8bit/
    images/         masks/                        no splits
    train/          train_masks/  trainannot/     Carvana, CamVid
    train/1.jpg     train/1_mask.png              beside each other (Roboflow)
    JPEGImages/     SegmentationClass/            Pascal VOC
    training/image_2/  training/semantic/         KITTI
    training/images/  training/v2.0/labels/       Mapillary Vistas

Folders are known by the words of their names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.listing.image_paths import is_image_file
from finetune.listing.split_names import split_name
from finetune.listing.walking import list_visible, walk_visible

Role = Literal["image", "mask"]
_Sorted = tuple[Path, str | None, Role | None, int]
# Of two folders for the same split, the one whose word comes first is read.
_IMAGE_WORDS = (
    "images", "image", "imgs", "img", "jpegimages", "photos", "photo", "pictures", "leftimg8bit",
    "rgb", "inputs", "input", "x",
)  # fmt: skip
_MASK_WORDS = (
    "manual", "masks", "mask", "semantic", "annotations", "annotation", "labels", "label", "gt",
    "segmentationclass", "segmentationclassraw", "segmentations", "gtfine", "groundtruth",
    "annots", "annot", "ann",
    "anns", "segmentation", "segmentationclassaug", "gtcoarse", "gts", "targets", "target", "y",
)  # fmt: skip
_OTHER_MASKS = ("panoptic",)  # their colors are numbers of segments, not classes
_SPLIT_WORDS = ("train", "training", "val", "valid", "validation", "test", "testing")
_JOINED = re.compile(f"({'|'.join(_SPLIT_WORDS)})({'|'.join((*_MASK_WORDS, *_IMAGE_WORDS))})$")
_BESIDE = re.compile(r"[-_ ](masks?|labels?|gt|seg|l)$", re.IGNORECASE)
_FILE_WORDS = frozenset({
    "img", "image", "images", "im", "mask", "masks", "label", "labels", "lbl", "gt", "seg", "ann",
    "segmentation", "annotation", "annotations", "gtfine", "gtcoarse", "leftimg8bit", "labelids",
    "labeltrainids", "trainids", "instanceids", "color", "colors", "l", "sat", "rgb", "groundtruth",
    "matte", "manual1", "training", "test",
})  # fmt: skip


@dataclass(frozen=True)
class MaskPair:
    """The folders of a split; the same one if masks lie beside their images; masks None: none."""

    images: Path
    masks: Path | None


def find_layout(root: Path) -> dict[str, MaskPair]:
    """Return the folders of images and masks by split; {} if there is no pair of them."""
    found: dict[tuple[str | None, str], list[tuple[int, Path]]] = {}
    for child in _opened(_folders(root)):
        for split, role, rank, folder in _sort(child):
            if role != "mask" or has_mask_files(folder):
                found.setdefault((split, role), []).append((rank, folder))

    def best(split: str | None, role: str) -> Path | None:
        folders = found.get((split, role))
        return min(folders, key=lambda pair: pair[0])[1] if folders else None

    images, masks = best(None, "image"), best(None, "mask")
    if images and masks:
        return {"train": MaskPair(images, masks)}
    pairs: dict[str, MaskPair] = {}
    for split in dict.fromkeys(split for split, _ in found if split is not None):
        images = best(split, "image") or best(split, "split")
        masks = best(split, "mask")
        if images is not None and masks is None and is_beside(images):
            masks = images
        if images is not None:
            pairs[split] = MaskPair(images, masks)
    if not any(pair.masks for pair in pairs.values()):
        return {"train": MaskPair(root, root)} if is_beside(root) else {}
    return pairs


def _opened(folders: Sequence[Path]) -> list[Path]:
    """Replace folders whose names tell nothing with the only folder inside, if its role is lacking.

    imgsFine/leftImg8bit/ stands for leftImg8bit/, unless there are other images.
    """
    inside = {folder: inner for folder in folders if (inner := _only_role(folder))}
    roles = Counter(_role(folder) for folder in [*folders, *inside.values()])
    return [
        inner if (inner := inside.get(folder)) and roles[_role(inner)] == 1 else folder
        for folder in folders
    ]


def _role(folder: Path) -> Role | None:
    return classify(folder.name)[1]


def _only_role(folder: Path) -> Path | None:
    """Return the only folder in one without split and role, if it has a role."""
    if classify(folder.name)[:2] != (None, None):
        return None
    inside = _folders(folder)
    return inside[0] if len(inside) == 1 and _role(inside[0]) else None


def _sort(child: Path) -> list[tuple[str | None, str, int, Path]]:
    """Return (split, role, rank, folder) of a folder, or of those inside it that tell more."""
    split, role, rank = classify(child.name)
    if role and not split:
        below = [(each, *classify(each.name)) for each in _folders(child)]
        inside = [(s, role, rank, each) for each, s, _, _ in below if s]
        if [r for _, _, r, _ in below] == [role] and not inside:
            return _sort(below[0][0])  # leftImg8bit_trainvaltest/leftImg8bit/train
        return [*inside] or [(None, role, rank, child)]
    if split and not role:
        below = [(each, *classify(each.name)) for each in _folders(child)]
        if not any(r == "mask" for _, _, r, _ in below):
            below += _below_version(below)
        inside = [(split, r, n, each) for each, _, r, n in below if r]
        return [*inside] or [(split, "split", 0, child)]
    return [(split, role, rank, child)] if role else []


def _below_version(below: Sequence[_Sorted]) -> list[_Sorted]:
    """Return the masks in the only folder without a role that holds some, such as v2.0/."""
    unknown = [each for each, split, role, _ in below if not (split or role)]
    inside = [[(each, *classify(each.name)) for each in _folders(folder)] for folder in unknown]
    masks = [found for some in inside if (found := [each for each in some if each[2] == "mask"])]
    return masks[0] if len(masks) == 1 else []


def classify(name: str) -> tuple[str | None, Role | None, int]:
    """Return the split and the role in the name of a folder, and the rank of the role's word.

    None for a folder of masks that do not show classes.
    """
    plain = re.sub(r"[-_ .]", "", name.lower())
    if plain.startswith(_OTHER_MASKS):
        return None, None, 0
    words = [plain, *(word for word in re.split(r"[-_ .]+", name.lower()) if word)]
    if joined := _JOINED.match(plain):
        words += joined.groups()
    split = next((found for word in words if (found := split_name(word))), None)
    roles: tuple[tuple[Role, tuple[str, ...]], ...] = (
        ("mask", _MASK_WORDS),
        ("image", _IMAGE_WORDS),
    )
    for role, choices in roles:
        ranks = [choices.index(word) for word in words if word in choices]
        if ranks:
            return split, role, min(ranks)
    return split, None, 0


def has_mask_files(folder: Path) -> bool:
    """True if a folder contains masks, and not only the text files of another format."""
    return any(map(may_be_mask, walk_visible(folder)))


def may_be_mask(path: Path) -> bool:
    """True for the name of an image or of a NumPy file."""
    return is_image_file(path) or path.suffix.lower() == ".npy"


def is_beside(folder: Path) -> bool:
    """True if a folder holds images with masks beside them: 1.jpg and 1_mask.png."""
    stems = {path.stem for path in list_visible(folder) if may_be_mask(path)}
    masks = masks_beside(stems)
    return bool(masks) and 3 * len(masks) >= len(stems)


def masks_beside(stems: set[str]) -> set[str]:
    """Return the names that are masks of others among them: 1_mask of 1 or of 1_sat."""
    likely = {stem for stem in stems if _BESIDE.search(stem)}
    images = {bare_name(stem) for stem in stems - likely}
    return {stem for stem in likely if bare_name(stem) in images}


def bare_name(stem: str) -> str:
    """Return a name without the words at its ends that say whether it is an image or a mask."""
    parts = re.split(r"([-_ .])", stem)
    while len(parts) > 2 and parts[-1].lower() in _FILE_WORDS:
        parts = parts[:-2]
    while len(parts) > 2 and parts[0].lower() in _FILE_WORDS:
        parts = parts[2:]
    return "".join(parts)


def _folders(root: Path) -> list[Path]:
    return [child for child in list_visible(root) if child.is_dir()]
