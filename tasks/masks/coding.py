"""What the values of masks mean: which value is which class, which is ignored; found by looking.

Shapes: H, W pixels, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from finetune.errors import ConfigError, DataError
from tasks.annotations.masks import NO_OBJECT, Kind, MaskFacts, Values, as_indices, is_grey
from tasks.vision.joint_augmentation import IGNORE

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
    """

    kind: Kind
    values: tuple[int, ...]
    names: tuple[str, ...]
    ignored: tuple[int, ...] = ()
    greys: bool = False

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> MaskCoding:
        """What `state` gave, from JSON."""
        tuples = {name: tuple(state[name]) for name in ("values", "names", "ignored")}
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
        return [written(value, self.kind) for value in odd]

    def count(self, facts: Iterable[MaskFacts]) -> NDArray[np.int64]:
        """How many pixels have each class, [K]."""
        total = _total(facts, self.greys)
        return np.array([total[value] for value in self.values], np.int64)

    def describe(self) -> str:
        """A sentence on how masks are read."""
        pairs = [
            f"{'elsewhere' if value == NO_OBJECT else written(value, self.kind)} {name}"
            for value, name in zip(self.values, self.names, strict=True)
        ]
        more = f" and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
        ignored = ", ".join(written(value, self.kind) for value in self.ignored) or "nothing"
        what = {"index": "values", "color": "colours", "objects": "categories"}[self.kind]
        return f"masks: {what} {', '.join(pairs[:_SHOWN])}{more}; ignored: {ignored}"


def learn_coding(
    facts: Sequence[MaskFacts],
    labels: Labels | None,
    ignore: Sequence[Code] | None,
    encoding: Encoding,
    categories: Mapping[int, str] | None = None,
) -> MaskCoding:
    """What the masks of the training split mean, where the config does not say it.

    `categories` are those of objects, {id: name}. Raises DataError if there is no one meaning.
    """
    kinds = {one.kind for one in facts}
    if len(kinds) != 1:
        raise DataError(f"masks: some are of kind {' and others of '.join(sorted(kinds))}")
    kind = kinds.pop()
    if categories is not None:
        names = tuple(categories.values())
        return MaskCoding("objects", (NO_OBJECT, *categories), (BACKGROUND, *names))
    greys = kind == "color" and encoding != "color" and not isinstance(labels, dict)
    greys = greys and all(map(is_grey, _total(facts)))
    seen = sorted(_total(facts, greys))
    kind = "index" if greys else kind
    given = None if ignore is None else [parse_code(code) for code in ignore]
    is_binary = encoding == "binary" or (encoding == "auto" and seen in ([0, 255], [0, 1]))
    if isinstance(labels, dict):
        values, names = [parse_code(code) for code in labels.values()], tuple(labels)
    elif kind == "index" and is_binary and (labels is None or len(labels) == 2):
        values, names = [0, max([*seen, 1])], tuple(labels or (BACKGROUND, FOREGROUND))
        given = given or []
    else:
        usual = [255] if kind == "index" else []
        given = usual if given is None else given
        values, names, zero = _by_order(
            [value for value in seen if value not in given], labels, encoding, kind
        )
        given = [*given, *zero]
    given = [255] if given is None and kind == "index" else given or []
    coding = MaskCoding(kind, tuple(values), names, tuple(given), greys)
    _check(coding, facts)
    return coding


def _by_order(
    seen: Sequence[int], labels: Sequence[str] | None, encoding: Encoding, kind: Kind
) -> tuple[list[int], tuple[str, ...], list[int]]:
    """Values and names of the classes, and what 0 is where it is no class: [0], ignored."""
    if labels is None:
        one_based = encoding == "one-based"
        values = [value for value in seen if not (one_based and value == 0)]
        names = tuple(
            written(value, kind) if kind == "color" else f"class {value}" for value in values
        )
        return values, names, [0] if one_based else []
    if kind == "color":
        raise DataError(
            "task.labels: masks are colours, so labels need them too: "
            "task.labels={name: '#ff0000', ...}"
        )
    count = len(labels)
    one_based = encoding == "one-based" or (encoding == "auto" and max(seen, default=0) == count)
    first = 1 if one_based else 0
    return list(range(first, first + count)), tuple(labels), [0] if one_based else []


def _check(coding: MaskCoding, facts: Sequence[MaskFacts]) -> None:
    names = coding.names
    if len(names) < 2:
        raise DataError(
            f"masks: hold only {', '.join(names) or 'ignored pixels'}; give two classes"
        )
    if len(names) > IGNORE:
        raise DataError(f"masks: hold {len(names)} classes, of which {IGNORE} at most can be told")
    if len(set(names)) < len(names) or len(set(coding.values)) < len(names):
        raise ConfigError(f"task.labels: a name or value stands twice: {', '.join(names)}")
    unknown = Counter(value for one in facts for value in coding.unknown(one))
    if unknown:
        listed = ", ".join(f"{value} (in {count})" for value, count in unknown.most_common(_SHOWN))
        raise DataError(
            f"masks: have values that are no class: {listed}; name them in task.labels, or leave"
            " their pixels out with task.ignore"
        )


def parse_code(code: Code) -> int:
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
            f"task.labels: {code!r} is no value; write 3, '#ff0000' or [255, 0, 0]"
        ) from None


def written(value: int, kind: Kind) -> str:
    """A value as a person writes it."""
    return f"#{value:06x}" if kind == "color" else str(value)


def _total(facts: Iterable[MaskFacts], greys: bool = False) -> Counter[int]:
    total: Counter[int] = Counter()
    for one in facts:
        total.update(dict(as_indices(one.counts)) if greys else one.counts)
    return total
