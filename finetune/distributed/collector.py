"""Python's garbage collector, which finds nothing while libraries are imported but walks on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector: it takes a third of the time of importing a network's code.

    A process that has frozen its modules, as the command line does, freezes these, too: otherwise
    the collector walks over them three times, once for each generation.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if gc.get_freeze_count():
            gc.freeze()
        if was_enabled:
            gc.enable()
