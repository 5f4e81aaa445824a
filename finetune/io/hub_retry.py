"""Requests to a hub that may fail and pass: tried again, and no secret in what is said of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds before each further try, unless the hub names others; most of them a person still waits.
WAITS = (1.0, 4.0, 15.0)
LONGEST_WAIT = 300.0
PASSING = {408, 425, 429, 500, 502, 503, 504}
_TOKEN = re.compile(r"\b(hf|api_org)_[A-Za-z0-9]{8,}")


def with_patience(action: Callable[[], T], say: Callable[[str], None]) -> T:
    """What `action`, which may be repeated, gives; tried again after faults that may pass,
    of each of which it is said."""
    for seconds in WAITS:
        try:
            return action()
        except Exception as error:
            reason = _passing(error)
            if reason is None:
                raise
            wait = min(_asked_wait(error) or seconds, LONGEST_WAIT)
            say(f"the hub {reason}; trying again in {wait:.0f} s")
            time.sleep(wait)
    return action()


def redact(text: str, token: str | None = None) -> str:
    """The text without the token that is in use, and without what looks like one."""
    from huggingface_hub import get_token

    for secret in {token, get_token()} - {None, ""}:
        text = text.replace(str(secret), "***")
    return _TOKEN.sub(r"\1_***", text)


def _passing(error: BaseException) -> str | None:
    """What happened, if it may be otherwise the next time."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    for each in _causes(error):
        if isinstance(each, OfflineModeIsEnabled):
            return None
        status = getattr(getattr(each, "response", None), "status_code", None)
        if status is not None:
            return f"answered with {status}" if status in PASSING else None
        library = type(each).__module__.partition(".")[0]
        if isinstance(each, ConnectionError | TimeoutError) or library.startswith("httpx"):
            return f"could not be reached ({type(each).__name__})"
    return None


def _asked_wait(error: BaseException) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3); dates in it are not read."""
    for each in _causes(error):
        headers: Any = getattr(getattr(each, "response", None), "headers", None) or {}
        asked = str(headers.get("Retry-After", ""))
        if asked.isdigit():
            return float(asked)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
