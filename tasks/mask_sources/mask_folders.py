"""Folders of images and masks, read as rows by split, with Pascal VOC's layout among them.

`mask_layouts` finds the folders, `mask_pairs` the mask of an image. A legend can name the classes,
see `legends`; ImageSets/Segmentation/train.txt of Pascal VOC lists the images of a split.

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png", "file": "train/images/1.jpg"}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.config.formats import DataFormat, TaskTables, Unusable
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.walking import describe_contents, list_visible, note_strays
from finetune.task_parts.samples import Row
from tasks.annotations.box_formats import COCO_FILES, to_rows
from tasks.annotations.yolo import has_outlines, read_yolo_masks
from tasks.coco.coco import read_coco
from tasks.coco.coco_files import find_coco
from tasks.image.image_lists import ListedItems, split_by_lists
from tasks.image.image_search import refuse_images_key
from tasks.mask_sources.legends import Legend, read_legend
from tasks.mask_sources.mask_layouts import MaskPair, find_layout
from tasks.mask_sources.mask_pairs import pair_files
from tasks.objects.annotated import mask_row

_SHOWN = 3
_LISTS = Path("ImageSets") / "Segmentation"


def has_masks(path: Path) -> bool:
    """True if a folder contains images with masks."""
    return path.is_dir() and bool(find_layout(_find_root(path)))


def read_masks(path: Path) -> TaskTables:
    """Read the rows of a folder of images and masks, and task.labels from its legend if it has one.

    Raises DataError if there are no rows.
    """
    root = _find_root(path) if path.is_dir() else path
    layout = find_layout(root) if root.is_dir() else {}
    if not layout:
        raise DataError(
            f"{path}: no images with masks found; expected a folder images/ beside a folder masks/,"
            " each with or without split folders, or JPEGImages/ beside SegmentationClass/, or"
            f" train/ beside train_masks/; found {describe_contents(path)}"
        )
    splits, notes = _read_layout(layout, root)
    by_lists = _by_lists(splits, root)
    splits, unusable = by_lists.splits, by_lists.unusable
    if all(row["mask"] is None for row in splits.get("train", [{"mask": ""}])):
        unusable["train"] = Unusable(_no_masks(layout["train"], splits.pop("train"), root))
    places = [root, *(folder.images for folder in layout.values()), *_folders(root)]
    legend = _legend(places)
    keys = {"labels": legend.labels} if legend else {}
    notes += [*by_lists.notes, *note_strays(root), *_unread(root, layout, legend and legend.file)]
    return TaskTables(splits, notes, keys, unusable)


def _legend(places: Sequence[Path]) -> Legend | None:
    """Return the first legend of some folders. Raises DataError if another contradicts it."""
    legends = [found for place in dict.fromkeys(places) if (found := read_legend(place))]
    for other in legends[1:]:
        first = legends[0]
        if type(other.labels) is type(first.labels) and other.labels != first.labels:
            raise DataError(
                f"{first.file} and {other.file} name the classes differently, so a value of one"
                " split may be another class in the other; correct one of them, or set task.labels"
                " and remove them"
            )
    return legends[0] if legends else None


def read_mask_folder(root: Path) -> dict[str, list[Row]]:
    """Return the rows of every split; {} if the folder has none of the known layouts."""
    layout = find_layout(root) if root.is_dir() else {}
    splits = _by_lists(_read_layout(layout, root)[0], root).splits
    return {split: rows for split, rows in splits.items() if rows}


def _read_layout(layout: dict[str, MaskPair], root: Path) -> tuple[dict[str, list[Row]], list[str]]:
    splits: dict[str, list[Row]] = {}
    lone: list[Path] = []
    others: list[Path] = []
    instances: list[str] = []
    for split, pair in layout.items():
        paired = pair_files(pair, root)
        if paired.rows:
            splits[split] = paired.rows
        lone += paired.lone
        others += paired.others
        instances += paired.instances
    notes = []
    if instances:
        notes.append(
            f"warning: masks that hold objects and not classes by their names: {len(instances)}"
            f" ({listed(instances, _SHOWN)}): task.encoding=instance learns all objects as one"
            " class; for classes, add masks of classes"
        )
    if lone:
        notes.append(f"masks without an image, ignored: {len(lone)} ({listed(lone, _SHOWN)})")
    if others:
        shown = listed((path.name for path in others), _SHOWN)
        notes.append(f"further masks of images that have one, not read: {len(others)} ({shown})")
    return splits, notes


def _by_lists(splits: dict[str, list[Row]], root: Path) -> ListedItems[Row]:
    """Return the rows by the lists of Pascal VOC, if there are some."""
    folder = root / _LISTS
    if not folder.is_dir() or list(splits) != ["train"]:
        return ListedItems(splits)
    rows = {Path(row["image"]).stem: row for row in splits["train"]}
    read = split_by_lists(folder, rows, "image")
    read.splits = read.splits or splits
    return read


def _no_masks(pair: MaskPair, rows: Sequence[Row], root: Path) -> str:
    """Say that no image of train has a mask, what was looked for, and what is there."""
    first = Path(rows[0]["image"])
    if pair.masks is None:
        looked = f"no folder of masks beside {pair.images.relative_to(root).as_posix() or '.'}"
    else:
        inside = pair.masks.relative_to(root).as_posix()
        looked = f"no mask in {inside} is named like {first.name}"
    seen = describe_contents(pair.masks or pair.images.parent)
    return (
        f"{root}: train: none of the images ({len(rows)}) has a mask: {looked} (found there:"
        f" {seen}); add the masks, or choose another split with data.train=NAME"
    )


def _unread(root: Path, layout: dict[str, MaskPair], legend: Path | None) -> list[str]:
    """Return a note on the files and folders beside those that are read."""
    read = {folder for pair in layout.values() for folder in (pair.images, pair.masks) if folder}
    if root in read:
        return []
    read |= {parent for folder in read for parent in folder.parents}
    skipped = {legend, root / "ImageSets"}
    rest = [child for child in list_visible(root) if child not in read and child not in skipped]
    names = [f"{child.name}/" if child.is_dir() else child.name for child in rest]
    return [f"{root}: not read: {listed(names, _SHOWN + 2)}"] if names else []


def _find_root(root: Path) -> Path:
    """Return the folder itself, the only one inside it, or that of Pascal VOC in a VOCdevkit."""
    if find_layout(root):
        return root
    folders = _folders(root)
    inside = [child for child in folders if (child / _LISTS).is_dir() and find_layout(child)]
    if len(inside) > 1:
        names = ", ".join(child.name for child in inside)
        raise DataError(f"{root}: contains {names}; choose one of them, such as {inside[-1]}")
    if not inside and len(folders) == 1 and find_layout(folders[0]):
        inside = folders
    return inside[0] if inside else root


def _folders(root: Path) -> list[Path]:
    return [child for child in list_visible(root) if child.is_dir()]


def read_coco_masks(path: Path, config: DataConfig) -> TaskTables:
    """Read the outlines of a COCO file or folder as masks."""
    splits, notes = read_coco(path, config)
    return TaskTables(to_rows(splits, mask_row), notes)


def _read_folder(path: Path, config: DataConfig) -> TaskTables:
    refuse_images_key(config, path)
    return read_masks(path)


_LAYOUTS = "images/ beside masks/, train/ beside train_masks/, or 1.jpg beside 1_mask.png"
_POLYGONS = "YOLO with polygons (data.yaml)"
MASK_FORMATS = (
    DataFormat("mask-folder", has_masks, _read_folder, _LAYOUTS),
    DataFormat("voc", has_masks, _read_folder),
    DataFormat("yolo", has_outlines, read_yolo_masks, _POLYGONS),
    DataFormat("coco", lambda path: bool(find_coco(path)), read_coco_masks, COCO_FILES),
)
