"""What the values of masks mean: which value is which class, which is ignored; found by looking.

Shapes: H, W pixels, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError, DataError, listed, nearest
from tasks.annotations.mask_files import NO_OBJECT, MaskFacts, MaskKind, Values, as_indices, is_grey
from tasks.image.joint_augmentation import IGNORE

Encoding = Literal["auto", "index", "one-based", "binary", "color"]
Code = int | str | list[int]
"""A value, or a colour as "#ff0000" or [255, 0, 0]."""
Labels = list[str] | dict[str, Code]
BACKGROUND, FOREGROUND = "background", "foreground"
_SHOWN = 12


@dataclass(frozen=True)
class MaskCoding:
    """Which value is which class.

    Attributes:
        kind: what the values are: as they stand in the file, colours, or categories of objects.
        values: of class 0, 1, ...
        names: of the classes.
        ignored: values of pixels that count for nothing.
        greys: whether colours are read as plain values, since all are grey.
        left_out: names of those that would be classes, were their values not ignored.
    """

    kind: MaskKind
    values: tuple[int, ...]
    names: tuple[str, ...]
    ignored: tuple[int, ...] = ()
    greys: bool = False
    left_out: tuple[str, ...] = ()

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MaskCoding:
        """What `state` gave, from JSON."""
        tuples = {name: tuple(held) for name, held in state.items() if isinstance(held, list)}
        return cls(**{**state, **tuples})

    def state(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def classes(self, values: Values) -> NDArray[np.uint8]:
        """The class of each pixel [H, W], IGNORE where it is ignored or unknown."""
        if self.greys:
            values = values & 255
        order = np.argsort(self.values)
        known = np.asarray(self.values)[order]
        places = np.searchsorted(known, values).clip(max=len(known) - 1)
        return np.where(known[places] == values, order[places], IGNORE).astype(np.uint8)

    def unknown(self, facts: MaskFacts) -> list[str]:
        """The values of a mask that are no class and not ignored, as a person writes them."""
        if facts.kind != self.kind and not (self.greys and facts.kind in ("index", "color")):
            return [f"of kind {facts.kind}"]
        counts = dict(as_indices(facts.counts)) if self.greys else facts.counts
        odd = sorted(set(counts) - {*self.values, *self.ignored})
        return [format_mask_value(value, self.kind) for value in odd]

    def count(self, facts: Iterable[MaskFacts]) -> NDArray[np.int64]:
        """How many pixels have each class, [K]."""
        total = _total(facts, self.greys)
        return np.array([total[value] for value in self.values], np.int64)

    def ignored_in(self, facts: Iterable[MaskFacts]) -> str:
        """The values of ignored pixels that some mask has, as a person writes them."""
        total = _total(facts, self.greys)
        return ", ".join(
            format_mask_value(value, self.kind) for value in self.ignored if total[value]
        )

    def describe(self) -> str:
        """A sentence on how masks are read."""
        pairs = [
            f"{'elsewhere' if value == NO_OBJECT else format_mask_value(value, self.kind)} {name}"
            for value, name in zip(self.values, self.names, strict=True)
        ]
        ignored = (
            ", ".join(format_mask_value(value, self.kind) for value in self.ignored) or "nothing"
        )
        what = {"index": "values", "color": "colours", "objects": "categories"}[self.kind]
        left_out = f", so no class: {', '.join(self.left_out)}" if self.left_out else ""
        return f"masks: {what} {listed(pairs, _SHOWN)}; ignored: {ignored}{left_out}"


def learn_coding(
    facts: Sequence[MaskFacts],
    labels: Labels | None,
    ignore: Sequence[Code] | None,
    encoding: Encoding,
    categories: Mapping[int, str] | None = None,
    places: Sequence[str] = (),
) -> MaskCoding:
    """What the masks of the training split mean, where the config does not say it.

    `categories` are those of objects, {id: name}; `places` name the masks in what is said of them.
    Raises DataError if there is no one meaning.
    """
    kinds = {one.kind for one in facts}
    if len(kinds) != 1:
        raise DataError(f"masks: some are of kind {' and others of '.join(sorted(kinds))}")
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
    greys = greys and all(map(is_grey, _total(facts)))
    seen = sorted(_total(facts, greys))
    kind = "index" if greys else kind
    if encoding != "auto" and (kind == "color") != (encoding == "color"):
        held = "colours" if kind == "color" else "plain values"
        raise DataError(f"task.encoding={encoding}: masks hold {held}; leave task.encoding out")
    codes = [parse_code(code, "task.ignore") for code in ignore or []]
    asked = [code & 255 if greys and is_grey(code) else code for code in codes]
    usual = [255] if ignore is None and kind == "index" else []
    is_binary = encoding == "binary" or (encoding == "auto" and seen in ([0, 255], [0, 1]))
    if isinstance(labels, dict):
        values = [parse_code(code, "task.labels") for code in labels.values()]
        names = tuple(labels)
    elif kind == "index" and is_binary and (labels is None or len(labels) == 2):
        values, names = [0, max([*seen, 1])], tuple(labels or (BACKGROUND, FOREGROUND))
        usual = []
    else:
        rest = [value for value in seen if value not in (*asked, *usual)]
        values, names, zero = _by_order(rest, labels, encoding, kind)
        usual = [*usual, *zero]
    ignored = [*asked, *(value for value in usual if value not in values)]
    return _without(values, names, asked, MaskCoding(kind, (), (), tuple(ignored), greys))


def _without(
    values: Sequence[int], names: Sequence[str], asked: Sequence[int], coding: MaskCoding
) -> MaskCoding:
    """The coding with those classes whose values are not to be ignored, each value named once."""
    pairs = list(zip(values, names, strict=True))
    return replace(
        coding,
        values=tuple(value for value, _ in pairs if value not in asked),
        names=tuple(name for value, name in pairs if value not in asked),
        ignored=tuple(dict.fromkeys(coding.ignored)),
        left_out=tuple(name for value, name in pairs if value in asked),
    )


def code_objects(
    categories: Mapping[int, str], labels: Labels | None, ignore: Sequence[Code]
) -> MaskCoding:
    """What lies in no object, and each category {id: name}, or those that `labels` choose.

    Raises ConfigError for a category that no object has.
    """
    ids = {name: number for number, name in categories.items()}
    elsewhere = BACKGROUND if BACKGROUND not in ids else "elsewhere"
    if labels is None:
        chosen = dict(zip(categories.values(), categories, strict=True))
        if len(chosen) < len(categories):
            raise DataError(
                f"masks: categories of one name: {', '.join(categories.values())}; rename one"
            )
    else:
        named = labels.items() if isinstance(labels, dict) else zip(labels, labels, strict=True)
        places = {**ids, elsewhere: NO_OBJECT}
        chosen = {name: _category(code, places, "task.labels") for name, code in named}
    if NO_OBJECT not in chosen.values():
        chosen = {elsewhere: NO_OBJECT, **chosen}
    asked = [_category(code, ids, "task.ignore") for code in ignore]
    values, names = list(chosen.values()), list(chosen)
    return _without(values, names, asked, MaskCoding("objects", (), (), tuple(asked)))


def _category(code: Code, ids: Mapping[str, int], key: str) -> int:
    """The id of a category that is written as its name or its id."""
    if code in ids.values():
        return int(str(code))
    if str(code) not in ids:
        raise ConfigError(f"{key}: no object of train is {code!r}; {nearest(str(code), ids)}")
    return ids[str(code)]


def is_meant(item: Mapping[str, Any], labels: Labels | None, ignore: Sequence[Code] | None) -> bool:
    """Whether an object is of a category that is a class or ignored; others are background."""
    if labels is None:
        return True
    meant = [*(labels.values() if isinstance(labels, dict) else labels), *(ignore or [])]
    return item["category"] in meant or item["category_id"] in meant


def _by_order(
    seen: Sequence[int], labels: Sequence[str] | None, encoding: Encoding, kind: MaskKind
) -> tuple[list[int], tuple[str, ...], list[int]]:
    """Values and names of the classes, and what 0 is where it is no class: [0], ignored."""
    if labels is None:
        one_based = encoding == "one-based"
        values = [value for value in seen if not (one_based and value == 0)]
        names = tuple(
            format_mask_value(value, kind) if kind == "color" else f"class {value}"
            for value in values
        )
        return values, names, [0] if one_based else []
    if kind == "color":
        plain = "; or leave task.encoding out, if they are plain values" * (encoding == "color")
        raise DataError(
            "task.labels: masks are colours, so labels need them too: "
            f"task.labels={{name: '#ff0000', ...}}{plain}"
        )
    count = len(labels)
    one_based = encoding == "one-based" or (encoding == "auto" and max(seen, default=0) == count)
    first = 1 if one_based else 0
    return list(range(first, first + count)), tuple(labels), [0] if one_based else []


def _check(coding: MaskCoding, facts: Sequence[MaskFacts], places: Sequence[str]) -> None:
    names = coding.names
    if len(names) < 2:
        raise DataError(
            f"masks: hold only {', '.join(names) or 'ignored pixels'}; give two classes"
        )
    if len(names) > IGNORE:
        raise DataError(f"masks: hold {len(names)} classes, of which {IGNORE} at most can be told")
    if len(set(names)) < len(names) or len(set(coding.values)) < len(names):
        raise ConfigError(f"task.labels: a name or value stands twice: {', '.join(names)}")
    unknown: dict[str, list[str]] = {}
    for one, place in zip(facts, places or [""] * len(facts), strict=True):
        for value in coding.unknown(one):
            unknown.setdefault(value, []).append(place)
    if unknown:
        often = sorted(unknown.items(), key=lambda pair: -len(pair[1]))
        said = listed((f"{value} (in {_counted(where)})" for value, where in often), _SHOWN)
        raise DataError(
            f"masks: have values that are no class: {said}; name them in task.labels, or leave"
            " their pixels out with task.ignore"
        )


def _counted(places: Sequence[str]) -> str:
    more = f", the first {places[0]}" if len(places) > 1 else f": {places[0]}"
    return f"{len(places)}{more if places[0] else ''}"


def parse_code(code: Code, key: str) -> int:
    """A value, or a colour as 65536 red + 256 green + blue. Raises ConfigError."""
    if isinstance(code, int):
        return code
    if isinstance(code, list) and len(code) == 3:
        return code[0] << 16 | code[1] << 8 | code[2]
    try:
        text = str(code)
        return int(text.removeprefix("#"), 16) if text.startswith("#") else int(text)
    except ValueError:
        raise ConfigError(
            f"{key}: {code!r} is no value; write 3, '#ff0000' or [255, 0, 0]"
        ) from None


def has_colors(labels: Labels | None) -> bool:
    """Whether labels name colours, so that masks are read as what they show."""
    codes = labels.values() if isinstance(labels, dict) else ()
    return any(isinstance(code, list) or str(code).startswith("#") for code in codes)


def format_mask_value(value: int, kind: MaskKind) -> str:
    """A value as a person writes it."""
    return f"#{value:06x}" if kind == "color" else str(value)


def _total(facts: Iterable[MaskFacts], greys: bool = False) -> Counter[int]:
    total: Counter[int] = Counter()
    for one in facts:
        total.update(dict(as_indices(one.counts)) if greys else one.counts)
    return total
