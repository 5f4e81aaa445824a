"""Pascal VOC annotations, read as annotated images by split: one .xml file per image.

    Annotations/1.xml  JPEGImages/1.jpg  ImageSets/Main/train.txt  val.txt
    annotations/1.xml  images/1.jpg                                 also with split folders
    train/1.xml  train/1.jpg  valid/...                             beside the images
    1.xml  1.jpg                                                    no splits

The format is that of host.robots.ox.ac.uk/pascal/VOC, see `tasks.annotations.voc_files`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from finetune.config.formats import IMAGE_ENDINGS
from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file, is_readable_file
from finetune.listing.split_names import split_of
from finetune.listing.walking import describe_contents, list_visible
from tasks.annotations.voc_files import is_voc_file, read_voc_file
from tasks.image.image_lists import ListedItems, split_by_lists
from tasks.image.image_search import (
    clean_path,
    configured_places,
    walk_images,
)
from tasks.objects.annotated import AnnotatedImage, note_turned_boxes, refuse_repeated
from tasks.objects.image_sizes import fit_sizes

_ANNOTATION_FOLDERS = ("annotations", "annotation", "annots", "xmls", "xml", "labels")
_IMAGE_FOLDERS = ("jpegimages", "images", "image", "imgs", "img", "pictures")
_SHOWN = 3


def find_voc(path: Path) -> dict[str, list[Path]]:
    """Return the .xml files of a folder by split; {} if there are none."""
    return _find(path).splits


def read_voc(path: Path, config: DataConfig | None = None) -> ListedItems[AnnotatedImage]:
    """Return the images of every split of a folder, notes, and the splits without annotations.

    Raises DataError if there are no .xml files, or if a file cannot be read.
    """
    found = _find(path)
    files, notes = found.splits, found.notes
    if not files:
        raise DataError(
            f"{path}: no .xml files of Pascal VOC found, in Annotations/ or beside the images; "
            f"found {describe_contents(path)}"
        )
    config = config or DataConfig()
    splits = {
        split: [_image(file, path, config.images) for file in some] for split, some in files.items()
    }
    for split, some in files.items():
        notes += _tell_apart(splits[split], some, path, config)
    notes += _unannotated(splits)
    for images in splits.values():
        notes += [*note_turned_boxes(images), *fit_sizes(images, config.rescale)]
    return ListedItems(splits, notes, found.unusable)


def _find(path: Path) -> ListedItems[Path]:
    if not path.is_dir():
        return ListedItems()
    children = [child for child in list_visible(path) if child.is_dir()]
    folders = [child for child in children if child.name.lower() in _ANNOTATION_FOLDERS]
    inner = [child for folder in folders for child in list_visible(folder) if child.is_dir()]
    named = [*folders, *(child for child in inner if child.name.lower() in _ANNOTATION_FOLDERS)]
    files = next((some for folder in named if (some := _xml_files(folder))), None)
    files = files or _xml_files(path)
    if files:
        by_stem = {file.stem: file for file in files}
        lists = next((each for each in _list_folders(path) if (each / "train.txt").is_file()), path)
        read = split_by_lists(lists, by_stem, ".xml file")
        read.splits = read.splits or {"train": files}
        return read
    splits: dict[str, list[Path]] = {}
    for folder in folders:  # annotations/train/1.xml
        below = (child for child in list_visible(folder) if child.is_dir())
        splits = {
            s: f for child in below if (s := split_of(child.name)) and (f := _xml_files(child))
        }
        if splits:
            return ListedItems(splits)
    notes: list[str] = []
    for child in children:
        split = split_of(child.name)
        found = _find(child) if split else ListedItems[Path]()
        inside = [file for some in found.splits.values() for file in some]
        if split and inside:
            splits[split] = inside
            notes += found.notes
    return ListedItems(splits, notes)


def _list_folders(path: Path) -> list[Path]:
    sets = path / "ImageSets"
    return [sets / "Main", sets, path / "splits", path]


def _xml_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*.xml") if not path.name.startswith("."))
    return files if any(map(is_voc_file, files[:_SHOWN])) else []


# ---- images


def _image(file: Path, root: Path, folder: str | None, *, by_stem: bool = False) -> AnnotatedImage:
    content = read_voc_file(file, file.relative_to(root).as_posix())
    places = _places(file, root) if folder is None else configured_places(folder, file)
    image = _find_image(file, "" if by_stem else content.file_name, places)
    name = image.relative_to(root).as_posix() if root in image.parents else image.name
    place = file.relative_to(root).as_posix()
    return AnnotatedImage(image.as_posix(), name, list(content.objects()), content.size, place)


def _tell_apart(
    images: list[AnnotatedImage], files: Sequence[Path], root: Path, config: DataConfig
) -> Iterator[str]:
    """Find images by the names of their .xml files where several name the same image.

    Yields a note; an image that is annotated in several files after that gets a fault.
    """
    uses = Counter(image.image for image in images)
    renamed = 0
    for index, file in enumerate(files):
        if uses[images[index].image] > 1:
            other = _image(file, root, config.images, by_stem=True)
            if is_readable_file(Path(other.image)) and other.image != images[index].image:
                images[index], renamed = other, renamed + 1
    if renamed:
        yield f"images found by the names of their .xml files, since <filename> repeats: {renamed}"
    refuse_repeated(images)


def _places(file: Path, root: Path) -> list[Path]:
    """Return the folders in which the image of an .xml file may be."""
    folders = [file.parent, *_beside(file.parent)]
    if file.parent.parent != root and root in file.parent.parents:  # annotations/train/1.xml
        above = _beside(file.parent.parent)
        folders += [*(each / file.parent.name for each in above), *above]
    return folders


def _find_image(file: Path, name: str, folders: Sequence[Path]) -> Path:
    """Return the image of an .xml file: the one with the name given there, or with its stem.

    If there is none, return where it should be: a fault of the row.
    """
    name = clean_path(name).rpartition("/")[2]
    for folder in folders:
        if name and is_image_file(name) and is_readable_file(folder / name):
            return folder / name
        for suffix in sorted(IMAGE_ENDINGS):
            for ending in (suffix, suffix.upper()):
                if (folder / f"{file.stem}{ending}").is_file():
                    return folder / f"{file.stem}{ending}"
    return folders[-1] / (name or f"{file.stem}.jpg")


def _beside(folder: Path) -> list[Path]:
    """Return the folders of images beside a folder of annotations."""
    names = {child.name.lower(): child for child in list_visible(folder.parent) if child.is_dir()}
    return [names[name] for name in _IMAGE_FOLDERS if name in names]


def _unannotated(splits: dict[str, list[AnnotatedImage]]) -> Iterator[str]:
    """Yield a note on the images that lie among those of rows but have no .xml file."""
    paths = {image.image for images in splits.values() for image in images}
    folders = sorted({Path(path).parent for path in paths if is_readable_file(Path(path))})
    files = (path for folder in folders for path in walk_images(folder))
    lone = [path.name for path in files if path.as_posix() not in paths]
    if lone:
        shown = f"{len(lone)} ({listed(lone, _SHOWN)})"
        yield f"images without an .xml file that is read, not read: {shown}"
