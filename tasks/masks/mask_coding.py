"""Mapping of mask values to classes and ignored pixels, learned from the training masks.

Shapes: H, W pixels, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError, DataError, format_count, listed, nearest
from tasks.image.joint_augmentation import IGNORE
from tasks.mask_sources.mask_doubts import (
    check_first_value,
    check_ignored_white,
    check_negative,
)
from tasks.mask_sources.mask_files import (
    NO_OBJECT,
    MaskFacts,
    MaskKind,
    Values,
    as_indices,
    is_gray,
)
from tasks.masks.segmentation_config import Code, Encoding, Labels
from tasks.objects.annotated import IGNORED, NAMED

BACKGROUND, FOREGROUND = "background", "foreground"
_SHOWN = 12


@dataclass(frozen=True)
class MaskCoding:
    """Mapping of mask values to classes.

    Attributes:
        kind: what the values are: plain values of the file, colors, or categories of objects.
        values: value of class 0, 1, ...
        names: names of the classes.
        ignored: values of pixels that loss and metrics ignore.
        greys: True if colors are read as plain values, since all are gray.
        left_out: names of the labels whose values are ignored, so that they are not classes.
    """

    kind: MaskKind
    values: tuple[int, ...]
    names: tuple[str, ...]
    ignored: tuple[int, ...] = ()
    greys: bool = False
    left_out: tuple[str, ...] = ()

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MaskCoding:
        """Rebuild from what `state` returned. Raises ValueError if a class has no value."""
        if len(state["values"]) != len(state["names"]):
            raise ValueError(f"{len(state['values'])} values of {len(state['names'])} classes")
        tuples = {name: tuple(value) for name, value in state.items() if isinstance(value, list)}
        return cls(**{**state, **tuples})

    def state(self) -> dict[str, Any]:
        """Return the attributes as JSON-able values."""
        return asdict(self)

    def keys(self) -> dict[str, Any]:
        """Return task.labels and task.ignore that give this mapping."""
        code = (lambda value: value) if self.kind == "index" else self._show
        labels = zip(self.names, map(code, self.values), strict=True)
        return {"labels": dict(labels), "ignore": [code(value) for value in self.ignored]}

    def classes(self, values: Values) -> NDArray[np.uint8]:
        """Return the class of each pixel [H, W], IGNORE for ignored and unknown values."""
        if self.greys:
            values = values & 255
        order = np.argsort(self.values)
        known = np.asarray(self.values)[order]
        indices = np.searchsorted(known, values).clip(max=len(known) - 1)
        return np.where(known[indices] == values, order[indices], IGNORE).astype(np.uint8)

    def unknown(self, facts: MaskFacts) -> list[str]:
        """Return the values of a mask that are neither a class nor ignored, formatted."""
        if facts.kind != self.kind and not (self.greys and facts.kind in ("index", "color")):
            return [f"of kind {facts.kind}"]
        counts = dict(as_indices(facts.counts)) if self.greys else facts.counts
        unknown = sorted(set(counts) - {*self.values, *self.ignored})
        return [format_mask_value(value, self.kind) for value in unknown]

    def count(self, facts: Iterable[MaskFacts]) -> NDArray[np.int64]:
        """Count the pixels of each class in all masks, [K]."""
        total = _total(facts, self.greys)
        return np.array([total[value] for value in self.values], np.int64)

    def ignored_in(self, facts: Iterable[MaskFacts]) -> str:
        """List the ignored values that occur in some mask."""
        total = _total(facts, self.greys)
        return ", ".join(
            format_mask_value(value, self.kind) for value in self.ignored if total[value]
        )

    def _is_shown_by(self, value: int, name: str) -> bool:
        """True if the name of a class already tells its value."""
        return name == self._show(value) or (self.kind == "objects" and value >= NAMED)

    def _show(self, value: int) -> str:
        return "elsewhere" if value == NO_OBJECT else format_mask_value(value, self.kind)

    def describe(self) -> str:
        """Describe in one sentence how masks are read."""
        pairs = [
            name if self._is_shown_by(value, name) else f"{self._show(value)} {name}"
            for value, name in zip(self.values, self.names, strict=True)
        ]
        numbers = (each for each in self.ignored if not self._is_shown_by(each, ""))
        ignored = ", ".join(format_mask_value(value, self.kind) for value in numbers)
        kind = {"index": "values", "color": "colors", "objects": "categories"}[self.kind]
        left_out = f" (labels {', '.join(self.left_out)})" if self.left_out else ""
        return f"masks: {kind} {listed(pairs, _SHOWN)}; ignored: {ignored or 'nothing'}{left_out}"


def learn_coding(
    facts: Sequence[MaskFacts],
    labels: Labels | None,
    ignore: Sequence[Code] | None,
    encoding: Encoding,
    categories: Mapping[int, str] | None = None,
    places: Sequence[str] = (),
) -> MaskCoding:
    """Learn the mapping from the training masks and the config keys.

    `categories` are those of objects, {id: name}; `places` name the masks in messages. Raises
    DataError if the masks are inconsistent or have unmapped values.
    """
    kinds = {one.kind for one in facts}
    if len(kinds) != 1:
        raise DataError(f"masks: mixed kinds: {', '.join(sorted(kinds))}; use one kind for all")
    if categories is not None:
        coding = code_objects(categories, labels, ignore or [])
    else:
        coding = _code_values(facts, kinds.pop(), labels, ignore, encoding)
    _check(coding, facts, places)
    return coding


def _code_values(
    facts: Sequence[MaskFacts],
    kind: MaskKind,
    labels: Labels | None,
    ignore: Sequence[Code] | None,
    encoding: Encoding,
) -> MaskCoding:
    greys = kind == "color" and encoding != "color" and not has_colors(labels)
    greys = greys and all(map(is_gray, _total(facts)))
    seen = sorted(_total(facts, greys))
    kind = "index" if greys else kind
    if encoding not in ("auto", "instance") and (kind == "color") != (encoding == "color"):
        actual = "colors" if kind == "color" else "plain values"
        raise DataError(f"task.encoding={encoding}: masks have {actual}; remove task.encoding")
    codes = [parse_code(code, "task.ignore") for code in ignore or []]
    requested = [code & 255 if greys and is_gray(code) else code for code in codes]
    default = [255] if ignore is None and kind == "index" else []
    is_binary = encoding in ("binary", "instance")
    is_binary |= encoding == "auto" and seen in ([0, 255], [0, 1])
    if isinstance(labels, dict):
        values = [parse_code(code, "task.labels") for code in labels.values()]
        names = tuple(labels)
    elif kind == "index" and is_binary and (labels is None or len(labels) == 2):
        values, names = [0, max([*seen, 1])], tuple(labels or (BACKGROUND, FOREGROUND))
        default = []
    else:
        if default:
            check_ignored_white([_total([one], greys) for one in facts])
        rest = [value for value in seen if value not in (*requested, *default)]
        check_negative(rest)
        if labels and kind == "index" and encoding == "auto":
            check_first_value(rest, labels)
        values, names, zero = _by_order(rest, labels, encoding, kind)
        default = [*default, *zero]
    ignored = [*requested, *(value for value in default if value not in values)]
    return _without(values, names, requested, MaskCoding(kind, (), (), tuple(ignored), greys))


def _without(
    values: Sequence[int], names: Sequence[str], ignored: Sequence[int], coding: MaskCoding
) -> MaskCoding:
    """Return the coding with the classes whose values are not in `ignored`."""
    pairs = list(zip(values, names, strict=True))
    return replace(
        coding,
        values=tuple(value for value, _ in pairs if value not in ignored),
        names=tuple(name for value, name in pairs if value not in ignored),
        ignored=tuple(dict.fromkeys(coding.ignored)),
        left_out=tuple(name for value, name in pairs if value in ignored),
    )


def code_objects(
    categories: Mapping[int, str], labels: Labels | None, ignore: Sequence[Code]
) -> MaskCoding:
    """Build the mapping for COCO objects: a background class, and the categories {id: name}.

    `labels` selects categories. Raises ConfigError for one that does not occur, DataError for
    categories of the same name.
    """
    ids = {name: number for number, name in categories.items()}
    elsewhere = BACKGROUND if BACKGROUND not in ids else "elsewhere"
    if labels is None:
        chosen = dict(zip(categories.values(), categories, strict=True))
        if len(chosen) < len(categories):
            raise DataError(
                f"masks: several categories have the same name: {', '.join(categories.values())}; "
                "rename one"
            )
    else:
        pairs = labels.items() if isinstance(labels, dict) else zip(labels, labels, strict=True)
        known = {**ids, elsewhere: NO_OBJECT}
        chosen = {name: _category(code, known, "task.labels") for name, code in pairs}
    if NO_OBJECT not in chosen.values():
        chosen = {elsewhere: NO_OBJECT, **chosen}
    ignored = [_category(code, ids, "task.ignore") for code in ignore]
    if IGNORED in ids and labels is None:
        ignored.append(ids[IGNORED])
    values, names = list(chosen.values()), list(chosen)
    return _without(values, names, ignored, MaskCoding("objects", (), (), tuple(ignored)))


def _category(code: Code, ids: Mapping[str, int], key: str) -> int:
    """Return the id of a category given by its name or its id."""
    if code in ids.values():
        return int(str(code))
    if str(code) not in ids:
        raise ConfigError(
            f"{key}: no training object has category {code!r}; {nearest(str(code), ids)}"
        )
    return ids[str(code)]


def is_selected(
    item: Mapping[str, Any], labels: Labels | None, ignore: Sequence[Code] | None
) -> bool:
    """True if an object's category is a class or ignored; other objects are background."""
    if labels is None:
        return True
    selected = [*(labels.values() if isinstance(labels, dict) else labels), *(ignore or [])]
    return item["category"] in selected or item["category_id"] in selected


