"""The libraries of the analyses, which are extras of the kit."""

from __future__ import annotations

from importlib.util import find_spec

from finetune.errors import ConfigError

SKLEARN = "sklearn"


def check_analysis(command: str) -> None:
    """Raise ConfigError if scikit-learn is missing."""
    if find_spec(SKLEARN) is None:
        raise ConfigError(
            f"{command}: needs scikit-learn; run: pip install 'finetune-kit[explore]'"
        )
