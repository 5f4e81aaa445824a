"""Text classifiers on tiny models, for tests: rows of each kind of target, set-up without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from finetune.config.schema import ModelConfig
from finetune.model import TransferModel
from finetune.task_parts.samples import Row
from tasks import TextClassification
from tests.support.contract import resolve
from tests.support.tiny_models import LABELS, text_rows

CLOSE = 1e-5
SINGLE = text_rows(8)
SEVERAL = [{**row, "label": [row["label"], LABELS[i % 3]]} for i, row in enumerate(SINGLE)]
SEVERAL_AS_TEXT = [
    {**row, "label": "; ".join(row["label"][i % 2 :])} for i, row in enumerate(SEVERAL)
]
NUMBER = [{**row, "label": 1000.5 + 10 * row["text"].count("a")} for row in SINGLE]
PAIR = [
    {"first": one["text"], "second": other["text"], "label": one["label"] == other["label"]}
    for one, other in zip(SINGLE, reversed(text_rows(11)[3:]), strict=True)
]
COLUMNS = [
    {"text": row["text"], **{name: int(name == row["label"]) for name in LABELS}} for row in SINGLE
]
INTEGERS = [{**row, "label": index % 2} for index, row in enumerate(SINGLE)]
TITLED = [
    {"title": ["News", None][index % 2], "body": row["text"], "label": row["label"]}
    for index, row in enumerate(SINGLE)
]
LISTS_AS_TEXT = [{**row, "label": f"[1, 0, {index % 2}]"} for index, row in enumerate(SINGLE)]


def set_up(
    model: Path, rows: list[Row] | Dataset, **keys: Any
) -> tuple[TextClassification, TransferModel]:
    """Set up a task on `rows`; return it and its untrained network."""
    table = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    task, source = TextClassification(**keys), ModelConfig(name=str(model))
    resolve(task, table[:100])
    task.setup(table, source, frozen=False)
    torch.manual_seed(0)
    return task, task.build_model(source)


def labeled(*labels: Any) -> list[Row]:
    """Make a row for each label, with different texts."""
    return [{"text": f"the year {index}", "label": label} for index, label in enumerate(labels)]
