"""Reading and writing of config values: YAML in files, key=value on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from finetune.config.schema import RunConfig
from finetune.config.text_files import read_text
from finetune.errors import ConfigError

MOST_BYTES = 2**21
"""Size of the largest config file: parsing it takes seconds."""
_MOST_NODES = 100_000
"""Nodes of a document with aliases written out: a few lines can stand for billions."""


class _Loader(yaml.SafeLoader):
    """YAML loader for configs: 1e-4 is a number; yes, no, on, off and dates are strings.

    Repeated keys and documents that are huge once their aliases are written out are refused.
    """

    def get_single_data(self) -> Any:
        root = self.get_single_node()
        if root is None:
            return None
        _count_nodes(root, {})
        return self.construct_document(root)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and first.setdefault(key.value, key) is not key:
                line = first[key.value].start_mark.line + 1
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key.value!r} is already in line {line}; remove one",
                    key.start_mark,
                )
        return super().construct_mapping(node, deep)


def _count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of nodes with aliases written out. Raises ConstructorError for too many."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = _MOST_NODES  # a node that contains itself is endless
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [each for pair in node.value for each in pair]
    count = 1 + sum(_count_nodes(child, known) for child in children)
    if count > _MOST_NODES:
        raise yaml.constructor.ConstructorError(
            None, None, f"aliases (*name) stand for over {_MOST_NODES} values", node.start_mark
        )
    known[id(node)] = count
    return count


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
    """Parse a value as YAML: 1e-4 is a number, [a, b] a list, null None. Raises YAMLError."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # Such as a tag that does not fit its value (!!int abc), or a number of 5000 digits.
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the entries of a config file. Raises ConfigError if it is not a YAML mapping."""
    try:
        entries = parse_value(read_text(path, MOST_BYTES))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError) as error:
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


def split_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Split key=value words into {key: value}. Raises ConfigError for a key with two values."""
    values: dict[str, Any] = {}
    for text in texts:
        key, value = split_override(text)
        if values.setdefault(key, value) != value:
            raise ConfigError(
                f"command line: {key} has two values, {values[key]!r} and {value!r}; remove one"
            )
    return values


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
    if is_nested and (joined := _joined_pair(parsed)):
        first, _, second = joined.partition(":")
        raise ConfigError(
            f"command line: {text!r}: write a blank after the colon, {first}: {second}, and quote "
            "the whole word"
        )
    if is_nested or isinstance(parsed, bool | int | float):
        return parsed
    return None if value.strip().lower() in ("", "null", "~") else value


def _joined_pair(value: Any) -> str | None:
    """Return a key that is a key and its value without a blank between them, {name:f1}."""
    if isinstance(value, dict):
        joined = (key for key in value if isinstance(key, str) and ":" in key)
        key = next((key for key in joined if value[key] is None), None)
        return key or next(filter(None, map(_joined_pair, value.values())), None)
    return next(filter(None, map(_joined_pair, value)), None) if isinstance(value, list) else None


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
