"""Config sections stored by earlier versions of this kit, in a run or beside a final model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from finetune.config.schema import Section

_Section = TypeVar("_Section", bound=Section)
RETIRED_KEYS: Mapping[str, Any] = {"metrics": []}
"""Removed keys, each with the value that had no effect."""


def stored_section(schema: type[_Section], values: Mapping[str, Any]) -> _Section:
    """Validate a stored section, dropping removed keys that had no effect.

    Raises pydantic.ValidationError for any other key that the schema does not have.
    """
    kept = {
        key: value
        for key, value in values.items()
        if key in schema.model_fields or key not in RETIRED_KEYS or value != RETIRED_KEYS[key]
    }
    return schema.model_validate(kept)
