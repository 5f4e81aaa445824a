"""Names of optimizers, known without importing torch and timm, which takes seconds."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from finetune.errors import ConfigError, nearest


def check_optimizer_name(name: str) -> None:
    """Raise ConfigError for a name that does not occur where timm registers its optimizers.

    A name that occurs there may still be unknown: `check_optimizer` decides.
    """
    text = _registry_of_timm()
    if text and not re.search(rf"['\"]{re.escape(name)}['\"]", text):
        registered = re.findall(r"name=['\"](\w+)['\"]", text)
        raise ConfigError(f"optim.name: unknown optimizer {name!r}; {nearest(name, registered)}")


def _registry_of_timm() -> str:
    """Return the source of timm's registry of optimizers; "" if it has moved."""
    spec = find_spec("timm")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [Path(folder) / "optim" / "_optim_factory.py" for folder in folders]
    return "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