def _by_order(
    seen: Sequence[int], labels: Sequence[str] | None, encoding: Encoding, kind: MaskKind
) -> tuple[list[int], tuple[str, ...], list[int]]:
    """Return values and names of the classes in order, and [0] if 0 is ignored, else []."""
    if labels is None:
        one_based = encoding == "one-based"
        values = [value for value in seen if not (one_based and value == 0)]
        names = tuple(
            format_mask_value(value, kind) if kind == "color" else f"class {value}"
            for value in values
        )
        return values, names, [0] if one_based else []
    if kind == "color":
        hint = "; or remove task.encoding if they have plain values" * (encoding == "color")
        raise DataError(
            "task.labels: the masks have colors, so labels must map names to colors: "
            f"task.labels={{name: '#ff0000', ...}}{hint}"
        )
    count = len(labels)
    one_based = encoding == "one-based" or (encoding == "auto" and max(seen, default=0) == count)
    first = 1 if one_based else 0
    return list(range(first, first + count)), tuple(labels), [0] if one_based else []


def _check(coding: MaskCoding, facts: Sequence[MaskFacts], places: Sequence[str]) -> None:
    names = coding.names
    if len(names) < 2:
        only = ", ".join(names) or "ignored pixels"
        raise DataError(f"masks: contain only {only}; at least two classes are needed")
    if len(names) > IGNORE:
        raise DataError(f"masks: contain {len(names)} classes; at most {IGNORE} are supported")
    if len(set(names)) < len(names) or len(set(coding.values)) < len(names):
        raise ConfigError(f"task.labels: duplicate name or value: {', '.join(names)}")
    unknown: dict[str, list[str]] = {}
    for one, place in zip(facts, places or [""] * len(facts), strict=True):
        for value in coding.unknown(one):
            unknown.setdefault(value, []).append(place)
    if unknown:
        ranked = sorted(unknown.items(), key=lambda pair: -len(pair[1]))
        values = listed((f"{value} ({_count(where)})" for value, where in ranked), _SHOWN)
        raise DataError(
            f"masks: have values without a class: {values}; add them to task.labels, or to"
            " task.ignore to ignore their pixels"
        )


