"""Sections that an earlier version of this kit wrote into a run or beside a final model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from finetune.config.schema import Section

_Section = TypeVar("_Section", bound=Section)
RETIRED: Mapping[str, Any] = {"metrics": []}
"""Keys that a section may no longer have, each with the value that said nothing."""


def stored_section(schema: type[_Section], values: Mapping[str, Any]) -> _Section:
    """A section as it was stored, without retired keys that said nothing.

    Raises pydantic.ValidationError for any other key that the schema does not have.
    """
    kept = {
        key: value
        for key, value in values.items()
        if key in schema.model_fields or key not in RETIRED or value != RETIRED[key]
    }
    return schema.model_validate(kept)
