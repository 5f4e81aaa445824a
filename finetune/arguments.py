"""The words of a command line: what is a name or a file, and what is key=value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from finetune.config import DataConfig
from finetune.errors import ConfigError, nearest
from finetune.overrides import check_section, split_override

# A path that holds an equals sign is written ./year=2024/news.csv.
_KEY_VALUE = re.compile(r"^[\w-][\w.-]*=|^=")
# The keys of `data` that say how one table is read; the others are about the splits of a run.
READING = ("subset", "revision", "format", "limit", "delimiter", "encoding", "on_error")
SPLIT = "split"


def config_and_overrides(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """([CONFIG], [key=value ...]) in any order."""
    return _one_name(words or [], "CONFIG")


def data_and_keys(words: Sequence[str] | None) -> tuple[str | None, dict[str, Any]]:
    """([DATA], {key: value}) in any order, where the keys say how DATA is read.

    Raises ConfigError for keys that no reading of data has.
    """
    data, overrides = _one_name(words or [], "DATA")
    keys = dict(split_override(text) for text in overrides)
    return data, {name.removeprefix("data."): value for name, value in keys.items()}


def reading(keys: dict[str, Any]) -> tuple[DataConfig, str | None]:
    """The config that a table is read by, and the split that is chosen. Raises ConfigError."""
    choices = (*READING, SPLIT)
    unknown = [
        f"{key}: is no key of reading data; {nearest(key, choices)} (command line)"
        for key in keys
        if key not in choices
    ]
    given = {key: value for key, value in keys.items() if key in READING}
    config = check_section("data", DataConfig, given, unknown)
    split = keys.get(SPLIT)
    return config, None if split is None else str(split)


def _one_name(words: Sequence[str], what: str) -> tuple[str | None, list[str]]:
    overrides = [word for word in words if _KEY_VALUE.match(word)]
    names = [word for word in words if not _KEY_VALUE.match(word)]
    if len(names) > 1:
        raise ConfigError(
            f"command line: {what} is one word, but there are {' and '.join(map(repr, names))}; "
            "write everything else as key=value, and quote a value that has spaces"
        )
    return (names[0] if names else None), overrides
