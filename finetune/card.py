"""The card of a fine-tuned model: what was trained on what, and what was measured.

It claims nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from finetune.config import RunConfig
from finetune.console import format_value
from finetune.tabulation import BY_LABEL, by_label, overall


def write_card(
    config: RunConfig,
    facts: Mapping[str, str],
    results: Mapping[str, Mapping[str, float]],
    selected: str | None,
) -> str:
    """The text of README.md: metadata, the facts of the run, and the metrics of each split.

    `selected` names the split that selected the checkpoint; its metrics are marked as such.
    """
    metadata: dict[str, Any] = {
        "tags": ["finetune-kit", config.task.name.rpartition(":")[2]],
        "license": "unknown",
    }
    if "://" not in config.model.name and not config.model.name.startswith((".", "/")):
        metadata["base_model"] = config.model.name
    front = yaml.safe_dump(metadata, sort_keys=False).strip()
    network = config.model.name.rstrip("/").rpartition("/")[2]
    lines = ["---", front, "---", "", f"# {network}, fine-tuned for {config.task.name}", ""]
    lines += [*_table(["", ""], facts.items()), ""]
    for split, metrics in results.items():
        mark = " (this split selected the checkpoint)" if split == selected else ""
        lines += [f"## Measured on {split}{mark}", ""]
        lines += [*_table(["metric", "value"], overall(metrics).items()), ""]
        labels = by_label(metrics)
        if labels:
            lines += [*_table(["label", *BY_LABEL], labels), ""]
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """A table as the lines of its Markdown."""
    for row in (columns, ["---"] * len(columns), *rows):
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(value: Any) -> str:
    # A bar would end the cell, a new line the table.
    return " ".join(format_value(value).split()).replace("|", "\\|")