def _count(places: Sequence[str]) -> str:
    """Count masks: "1 mask: a.png", or "2 masks, first a.png"."""
    count, name = format_count(len(places), "mask"), ": " if len(places) == 1 else ", first "
    return f"{count}{name}{places[0]}" if places[0] else count


def parse_code(code: Code, key: str) -> int:
    """Parse a value, or a color to 65536 red + 256 green + blue. Raises ConfigError."""
    if isinstance(code, int):
        return code
    if isinstance(code, list) and len(code) == 3:
        return code[0] << 16 | code[1] << 8 | code[2]
    try:
        text = str(code)
        return int(text.removeprefix("#"), 16) if text.startswith("#") else int(text)
    except ValueError:
        raise ConfigError(
            f"{key}: {code!r} is not a mask value; write 3, '#ff0000' or [255, 0, 0]"
        ) from None


def has_colors(labels: Labels | None) -> bool:
    """True if labels are given by color, so that palette masks are read as their colors."""
    codes = labels.values() if isinstance(labels, dict) else ()
    return any(isinstance(code, list) or str(code).startswith("#") for code in codes)


def format_mask_value(value: int, kind: MaskKind) -> str:
    """Format a value as it is written in the config."""
    return f"#{value:06x}" if kind == "color" else str(value)


def _total(facts: Iterable[MaskFacts], greys: bool = False) -> Counter[int]:
    total: Counter[int] = Counter()
    for one in facts:
        total.update(dict(as_indices(one.counts)) if greys else one.counts)
    return total
