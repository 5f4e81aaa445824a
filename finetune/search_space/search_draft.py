"""The entries of a config: what is fixed, what is tried, and settings of the search."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finetune.config.loading import SCALAR_KEY, SECTIONS, ConfigRegistry, Layer
from finetune.errors import ConfigError, closest
from finetune.search_space.search_config import LEAVES, SearchConfig
from finetune.search_space.space import Values, format_item, is_notation, parse_values


class SearchDraft:
    """A config with values to try, not yet checked.

    Attributes:
        fixed: entries that all trials have.
        space: {key as written: values to try}.
        names: {key as written: its full name, such as optim.lr}.
        settings: {key of the section search: its value}.
        faults: what cannot be read.
        origin: where the entries are from, for messages.
    """

    def __init__(self, layers: Sequence[Layer], registry: ConfigRegistry) -> None:
        self.fixed: list[Layer] = []
        self.space: dict[str, Values] = {}
        self.names: dict[str, str] = {}
        self.settings: dict[str, Any] = {}
        self.faults: list[str] = []
        self.origin = " and ".join(layer.origin for layer in layers)
        self._homes = _homes(layers, registry)
        for origin, entries in layers:
            layer = Layer(origin, [])
            self.fixed.append(layer)
            given: dict[str, tuple[str, Any]] = {}
            for key, value in _flat(entries):
                self._check_repeated(given, layer, key, value)
                self._put(layer, key, value)

    def _check_repeated(
        self, given: dict[str, tuple[str, Any]], layer: Layer, key: str, value: Any
    ) -> None:
        """Add a fault for two values of one key of a layer that are written differently."""
        leaf = key.removeprefix("search.").removeprefix("space.")
        name = f"search.{leaf}" if leaf in LEAVES else self._full_name(leaf)
        first, other = given.setdefault(name, (key, value))
        if first != key and other != value:
            values = f"{first}={format_item(other)} and {key}={format_item(value)}"
            self.faults.append(f"{name}: has two values, {values}; remove one ({layer.origin})")

    def _put(self, layer: Layer, key: str, value: Any) -> None:
        section, _, leaf = key.partition(".")
        if key in LEAVES:
            section, leaf = "search", key
        if section != "search":
            self._put_key(layer, key, value)
        elif leaf == "space" and isinstance(value, Mapping):
            for each, values in value.items():
                self._put_values(layer, str(each), values)
        elif leaf.startswith("space."):
            self._put_values(layer, leaf.removeprefix("space."), value)
        elif leaf:
            self.settings[leaf] = value
        elif value is not None:
            self.faults.append(
                f"search: should be a section with keys such as space and trials ({layer.origin})"
            )

    def _put_key(self, layer: Layer, key: str, value: Any) -> None:
        if (meant := self._meant(key)) is not None:
            self.faults.append(f"{key}: unknown key; did you mean {meant!r}? ({layer.origin})")
            return
        is_list = isinstance(value, list) and not self._takes_list(self._full_name(key))
        if is_list or is_notation(value):
            self._put_values(layer, key, value)
            return
        name = self.names[key] = self._full_name(key)
        for other in [each for each in self.space if self.names[each] == name]:
            del self.space[other]  # a later layer fixes the key
        layer.entries.append((key, value))

    def _put_values(self, layer: Layer, key: str, value: Any) -> None:
        name = self.names[key] = self._full_name(key)
        try:
            self.space = {k: v for k, v in self.space.items() if self.names[k] != name}
            self.space[key] = parse_values(value)
        except ValueError as error:
            self.faults.append(f"{key}: {format_item(value)!r:.80}: {error} ({layer.origin})")

    def _full_name(self, key: str) -> str:
        """Return section.key, or the key itself if it is ambiguous or unknown."""
        if key in self._homes:
            return f"{key}.{SCALAR_KEY[key]}" if key in SCALAR_KEY else key
        if "." in key:
            return key
        homes = [section for section, fields in self._homes.items() if key in fields]
        return f"{homes[0]}.{key}" if len(homes) == 1 else key

    def _meant(self, key: str) -> str | None:
        """Return the key of `search` that an unknown one is closest to; None for other keys.

        As long as the task is not known, a key without a section may be one of its own.
        """
        if "." not in key and not self._homes["task"]:
            return None
        own = {key: f"search.{key}" for key in LEAVES}
        own |= {f"search.{key}": f"search.{key}" for key in SearchConfig.model_fields}
        known = {*self._homes, *(leaf for fields in self._homes.values() for leaf in fields)}
        known |= {f"{home}.{leaf}" for home, fields in self._homes.items() for leaf in fields}
        return None if key in known else own.get(closest(key, known | own.keys()) or "")

    def _takes_list(self, name: str) -> bool:
        section, _, leaf = name.partition(".")
        return "list" in self._homes.get(section, {}).get(leaf, "")


def _flat(entries: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Yield entries with those of sections one by one, as section.key."""
    for key, value in entries:
        if key in (*SECTIONS, "task", "method", "search") and isinstance(value, Mapping):
            yield from ((f"{key}.{leaf}", each) for leaf, each in value.items())
        else:
            yield key, value


def _homes(layers: Sequence[Layer], registry: ConfigRegistry) -> dict[str, dict[str, str]]:
    """Return {section: {key: its type}}; the keys of a method are those of any method."""
    entries = dict(pair for layer in layers for pair in _flat(layer.entries))
    task = entries.get("task", entries.get("task.name"))
    schemas = {name: [schema] for name, schema in SECTIONS.items()}
    schemas["method"] = [registry.method(name) for name in registry.methods()]
    try:
        schemas["task"] = [registry.task(str(task))] if task is not None else []
    except ConfigError:  # reported with the configs of the trials
        schemas["task"] = []
    return {
        section: {
            key: str(field.annotation)
            for schema in kinds
            for key, field in schema.model_fields.items()
        }
        for section, kinds in schemas.items()
    }
