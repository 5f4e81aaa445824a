"""The words of a command line: what is a name or a file, and what is key=value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from finetune.config.yaml import split_override
from finetune.data.source import Source, make_source
from finetune.errors import ConfigError

# A path that holds an equals sign is written ./year=2024/news.csv.
_KEY_VALUE = re.compile(r"^[\w-][\w.-]*=|^=")


def config_and_overrides(words: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """([CONFIG], [key=value ...]) in any order."""
    return _one_name(words or [], "CONFIG")


def source_of(
    words: Sequence[str], missing: str | None = None, *, takes_options: bool = False
) -> Source:
    """[DATA] and [key=value ...] in any order, where the keys say how DATA is read.

    Without DATA it is `missing`. Where a task `takes_options`, the other keys are left to it.
    Raises ConfigError with every unknown key and every wrong value.
    """
    data, overrides = _one_name(words, "DATA")
    keys = dict(map(split_override, overrides))
    return make_source(data or missing, keys, "command line", takes_options=takes_options)


def embedding_source(words: Sequence[str]) -> tuple[Source, dict[str, Any]]:
    """DATA [key=value ...], and of the keys those of `task`. Raises ConfigError."""
    own = [word for word in words if word.startswith(("task=", "task."))]
    keys = {key.partition(".")[2] or "name": value for key, value in map(split_override, own)}
    return source_of([word for word in words if word not in own]), keys


def _one_name(words: Sequence[str], what: str) -> tuple[str | None, list[str]]:
    if option := next((word for word in words if word.startswith("--")), None):
        key = option.lstrip("-").partition("=")[0].replace("-", "_") or "key"
        raise ConfigError(
            f"command line: there is no option {option}, --help lists them; keys of a config are "
            f"written without dashes: {key}=VALUE"
        )
    overrides = [word for word in words if _KEY_VALUE.match(word)]
    names = [word for word in words if not _KEY_VALUE.match(word)]
    if len(names) > 1:
        raise ConfigError(
            f"command line: {what} is one word, but there are {' and '.join(map(repr, names))}; "
            "write everything else as key=value, and quote a value that has spaces"
        )
    return (names[0] if names else None), overrides
