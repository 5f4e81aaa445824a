"""The categories of a COCO file, by the ids that annotations give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from finetune.errors import DataError


class CocoCategories:
    """The categories of a file: (name, number) by their ids, numbered if an id is not a number."""

    def __init__(self, file: Path, items: Iterable[Mapping[str, Any]]) -> None:
        names: dict[Any, str] = {}
        for item in items:
            name = coco_name(item, "name")
            if names.setdefault(item["id"], name) != name:
                raise DataError(
                    f"{file}: category id {item['id']!r} has two names, {names[item['id']]!r} and"
                    f" {name!r}; give each category an id of its own"
                )
        self._file = file
        self.names = list(names.values())
        are_numbers = all(type(key) is int or str(key).isdecimal() for key in names)
        numbers = [int(key) if are_numbers else n for n, key in enumerate(names, start=1)]
        self._by_id = ById(dict(zip(names, zip(self.names, numbers, strict=True), strict=True)))

    def check_start(self, used: Iterable[Any]) -> None:
        """Raise DataError if the annotations count the categories from 1, and the list from 0.

        Not a fault of single annotations: the others would have the class of their neighbor.
        """
        known = {int(key) for key in self._by_id if str(key).isdecimal()}
        numbers = {int(key) for key in used if str(key).isdecimal()}
        unknown = numbers - known
        if known and unknown == {max(known) + 1} and min(known) not in numbers:
            raise DataError(
                f"{self._file}: the annotations have category ids {min(numbers)} to {max(numbers)},"
                f" but the categories {min(known)} to {max(known)}: do the annotations count from"
                f" {min(numbers)}? Correct the ids of one of them"
            )

    def find(self, key: Any) -> Any:
        """Return (name, number) of a category, None if there is none with this id."""
        return self._by_id.find(key)


class ById(dict[Any, Any]):
    """Values by their ids, which another list of the file may give as text instead of a number."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        super().__init__(values)
        self._by_text = {str(key): value for key, value in values.items()}

    def find(self, key: Any) -> Any:
        return self.get(key, self._by_text.get(str(key)))


def coco_name(item: Mapping[str, Any], key: str) -> str:
    """Return the name of a category or an image. Raises ValueError if it has none."""
    value = item[key]
    if not isinstance(value, str | int | float) or not str(value).strip():
        raise ValueError(f"{key} of id {item['id']!r} is {value!r:.40}, not a name")
    return str(value)
