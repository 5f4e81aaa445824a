"""Names of timm's optimizers and architectures, without importing it, which takes seconds.

A name that occurs in the sources of timm may still be unknown: its registries decide.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from finetune.errors import ConfigError, ModelError, nearest

PREFIX = "timm/"


def check_optimizer_name(name: str) -> None:
    """Raise ConfigError for a name that does not occur where timm registers its optimizers."""
    text = _source_of_timm("optim/_optim_factory.py")
    if text and not re.search(rf"['\"]{re.escape(name)}['\"]", text):
        registered = re.findall(r"name=['\"](\w+)['\"]", text)
        raise ConfigError(f"optim.name: unknown optimizer {name!r}; {nearest(name, registered)}")


def check_architecture_name(model: str) -> None:
    """Raise ModelError for a model timm/NAME.TAG whose name no module of timm defines.

    Not checked once timm is imported, since code of the user may have registered more.
    """
    if not model.startswith(PREFIX) or Path(model).exists() or "timm" in sys.modules:
        return
    name = model.removeprefix(PREFIX).partition(".")[0]
    text = _source_of_timm("models/*.py")
    if text and not re.search(rf"^def {re.escape(name)}\(", text, re.MULTILINE):
        registered = re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE)
        hint = nearest(name, registered)
        hint = hint if hint.startswith("did") else "timm.list_models() lists them"
        raise ModelError(f"model.name: timm has no architecture {name!r}; {hint}")


def _source_of_timm(pattern: str) -> str:
    """Return the source of some modules of timm; "" if they have moved."""
    spec = find_spec("timm")
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [file for folder in folders for file in sorted(Path(folder).glob(pattern))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)
