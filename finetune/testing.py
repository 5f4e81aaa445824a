"""check_task: the public test of the contract.

    def test_my_task_keeps_the_contract():
        check_task(MyTask(text="body"), rows, model="path/to/a/tiny/model")

A new task's test file is fixtures and one call of it. Each check asserts one promise of
`finetune.task` that the engine relies on, and says what breaks without it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.batching.data_loader import encode_batch
from finetune.batching.parts import in_parts
from finetune.config.schema import ModelConfig
from finetune.distributed.devices import tensors_in
from finetune.errors import ModelError
from finetune.export.final_model import compute_outputs, relative_difference
from finetune.model import HEAD, TransferModel, named_parts, part_named, saved_model
from finetune.task import Task
from finetune.task_parts import Row, Sample

# Of the largest value; another composition of a batch reorders float32 sums.
CLOSE = 1e-5


def check_task(task: Task, rows: Sequence[Row], model: str | ModelConfig) -> None:
    """Assert that a task keeps the contract, on the CPU with a small network.

    `rows` are labelled and at least 4; the task must not have been set up. Raises AssertionError
    with the promise that is broken.
    """
    import datasets

    assert len(rows) >= 4, "give at least 4 rows, so that batches can be cut in different ways"
    source = model if isinstance(model, ModelConfig) else ModelConfig(name=model)
    table = datasets.Dataset.from_list(list(rows))
    rows = list(table)
    given = task.config.model_copy(deep=True)
    task.settle(task.rows.resolve(table[:100]).keys)
    check_rows_part(task, rows)
    task.setup(table, source, frozen=False)
    check_rows_part(task, rows)
    check_encoding(task, rows)
    torch.manual_seed(0)
    network = task.build_model(source)
    network.eval()
    check_seam(network)
    check_sums(task, network, rows)
    check_modes(task, network, rows)
    check_gradients(task, network, rows)
    check_features(task, network, list(in_parts(table, task)[0])[: len(rows)])
    check_judgement(task, network, rows)
    check_reload(task, network, rows)
    assert task.config == given, "the config was changed; settle keys with Task.settle"


def check_rows_part(task: Task, rows: Sequence[Row]) -> None:
    """The rows part finds no fault with good rows, before setup and after, and names labels."""
    own = task.rows
    faults = [fault for row in rows for fault in own.validate(row)]
    assert not faults, f"rows.validate finds fault with good rows: {faults[0]}"
    assert own.validate_many(rows) == [[] for _ in rows], "rows.validate_many differs from validate"
    for row in rows:
        labels = own.labels(row)
        assert isinstance(labels, tuple), f"rows.labels gives {labels!r}, not a tuple"
        assert len(set(labels)) == len(labels), f"rows.labels names a label twice: {labels}"
        hash(own.identity(row))


def check_encoding(task: Task, rows: Sequence[Row]) -> None:
    """encode and collate need no model; encode is a function of the row, or of row and rng; lengths
    fit the rows.
    """
    assert _same(task.encode(rows[0]), task.encode(rows[0])), "encode without rng is random"
    drawn = [task.encode(rows[0], np.random.default_rng(7)) for _ in range(2)]
    assert _same(*drawn), (
        "encode draws from something else than its rng: a resumed run would differ"
    )
    lengths = task.lengths(rows)
    assert len(lengths) == len(rows), "lengths gives another number of lengths than rows"
    assert all(length.used >= 1 and length.cut >= 0 for length in lengths), (
        "a length is below 1, or cut below 0"
    )
    encode_batch(task, rows)
    unseen = [fault for row in rows for fault in task.unseen(row)]
    assert not unseen, f"unseen names what the training rows hold: {unseen[0]}"


def check_seam(model: TransferModel) -> None:
    """Heads and blocks hold every parameter once, and LoRA is offered no head."""
    try:
        parts = [part for _, _, part in named_parts(model)]
    except ModelError as error:
        raise AssertionError(str(error)) from error
    for index, names in enumerate(model.blocks):
        assert index in parts, f"block {index} ({', '.join(names)}) holds no parameter"
    assert not model.heads or HEAD in parts, "heads are named but hold no parameter"
    for name in model.lora_targets:
        part_named(model.network, name)
        inside = any(name == head or name.startswith(f"{head}.") for head in model.heads)
        assert not inside, f"lora_targets offers {name}, which lies in a head"


def check_sums(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Losses and counts of a batch are the sums of those of its rows.

    Micro-batches and processes depend on it.
    """
    samples = [task.encode(row) for row in rows]
    whole_loss, whole_count = _loss_and_count(task, model, samples)
    assert whole_loss.keys() == whole_count.keys(), "loss and count name different terms"
    for value in whole_loss.values():
        assert value.shape == () and value.dtype == torch.float32, (
            "a loss term must be one float32 number"
        )
    parts = [_loss_and_count(task, model, [sample]) for sample in samples]
    for term, value in whole_loss.items():
        summed = sum(float(loss[term]) for loss, _ in parts)
        assert abs(summed - float(value)) <= CLOSE * max(abs(float(value)), 1), (
            f"loss term {term!r} of a batch is {float(value)}, but {summed} over its rows: "
            "it must be a sum"
        )
        counted = sum(float(count[term]) for _, count in parts)
        assert abs(counted - float(whole_count[term])) <= 1e-6 * max(counted, 1), (
            f"count {term!r} must be a sum"
        )


