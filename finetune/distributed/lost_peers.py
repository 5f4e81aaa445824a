"""Reports of a failure in one of several processes.

If all processes fail alike, the main one reports for all. If one fails alone, it reports itself,
and the others only that it ended: their next collective operation breaks off.
"""

from __future__ import annotations

import os
import re
import sys
from datetime import timedelta

from finetune.errors import FinetuneError, escape_controls

# Messages of gloo, NCCL and the store of torch.distributed when the other end is gone.
_ENDED = re.compile(
    r"connection (closed|reset) by (remote )?peer|socket closed|broken pipe|connection refused|"
    r"remote process exited|failed to recv, got 0 bytes|connection was likely closed",
    re.IGNORECASE,
)
# Time in which the main process may raise the same error, so that it is printed once.
_TIMEOUT = timedelta(seconds=5)


class PeerLost(FinetuneError):  # noqa: N818 - not a fault of this process
    """End of another process of the same run, in the middle of a common operation."""


def peer_loss(error: RuntimeError) -> PeerLost | None:
    """Return the error to report if a collective operation failed because another process ended."""
    found = _ENDED.search(str(error))
    if found is None or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    return PeerLost(
        f"another process of this training ended ({found[0]}), so this one stops too; the reason "
        "is in the output of that process. Checkpoints are intact: remove the cause, and run the "
        "same command again to resume"
    )


def report(error: FinetuneError) -> None:
    """Print an error on the standard error stream, unless the main process prints the same one."""
    rank = int(os.environ.get("RANK", "0"))
    if isinstance(error, PeerLost) or _is_own(rank, str(error)):
        place = f"process {rank}: " if rank else ""
        print(escape_controls(f"error: {place}{error}"), file=sys.stderr)


def _is_own(rank: int, message: str) -> bool:
    """Share the message with the other processes; return False if the main one has the same."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return rank == 0  # before processes are connected, all of them fail alike
    store = distributed.distributed_c10d._get_default_store()
    try:
        store.set(f"finetune/error/{rank}", message)
        if rank == 0:
            return True
        store.wait(["finetune/error/0"], _TIMEOUT)
        return bool(store.get("finetune/error/0").decode() != message)
    except distributed.DistStoreError:  # the main process has not failed
        return True
    except RuntimeError:  # the main process has ended, with an error of its own
        return rank == 0
