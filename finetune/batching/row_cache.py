"""Disk cache of the features that a frozen backbone computes for each row.

    <cache>/<key>/  manifest.json  <name>.bin

The key is a digest of everything that the features depend on: weights, encoded rows, precision and
library versions. Files are flat and memory-mapped, one tensor [N, ...] each in the order of the
rows. Arrow is not used because it has no bfloat16.
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
from finetune.io.files import publish, remove_path
from finetune.model import HEAD, Batch, TransferModel, named_parts
from finetune.task import Task
from finetune.task_parts import Sample, take_rows

# Rows per batch. Constant, since the composition of a batch affects the last bits of its features.
BLOCK = 32
# Limit for the arrays of encoded rows that are kept in memory until the network reads them.
KEPT_BYTES = 2**29
# Seconds after which an unfinished build counts as killed.
ABANDONED = 7 * 24 * 3600


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


def cache_root() -> Path:
    """Return the folder of cached features in $FINETUNE_CACHE, by default ~/.cache/finetune."""
    root = os.environ.get("FINETUNE_CACHE") or Path.home() / ".cache" / "finetune"
    return Path(root) / "features"


def attach_features(
    model: TransferModel,
    task: Task,
    split: Split,
    accelerator: accelerate.Accelerator,
    plan: CachePlan,
    progress: Watch,
) -> tuple[Split, str]:
    """Attach features to a split, from the cache or computed now; also return a note on which.

    Every process computes its blocks of rows; the blocks are the same for any number of processes.
    `progress` wraps the iterator of batches and gets their number. Raises ModelError if the
    features would exceed the plan's limit.
    """
    base, views = digest_model(model, plan.precision), list[dict[str, Tensor]]()
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
        # The first process decides for all, since another run may finish these features meanwhile.
        facts = [(folder / "manifest.json").is_file(), uuid4().hex[:8]]
        is_cached, name = broadcast_object_list(facts)
        if not is_cached:
            # A unique name, since two runs may build the same features at once.
            partial = folder.with_name(f"{folder.name}.{name}.partial")
            _build(model, encoder, accelerator, partial, plan, progress)
            if accelerator.is_main_process:
                _publish_features(partial, folder)
            computed += 1
        accelerator.wait_for_everyone()
        views.append(_open(folder))
    how = "computed" if computed else "read from the cache"
    in_views = f" in {len(views)} views" if len(views) > 1 else ""
    note = f"{split.name}: features of {len(split)} rows{in_views} {how} ({folder})"
    return replace(split, features=StoredFeatures(views, targets)), note


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
    plan: CachePlan,
    progress: Watch,
) -> None:
    """Compute the features of this process's rows into files in `folder`, shared by all."""
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


def _publish_features(partial: Path, folder: Path) -> None:
    """Rename complete features to `folder`, and remove leftovers of killed builds."""
    # Another run may have finished the same features meanwhile; they are equal.
    if (folder / "manifest.json").is_file():
        remove_path(partial)
    else:
        publish(partial, folder)
    for leftover in folder.parent.glob("*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime > ABANDONED:
                shutil.rmtree(leftover)


def _open(folder: Path) -> dict[str, Tensor]:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {name: _map_file(folder / f"{name}.bin", **facts) for name, facts in manifest.items()}


def _map_file(path: Path, dtype: str, shape: list[int], create: bool = False) -> Tensor:
    """Memory-map a tensor. All processes may create the file; each writes its own rows."""
    kind = getattr(torch, dtype)
    size = int(torch.Size(shape).numel())
    if create:
        with _writing(path), path.open("ab") as file:
            file.truncate(size * kind.itemsize)
            if hasattr(os, "posix_fallocate"):  # to fail on a full disk here, not by SIGBUS later
                os.posix_fallocate(file.fileno(), 0, size * kind.itemsize)
    return torch.from_file(str(path), shared=create, size=size, dtype=kind).view(shape)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(
            f"{path}: cannot write the features ({error}); free some space, set the environment "
            "variable FINETUNE_CACHE to a folder on another disk, or set method.cache=off"
        ) from error


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


def digest_model(model: TransferModel, precision: str) -> Any:
    """Return a digest of what computes the features.

    It covers weights, buffers, pooling, device, precision and library versions.
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
    """Add an encoded row, which reflects its text, the tokenizer, truncation and transforms."""
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
