"""Key of cached features: a digest of everything that they depend on.

That is every weight and buffer, every plain value that a module of the network holds, the config
that its library read, the code of its classes, precision and device; and, row by row, what the
network is fed, which reflects texts, images, tokenizer, truncation and transforms.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import finetune
from finetune.distributed.positional_dropout import prefers_matmul
from finetune.model import HEAD, TransferModel, named_parts

# Rows per batch; fewer on a CPU, whose caches then hold more of what a layer computes. They depend
# on nothing else, since the composition of a batch affects the last bits of its features.
BLOCK, CPU_BLOCK = 32, 16
# Values without influence on features: places, labels, and how the wrapper is trained.
_IGNORED = {"base", "batch_norm", "kind", "name_or_path", "num_classes", "num_labels", "training"}
_IGNORED |= {"_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type"}
_IGNORED |= {"torch_dtype", "transformers_version"}
_SCALARS = (bool, int, float, str, type(None), torch.dtype)


def digest_model(model: TransferModel, precision: str) -> Any:
    """Return a digest of what computes the features: the frozen network, its code, the device."""
    digest = hashlib.sha256()
    device = next(model.parameters()).device
    facts = {
        "kind": model.feature_kind,
        "precision": precision,
        "block": block_size(device),
        "device": device.type,
        "code": dict(_code(model)),
        **({"attention": "matmul"} if prefers_matmul(device, precision) else {}),
    }
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for line in _settings(model):
        digest.update(line.encode("utf-8", "surrogatepass"))
    for name, tensor in _frozen_tensors(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest


def block_size(device: torch.device) -> int:
    """Return the rows per batch on a device."""
    return CPU_BLOCK if device.type == "cpu" else BLOCK


def digest_inputs(digest: Any, inputs: Mapping[str, Any]) -> None:
    """Add what the network is fed, of one row or of a batch."""
    for name, value in sorted(inputs.items()):
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)


def _frozen_tensors(model: TransferModel) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, parameter) for name, parameter, part in named_parts(model) if part != HEAD)
    yield from model.network.named_buffers()


def _settings(model: TransferModel) -> Iterator[str]:
    """Yield the plain values of all modules but the heads, and the configs of their library."""
    heads = tuple(f"network.{name}" for name in model.heads)
    configs: set[int] = set()
    for name, module in model.named_modules():
        if any(name == head or name.startswith(f"{head}.") for head in heads):
            continue
        values = {key: _plain(value) for key, value in vars(module).items() if key not in _IGNORED}
        kept = {key: value for key, value in values.items() if value is not None}
        yield f"\n{name} {type(module).__qualname__} {sorted(kept.items())}"
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "to_dict") and id(config) not in configs:
            configs.add(id(config))
            entries = {k: v for k, v in config.to_dict().items() if k not in _IGNORED}
            entries["attention"] = getattr(config, "_attn_implementation", None)  # not in to_dict
            yield f"\n{name} config {json.dumps(entries, sort_keys=True, default=str)}"


def _plain(value: Any) -> str | None:
    """Return a text for a number, a text, a function, or a list of numbers; else None."""
    if isinstance(value, list | tuple | torch.Size):
        is_plain = all(isinstance(item, int | float) for item in value)
        return repr(tuple(value)) if is_plain else None
    if isinstance(value, _SCALARS):
        return repr(value)
    is_code = inspect.isroutine(value) or inspect.isclass(value)
    return f"{value.__module__}.{value.__qualname__}" if is_code else None


def _code(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the version of each package with a class of the network, or a digest of its source."""
    classes = {kind for module in model.modules() for kind in type(module).__mro__}
    yield "finetune", f"{finetune.__version__} {_digest_sources(Path(__file__).parent)}"
    for name in sorted({kind.__module__ for kind in classes}):
        root = name.partition(".")[0]
        version = getattr(sys.modules.get(root), "__version__", None)
        if version is not None:
            yield root, str(version)
        elif root != "builtins" and root not in sys.stdlib_module_names:
            yield name, _digest_module(name, [kind for kind in classes if kind.__module__ == name])


def _digest_module(name: str, classes: list[type]) -> str:
    """Digest the source of a module and of those beside it in its package, which it may call."""
    path = getattr(sys.modules.get(name), "__file__", None)
    if path is not None and Path(path).is_file():
        is_packaged = Path(path).with_name("__init__.py").is_file()
        return _digest_sources(Path(path).parent if is_packaged else Path(path))
    try:
        texts = sorted(inspect.getsource(kind) for kind in classes)
    except (OSError, TypeError):  # defined where no source is kept
        texts = sorted(kind.__qualname__ for kind in classes)
    return hashlib.sha256("".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


@cache
def _digest_sources(path: Path) -> str:
    """Digest a source file, or all of a folder."""
    files = sorted(path.glob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
