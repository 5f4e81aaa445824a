"""Errors that a user can fix, and helpers that word their messages.

Every message gives the place, the value and the remedy. Tokens and passwords are masked, since
messages end up in logs and issues.
"""

from __future__ import annotations

import bisect
import difflib
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Sequence

MOST_LISTED, MOST_COMPARED = 200, 2000
"""Choices that a message lists, and those to which a misspelled word is compared."""
MASK = "***"
_SECRETS = (
    # Tokens that their issuer marks: Hugging Face, GitHub, GitLab, Slack, OpenAI, AWS.
    (re.compile(r"\b(hf_)[A-Za-z0-9]{14,}"), r"\1***"),  # but not hf_hub_download
    (re.compile(r"\b(api_org_|gh[opsu]_|github_pat_|glpat-|xox[abp]-)[\w-]{8,}"), r"\1***"),
    (re.compile(r"\b(sk-)[\w-]{20,}|\b(AKIA)[0-9A-Z]{16}\b"), r"\1\2***"),
    # Of a URL: user:password@, ?token=...
    (re.compile(r"((?<=\w\w):/{1,2})[^/\s@'\"]+@"), r"\1***@"),
    (
        re.compile(
            r"([?&#](?:[\w-]*token|[\w-]*key|[\w-]*secret|[\w-]*signature|[\w-]*credential|sig|auth"
            r"|password|passwd|pwd|jwt)=)[^&\s#'\"()]{3,}",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    # Of a request's header.
    (re.compile(r"\b(bearer\s+)(?=\S*\d)[\w.~+/=-]{16,}", re.IGNORECASE), r"\1***"),
    (re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?\w+\s+)[\w.~+/=-]{8,}", re.I), r"\1***"),
)
_SECRET_NAME = re.compile(r"(?:TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY)$")
_SHORTEST_SECRET = 8
# All but tab and newline; the last ones change the direction of text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def mask_secrets(text: str) -> str:
    """Mask what looks like a token or a password, and those in environment variables."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name):
            text = text.replace(value, MASK)
    return mask_marked_secrets(text)


def mask_marked_secrets(text: str) -> str:
    """Mask what looks like a token or a password."""
    for pattern, masked in _SECRETS:
        text = pattern.sub(masked, text)
    return text


def escape_controls(text: str) -> str:
    """Escape characters by which a label or a path could move the cursor or turn text around."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class FinetuneError(Exception):
    """Base of all errors with a remedy: printed without a traceback, exit code 2."""

    def __init__(self, message: str = "") -> None:
        super().__init__(mask_secrets(message))


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


def closest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice that a misspelled word stands for; None if none is similar."""
    # Ignore case and the kind of dash, so that Learning_Rate still finds learning-rate.
    plain = {choice.lower().replace("_", "-"): choice for choice in sorted(choices)}
    given, names = word.lower().replace("_", "-"), list(plain)
    if len(names) > MOST_COMPARED:  # those with the same start
        names.sort()
        place = bisect.bisect(names, given)
        names = names[max(place - MOST_COMPARED // 2, 0) : place + MOST_COMPARED // 2]
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def nearest(word: str, choices: Iterable[str], more: Iterable[str] = ()) -> str:
    """Return "did you mean ...?" for a misspelled word, or the list of valid choices.

    `more` are choices that are valid, too, but too many to be listed.
    """
    choices = sorted(choices)
    if (found := closest(word, [*choices, *more])) is not None:
        return f"did you mean {found!r}?"
    return (
        f"choose from: {listed(choices, MOST_LISTED)}"
        if choices
        else "there are none to choose from"
    )


def listed(words: Iterable[object], most: int) -> str:
    """Join the first `most` words with commas; append "and N more" if some are left out."""
    texts = list(map(str, words))
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def shell_word(value: object) -> str:
    """Quote a path or a name for a command that a message prints."""
    text = str(value)
    word = f"./{text}" if text.startswith("-") else text  # not an option
    return subprocess.list2cmdline([word]) if os.name == "nt" else shlex.quote(word)


def format_count(count: int, word: str, ending: str = "s") -> str:
    """Format a count with its noun: 1 process, 2 processes."""
    return f"{count} {word}" if count == 1 else f"{count} {word}{ending}"
