"""The rows that a command reads: their location, and the keys that control how they are read."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.config.loading import section_faults
from finetune.config.schema import READING_KEYS, DataConfig, ReportConfig
from finetune.errors import ConfigError, DataError, closest, nearest, raise_for_faults
from finetune.io.references import is_pattern, locate
from finetune.registry import find_task_config, task_names

SPLIT = "split"
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Source:
    """Rows to predict or to evaluate on."""

    reference: Any
    """A file, a folder, a hub dataset or pkg://<package>/<path>; "-" is standard input. In Python
    also the rows themselves.
    """
    config: DataConfig = field(default_factory=DataConfig)
    """The data keys to read it with."""
    split: str | None = None
    """Name of the split to read if there are several."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Task keys that replace those of the training run, or choose the task of rows to embed."""

    @property
    def name(self) -> str:
        """The name used in messages."""
        return self.reference if isinstance(self.reference, str) else "data"

    @property
    def folder_name(self) -> str:
        """A name for a folder of results: that of the data without its folders, and the split."""
        name = Path(self.name.rstrip("/")).stem
        parts = [re.sub(r"[^\w.-]+", "-", part) for part in (name, self.split or "") if part]
        return "-".join(parts) or "data"


@dataclass(frozen=True)
class RowsRequest:
    """Rows to embed or to predict, and the pretrained network or fine-tuned run that does so.

    Attributes:
        precision: of the computation; None for the default of the command.
        trust_code: True to run code that a run names.
    """

    model: str
    source: Source
    batch_size: int = 32
    precision: str | None = None
    trust_code: bool = False


def find_data(reference: Any) -> Path | None:
    """Return the file or folder of rows. Raises DataError if it does not exist.

    None for rows made in Python, standard input, a pattern or a hub id.
    """
    if not isinstance(reference, str) or reference == STANDARD_INPUT or is_pattern(reference):
        return None
    return locate(reference)


def check_given(config: DataConfig) -> None:
    """Raise DataError for a config that names no rows to train on, or keys of a hub for a file."""
    if config.source is None and config.train is None:
        raise DataError(
            "data: no data given; add data=REFERENCE: a file, a folder, a hub dataset or "
            "pkg://<package>/<path>"
        )
    place = find_data(config.source)
    if place is not None and place.is_file():
        for key in ("subset", "revision"):
            if (value := getattr(config, key)) is not None:
                raise DataError(
                    f"data.{key}={value}: only datasets of a hub have one, and {place} is a file; "
                    "remove the key"
                )


def make_source(
    reference: Any,
    keys: Mapping[str, Any],
    place: str,
    *,
    takes_options: bool = False,
    keywords: Collection[str] = (),
    known: Collection[str] = (),
) -> Source:
    """Build the source that `reference` and keys such as "data.delimiter" or "split" describe.

    With `takes_options`, keys that do not control reading are passed on to the task, except those
    that misspell one of the call's own `keywords`; `known` are further right spellings. A
    `reference` of None is reported as missing.
    Raises ConfigError that lists every unknown key and every invalid value; `place` names their
    origin.
    """
    keys = _without_section("data", keys, place)
    choices = (*READING_KEYS, SPLIT)
    others = {key: value for key, value in keys.items() if key not in choices}
    others = _without_section("task", others, place)
    options = others if takes_options else {}
    faults = [
        f"{key}: unknown key for reading rows; {nearest(key, choices, known)} ({place})"
        for key in others
        if key not in options
    ]
    faults += [
        f"{key}: unknown keyword; {nearest(key, keywords)} ({place})"
        for key in options
        if closest(key, (*choices, *keywords)) in keywords
    ]
    if reference is None:
        faults.append("DATA: missing; give a file, a folder, a hub dataset or pkg://...")
    values = {key: keys[key] for key in READING_KEYS if key in keys}
    faults += section_faults("data", DataConfig, values, place)
    raise_for_faults(f"the {place}", faults)
    split = keys.get(SPLIT)
    return Source(reference, DataConfig(**values), None if split is None else str(split), options)


def _without_section(section: str, keys: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return keys such as "data.encoding" as "encoding". Raises ConfigError for two values."""
    written: dict[str, str] = {}
    for key in keys:
        first = written.setdefault(key.removeprefix(f"{section}."), key)
        if first != key and keys[first] != keys[key]:
            raise ConfigError(
                f"{place}: {first}={keys[first]} and {key}={keys[key]} are two values of one key; "
                "remove one"
            )
    return {name: keys[key] for name, key in written.items()}


def take_report_keys(
    keys: Mapping[str, Any], place: str
) -> tuple[dict[str, Any], ReportConfig | None]:
    """Separate the keys of the section `report`, `slices` and `groups`, from all others.

    slices=auto measures the slices that any rows have; without `slices`, only groups are measured.
    The config is None if there are no such keys. Raises ConfigError for invalid values.
    """
    names = {key: key.removeprefix("report.") for key in keys}
    values = {names[key]: keys[key] for key in keys if names[key] in ReportConfig.model_fields}
    others = {key: keys[key] for key in keys if names[key] not in values}
    if not values:
        return others, None
    if values.get("slices") == "auto":
        del values["slices"]
    else:
        values.setdefault("slices", "none")
    raise_for_faults(f"the {place}", section_faults("report", ReportConfig, values, place))
    return others, ReportConfig(**values)


def make_embedding_source(
    reference: Any, keys: Mapping[str, Any], place: str, known: Collection[str] = ()
) -> Source:
    """Build the source of rows to embed, whose options are the keys of the task among `keys`.

    These begin with "task", or are keys of a task and do not control reading; "name" is the task.
    `known` are further right spellings.
    """
    fields = set[str]().union(*(find_task_config(name).model_fields for name in task_names()))
    own = {
        key: value
        for key, value in keys.items()
        if key.partition(".")[0] == "task" or key in fields.difference(READING_KEYS, [SPLIT])
    }
    others = {key: value for key, value in keys.items() if key not in own}
    source = make_source(reference, others, place, known=fields.union(known))
    options = {"name" if k == "task" else k.removeprefix("task."): v for k, v in own.items()}
    return replace(source, options=options)
