"""Tables of images that lie in class folders, whose only other column may not be the label.

metadata.csv of a folder of classes often holds the source or the size of its images alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from finetune.errors import AmbiguityError, listed
from finetune.listing.class_folders import IMAGE_FOLDERS
from finetune.listing.image_paths import is_image_file
from finetune.listing.split_names import splits_of_siblings
from finetune.listing.walking import list_readable
from tasks.classification.label_columns import LABEL_NAMES, LIKELY_LABEL_NAMES, plain_name
from tasks.pixels.image_cells import path_of

_LOOKED_AT = 100  # folders beside that of an image, and files in each
_NAMED = 3


def check_class_folders(columns: Mapping[str, Sequence[Any]], image: str, label: Any) -> None:
    """Raise AmbiguityError if a column without a usual name hides class folders.

    `columns` are the first values of each. A column that tells the folders apart hides nothing.
    """
    if not isinstance(label, str) or plain_name(label) in {*LABEL_NAMES, *LIKELY_LABEL_NAMES}:
        return
    paths = [path_of(cell) for cell in columns[image]]
    pairs = {(Path(p).parent, str(v)) for p, v in zip(paths, columns[label], strict=True) if p}
    folders, values = {folder for folder, _ in pairs}, {value for _, value in pairs}
    if not pairs or (len(folders) == len(values) == len(pairs) > 1):
        return
    above = {folder.parent for folder in folders}
    names = _names_of_classes(above.pop()) if len(above) == 1 else []
    if names and {folder.name for folder in folders} <= set(names):
        raise AmbiguityError(
            f"task.label: the images lie in the folders {listed(names, _NAMED)}, which may be"
            f" their classes, and column {label!r} is the only other candidate:"
            f" data.format=image-folder learns the folders, task.label={label} the column"
        )


def _names_of_classes(folder: Path) -> list[str]:
    """Return the names of the folders of images in a folder; [] unless they may be classes."""
    children = islice((each for each in list_readable(folder) if each.is_dir()), _LOOKED_AT)
    names = [
        each.name
        for each in children
        if any(map(is_image_file, islice(list_readable(each), _LOOKED_AT)))
    ]
    is_generic = any(name.lower() in IMAGE_FOLDERS for name in names)
    return [] if len(names) < 2 or is_generic or splits_of_siblings(names) else names
