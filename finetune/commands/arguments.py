"""Parsing of command-line words into a name or file, and key=value overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from finetune.config.schema import ReportConfig
from finetune.config.yaml import split_overrides
from finetune.data.source import Source, make_embedding_source, make_source, take_report_keys
from finetune.errors import ConfigError

# A path that contains an equals sign has to start with ./ or /, as in ./year=2024/news.csv.
_KEY_VALUE = re.compile(r"^[\w-][\w.-]*=|^=")


def config_and_overrides(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """Split words in any order into CONFIG, if there is one, and key=value overrides."""
    return _one_name(words or [], "CONFIG")


def source_of(
    words: Sequence[str],
    missing: str | None = None,
    *,
    takes_options: bool = False,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Source:
    """Split words in any order into DATA and keys that control how it is read.

    `missing` replaces an absent DATA. With `takes_options`, unknown keys are passed to the task, as
    are those `options` of the command line that are set.
    Raises ConfigError with every unknown key and every invalid value.
    """
    data, overrides = data_and_overrides(words)
    keys = split_overrides(overrides)
    keys |= {name: value for name, value in options.items() if value}
    return make_source(data or missing, keys, "command line", takes_options=takes_options)


def report_source(words: Sequence[str]) -> tuple[Source | None, ReportConfig | None]:
    """Split words into the rows to report on, None without any, and the slices and groups."""
    data, overrides = data_and_overrides(words)
    keys, report = take_report_keys(split_overrides(overrides), "command line")
    if data is None and not keys:
        return None, report
    return make_source(data, keys, "command line", takes_options=True), report


def data_and_overrides(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split words in any order into DATA, also written as data=DATA, and key=value overrides."""
    keyed = [word for word in words if word.startswith(("data=", "data.source="))]
    named = [word.partition("=")[2] for word in keyed]
    return _one_name([word for word in words if word not in keyed], "DATA", named)


def embedding_source(words: Sequence[str]) -> Source:
    """Split words into DATA with its keys and those of the task. Raises ConfigError."""
    data, overrides = data_and_overrides(words)
    return make_embedding_source(data, split_overrides(overrides), "command line")


def _one_name(
    words: Sequence[str], kind: str, named: Sequence[str] = ()
) -> tuple[str | None, list[str]]:
    """Split words into the only name, which may be `named` by a key, and key=value overrides."""
    if option := next((word for word in words if word.startswith("--")), None):
        key = option.lstrip("-").partition("=")[0].replace("-", "_") or "key"
        raise ConfigError(
            f"command line: unknown option {option} (--help lists the options); config keys are "
            f"written without dashes: {key}=VALUE"
        )
    overrides = [word for word in words if _KEY_VALUE.match(word)]
    names = [*named, *(word for word in words if not _KEY_VALUE.match(word))]
    if len(names) > 1:
        raise ConfigError(
            f"command line: expected one {kind}, got {' and '.join(map(repr, names))}; "
            "write everything else as key=value, and quote values that contain spaces"
        )
    return (names[0] if names else None), overrides
