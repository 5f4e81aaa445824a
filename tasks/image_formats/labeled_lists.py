"""Lists of images with a label each, as ImageNet, Places and Caffe divide their images.

train.txt           val.txt
imgs/1.jpg 0        imgs/7.jpg 1
imgs/2.jpg 1        imgs/8.jpg 0
"""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

from finetune.config.formats import IMAGE_ENDINGS
from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.listing.split_names import split_of
from finetune.listing.walking import list_readable
from finetune.tables.encodings import Decoder
from tasks.exports.export_files import find_exports
from tasks.exports.export_images import Reading, Splits, find_images, read_exports
from tasks.objects.annotated import AnnotatedImage

_ENDINGS = "|".join(sorted(re.escape(ending) for ending in IMAGE_ENDINGS))
_LINE = re.compile(rf"(?P<image>.*?(?:{_ENDINGS}))(?:\s*[,;]\s*|\s+)(?P<label>\S.*)", re.IGNORECASE)
_FILE = re.compile(rf".*(?:{_ENDINGS}|\.(?:npy|mat|txt|xml|json))", re.IGNORECASE)
_FIRST = 5  # lines that must fit for a file to be a list


def _is_list(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8-sig") as opened:
            lines = list(islice(filter(None, map(str.strip, opened)), _FIRST))
    except (OSError, ValueError):
        return False
    matches = [match for line in lines if (match := _LINE.fullmatch(line))]
    # Beside a mask, such as CamVid lists, or a file of annotations, an image has no label there.
    has_labels = not any(_FILE.fullmatch(match["label"].strip()) for match in matches)
    return bool(lines) and len(matches) == len(lines) and has_labels


def find_image_lists(path: Path) -> dict[str, list[Path]]:
    """Return the lists at a path by split; {} if there are none.

    Lists of held-out images beside a folder of training images are not the labels of all: the
    folder has classes, as that of Tiny ImageNet.
    """
    found = find_exports(path, ".txt", _is_list)
    has_train = any(split_of(each.name) == "train" for each in list_readable(path) if each.is_dir())
    return {} if has_train and "train" not in found else found


def read_image_lists(path: Path, config: DataConfig) -> tuple[Splits, list[str]]:
    """Return the images of every split with their labels, and notes. Raises DataError."""
    files, looked_for = find_image_lists(path), "a .txt file with an image and a label per line"
    return read_exports(path, files, _read_list, config, "images and labels", looked_for)


def _read_list(file: Path, split: str, config: DataConfig) -> Reading:
    decoder, reading = Decoder(config.encoding), Reading()
    for number, line in enumerate(decoder.text(file).splitlines(), start=1):
        if not line.strip():
            continue
        place, found = f"{file.name}:{number}", _LINE.fullmatch(line.strip())
        if found is None:
            raise DataError(
                f"{file.parent / place}: {line!r:.80} is not an image and its label; correct the "
                "line, or remove it"
            )
        label = found["label"].strip()
        if len(label.split()) > 1 and all(part.isdecimal() for part in label.split()):
            raise DataError(
                f"{file.parent / place}: several numbers follow the image: {label!r:.40}; they may "
                "be labels, or zeros and ones of labels: make a table of the images with a column "
                "of lists, or a column for each label"
            )
        reading.add(AnnotatedImage("", found["image"], place=place, labels=[label]), split)
    reading.notes += [*decoder.notes(), *find_images(file, reading.splits, config)]
    return reading
