"""What a card says for the run to be repeated: its keys, digests of its rows, versions, results.

The section is written for people and read by `finetune reproduce`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune.config.schema import RunConfig
from finetune.config.text_files import validate_as
from finetune.config.yaml import flatten
from finetune.errors import CheckpointError
from finetune.reporting.metric_tables import overall
from finetune.reporting.run_facts import NOT_APPLICABLE

HEADING = "## Reproduction"
# Keys of the section output that change the final model.
_OUTPUT_KEYS = ("output.dtype", "output.calibrate")
_LIST = re.compile(r"\[\n([^\[\]{}]*)\]")
_BLOCK = re.compile(rf"^{HEADING}$.*?^```json\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Reproduction:
    """What a run was made of, and what it gave.

    Attributes:
        config: {"section.key": value} of the keys that were set or chosen.
        data: {split: SHA-256 of its rows}.
        environment: versions and devices.
        metrics: {split: {metric: [value, low, high]}}; [value] without an interval.
    """

    config: dict[str, Any]
    data: dict[str, str]
    environment: dict[str, Any]
    metrics: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def describe_reproduction(
    record: Mapping[str, Any],
    config: RunConfig,
    reasons: Mapping[str, str],
    base: str,
    results: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, list[float]]],
) -> Reproduction:
    """Return what the card says of a run; `record` is run.json, `base` the name of the network."""
    chosen = [key for key, why in reasons.items() if why != NOT_APPLICABLE]
    keys = keys_to_repeat(record, config, chosen) | {"model.name": base}
    metrics = {
        split: {
            name: list(intervals.get(split, {}).get(name, [value]))
            for name, value in overall(values).items()
        }
        for split, values in results.items()
    }
    return Reproduction(keys, dict(record["data"]), dict(record.get("environment", {})), metrics)


def keys_to_repeat(
    record: Mapping[str, Any], config: RunConfig, reasons: Collection[str]
) -> dict[str, Any]:
    """Return the keys that were set, and those that the run chose for its network and device.

    `record` is run.json; `reasons` are the keys of `config` that the run chose.
    """
    given, resolved = record["given"], flatten(config)
    were_set = record.get("set", [key for key, value in given.items() if value is not None])
    idle = {key for key in config.keys_of("place_keys") if key.startswith(("train.", "output."))}
    kept = {key: given[key] for key in were_set if key in given and key not in idle}
    kept |= {key: resolved[key] for key in reasons if resolved.get(key) is not None}
    kept |= {key: given[key] for key in _OUTPUT_KEYS if key in were_set}
    return dict(sorted(kept.items()))


def reproduction_section(facts: Reproduction) -> list[str]:
    """Return the lines of the section of a card, with its heading."""
    text = json.dumps(vars(facts), indent=1, ensure_ascii=False)
    text = _LIST.sub(lambda found: f"[{' '.join(found[1].split())}]", text)
    return [
        HEADING,
        "",
        "`finetune reproduce OWNER/NAME` (with `data=PATH` if the data are local) checks these "
        "digests of the rows and the versions, trains again with these keys and compares: equal "
        "weights on a CPU, metrics within their 95% intervals elsewhere.",
        "",
        "```json",
        *text.splitlines(),
        "```",
        "",
    ]


def read_reproduction(card: str, place: str) -> Reproduction:
    """Read the section of a card. Raises CheckpointError if it has none or is damaged."""
    found = _BLOCK.search(card)
    if found is None:
        raise CheckpointError(
            f"{place}: the card has no section {HEADING!r}; it was written by an earlier version, "
            "or without this kit: train with its settings instead, finetune train KEY=VALUE"
        )
    try:
        value: Mapping[str, Any] = json.loads(found[1])
        facts: Reproduction = validate_as(Reproduction, value)
    except ValueError as error:
        raise CheckpointError(f"{place}: section {HEADING!r} cannot be read: {error}") from error
    return facts
