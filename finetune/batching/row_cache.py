"""Disk cache of the features that a frozen backbone computes for each row.

A run reads the features of another one with the same key, waiting for one that is computing them,
or computes them in a folder of its own that gets its final name when it is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import torch
from torch import Tensor

from finetune.batching.data_loader import Split, encoding_rng
from finetune.batching.feature_files import (
    ABSENT,
    begin_features,
    cache_root,
    claim_features,
    map_file,
    open_features,
    publish_features,
)
from finetune.batching.feature_key import block_size, digest_inputs
from finetune.batching.plan import MicroBatch, blocks_by_length
from finetune.distributed.devices import to_device
from finetune.distributed.precision import quick_inference
from finetune.errors import ModelError, format_count
from finetune.io.files import remove_path
from finetune.model import Batch, TransferModel
from finetune.task import Task
from finetune.task_parts.samples import Sample, take_rows

# Limit for the arrays of encoded rows that are kept in memory until the network reads them.
KEPT_BYTES = 2**29

Batches = Iterator[tuple[MicroBatch, Batch]]
Watch = Callable[[Batches, int], Batches]


@dataclass(frozen=True)
class CachePlan:
    """Settings for computing the features of a split.

    Attributes:
        precision: precision of the computation, part of the cache key.
        limit_gib: maximum size of all views on disk, in GiB.
        views: 1 for rows without augmentation; with more, view k has the augmentations of epoch k
            of a run with `seed`.
    """

    precision: str
    limit_gib: float
    views: int = 1
    seed: int = 0

    @property
    def epochs(self) -> list[int | None]:
        """The epoch whose augmentations each view has; None for no augmentation."""
        return [None] if self.views == 1 else list(range(self.views))


@dataclass(frozen=True)
class StoredFeatures:
    """Features of a split on disk, and its samples without the inputs of the backbone.

    Attributes:
        views: for each view {name: tensor [N, ...]}, memory-mapped.
        targets: encoded samples without "inputs", in the order of the rows.
    """

    views: list[dict[str, Tensor]]
    targets: list[Sample]

    def take(self, indices: Sequence[int], turns: Sequence[int] = ()) -> dict[str, Tensor]:
        """Return features of some rows, float32 [B, ...]; the turn of a row selects its view."""
        places = [turn % len(self.views) for turn in turns or [0] * len(indices)]
        if len(set(places)) == 1:
            index = torch.as_tensor(indices)
            return {name: tensor[index].float() for name, tensor in self.views[places[0]].items()}
        picked = list(zip(places, indices, strict=True))
        return {
            name: torch.stack([self.views[place][name][index] for place, index in picked]).float()
            for name in self.views[0]
        }

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        return [self.targets[index] for index in indices]


def attach_features(
    model: TransferModel,
    task: Task,
    split: Split,
    accelerator: accelerate.Accelerator,
    plan: CachePlan,
    base: Any,
    progress: Watch,
) -> tuple[Split, str]:
    """Attach features to a split, from the cache or computed now; also return a note on which.

    `base` is the digest of the network, which all splits have in common. Every process computes its
    blocks of rows; the blocks are the same for any number of processes. `progress` wraps the
    iterator of batches and gets their number. Raises ModelError if the features would exceed the
    plan's limit.
    """
    views = list[dict[str, Tensor]]()
    shared = f"{base.hexdigest()} {plan.views} {plan.seed}"
    if shared in split.memo:
        rows = format_count(len(split), "row")
        note = f"{split.name}: features of {rows} shared with an earlier trial"
        return replace(split, features=split.memo[shared]), note
    targets: list[Sample] = []
    faults: list[str] = []
    for epoch in plan.epochs:
        digest, targets = base.copy(), []
        encoder = _Encoder(task, split, plan.seed, epoch)
        for index in range(len(split)):
            sample = dict(encoder.first(index))
            digest_inputs(digest, sample.pop("inputs"))
            targets.append(sample)
        digest_inputs(digest, encoder.padded())
        folder = cache_root() / digest.hexdigest()[:32]
        with claim_features(folder, len(split)) as (fault, partial):
            if fault:
                _build(model, encoder, accelerator, folder, partial, plan, progress)
                faults.append(fault)
            accelerator.wait_for_everyone()
        views.append(open_features(folder))
    how = "computed" if faults else "read from the cache"
    if damaged := [fault for fault in faults if fault != ABSENT]:
        how = f"computed again, since those in the cache were damaged: {damaged[0]}"
    in_views = f" in {len(views)} views" if len(views) > 1 else ""
    note = f"{split.name}: features of {format_count(len(split), 'row')}{in_views} {how} ({folder})"
    split.memo[shared] = StoredFeatures(views, targets)
    return replace(split, features=split.memo[shared]), note


class _Encoder:
    """Encode the rows of a split twice: for the digest, then for the features.

    Encoded rows are kept in memory in between, up to KEPT_BYTES; the others are encoded again.
    """

    def __init__(self, task: Task, split: Split, seed: int, epoch: int | None) -> None:
        self.task = task
        self.split = split
        self._draw = (seed, epoch)
        self._kept: dict[int, Sample] = {}
        self._room = KEPT_BYTES

    def first(self, index: int) -> Sample:
        """Encode a row for the digest, and keep it if there is room."""
        sample = self._encode(index)
        size = sum(np.asarray(value).nbytes for value in sample["inputs"].values())
        if size <= self._room:
            self._kept[index] = sample
            self._room -= size
        return sample

    def padded(self) -> dict[str, Any]:
        """Collate the shortest and the longest row, which shows how the task pads."""
        order = np.argsort(self.split.lengths, kind="stable")
        extremes = [self._encode(int(index)) for index in (order[0], order[-1])]
        inputs: dict[str, Any] = self.task.collate(extremes)["inputs"]
        return inputs

    def batch(self, indices: Sequence[int]) -> Batch:
        """Collate rows for the network, and drop those that were kept."""
        kept = self._kept
        return self.task.collate(
            [kept.pop(index) if index in kept else self._encode(index) for index in indices]
        )

    def _encode(self, index: int) -> Sample:
        seed, epoch = self._draw
        (row,) = take_rows(self.split.rows, [index])
        return self.task.encode(row, encoding_rng(seed, epoch, index))


def _build(
    model: TransferModel,
    encoder: _Encoder,
    accelerator: accelerate.Accelerator,
    folder: Path,
    partial: Path,
    plan: CachePlan,
    progress: Watch,
) -> None:
    """Compute the features in `partial`, each process those of its rows; rename it to `folder`."""
    try:
        files = _compute(model, encoder, accelerator, partial, plan, progress)
        if accelerator.is_main_process:
            publish_features(partial, folder, files)
    except BaseException:
        if accelerator.is_main_process:
            remove_path(partial)
        raise


def _compute(
    model: TransferModel,
    encoder: _Encoder,
    accelerator: accelerate.Accelerator,
    folder: Path,
    plan: CachePlan,
    progress: Watch,
) -> dict[str, dict[str, Any]]:
    """Compute the features of this process's rows into files in `folder`, shared by all.

    Returns the dtype and the shape of each file.
    """
    rank, processes = accelerator.process_index, accelerator.num_processes
    rows = len(encoder.split)
    size = block_size(accelerator.device)
    blocks = blocks_by_length(encoder.split.lengths, size, rank, processes)
    batches = ((block, encoder.batch(block.indices)) for block in blocks)
    if accelerator.is_main_process:
        begin_features(folder)
    accelerator.wait_for_everyone()
    model.eval()
    mapped: dict[str, Tensor] = {}
    files: dict[str, dict[str, Any]] = {}
    with quick_inference(model, accelerator.device, accelerator.mixed_precision):
        for micro_batch, batch in progress(batches, len(blocks)):
            with torch.inference_mode(), accelerator.autocast():
                features = model.features(to_device(batch["inputs"], accelerator.device))
            for name, values in features.items():  # [B, ...]
                if name not in files:
                    files[name] = {
                        "dtype": str(values.dtype).removeprefix("torch."),
                        "shape": [rows, *values.shape[1:]],
                    }
                    _check_size(files, plan)
                    mapped[name] = map_file(folder / f"{name}.bin", **files[name], create=True)
                mapped[name][list(micro_batch.indices)] = values.cpu()
    del mapped
    accelerator.wait_for_everyone()
    return files


def _check_size(manifest: dict[str, Any], plan: CachePlan) -> None:
    size = plan.views * sum(
        torch.Size(facts["shape"]).numel() * getattr(torch, facts["dtype"]).itemsize
        for facts in manifest.values()
    )
    if size > plan.limit_gib * 2**30:
        raise ModelError(
            f"method.cache_gib: the features would take {size / 2**30:.1f} GiB on disk, "
            f"more than the limit of {plan.limit_gib:g}; "
            "raise method.cache_gib, or set method.cache=off to compute them at every step"
        )
