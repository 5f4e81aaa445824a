"""Tables with one box per line, read as annotated images by split.

    image,class,xmin,ymin,xmax,ymax
    1.jpg,cat,12,30,80,99
    2.jpg,,,,,                          an image without objects

OpenImages has annotations/train-annotations-bbox.csv beside images/train/, or, from FiftyOne,
train/labels/detections.csv beside train/data/, and a table that names the codes of its classes.

`tasks.annotations.box_columns` knows the names of the columns.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from finetune.config.schema import DataConfig
from finetune.errors import DataError, listed
from finetune.listing.image_paths import is_image_file, is_readable_file
from finetune.listing.split_names import split_of
from finetune.listing.walking import list_readable, list_visible
from finetune.tables.encodings import Decoder
from tasks.annotations.box_columns import BoxColumns, find_box_columns
from tasks.image.image_search import ImageSearch, configured_places
from tasks.objects.annotated import Annotated, AnnotatedImage
from tasks.objects.boxes import is_numbers
from tasks.objects.image_sizes import fit_sizes

_SUFFIXES = (".csv", ".tsv")
_ONE_CLASS = "object"
_SPLIT_WORDS = {"validate": "validation", "unassigned": "train"}
_SHOWN = 5
_NAMES = ("*class-descriptions*.csv", "classes.csv", "metadata/classes.csv")
_CODES = ("/m/", "/g/")
_TABLE_FOLDERS = ("annotations", "annotation", "labels", "csv")
_IMAGE_FOLDERS = ("images", "data", "")
_COMMA = re.compile(r"(?<=\d),(?=\d)")


def find_box_tables(path: Path) -> dict[str, list[Path]]:
    """Return the tables of boxes at a path by split: a file, or those in a folder; {} if none."""
    if path.is_file():
        return {"train": [path]} if is_box_table(path) else {}
    if not path.is_dir():
        return {}
    folders = [child for child in list_visible(path) if child.is_dir()]
    of_splits = [folder for folder in folders if split_of(folder.name)]
    files = _tables_in([path, *of_splits]) or _tables_in(_table_folders(folders))
    files = files or _tables_in(
        _table_folders(each for top in of_splits for each in list_visible(top))
    )
    splits: dict[str, list[Path]] = {}
    for file in files:
        above = file.relative_to(path).parts[:-1][::-1]
        split = next(filter(None, map(split_of, (file.stem, *above))), "train")
        splits.setdefault(split, []).append(file)
    return splits


def _table_folders(folders: Iterable[Path]) -> list[Path]:
    return [each for each in folders if each.name.lower() in _TABLE_FOLDERS and each.is_dir()]


def _tables_in(folders: Sequence[Path]) -> list[Path]:
    return [file for folder in folders for file in list_visible(folder) if is_box_table(file)]


def is_box_table(path: Path) -> bool:
    """True if a file is a table with columns for an image and a box."""
    if path.suffix.lower() not in _SUFFIXES or not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
        line = next(csv.reader([first], delimiter=_delimiter(first, None)), [])
        return find_box_columns(line) is not None
    except (OSError, ValueError, csv.Error):
        return False


def read_box_tables(
    path: Path, config: DataConfig
) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """Return the images of all tables, in the order of their first lines, and notes.

    Raises DataError for a table without these columns or with a malformed line.
    """
    files = find_box_tables(path)
    if not files:
        raise DataError(f"{path}: has no table with columns for an image, a class and a box")
    splits: dict[str, list[AnnotatedImage]] = {}
    notes: list[str] = []
    for split, candidates in files.items():
        if len(candidates) > 1:
            names = ", ".join(file.name for file in candidates)
            raise DataError(
                f"{path}: split {split} has several tables of boxes: {names}; set data.{split} to"
                " one of them"
            )
        tables, file_notes = _read_table(candidates[0], config)
        by_name = {split: tables.pop("train", [])} if split != "train" else {}
        for name, images in {**by_name, **tables}.items():
            splits.setdefault(name, []).extend(images)
        notes += file_notes
    notes += _unnamed([image for images in splits.values() for image in images])
    notes += _other_tables(path, [file for some in files.values() for file in some])
    return {split: images for split, images in splits.items() if images}, notes


def _other_tables(path: Path, read: Sequence[Path]) -> Iterator[str]:
    """Yield a note on the other files beside the tables of a folder of annotations."""
    folders = {file.parent for file in read} - {path, path.parent}
    for folder in sorted(each for each in folders if each.name.lower() in _TABLE_FOLDERS):
        names = {*read, *_name_tables(folder)}
        others = [file.name for file in list_visible(folder) if file not in names]
        if others:
            yield f"{folder}: not read: {listed(others, _SHOWN)}"


def _read_table(
    file: Path, config: DataConfig
) -> tuple[dict[str, list[AnnotatedImage]], list[str]]:
    """Return the images of a table by split ("train" without a column for it), and notes."""
    decoder = Decoder(config.encoding)
    text = decoder.text(file)
    delimiter = _delimiter(text.partition("\n")[0], config.delimiter)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    table = _Table(file, find_box_columns(next(reader, [])))
    if not table.columns.has_header:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                table.add(cells, reader.line_num, delimiter)
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: cannot be read: {error}") from error
    if not table.splits:
        raise DataError(f"{file}: has no lines below its header")
    notes = [*decoder.notes(), *(f"{file.name}: {note}" for note in table.finish(config))]
    return {split: list(images.values()) for split, images in table.splits.items()}, notes


class _Table:
    """The images that the lines of a table are about."""

    def __init__(self, file: Path, columns: BoxColumns | None) -> None:
        if columns is None:
            raise DataError(f"{file}: has no columns for an image, a class and a box")
        self.file, self.columns = file, columns
        self.splits: dict[str, dict[str, AnnotatedImage]] = {}
        self._zeros = 0
        self._bare: list[tuple[AnnotatedImage, Annotated]] = []
        self._others: list[tuple[Annotated, list[str]]] = []

    def add(self, cells: Sequence[str], number: int, delimiter: str) -> None:
        """Add a line. Raises DataError if it names no image."""
        columns = self.columns

        def cell(index: int | None) -> str:
            return cells[index].strip() if index is not None and index < len(cells) else ""

        name, category = cell(columns.image), cell(columns.category)
        if not name:
            raise DataError(f"{self.file}, line {number}: has no image name")
        word = cell(columns.split).lower()
        split = split_of(word) or _SPLIT_WORDS.get(word) or word or "train"
        images = self.splits.setdefault(split, {})
        image = images.setdefault(name, AnnotatedImage("", name, place=f"{self.file.name}"))
        image.size = image.size or _size([cell(index) for index in columns.size])
        words = [cell(index) for index in columns.sides]
        if len(words) == 1:
            words = [word for word in re.split(r"[\s,;]+", words[0].strip("[]() ")) if word]
        elif delimiter == ";":  # decimal commas of spreadsheets
            words = [_COMMA.sub(".", word) for word in words]
        if not any((*words, category if columns.category is not None else "")):
            return
        item = _object(words, category if columns.category is not None else _ONE_CLASS)
        self._others.append((item, [cell(index) for index in columns.other_classes]))
        if item.box == [0, 0, 0, 0]:
            self._zeros += 1
            return
        item.place, item.form = f"{self.file.name}:{number}", columns.form
        item.iscrowd = int(cell(columns.crowd).lower() in ("1", "1.0", "true"))
        item.number = len(image.objects) + 1
        if any(words):
            image.objects.append(item)
        else:
            self._bare.append((image, item))

    def finish(self, config: DataConfig) -> Iterator[str]:
        """Find the images and settle the convention of the boxes; yield notes."""
        yield from self._choose_class()
        yield from self._place_bare()
        columns = self.columns
        if columns.category is None:
            yield (
                f"warning: no column is called class, label or category, so all boxes are of one"
                f" class, {_ONE_CLASS}"
            )
        if columns.unread:
            yield f"not read: columns {listed(columns.unread, _SHOWN)}"
        if not columns.has_header:
            yield f"no header; columns read as {', '.join(name for name in columns.names if name)}"
        yield from _name_classes(self.file, self.splits)
        if self._zeros:
            yield f"boxes 0, 0, 0, 0 mean an image without objects: {self._zeros}"
        images = [image for split in self.splits.values() for image in split.values()]
        yield from _as_shares(images)
        yield from _find_images(self.file, self.splits, config.images)
        yield from fit_sizes(images, config.rescale)

    def _choose_class(self) -> Iterator[str]:
        """Take the names of the classes where another column has their numbers; yield a note.

        Raises DataError if two columns differ in more than that.
        """
        for index, column in enumerate(self.columns.other_classes):
            pairs = {(item.category, others[index]) for item, others in self._others}
            first, second = ({pair[side] for pair in pairs} for side in (0, 1))
            names = [self.columns.names[each] for each in (self.columns.category or 0, column)]
            if not len(pairs) == len(first) == len(second):
                raise DataError(
                    f"{self.file}: the columns {names[0]} and {names[1]} may both be the class, but"
                    " differ; remove the other one, or rename it"
                )
            if all(map(_is_number, first)) and not any(map(_is_number, second)):
                for item, others in self._others:
                    item.category = others[index]
                self.columns = replace(self.columns, category=column)
                yield f"classes are those of column {names[1]}; {names[0]} has their numbers"
                return

    def _place_bare(self) -> Iterator[str]:
        """Read lines of a class that never has a box as images without objects; yield a note.

        A line without a box of another class is a fault.
        """
        boxed = {o.category for s in self.splits.values() for i in s.values() for o in i.objects}
        lacking = [(image, item) for image, item in self._bare if item.category in boxed]
        for image, item in lacking:
            item.fault = "has no box"
            image.objects.append(item)
        rest = Counter(item.category for _, item in self._bare if item.category not in boxed)
        for category, count in rest.items():
            yield f"lines of {category!r}, none with a box, mean an image without objects: {count}"


def _is_number(text: str) -> bool:
    return text.lstrip("-").isdecimal()


def _name_classes(file: Path, splits: Mapping[str, Mapping[str, AnnotatedImage]]) -> Iterator[str]:
    """Replace the codes of OpenImages with the names in class-descriptions.csv, if it is near."""
    objects = [o for images in splits.values() for image in images.values() for o in image.objects]
    tables = _name_tables(file.parent)
    if not tables or not any(each.category.startswith(_CODES) for each in objects):
        return
    with tables[0].open(encoding="utf-8-sig", errors="replace", newline="") as opened:
        names = {line[0]: line[1] for line in csv.reader(opened) if len(line) > 1}
    unknown = sorted({each.category for each in objects} - names.keys())
    for each in objects:
        each.category = names.get(each.category, each.category)
    lacking = f"; it has none for {listed(unknown, _SHOWN)}" if unknown else ""
    yield f"class names are those of {tables[0].name}{lacking}"


def _name_tables(folder: Path) -> list[Path]:
    places = (folder, folder.parent)
    return [each for place in places for name in _NAMES for each in sorted(place.glob(name))]


def _delimiter(first: str, wanted: str | None) -> str:
    """Return the delimiter of a table: the one that is most frequent in its first line."""
    return wanted or max([",", ";", "\t"], key=first.count)


def _size(words: Sequence[str]) -> tuple[int, int] | None:
    try:
        width, height = (int(float(word)) for word in words)
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _object(words: Sequence[str], category: str) -> Annotated:
    try:
        return Annotated(category, [float(word) for word in words])
    except ValueError:
        return Annotated(category, fault=f"box {list(words)} is not four numbers")


def _as_shares(images: Sequence[AnnotatedImage]) -> Iterator[str]:
    """Read boxes as shares of the image size if no number of the table is above 1."""
    objects = [each for image in images for each in image.objects if is_numbers(each.box)]
    has_form = objects and objects[0].form
    if has_form and all(0 <= value <= 1 for each in objects for value in each.box):
        for each in objects:
            each.form = f"{each.form}-shares"
        yield f"boxes: all numbers are from 0 to 1, read as {objects[0].form}"


def _find_images(
    file: Path, splits: Mapping[str, Mapping[str, AnnotatedImage]], chosen: str | None
) -> Iterator[str]:
    """Fill in the paths of the images, and yield a note on where they were found."""
    folder = file.parent
    for split, images in splits.items():
        places = configured_places(chosen, file) if chosen else _places(file, split)
        search = ImageSearch(folder, places)
        for image, path in zip(images.values(), search.find(list(images)), strict=True):
            image.image = (path or search.expected(image.file)).as_posix()
        if search.way:
            yield f"images were found {search.way}"
        elif search.place not in (folder, folder / "images"):
            yield f"images are in {search.place}"


def _places(file: Path, split: str) -> list[Path]:
    """Return the folders in which the images of a split may be."""
    folder = file.parent
    places = [folder, folder / "images", folder / file.stem, Path(), folder / split]
    if folder.name.lower() in _TABLE_FOLDERS:
        own = split_of(file.stem) if split == "train" else None
        for above in (folder.parent / name for name in _IMAGE_FOLDERS):
            inside = (child for child in list_readable(above) if child.is_dir())
            places += [each for each in inside if split_of(each.name) == (own or split)]
            places.append(above)
    return places


def _unnamed(images: Sequence[AnnotatedImage]) -> Iterator[str]:
    """Yield a note on the images beside those of the tables that no line names."""
    named = {Path(image.image) for image in images}
    folders = sorted({path.parent for path in named if is_readable_file(path)})
    rest = [path.name for place in folders for path in list_visible(place) if path not in named]
    rest = [name for name in rest if is_image_file(name)]
    if rest:
        yield f"images that no line names, not read: {len(rest)} ({listed(rest, _SHOWN)})"
