"""Config sections stored by earlier versions of this kit, in a run or beside a final model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from finetune.config.schema import Section
from finetune.config.text_files import validate_as

_Section = TypeVar("_Section", bound=Section)
RETIRED_KEYS: Mapping[str, Any] = {"metrics": []}
"""Removed keys, each with the value that had no effect."""
ADDED_KEYS: Mapping[str, Any] = {"chat": False, "chunk": False}
"""Keys added since, each with the value that does what earlier versions did; null would choose."""


def stored_section(schema: type[_Section], values: Mapping[str, Any]) -> _Section:
    """Validate a stored section, dropping removed keys that had no effect.

    Keys added since get the value of `ADDED_KEYS`. Raises ValueError for any other key that the
    schema does not have, and for values that it does not allow.
    """
    added = {key: value for key, value in ADDED_KEYS.items() if key in schema.model_fields}
    kept = {
        key: value
        for key, value in values.items()
        if key in schema.model_fields or key not in RETIRED_KEYS or value != RETIRED_KEYS[key]
    }
    section: _Section = validate_as(schema, added | kept)
    return section


def keys_before(section: Section) -> dict[str, Any]:
    """Return the values of `ADDED_KEYS` in a section that `stored_section` validated."""
    return {key: getattr(section, key) for key in ADDED_KEYS if key in type(section).model_fields}
