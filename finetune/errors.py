"""Errors that a user can fix, and helpers that word their messages.

Every message gives the place, the value and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FinetuneError(Exception):
    """Base of all errors with a remedy: printed without a traceback, exit code 2."""


class ConfigError(FinetuneError):
    """Invalid key, value or combination of keys in a config or on the command line."""


class DataError(FinetuneError):
    """Unreadable dataset, or rows that fail validation."""


class AmbiguityError(DataError):
    """Data that can be read in more than one way; the message names the readings and the key."""


class ModelError(FinetuneError):
    """Model that cannot be found or loaded, or that does not support the requested operation."""


class CheckpointError(FinetuneError):
    """Run folder that cannot be resumed, loaded or written."""


class HubError(FinetuneError):
    """Failed upload to, or download from, a model hub."""


def raise_for_faults(place: str, faults: Sequence[str]) -> None:
    """Raise one ConfigError that lists all `faults`; do nothing if there are none."""
    if faults:
        raise ConfigError("\n  ".join([f"{place} is invalid:", *faults]))


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return "did you mean ...?" for a misspelled word, or the list of valid choices."""
    choices = sorted(choices)
    # Ignore case and the kind of dash, so that Learning_Rate still finds learning-rate.
    plain = {choice.lower().replace("_", "-"): choice for choice in choices}
    close = difflib.get_close_matches(word.lower().replace("_", "-"), plain, n=1, cutoff=0.6)
    if close:
        return f"did you mean {plain[close[0]]!r}?"
    return f"choose from: {', '.join(choices)}" if choices else "there are none to choose from"


def listed(words: Iterable[object], most: int) -> str:
    """Join the first `most` words with commas; append "and N more" if some are left out."""
    texts = list(map(str, words))
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
