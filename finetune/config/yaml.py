"""How a config is written: YAML in files, key=value on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from finetune.config.schema import RunConfig
from finetune.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML as people write configs: 1e-4 is a number; yes, no, on, off and dates are text."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in ("null", "merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile("^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")
)
_FLOAT = re.compile(
    r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.inf|\.nan)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


# "{headline}" begins a text with the blank of a column in it; YAML would take it for a mapping.
_TEMPLATE = re.compile(r"\{[^{}:,]+\}")


class _Dumper(yaml.SafeDumper):
    """YAML that `_Loader` and other readers take alike: text that looks like a number is quoted."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_value(text: str) -> Any:
    """A value as YAML reads it: 1e-4 a number, [a, b] a list, null None."""
    return yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader


def read_yaml(path: Path) -> dict[str, Any]:
    """The entries of a config file. Raises ConfigError if it holds none."""
    try:
        entries = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ConfigError(
            f"{path}: holds {type(entries).__name__}, not keys and values; "
            "write lines like `task: text-classification`"
        )
    return {str(key): value for key, value in entries.items()}


def split_override(text: str) -> tuple[str, Any]:
    """The key and the value of key=value. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"command line: {text!r} is no override; write key=value")
    return key.strip(), _parse_word(text, value)


def _parse_word(text: str, value: str) -> Any:
    """A number, true, false, null, or a list in brackets; everything else is text as it stands.

    YAML alone would make nothing of # and |, and a fault of a comma.
    """
    is_nested = value.startswith(("[", "{", '"', "'")) and not _TEMPLATE.match(value)
    try:
        parsed = parse_value(value)
    except yaml.YAMLError as error:
        if not is_nested or _TEMPLATE.search(value):  # "[INST] {body} [/INST]" is no list
            return value
        key = text.partition("=")[0]
        raise ConfigError(
            f"command line: the value of {text!r} is not valid YAML: {error}\n"
            f"  text that begins with {value[0]} is written in quotes of its own, "
            f"""{key}='"..."'"""
        ) from error
    if is_nested or isinstance(parsed, bool | int | float):
        return parsed
    return None if value.strip().lower() in ("", "null", "~") else value


def flatten(config: RunConfig) -> dict[str, Any]:
    """{"section.key": value} of a whole config, JSON-able."""
    tree = config.model_dump(mode="json", serialize_as_any=True)
    return {
        f"{section}.{key}": value
        for section, values in tree.items()
        for key, value in values.items()
    }


def to_yaml(config: RunConfig) -> str:
    """The config as a file that `load_config` reads back to the same config."""
    tree = config.model_dump(mode="json", serialize_as_any=True)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
