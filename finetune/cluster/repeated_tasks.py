"""Work that Ray tasks share, each taking the next piece, until none is left.

A task that ends with its machine is not repeated as such: the piece that it had is open again, and
the next task takes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.cluster.ray_cluster import RayCluster, Workplace
from finetune.distributed.signals import Interrupted, Signals
from finetune.errors import FinetuneError
from finetune.reporting.console import Console

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_STOP = 300.0
_MOST_CRASHES = 3
"""Crashes for each slot of the cluster, without a piece that ended meanwhile."""


@dataclass(frozen=True)
class TaskResult:
    """What a task returns: the text to print, or the fault that ended it."""

    text: str = ""
    fault: str = ""


def carry_out(
    workplace: Workplace, work: Callable[..., str], arguments: Sequence[Any]
) -> TaskResult:
    """Do a piece of work in a process of the cluster."""
    try:
        workplace.enter()
        return TaskResult(work(*arguments))
    except Interrupted:
        return TaskResult()  # its machine was told to stop: another task goes on
    except FinetuneError as error:
        return TaskResult(fault=str(error))


class RepeatedTasks:
    """Tasks of a cluster that call a function until there is nothing left for it to do.

    `shared` is a path that the machines must have in common; None if they need not share any.
    """

    def __init__(self, cluster: RayCluster, shared: Path | None, console: Console) -> None:
        import ray

        self.cluster = cluster
        self.console = console
        self._workplace = cluster.workplace(shared)
        self._remote = ray.remote(carry_out).options(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=0
        )
        self._running: dict[Any, Any] = {}
        """{task: the piece that was chosen for it, None if it chooses for itself}"""
        self._crashes = 0

    def run(
        self,
        work: Callable[..., str],
        arguments: Sequence[Any],
        count_left: Callable[[], float],
        choose: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        """Call `work` while `count_left()` pieces have not ended; print the texts that it returns.

        `choose` gets the pieces of the running tasks and returns another one, which becomes the
        last argument of the next task; without it, each task chooses for itself. After a signal,
        the tasks stop at the end of their steps. Raises Interrupted then, FinetuneError with the
        message of a task that failed, and RuntimeError if tasks keep crashing.
        """
        import ray

        with Signals() as signals:
            try:
                while (left := count_left()) > 0 or self._running:
                    while len(self._running) < min(self.cluster.slots, left):
                        piece = [] if choose is None else [choose([*self._running.values()])]
                        task = self._remote.remote(self._workplace, work, [*arguments, *piece])
                        self._running[task] = piece[0] if piece else None
                    ended, _ = ray.wait(list(self._running), timeout=_SECONDS_BETWEEN_LOOKS)
                    for reference in ended:
                        del self._running[reference]
                        self._take(reference)
                    if signals.received:
                        raise Interrupted(None, signals.received)
            finally:
                self._stop()

    def _take(self, reference: Any) -> None:
        """Print the result of a task that has ended, or raise its fault."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            result: TaskResult = ray.get(reference)
        except RayTaskError:
            raise
        except RayError as error:
            name = type(error).__name__
            self.console.print(f"a process of the cluster was lost ({name}); its work goes on")
            self._crashes += 1
            if self._crashes > _MOST_CRASHES * self.cluster.slots:
                raise RuntimeError("on=ray: processes keep crashing, see above") from error
            return
        if result.fault:
            raise FinetuneError(result.fault)
        if result.text:
            self._crashes = 0
            self.console.print(result.text)

    def _stop(self) -> None:
        """Interrupt the tasks as Ctrl-C would, and wait until they have saved their work."""
        import ray

        for reference in self._running:
            ray.cancel(reference)
        deadline = time.monotonic() + _SECONDS_TO_STOP
        while self._running and time.monotonic() < deadline:
            _, left = ray.wait(list(self._running), timeout=_SECONDS_BETWEEN_LOOKS)
            self._running = {task: self._running[task] for task in left}
