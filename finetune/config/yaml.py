"""Reading and writing of config values: YAML in files, key=value on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from finetune.config.schema import RunConfig
from finetune.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML loader for configs: 1e-4 is a number; yes, no, on, off and dates are strings."""


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


# A prompt template may start with a placeholder such as {headline}; YAML would parse a mapping.
_TEMPLATE = re.compile(r"\{[^{}:,]+\}")


class _Dumper(yaml.SafeDumper):
    """YAML dumper that quotes strings that look like numbers, so that every reader agrees."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_value(text: str) -> Any:
    """Parse a value as YAML: 1e-4 is a number, [a, b] a list, null None."""
    return yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the entries of a config file. Raises ConfigError if it is not a YAML mapping."""
    try:
        entries = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ConfigError(
            f"{path}: contains {type(entries).__name__}, not a mapping of keys to values; "
            "write lines like `task: text-classification`"
        )
    return {str(key): value for key, value in entries.items()}


def split_override(text: str) -> tuple[str, Any]:
    """Split key=value into the key and the parsed value. Raises ConfigError."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"command line: {text!r} is not an override; write key=value")
    return key.strip(), _parse_word(text, value)


def _parse_word(text: str, value: str) -> Any:
    """Parse a number, true, false, null, or a list or mapping in brackets; keep all else verbatim.

    Plain YAML would drop # and |, and reject a comma.
    """
    is_nested = value.startswith(("[", "{", '"', "'")) and not _TEMPLATE.match(value)
    try:
        parsed = parse_value(value)
    except yaml.YAMLError as error:
        if not is_nested or _TEMPLATE.search(value):  # "[INST] {body} [/INST]" is not a list
            return value
        key = text.partition("=")[0]
        raise ConfigError(
            f"command line: the value of {text!r} is not valid YAML: {error}\n"
            f"""  quote text that begins with {value[0]} twice: {key}='"..."'"""
        ) from error
    if is_nested or isinstance(parsed, bool | int | float):
        return parsed
    return None if value.strip().lower() in ("", "null", "~") else value


def flatten(config: RunConfig) -> dict[str, Any]:
    """Flatten a config to JSON-able {"section.key": value}."""
    tree = config.model_dump(mode="json", serialize_as_any=True)
    return {
        f"{section}.{key}": value
        for section, values in tree.items()
        for key, value in values.items()
    }


def to_yaml(config: RunConfig) -> str:
    """Format a config as YAML that `load_config` reads back to the same config."""
    tree = config.model_dump(mode="json", serialize_as_any=True)
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
