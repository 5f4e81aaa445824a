"""All blocks of a command, worked on by Ray Data until every part file is there.

A part that exists is not made again, whether it is from an earlier start or from a machine that was
lost after it had written the part.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from finetune.cluster.block_work import BlockActor, BlockFacts, BlockJob, facts_path
from finetune.cluster.ray_cluster import RayCluster
from finetune.cluster.row_blocks import RowBlocks
from finetune.distributed.signals import Interrupted, Signals
from finetune.errors import FinetuneError
from finetune.inference.part_files import PartFiles
from finetune.io.files import publish
from finetune.reporting.console import Console

_MOST_LOSSES = 5
"""Times that no block is finished before all processes are lost."""


@dataclass(frozen=True)
class BlockRun:
    """One command on a cluster: its blocks and their part files."""

    cluster: RayCluster
    blocks: RowBlocks
    parts: PartFiles
    console: Console

    def unfinished(self) -> list[int]:
        """Return the numbers of the blocks that have no part yet."""
        parts = map(self.parts.path_of, range(self.parts.count))
        return [number for number, path in enumerate(parts) if not facts_path(path).is_file()]

    def run(self, job: BlockJob) -> None:
        """Work on all unfinished blocks. Raises FinetuneError, and Interrupted after a signal."""
        from ray.exceptions import RayError, RayTaskError

        todo, losses = self.unfinished(), 0
        finished = set(range(self.parts.count)).difference(todo)
        with self.console.count(self.blocks.rows, "rows") as advance, Signals() as signals:
            advance(sum(self.facts_of(number).rows for number in finished))
            while todo:
                cause = None
                try:
                    for batch in _on_cluster(self.cluster, self._arguments(job), todo):
                        advance(_rows_of(batch))
                        if signals.received:
                            raise Interrupted(None, signals.received)
                except RayTaskError:
                    raise
                except RayError as error:  # not even an actor could be started
                    cause = error
                before, todo = len(todo), self.unfinished()
                losses = losses + 1 if len(todo) == before else 0
                if losses > _MOST_LOSSES:
                    raise RuntimeError("on=ray: processes are lost before a block ends") from cause
                if todo:
                    self.console.print(
                        f"{len(todo)} of {self.parts.count} blocks were lost with a process of the "
                        "cluster, and are worked on again"
                    )
                    time.sleep(2**losses)  # Ray may not have noticed yet which machine is gone

    def facts_of(self, number: int) -> BlockFacts:
        """Return the counts of a finished block."""
        path = facts_path(self.parts.path_of(number))
        return BlockFacts(**json.loads(path.read_text(encoding="utf-8")))

    def total(self) -> BlockFacts:
        """Return the counts of all blocks."""
        total = BlockFacts()
        for number in range(self.parts.count):
            total.add(self.facts_of(number))
        return total

    def reopen(self, numbers: Sequence[int]) -> None:
        """Mark blocks as unfinished."""
        for number in numbers:
            facts_path(self.parts.path_of(number)).unlink()

    def publish(self) -> None:
        """Make the output of the parts: one file, or the folder of the parts."""
        output, folder = self.parts.output, self.parts.folder
        if output.suffix:
            self.parts.concatenate()
            return
        for path in folder.glob("*.json"):
            path.unlink()
        publish(folder, output)

    def _arguments(self, job: BlockJob) -> tuple[Any, ...]:
        return (self.cluster.workplace(self.parts.folder), job, self.blocks, self.parts)


def _on_cluster(
    cluster: RayCluster, arguments: tuple[Any, ...], todo: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Yield what the actors return for each block. What a lost machine worked on is left out."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A lost actor is not restarted, where its block would wait for it: its machine may be gone for
    # good. The block is an error that is ignored, and its part is missing at the end.
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    items = [{"block": number} for number in todo]
    actors = min(cluster.slots, len(todo))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # max_restarts is to have another place
        dataset = ray.data.from_items(items, override_num_blocks=len(todo)).map_batches(
            BlockActor,
            fn_constructor_args=arguments,
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=cluster.cpus,
            num_gpus=cluster.gpus,
            max_restarts=0,
            max_task_retries=0,
        )
    yield from dataset.iter_batches(batch_size=None, prefetch_batches=0)


def _rows_of(batch: dict[str, Any]) -> int:
    """Return the number of rows that a batch of results stands for, or raise its fault."""
    for fault, is_bug in zip(batch["fault"], batch["is_bug"], strict=True):
        if fault and is_bug:
            raise RuntimeError(f"on=ray: a process of the cluster failed:\n{fault}")
        if fault:
            raise FinetuneError(str(fault))
    return int(sum(batch["rows"]))
