"""The card of a fine-tuned model: what was trained on what, and what was measured. It claims
nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from finetune.config import RunConfig


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
    lines = ["---", yaml.safe_dump(metadata, sort_keys=False).strip(), "---", ""]
    lines += [
        f"# {config.model.name.rstrip('/').rpartition('/')[2]}, fine-tuned for {config.task.name}",
        "",
    ]
    lines += [
        "| | |",
        "|---|---|",
        *(f"| {name} | {' '.join(text.split())} |" for name, text in facts.items()),
        "",
    ]
    for split, metrics in results.items():
        mark = " (this split selected the checkpoint)" if split == selected else ""
        lines += [f"## Measured on {split}{mark}", "", "| metric | value |", "|---|---|"]
        lines += [f"| {name} | {value:.4f} |" for name, value in metrics.items()] + [""]
    return "\n".join(lines)
