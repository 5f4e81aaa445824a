"""Retries of hub requests after transient errors, and masking of the hub's tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from finetune.errors import MASK, mask_secrets

T = TypeVar("T")

# Seconds before each retry, unless the hub sends Retry-After; short enough for a person to wait.
WAITS = (1.0, 4.0, 15.0)
LONGEST_WAIT = 300.0
TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}


def retry_hub_errors(action: Callable[[], T], say: Callable[[str], None]) -> T:
    """Return the result of `action`, which must be repeatable; retry it after transient errors.

    `say` gets a message before each retry.
    """
    for seconds in WAITS:
        try:
            return action()
        except Exception as error:
            reason = _transient_reason(error)
            if reason is None:
                raise
            wait = min(_retry_after(error) or seconds, LONGEST_WAIT)
            say(f"the hub {reason}; retrying in {wait:.0f} s")
            time.sleep(wait)
    return action()


def redact(text: str, token: str | None = None) -> str:
    """Mask the tokens in use, and everything that looks like a token."""
    from huggingface_hub import get_token

    for secret in {token, get_token()} - {None, ""}:
        text = text.replace(str(secret), MASK)
    return mask_secrets(text)


def _transient_reason(error: BaseException) -> str | None:
    """Describe an error that may not occur again; None for permanent errors."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    for each in _causes(error):
        if isinstance(each, OfflineModeIsEnabled):
            return None
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status is not None:
            return f"returned status {status}" if status in TRANSIENT_STATUS else None
        library = type(each).__module__.partition(".")[0]
        if isinstance(each, ConnectionError | TimeoutError) or library.startswith("httpx"):
            return f"cannot be reached ({type(each).__name__})"
    return None


def _retry_after(error: BaseException) -> float | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3); dates are not supported."""
    for each in _causes(error):
        headers: Any = getattr(getattr(each, "response", None), "headers", None) or {}
        value = str(headers.get("Retry-After", ""))
        if value.isdigit():
            return float(value)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