def check_modes(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Outputs are of one kind in train and eval mode, so loss and measure serve both."""
    batch = encode_batch(task, rows)
    shapes = []
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            shapes.append(_shapes(model(batch)))
    assert shapes[0] == shapes[1], (
        f"outputs differ in kind: {shapes[0]} in train mode, {shapes[1]} in eval mode"
    )


def check_gradients(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Every parameter gets a gradient, or a distributed run would hang."""
    batch = encode_batch(task, rows)
    model.zero_grad()
    torch.stack(list(task.loss(model(batch), batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    idle = [name for name, parameter in model.network.named_parameters() if parameter.grad is None]
    model.zero_grad()
    assert not idle, (
        f"these parameters get no gradient; leave them out of the network: {', '.join(idle[:5])}"
    )


def check_features(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Where features can be cached, outputs from them are live ones, and targets collate alone."""
    if not model.cacheable:
        return
    samples = [task.encode(row) for row in rows]
    batch = task.collate(samples)
    targets_only = task.collate([_without("inputs", sample) for sample in samples])
    assert "inputs" not in targets_only, "collate invents inputs for samples without them"
    with torch.no_grad():
        features = model.features(batch["inputs"])
        assert all(len(value) == len(rows) for value in features.values()), (
            "features must have the batch axis first"
        )
        live, cached = model(batch), model({**targets_only, "features": features})
    difference = relative_difference(_float_tensors(live), _float_tensors(cached))
    assert difference <= CLOSE, "outputs from features differ from live ones"


def check_judgement(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Judgements fit their rows.

    measure is per sample; summarize gives floats, the selecting metric among them; predict says one
    thing a row.
    """
    batch = encode_batch(task, rows)
    with torch.no_grad():
        outputs = model(batch)
        stats = task.measure(outputs, batch)
        predictions = task.predict(model, batch)
    for name, value in stats.items():
        assert len(value) == len(rows), f"statistic {name!r} has not the batch axis first"
    metrics = task.summarize(stats)
    assert all(isinstance(value, float) for value in metrics.values()), "a metric is no float"
    name, direction = task.metric
    assert name in {*metrics, "loss"} and direction in ("max", "min"), (
        f"no metric {name!r} to select by"
    )
    assert len(predictions) == len(rows), "predict gives another number of predictions than samples"
    json.dumps(predictions)
    unlabelled = task.collate([_without("target", task.encode(row)) for row in rows])
    said = task.predict(model, unlabelled)
    assert len(said) == len(rows), "rows without a label cannot be predicted"


def check_reload(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """What is saved, reloaded by another task of the same config, encodes and answers alike."""
    state = json.loads(json.dumps(task.state()))
    before = compute_outputs(model, task, rows, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task.save(model, folder)
        config = type(task.config).model_validate_json(task.resolved_.model_dump_json())
        again, source = type(task)(config), saved_model(folder)
        again.restore(state, source)
        assert _same(task.encode(rows[0]), again.encode(rows[0])), (
            "a restored task encodes otherwise"
        )
        after = compute_outputs(again.load_model(source), again, rows, torch.device("cpu"))
    difference = relative_difference(before, after)
    assert difference <= CLOSE, (
        f"the reloaded model differs by {difference:.1e} of its largest output"
    )


def _loss_and_count(
    task: Task, model: TransferModel, samples: Sequence[Sample]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
    batch = task.collate(samples)
    with torch.no_grad():
        return task.loss(model(batch), batch), batch["count"]


def _without(key: str, sample: Sample) -> Sample:
    return {name: value for name, value in sample.items() if name != key}


def _float_tensors(value: Any) -> list[Tensor]:
    return [tensor.float() for tensor in tensors_in(value)]


def _shapes(value: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in tensors_in(value)]


def _same(one: Any, other: Any) -> bool:
    """Whether two nests of dicts, lists, arrays and tensors are equal bit for bit."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor | np.ndarray):
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    return bool(one == other)
