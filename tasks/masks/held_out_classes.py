"""Classes of masks that only held-out splits have: a small train split rarely has all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from finetune.errors import DataError, listed
from finetune.task_parts.rows import Resolved
from finetune.task_parts.samples import Row
from tasks.mask_sources.mask_files import MaskFacts
from tasks.masks.mask_coding import format_mask_value, learn_coding
from tasks.masks.mask_reader import MaskReader, is_object_list

_MOST_LISTED = 5


def list_all_classes(masks: MaskReader, splits: Mapping[str, Iterable[Row]]) -> Resolved:
    """Fill task.labels and task.ignore if held-out masks have values that those of train lack.

    Labels that are given stay as they are, and so do objects and masks of mixed kinds.
    """
    held_out = [row for role, rows in splits.items() if role != "train" for row in rows]
    cells = [row.get(masks.column) for row in held_out]
    if masks.config.labels is not None or any(map(is_object_list, cells)):
        return Resolved({}, [])
    extra = [masks.facts(row) for row in held_out if row.get(masks.column) is not None]
    train = [masks.facts(row) for row in splits["train"]] if extra else []
    new = _values(extra) - _values(train)
    if not new or len({one.kind for one in (*train, *extra)}) > 1:
        return Resolved({}, [])
    keys = None, masks.config.ignore, masks.config.encoding
    try:
        alone, coding = learn_coding(train, *keys), learn_coding([*train, *extra], *keys)
    except DataError:  # raised again, with the files, when the masks of train are learned
        return Resolved({}, [])
    more = [value for value in coding.values if value not in alone.values]
    # Other values can give those of train another meaning: 255 is a class of 0 and 255 only.
    if not more or not set(alone.values) <= set(coding.values):
        return Resolved({}, [])
    names = listed((format_mask_value(value, coding.kind) for value in more), _MOST_LISTED)
    note = (
        f"masks: held-out ones have values that those of train lack ({names}), which are classes "
        "too; task.ignore=[...] leaves the pixels of values out"
    )
    return Resolved(coding.keys(), [note])


def _values(facts: Iterable[MaskFacts]) -> set[int]:
    return {value for one in facts for value in one.counts}
