"""A toy task: a small network with BatchNorm, for guarantees that text networks cannot test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from finetune.config.schema import ModelConfig, TaskConfig
from finetune.model import Batch, TransferModel
from finetune.task import Task
from finetune.task_parts.rows import Rows
from finetune.task_parts.samples import Prediction, Rng, Row, Sample, Stats

LETTERS = "abcdefghilmnoprstu"
WIDTH = 12


class LettersConfig(TaskConfig):
    """Config without keys of its own."""

    name: str = "letters"


class Network(nn.Module):
    """Two blocks with BatchNorm and a head."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(len(LETTERS), WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.head = nn.Linear(WIDTH, outputs)


class LettersModel(TransferModel):
    """Logits [B, C] from letter frequencies [B, L]."""

    network: Network

    def __init__(self, outputs: int) -> None:
        network = Network(outputs)
        blocks, targets = [["first"], ["second"]], ["first.0", "second.0"]
        super().__init__(network, heads=["head"], blocks=blocks, lora_targets=targets)

    @property
    def cacheable(self) -> bool:
        return True

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"vector": self.network.second(self.network.first(inputs["shares"]))}

    def forward(self, batch: Batch) -> Tensor:
        features = batch["features"] if "features" in batch else self.features(batch["inputs"])
        return self.network.head(features["vector"])  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        save_file(self.network.state_dict(), folder / "model.safetensors")


class LabeledRows(Rows):
    """Rows with a text and its label."""

    def labels(self, row: Row) -> tuple[str, ...]:
        return (row["label"],)


class Letters(Task):
    """Classify a text by its letter frequencies."""

    name = "letters"
    Config = LettersConfig
    labels_: list[str]

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return "accuracy", "max"

    @property
    def rows(self) -> LabeledRows:
        return LabeledRows(self.resolved_)

    def setup(self, train: Iterable[Row], source: ModelConfig, *, frozen: bool) -> list[str]:
        self.labels_ = sorted({row["label"] for row in train})
        return []

    def state(self) -> dict[str, Any]:
        return {"labels": self.labels_}

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        self.labels_ = list(state["labels"])

    def build_model(self, source: ModelConfig) -> TransferModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LettersModel(len(self.labels_))

    def load_model(self, source: ModelConfig) -> TransferModel:
        model = LettersModel(len(self.labels_))
        model.network.load_state_dict(load_file(Path(source.name) / "model.safetensors"))
        return model

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        shares = [row["text"].count(letter) / len(row["text"]) for letter in LETTERS]
        return {"inputs": {"shares": shares}, "target": self.labels_.index(row["label"])}

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch: Batch = {
            "targets": torch.tensor([sample["target"] for sample in samples]),
            "count": {"loss": torch.tensor(float(len(samples)))},
        }
        if "inputs" in samples[0]:
            shares = [sample["inputs"]["shares"] for sample in samples]
            batch["inputs"] = {"shares": torch.tensor(shares)}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(outputs, batch["targets"], reduction="sum")}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        return {"right": outputs.argmax(1) == batch["targets"]}

    def summarize(self, stats: Stats) -> dict[str, float]:
        return {"accuracy": float(stats["right"].float().mean())}

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        return [{"label": self.labels_[index]} for index in model(batch).argmax(1).tolist()]

    def save(self, model: TransferModel, folder: Path) -> None:
        super().save(model, folder)
        (folder / "labels.json").write_text(json.dumps(self.labels_))
