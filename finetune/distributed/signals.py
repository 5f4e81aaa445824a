"""Graceful shutdown: a signal is recorded, and the run stops at the end of a step."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from finetune.errors import FinetuneError

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that this process gets when its parent ends


def stop_with_launcher() -> None:
    """Make Linux send SIGTERM when the launcher ends that started this one of several processes.

    Without it, the processes of a killed launcher, which connects them, could wait for hours.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stop_with_parent()


def stop_with_parent() -> None:
    """Make Linux send SIGTERM when the process ends that started this one."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Interrupted(FinetuneError):  # noqa: N818 - a requested stop, not an error
    """Shutdown by a signal, with a checkpoint of the last complete step on disk.

    `step` is that of a run; None for a search, whose runs have stopped.
    """

    def __init__(self, step: int | None, signal_number: int) -> None:
        # 0 if only another process received the signal.
        number = signal_number or signal.SIGTERM
        place = "" if step is None else f" at step {step}"
        super().__init__(
            f"stopped{place} by {signal.Signals(number).name}; run the same command again to resume"
        )
        self.exit_code = 128 + number


class Signals:
    """Context that records SIGTERM and SIGINT instead of acting on them, so that steps complete.

    SIGBREAK too on Windows, where SIGTERM kills outright. A second SIGINT raises KeyboardInterrupt.
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
