"""The pooling of a model of sentence-transformers, from the files that it saves."""

from __future__ import annotations

import json
from typing import Any

from finetune.errors import ModelError
from finetune.io.references import locate

_MODES = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_FLAGS = {"cls_token": "cls", "lasttoken": "last", "mean_tokens": "mean"}  # of older versions


def saved_pooling(name: str) -> str | None:
    """Return the pooling of a folder of sentence-transformers: mean, cls or last.

    None for other folders and hub ids, and for a pooling that this kit does not have.
    """
    folder = locate(name, ModelError)
    if folder is None or not (folder / "modules.json").is_file():
        return None
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [each["path"] for each in modules if str(each["type"]).endswith("Pooling")]
        text = (folder / paths[0] / "config.json").read_text(encoding="utf-8")
        config: dict[str, Any] = json.loads(text)
        if "pooling_mode" in config:
            return _MODES.get(str(config["pooling_mode"]))
        chosen = [mode for flag, mode in _FLAGS.items() if config.get(f"pooling_mode_{flag}")]
        return chosen[0] if len(chosen) == 1 else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # the pooling of the kind of network is used
