"""check_task: a public test suite for the task contract.

    def test_my_task_keeps_the_contract():
        check_task(MyTask(text="body"), rows, model="path/to/a/tiny/model")

The test file of a new task needs fixtures and this one call. Each check asserts one promise of
`finetune.task` that the engine relies on, and its message names the promise that is broken.
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
from finetune.batching.parts import split_into_parts
from finetune.config.schema import ModelConfig
from finetune.distributed.devices import tensors_in
from finetune.errors import ModelError
from finetune.export.final_model import compute_outputs, relative_difference
from finetune.model import HEAD, TransferModel, get_part, named_parts, saved_model
from finetune.task import Task
from finetune.task_parts.samples import Row, Sample

# Relative to the largest value: float32 sums depend on how rows are batched.
CLOSE = 1e-5


def check_task(task: Task, rows: Sequence[Row], model: str | ModelConfig) -> None:
    """Assert that a task keeps the contract, on the CPU with a small network.

    Needs at least 4 labeled rows and a task that has not been set up. Raises AssertionError that
    names the broken promise.
    """
    import datasets

    assert len(rows) >= 4, "pass at least 4 rows, so that they can be batched in different ways"
    source = model if isinstance(model, ModelConfig) else ModelConfig(name=model)
    table = datasets.Dataset.from_list(list(rows))
    rows = list(table)
    config = task.config.model_copy(deep=True)
    task.settle(task.rows.resolve(table[:100]).keys)
    check_rows_part(task, rows)
    check_whole_tables(task, table)
    task.setup(table, source, frozen=False)
    check_rows_part(task, rows)
    check_encoding(task, rows)
    torch.manual_seed(0)
    network = task.build_model(source)
    network.eval()
    check_blocks_and_heads(network)
    check_sums(task, network, rows)
    check_modes(task, network, rows)
    check_gradients(task, network, rows)
    check_features(task, network, list(split_into_parts(table, task)[0])[: len(rows)])
    check_results(task, network, rows)
    check_reload(task, network, rows)
    assert task.config == config, "task.config was changed; fill open keys with Task.settle"


def check_rows_part(task: Task, rows: Sequence[Row]) -> None:
    """Assert that `rows` accepts valid rows, before and after setup, and returns labels."""
    part = task.rows
    faults = [fault for row in rows for fault in part.validate(row)]
    assert not faults, f"rows.validate rejects a valid row: {faults[0]}"
    assert part.validate_many(rows) == [[] for _ in rows], (
        "rows.validate_many differs from rows.validate"
    )
    for row in rows:
        labels = part.labels(row)
        assert isinstance(labels, tuple), f"rows.labels returns {labels!r}, not a tuple"
        assert len(set(labels)) == len(labels), f"rows.labels repeats a label: {labels}"
        hash(part.identity(row))


def check_whole_tables(task: Task, table: Any) -> None:
    """Assert that what `rows` reads of a whole table, a Dataset, is what it reads row by row."""
    part, rows = task.rows, list(table)
    for name, of_table, of_row in (
        ("identities_of", part.identities_of, part.identity),
        ("labels_of", part.labels_of, part.labels),
        ("truths_of", part.truths_of, part.truth),
        ("texts_of", part.texts_of, part.texts),
    ):
        assert list(map(repr, of_table(table))) == [repr(of_row(row)) for row in rows], (
            f"rows.{name} differs from the same of each row; override both, or neither"
        )
    cells = {name: table[name][:] for name in table.column_names}
    for column, feature in table.features.items():
        if getattr(feature, "dtype", None) != "string":
            continue
        blank = [None, " ", *cells[column][2:]]
        changed = table.from_dict({**cells, column: blank}, features=table.features)
        faulty = {place for place, row in enumerate(changed) if any(part.validate(row))}
        assert faulty <= {*part.doubtful(changed)}, (
            f"rows.doubtful leaves out a row without {column}, which rows.validate rejects"
        )


def check_encoding(task: Task, rows: Sequence[Row]) -> None:
    """Assert that `encode` depends on the row and the rng alone, and that `lengths` fit the rows.

    Neither `encode` nor `collate` may need a model.
    """
    assert _same(task.encode(rows[0]), task.encode(rows[0])), "encode without rng is random"
    drawn = [task.encode(rows[0], np.random.default_rng(7)) for _ in range(2)]
    assert _same(*drawn), (
        "encode draws random numbers from another source than its rng: a resumed run would differ"
    )
    lengths = task.lengths(rows)
    assert len(lengths) == len(rows), "lengths does not return one length per row"
    assert all(length.used >= 1 and length.cut >= 0 for length in lengths), (
        "lengths returns a `used` below 1 or a `cut` below 0"
    )
    encode_batch(task, rows)
    unseen = [fault for row in rows for fault in task.unseen(row)]
    assert not unseen, f"unseen reports a row that setup has seen: {unseen[0]}"


def check_blocks_and_heads(model: TransferModel) -> None:
    """Assert that every parameter is in one head or block, and that no LoRA target is in a head."""
    try:
        parts = [part for _, _, part in named_parts(model)]
    except ModelError as error:
        raise AssertionError(str(error)) from error
    for index, names in enumerate(model.blocks):
        assert index in parts, f"block {index} ({', '.join(names)}) has no parameters"
    assert not model.heads or HEAD in parts, "heads are named but have no parameters"
    for name in model.lora_targets:
        get_part(model.network, name)
        inside = any(name == head or name.startswith(f"{head}.") for head in model.heads)
        assert not inside, f"lora_targets contains {name}, which is part of a head"


def check_sums(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Assert that losses and counts of a batch are the sums over its rows.

    Gradient accumulation and distributed training rely on it.
    """
    samples = [task.encode(row) for row in rows]
    whole_loss, whole_count = _loss_and_count(task, model, samples)
    assert whole_loss.keys() == whole_count.keys(), "loss and count have different terms"
    for value in whole_loss.values():
        assert value.shape == () and value.dtype == torch.float32, (
            "a loss term must be a float32 scalar"
        )
    parts = [_loss_and_count(task, model, [sample]) for sample in samples]
    for term, value in whole_loss.items():
        summed = sum(float(loss[term]) for loss, _ in parts)
        assert abs(summed - float(value)) <= CLOSE * max(abs(float(value)), 1), (
            f"loss term {term!r} is {float(value)} for a batch, but {summed} summed over its rows: "
            "it must be a sum"
        )
        counted = sum(float(count[term]) for _, count in parts)
        assert abs(counted - float(whole_count[term])) <= 1e-6 * max(counted, 1), (
            f"count {term!r} must be a sum"
        )


