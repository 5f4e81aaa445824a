"""Orders to stop: a signal is noted, and obeyed at the end of a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from finetune.errors import FinetuneError


class Interrupted(FinetuneError):  # noqa: N818 - no error, but an order that was followed
    """The run was asked to stop by a signal, and a checkpoint of the last whole step is on disk."""

    def __init__(self, step: int, signal_number: int) -> None:
        # A process that got no signal itself stops because another one did.
        number = signal_number or signal.SIGTERM
        super().__init__(
            f"stopped at step {step} by {signal.Signals(number).name}; "
            "run the same command to go on"
        )
        self.exit_code = 128 + number


class Signals:
    """Notes SIGTERM and SIGINT, and SIGBREAK of Windows, which kills by SIGTERM, while it is
    entered, so that a step is never cut in half.

    A second SIGINT is obeyed at once.
    """

    def __enter__(self) -> Signals:
        self.received = 0
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            known = (signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGBREAK", None))
            self._before = {
                number: signal.signal(number, self._note) for number in known if number is not None
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.received = number
