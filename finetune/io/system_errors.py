"""Messages for what the system refuses: memory, disk space, paths, whichever library reports it."""

from __future__ import annotations

import errno
import re

from finetune.errors import FinetuneError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_MEMORY = re.compile(
    r"out of memory|can(?:'t|not) allocate memory|std::bad_alloc", re.IGNORECASE
)
_NO_SPACE = re.compile(r"no space left|disk quota exceeded|file too large", re.IGNORECASE)
_LONGEST = 200
"""Characters of a path in a message; the system refuses much longer ones."""
_TRIED = re.compile(r"tried to allocate ([\d.]+ ?\w+)", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """True if memory, of the machine or of a device, did not suffice."""
    libraries = isinstance(error, RuntimeError | OSError)  # torch and others have no class for it
    return isinstance(error, MemoryError) or (libraries and bool(_NO_MEMORY.search(str(error))))


def as_system_error(error: BaseException) -> FinetuneError | None:
    """Return an error with a remedy if the system refused memory, space or a path, else None."""
    text = str(error)
    if type(error).__name__ == "PanicException":
        return FinetuneError(
            f"a library cannot process its input: {text[:_LONGEST]}; if this is the tokenizer, a "
            "pattern in its tokenizer.json is invalid or takes exponential time"
        )
    if is_out_of_memory(error):
        size = f" when it tried to allocate {tried[1]}" if (tried := _TRIED.search(text)) else ""
        return FinetuneError(
            f"the command ran out of memory{size}; use a smaller model, smaller batches or shorter "
            "inputs, or a machine with more memory"
        )
    if (isinstance(error, OSError) and error.errno in _FULL) or _NO_SPACE.search(text):
        return FinetuneError(f"the disk is full ({text}); free some space and run it again")
    if isinstance(error, OSError) and error.filename and error.strerror:
        place = str(error.filename)
        shown = place if len(place) <= _LONGEST else f"{place[:_LONGEST]}..."
        return FinetuneError(f"{shown}: {error.strerror}; check this path and its permissions")
    return None
