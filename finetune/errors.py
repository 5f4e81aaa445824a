"""The faults that a user can mend, and words for their messages.

Every message gives the place, the value and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FinetuneError(Exception):
    """A fault with a remedy: the command line prints it without a traceback and exits with 2."""


class ConfigError(FinetuneError):
    """A key, a value or a combination of the config that cannot be."""


class DataError(FinetuneError):
    """A data set that cannot be read, or rows that cannot be trained on."""


class ModelError(FinetuneError):
    """A network that cannot be found, loaded or treated as asked."""


class CheckpointError(FinetuneError):
    """A run folder that cannot be resumed, loaded or written."""


class HubError(FinetuneError):
    """A model hub that did not take or give what was asked."""


def refuse_all(place: str, faults: Sequence[str]) -> None:
    """Raise ConfigError with every fault that was found at a place, if there are any."""
    if faults:
        raise ConfigError("\n  ".join([f"{place} has faults:", *faults]))


def nearest(word: str, choices: Iterable[str]) -> str:
    """The sentence "did you mean ...?" for a misspelt word, or the list of choices."""
    choices = sorted(choices)
    # Without case and with one kind of dash, so that Learning_Rate still finds learning-rate.
    plain = {choice.lower().replace("_", "-"): choice for choice in choices}
    close = difflib.get_close_matches(word.lower().replace("_", "-"), plain, n=1, cutoff=0.6)
    if close:
        return f"did you mean {plain[close[0]]!r}?"
    return f"choose from: {', '.join(choices)}" if choices else "nothing is known here"


def listed(words: Iterable[object], most: int) -> str:
    """The first `most` of some words with commas between them, and how many more there are."""
    said = list(map(str, words))
    more = f" and {len(said) - most} more" if len(said) > most else ""
    return ", ".join(said[:most]) + more