def check_modes(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Assert that outputs have the same shapes in train and eval mode."""
    batch = encode_batch(task, rows)
    shapes = []
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            shapes.append(_shapes(model(batch)))
    assert shapes[0] == shapes[1], (
        f"outputs differ in shape: {shapes[0]} in train mode, {shapes[1]} in eval mode"
    )


def check_gradients(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Assert that every parameter gets a gradient; otherwise a distributed run would hang."""
    batch = encode_batch(task, rows)
    model.zero_grad()
    torch.stack(list(task.loss(model(batch), batch).values())).sum().backward()  # type: ignore[no-untyped-call]
    unused = [name for name, param in model.network.named_parameters() if param.grad is None]
    model.zero_grad()
    assert not unused, (
        f"these parameters get no gradient: {', '.join(unused[:5])}; remove them from the network"
    )


def check_features(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Assert that outputs from cached features equal live ones, if features can be cached.

    Samples without "inputs" must collate, too.
    """
    if not model.cacheable:
        return
    samples = [task.encode(row) for row in rows]
    batch = task.collate(samples)
    targets_only = task.collate([_without("inputs", sample) for sample in samples])
    assert "inputs" not in targets_only, "collate adds inputs to samples without them"
    with torch.no_grad():
        features = model.features(batch["inputs"])
        assert all(len(value) == len(rows) for value in features.values()), (
            "features must have the batch axis first"
        )
        live, cached = model(batch), model({**targets_only, "features": features})
    difference = relative_difference(_float_tensors(live), _float_tensors(cached))
    assert difference <= CLOSE, "outputs from cached features differ from live ones"


def check_results(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Assert that statistics, metrics and predictions have the promised form.

    `measure` returns per-sample statistics, `summarize` floats with the selecting metric among
    them, and `predict` one prediction per row, also without labels.
    """
    batch = encode_batch(task, rows)
    with torch.no_grad():
        outputs = model(batch)
        stats = task.measure(outputs, batch)
        predictions = task.predict(model, batch)
    for name, value in stats.items():
        assert len(value) == len(rows), f"statistic {name!r} must have the batch axis first"
    metrics = task.summarize(stats)
    assert all(isinstance(value, float) for value in metrics.values()), "metrics must be floats"
    name, direction = task.metric
    assert name in {*metrics, "loss"} and direction in ("max", "min"), (
        f"metric: summarize does not return {name!r}, or the direction {direction!r} is not max or "
        "min"
    )
    assert len(predictions) == len(rows), "predict does not return one prediction per sample"
    json.dumps(predictions)
    outcomes = task.views.outcomes(stats, rows, predictions)
    assert len(outcomes) in (0, len(rows)), "views.outcomes does not return one outcome per row"
    json.dumps([outcome.columns for outcome in outcomes])
    unlabeled = task.collate([_without("target", task.encode(row)) for row in rows])
    predictions = task.predict(model, unlabeled)
    assert len(predictions) == len(rows), "rows without a label cannot be predicted"


def check_reload(task: Task, model: TransferModel, rows: Sequence[Row]) -> None:
    """Assert that a saved model and task, once reloaded, encode and compute the same."""
    state = json.loads(json.dumps(task.state()))
    before = compute_outputs(model, task, rows, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task.save(model, folder)
        config = type(task.config).model_validate_json(task.resolved_.model_dump_json())
        restored, source = type(task)(config), saved_model(folder)
        restored.restore(state, source)
        assert _same(task.encode(rows[0]), restored.encode(rows[0])), (
            "a restored task encodes rows differently"
        )
        after = compute_outputs(restored.load_model(source), restored, rows, torch.device("cpu"))
    difference = relative_difference(before, after)
    assert difference <= CLOSE, (
        f"the outputs of the reloaded model differ by {difference:.1e} of the largest output"
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
    """True if two nested structures of dicts, lists, arrays and tensors are equal bit for bit."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor | np.ndarray):
        return bool(np.array_equal(np.asarray(one), np.asarray(other)))
    return bool(one == other)
