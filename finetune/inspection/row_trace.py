"""One row on its way from the data to a prediction, as the untrained network sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.batching.data_loader import encode_batch, load_batches
from finetune.batching.plan import MicroBatch
from finetune.distributed.devices import as_float32, to_device
from finetune.inference.evaluation_loop import mean_loss
from finetune.model import Batch
from finetune.task_parts.samples import Row, take_rows
from finetune.training.setup import Prepared
from finetune.training.state import Live

_EXCERPT = 160  # characters of a value


def trace_row(prepared: Prepared) -> dict[str, str]:
    """Trace the first row of the first step from the row to its prediction, {stage: text}."""
    live = prepared.live
    micro_batch = live.plan.micro_batches(0, live.accelerator.process_index)[0]
    row: Row = take_rows(live.train.rows, [micro_batch.indices[0]])[0]
    sample = live.task.encode(row)
    batch = build_batch(live, micro_batch)
    live.model.eval()
    with torch.inference_mode(), live.accelerator.autocast():
        outputs = as_float32(live.model(batch))  # as in the training loop
        alone = encode_batch(live.task, [row])
        prediction = live.task.predict(live.model, to_device(alone, live.accelerator.device))[0]
    sums = {term: float(value) for term, value in live.task.loss(outputs, batch).items()}
    losses = mean_loss(sums, {term: float(count) for term, count in batch["count"].items()})
    facts = {
        "row": "\n".join(f"{name}: {_excerpt(_cell(value))}" for name, value in row.items()),
        "sample": _outline(sample),
        "read as": live.task.views.show(sample)[: 4 * _EXCERPT],
        "batch": _outline(batch),
        "outputs": _outline(outputs),
        "loss": ", ".join(f"{name} {value:.4f}" for name, value in losses.items()) + ", untrained",
        "prediction": f"{_excerpt(_json(prediction))}, untrained",
    }
    return {name: text for name, text in facts.items() if text}


def build_batch(live: Live, micro_batch: MicroBatch) -> Batch:
    """Build a batch as in the training loop, on the device of the run."""
    device, seed = live.accelerator.device, live.config.train.seed
    _, batch = next(load_batches(live.train, live.task, [micro_batch], seed=seed, device=device))
    return to_device(batch, device)  # type: ignore[no-any-return]


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) for the leaves of nested dicts; a list of scalars is one leaf."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, tuple | list) and any(isinstance(item, Tensor | dict) for item in value):
        for place, item in enumerate(value):
            yield from _leaves(item, f"{name}.{place}" if name else str(place))
    else:
        yield name, value


def _outline(nested: Any) -> str:
    """Describe each leaf of a nested value in a line: its name, type and shape."""
    leaves = _leaves(nested)
    return "\n".join(f"{name or type(value).__name__}: {_shape(value)}" for name, value in leaves)


def _shape(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, list):
        return f"{len(value)} values"
    return _excerpt(value)


def _cell(value: Any) -> Any:
    """Return a cell with the lengths of arrays, such as token ids, in their place."""
    if isinstance(value, dict):
        return {key: _cell(item) for key, item in value.items()}
    return f"{value.size} values" if isinstance(value, np.ndarray) else value


def _excerpt(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]} ... ({len(text)} characters)"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
