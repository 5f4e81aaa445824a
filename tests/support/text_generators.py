"""Text generators on tiny models, for tests: rows of each format, set-up without training, runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer

import finetune
from finetune.config.schema import ModelConfig
from finetune.task_parts.samples import Row
from tasks import TextGeneration
from tasks.generation.language_models import LanguageModel
from tests.support.contract import resolve
from tests.support.tiny_models import answered_rows, text_rows

CLOSE = 1e-5
NETWORKS = ["gpt2", "llama", "t5", "bart"]
TEMPLATES = {"prompt": "Text: {body}\nTopic:", "completion": "{answer}"}
ANSWERED = answered_rows(6)
PLAIN = [{"text": row["text"]} for row in text_rows(6)]
TURNS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Name the topic."},
            {"role": "user", "content": row["body"]},
            {"role": "assistant", "content": row["answer"].strip()},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "yes"},
        ]
    }
    for row in ANSWERED
]


def set_up(
    model: Path | str, rows: list[Row], **keys: Any
) -> tuple[TextGeneration, LanguageModel, list[str]]:
    """Set up a task on `rows`; return it, its untrained network, and the notes on the choices."""
    table, source = Dataset.from_list(rows), ModelConfig(name=str(model))
    task = TextGeneration(**keys)
    notes = resolve(task, table[:100])
    notes += task.setup(table, source, frozen=False)
    network = task.build_model(source)
    assert isinstance(network, LanguageModel)
    return task, network.eval(), [*notes, *network.notes]


def with_chat_template(folder: Path, copy: Path) -> Path:
    """Copy a model and give its tokenizer a chat template, as that of an Instruct model."""
    shutil.copytree(folder, copy)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.chat_template = TURNS
    tokenizer.save_pretrained(copy)
    return copy


def native_logits(task: TextGeneration, network: LanguageModel, row: Row) -> Tensor:
    """Compute the logits of one row by the library's own forward pass, where there is loss."""
    batch = task.collate([task.encode(row)])
    inputs = {name: value for name, value in batch["inputs"].items() if name != "positions"}
    with torch.inference_mode():
        return network.network(**inputs).logits[0, batch["inputs"]["positions"]]  # type: ignore[no-any-return,operator]


def loss_text(task: TextGeneration, row: Row) -> str:
    """Decode the tokens of a row that carry loss."""
    batch = task.collate([task.encode(row)])
    return str(task.tokenizer_.decode(batch["targets"]["ids"]))


def train(model: Path, folder: Path, rows: list[Row], **keys: Any) -> finetune.Run:
    """Train a text generator on `rows`, with a learning rate for tiny models."""
    return finetune.train(
        "text-generation", data=rows, model=str(model), output=str(folder), lr=3e-3, **keys
    )
