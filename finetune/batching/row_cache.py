"""The cache of frozen features: what a frozen backbone makes of each row, computed once.

    <cache>/<key>/  manifest.json  <name>.bin

The key is a digest of everything that the features depend on: weights, the encoded rows, precision
and library versions. Files are flat and memory-mapped: one tensor [N, ...] each, in the order of
the rows. Arrow is not used because it has no bfloat16.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import accelerate
import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from finetune.batching.data_loader import Split, encoding_rng
from finetune.batching.plan import MicroBatch, blocks_by_length
from finetune.distributed.devices import to_device
from finetune.errors import ModelError
from finetune.io.files import publish, remove
from finetune.model import HEAD, Batch, TransferModel, named_parts
from finetune.task import Task
from finetune.task_parts import Sample, take_rows

# Rows computed together. A constant, because another composition of a batch gives other last bits.
BLOCK = 32
# Of encoded rows that wait in memory for the network, as arrays.
KEPT_BYTES = 2**29
# Seconds after which an unfinished build is taken for one that was killed.
ABANDONED = 7 * 24 * 3600


Batches = Iterator[tuple[MicroBatch, Batch]]
Watch = Callable[[Batches, int], Batches]


@dataclass(frozen=True)
class CachePlan:
    """How the features of a split are computed, beside what computes them.

    Attributes:
        views: 1: of the rows as they are; more: view k is what epoch k of a run with `seed` would
            augment.
        limit_gib: the most that all views may take on disk.
    """

    precision: str
    limit_gib: float
    views: int = 1
    seed: int = 0

    @property
    def epochs(self) -> list[int | None]:
        """The epoch whose augmentation each view has; None: nothing is random."""
        return [None] if self.views == 1 else list(range(self.views))


@dataclass(frozen=True)
class StoredFeatures:
    """Features of a split on disk, and its samples without what the backbone reads.

    Attributes:
        views: the tensors of each view, by name, [N, ...], memory-mapped.
        targets: the encoded samples without "inputs", in the order of the rows.
    """

    views: list[dict[str, Tensor]]
    targets: list[Sample]

    def take(self, indices: Sequence[int], turns: Sequence[int] = ()) -> dict[str, Tensor]:
        """The features of some rows, float32 [B, ...], each of the view whose turn it is."""
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


def cache_root() -> Path:
    """$FINETUNE_CACHE, or ~/.cache/finetune."""
    root = os.environ.get("FINETUNE_CACHE") or Path.home() / ".cache" / "finetune"
    return Path(root) / "features"


def with_features(
    model: TransferModel,
    task: Task,
    split: Split,
    accelerator: accelerate.Accelerator,
    plan: CachePlan,
    progress: Watch,
) -> tuple[Split, str]:
    """The split with its features, read from the cache or computed now, and which it was.

    Every process computes its blocks of rows; the blocks are the same for any number of processes.
    `progress` is given the batches and their number, and passes them on. Raises ModelError if the
    features would take more than the plan's limit.
    """
    base, found = digest_model(model, plan.precision), list[dict[str, Tensor]]()
    targets: list[Sample] = []
    computed = 0
    for epoch in plan.epochs:
        digest, targets = base.copy(), []
        encoder = _Encoder(task, split, plan.seed, epoch)
        for index in range(len(split)):
            sample = dict(encoder.first(index))
            _digest_inputs(digest, sample.pop("inputs"))
            targets.append(sample)
        folder = cache_root() / digest.hexdigest()[:32]
        # The first process decides for all: another run may finish these features at any moment.
        facts = [(folder / "manifest.json").is_file(), uuid4().hex[:8]]
        is_there, name = broadcast_object_list(facts)
        if not is_there:
            # A name of its own, for two runs may build the same features at once.
            beside = folder.with_name(f"{folder.name}.{name}.partial")
            _build(model, encoder, accelerator, beside, plan, progress)
            if accelerator.is_main_process:
                _settle(beside, folder)
            computed += 1
        accelerator.wait_for_everyone()
        found.append(_open(folder))
    how = "computed" if computed else "found in the cache"
    views = f" in {len(found)} views" if len(found) > 1 else ""
    note = f"{split.name}: features of {len(split)} rows{views} {how} ({folder})"
    return replace(split, features=StoredFeatures(found, targets)), note


class _Encoder:
    """The rows of a split as the network reads them: once for the digest, once for the features.

    Encoded rows are kept between the two as far as memory allows; the others are encoded again.
    """

    def __init__(self, task: Task, split: Split, seed: int, epoch: int | None) -> None:
        self.task = task
        self.split = split
        self._draw = (seed, epoch)
        self._kept: dict[int, Sample] = {}
        self._room = KEPT_BYTES

    def first(self, index: int) -> Sample:
        """A row that is asked for the first time."""
        sample = self._encode(index)
        size = sum(np.asarray(value).nbytes for value in sample["inputs"].values())
        if size <= self._room:
            self._kept[index] = sample
            self._room -= size
        return sample

    def batch(self, indices: Sequence[int]) -> Batch:
        """Rows that are asked for the last time."""
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
    plan: CachePlan,
    progress: Watch,
) -> None:
    """Compute all features into files in `folder`: each process those of its rows."""
    rank, processes = accelerator.process_index, accelerator.num_processes
    rows = len(encoder.split)
    blocks = blocks_by_length(encoder.split.lengths, BLOCK, rank, processes)
    batches = ((block, encoder.batch(block.indices)) for block in blocks)
    if accelerator.is_main_process:
        with _writing(folder):
            folder.mkdir(parents=True)
    accelerator.wait_for_everyone()
    model.eval()
    files: dict[str, Tensor] = {}
    manifest: dict[str, Any] = {}
    for micro_batch, batch in progress(batches, len(blocks)):
        with torch.inference_mode(), accelerator.autocast():
            features = model.features(to_device(batch["inputs"], accelerator.device))
        for name, values in features.items():  # [B, ...]
            if name not in files:
                manifest[name] = {
                    "dtype": str(values.dtype).removeprefix("torch."),
                    "shape": [rows, *values.shape[1:]],
                }
                _check_size(manifest, plan)
                files[name] = _map_file(folder / f"{name}.bin", **manifest[name], create=True)
            files[name][list(micro_batch.indices)] = values.cpu()
    del files
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def _settle(beside: Path, folder: Path) -> None:
    """Rename features that are whole, and remove what builds left that were killed."""
    # Another run may have finished the same features meanwhile; they are equal.
    if (folder / "manifest.json").is_file():
        remove(beside)
    else:
        publish(beside, folder)
    for left in folder.parent.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > ABANDONED:
                shutil.rmtree(left)


def _open(folder: Path) -> dict[str, Tensor]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {name: _map_file(folder / f"{name}.bin", **facts) for name, facts in manifest.items()}


def _map_file(path: Path, dtype: str, shape: list[int], create: bool = False) -> Tensor:
    """A memory-mapped tensor. All processes may create the file; each writes its own rows."""
    kind = getattr(torch, dtype)
    size = int(torch.Size(shape).numel())
    if create:
        with _writing(path), path.open("ab") as file:
            file.truncate(size * kind.itemsize)
            if hasattr(os, "posix_fallocate"):  # a full disk must be told here, not by SIGBUS later
                os.posix_fallocate(file.fileno(), 0, size * kind.itemsize)
    return torch.from_file(str(path), shared=create, size=size, dtype=kind).view(shape)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path}: the features cannot be written ({error}); free some space, set the variable "
            "FINETUNE_CACHE to a folder on another disk, or set method.cache=off"
        ) from error


def _check_size(manifest: dict[str, Any], plan: CachePlan) -> None:
    size = plan.views * sum(
        torch.Size(facts["shape"]).numel() * getattr(torch, facts["dtype"]).itemsize
        for facts in manifest.values()
    )
    if size > plan.limit_gib * 2**30:
        raise ModelError(
            f"method.cache_gib: the features would take {size / 2**30:.1f} GiB on disk, "
            f"over the limit of {plan.limit_gib:g}; "
            "raise method.cache_gib, or set method.cache=off to compute them at every step"
        )


def digest_model(model: TransferModel, precision: str) -> Any:
    """The digest of what computes the features.

    That is weights, buffers, how they are pooled, device, precision and versions.
    """
    digest = hashlib.sha256()
    facts = {
        "kind": model.feature_kind,
        "precision": precision,
        "block": BLOCK,
        "device": next(model.parameters()).device.type,
        "versions": _versions(),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in _frozen_tensors(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest


def _digest_inputs(digest: Any, inputs: dict[str, Any]) -> None:
    """Add one row as the network reads it: text, tokenizer, cutting and transforms are in there."""
    for name, value in sorted(inputs.items()):
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)


def _frozen_tensors(model: TransferModel) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, parameter) for name, parameter, part in named_parts(model) if part != HEAD)
    yield from model.network.named_buffers()


def _versions() -> dict[str, str]:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__}
