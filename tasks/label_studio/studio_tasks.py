"""Tasks of Label Studio, as its exports JSON and JSON-MIN hold them.

    [{"id": 1, "data": {"image": "/data/upload/1/1a2b3c4d-1.jpg"}, "annotations": [{"result": [
        {"id": "x", "type": "rectanglelabels", "from_name": "label", "value": {"x": 12, ...}}]}]}]
    [{"image": "...", "id": 1, "label": [{"x": 12, ..., "rectanglelabels": ["cat"]}],
      "annotator": 1, "annotation_id": 1}]                                                JSON-MIN

The format is that of labelstud.io/guide/task_format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune.listing.image_paths import is_image_file
from tasks.exports.export_files import (
    as_dict,
    as_list,
    find_exports,
    json_head,
    load_json,
    naming_file,
    show_count,
)
from tasks.exports.export_images import local_name

TOOL = "Label Studio"
LOOKED_FOR = "a .json file with tasks and their annotations"
_NEEDS = "a list of tasks with data and annotations"
_LISTS = ("annotations", "completions")
_FULL = {"data", *_LISTS}
_MIN = {"annotator", "annotation_id", "completion_id", "lead_time"}
_BOOKKEEPING = _MIN | {"id", "created_at", "updated_at", "completed_at", "agreement"}
_LOOKED_AT = 20
_SHAPES = {"x", "points", "rle", "vertices"}


@dataclass(frozen=True)
class Result:
    """One result of an annotation: a region with its labels, or a choice.

    Attributes:
        control: name of the tag of the labeling interface that made it.
        kind: its type, such as "rectanglelabels" or "choices".
        value: its coordinates and labels.
        region: id of its region, which several results may share.
        size: (H, W) of the image as the tool saw it; None: not stated.
        turn: degrees by which the image was turned in the tool.
    """

    control: str
    kind: str
    value: Mapping[str, Any]
    region: str = ""
    size: tuple[int, int] | None = None
    turn: float = 0

    @property
    def is_shape(self) -> bool:
        """True for a region of an image."""
        return bool(_SHAPES & self.value.keys())


@dataclass(frozen=True)
class StudioTask:
    """A task: its data, and the results of its annotation; None if it is not annotated."""

    place: str
    data: Mapping[str, Any]
    results: Sequence[Result] | None


@dataclass(frozen=True)
class StudioFile:
    """The tasks of a file, and the counts of what is not read of them."""

    tasks: Sequence[StudioTask]
    unread: Counter[str] = field(default_factory=Counter)

    def results(self) -> Iterator[Result]:
        return (result for task in self.tasks for result in task.results or ())

    @property
    def has_shapes(self) -> bool:
        """True if the tasks are about regions of images."""
        return any(result.is_shape for result in self.results())

    @property
    def has_texts(self) -> bool:
        """True if the tasks are about texts, as far as their first data tell."""
        values = [value for task in self.tasks[:_LOOKED_AT] for value in task.data.values()]
        return not self.has_shapes and not any(map(looks_like_media, values))

    def kinds(self) -> str:
        """List the types of the results, for messages."""
        counts = Counter(f"results of type {result.kind}" for result in self.results())
        return show_count(counts) or "no results"


def looks_like_media(value: Any) -> bool:
    """True if a value of a task's data is the path of an image."""
    return isinstance(value, str) and len(value) < 4096 and is_image_file(local_name(value))


def is_studio(file: Path) -> bool:
    """True if a file begins like an export of Label Studio."""
    head = json_head(file)
    keys = head.at(2)
    is_full = "data" in keys and bool(keys & set(_LISTS))
    return head.bracket == "[" and (is_full or ("id" in keys and len(keys & _MIN) > 1))


def find_studio(path: Path) -> dict[str, list[Path]]:
    """Return the exports at a path by split; {} if there are none."""
    return find_exports(path, ".json", is_studio)


def load_studio(file: Path) -> StudioFile:
    """Return the tasks of a file. Raises DataError if it is malformed."""
    stat = file.stat()
    return _load(file, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _load(file: Path, changed: int, size: int) -> StudioFile:
    unread = Counter[str]()
    with naming_file(file, TOOL, _NEEDS):
        tasks = []
        for number, each in enumerate(as_list(load_json(file), "the file"), start=1):
            entry = as_dict(each, f"task {number}")
            place = f"{file.name}, task {entry.get('id', number)}"
            read = _full_task if "data" in entry else _min_task
            tasks.append(read(entry, place, unread))
    return StudioFile(tasks, +unread)


def _full_task(entry: Mapping[str, Any], place: str, unread: Counter[str]) -> StudioTask:
    annotations: Any = next((entry[key] for key in _LISTS if entry.get(key)), [])
    some = [as_dict(each, "annotation") for each in as_list(annotations, "annotations")]
    done = [each for each in some if not each.get("was_cancelled")]
    unread["predictions"] += len(as_list(entry.get("predictions") or [], "predictions"))
    data = as_dict(entry["data"], "data")
    if not done:
        unread["skipped tasks" if some else "tasks without annotations"] += 1
        return StudioTask(place, data, None)
    unread["further annotations of a task"] += len(done) - 1
    chosen = next((each for each in done if each.get("ground_truth")), done[0])
    results = [as_dict(each, "result") for each in as_list(chosen.get("result") or [], "result")]
    return StudioTask(place, data, list(_results(results, unread)))


def _results(items: Sequence[Mapping[str, Any]], unread: Counter[str]) -> Iterator[Result]:
    for item in items:
        kind = str(item.get("type"))
        if "value" not in item:
            unread[f"results of type {kind}"] += 1
            continue
        yield Result(
            str(item.get("from_name")),
            kind,
            as_dict(item["value"], "value"),
            str(item.get("id") or ""),
            _size(item),
            float(item.get("image_rotation") or 0),
        )


def _size(item: Mapping[str, Any]) -> tuple[int, int] | None:
    try:
        height, width = (int(item[f"original_{side}"]) for side in ("height", "width"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


def _min_task(entry: Mapping[str, Any], place: str, unread: Counter[str]) -> StudioTask:
    """Return a task of JSON-MIN, which holds its data and its results side by side.

    Data come before the id and results after it, in the order in which Label Studio writes them.
    """
    names = list(entry)
    after = set(names[names.index("id") :]) if "id" in names else set()
    data: dict[str, Any] = {}
    results: list[Result] = []
    for name, value in entry.items():
        if name in _BOOKKEEPING:
            continue
        is_regions = isinstance(value, list) and all(isinstance(each, Mapping) for each in value)
        is_choices = isinstance(value, Mapping) and "choices" in value
        if is_regions and value:
            results += [_min_region(name, each) for each in value]
        elif is_choices or (name in after and isinstance(value, str)):
            choices = value["choices"] if is_choices else [value]
            results.append(Result(name, "choices", {"choices": choices}))
        elif name in after:
            unread[f"results of {name!r}"] += 1
        else:
            data[name] = value
    return StudioTask(place, data, results)


def _min_region(name: str, value: Mapping[str, Any]) -> Result:
    kind = next((key for key in value if key.endswith("labels")), "choices")
    turn = float(value.get("image_rotation") or 0)
    return Result(name, kind, value, str(value.get("id") or ""), _size(value), turn)
