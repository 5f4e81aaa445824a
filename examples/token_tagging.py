"""A task of one's own: tagging every word of a sentence (named entities, parts of speech) with a
BERT.

A row: {"words": ["Sales", "rose", "76%"], "tags": ["O", "O", "FIGURE"]}

    finetune train task=examples/token_tagging.py:TokenTagging data=words.jsonl
    model=bert-base-cased method=full

Shapes: B rows, T tokens, C tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForTokenClassification, AutoTokenizer

from finetune import Length, Task, TransferModel
from finetune.config import ModelConfig, TaskConfig
from finetune.sources import resolve_model
from finetune.task import Batch, Prediction, Rng, Row, Sample, Stats
from tasks.backbones import find_blocks, linear_layers, quiet_transformers

NO_TAG = -100  # of special tokens and of all but the first token of a word


class TokenTaggingConfig(TaskConfig):
    """Which columns, and how much of a sentence."""

    name: str = "examples/token_tagging.py:TokenTagging"
    words: str = "words"
    """Column of the words of a sentence, a list of texts."""
    tags: str = "tags"
    """Column of their tags, a list of texts of the same length."""
    max_length: int = 128
    """Tokens that the network reads."""


class Tagger(TransferModel):
    """A token-classification network of transformers; outputs are logits [B, T, C]."""

    def __init__(self, network: Any) -> None:
        blocks = find_blocks(network, ["classifier"])
        super().__init__(
            network,
            heads=["classifier"],
            blocks=blocks,
            lora_targets=linear_layers(network, blocks),
        )

    def forward(self, batch: Batch) -> Tensor:
        return self.network(**batch["inputs"]).logits

    def save(self, folder: Path) -> None:
        self.network.save_pretrained(folder)


class TokenTagging(Task):
    """Tag every word of a sentence."""

    name = TokenTaggingConfig.model_fields["name"].default
    Config = TokenTaggingConfig
    metric = ("accuracy", "max")

    def validate(self, row: Row) -> Iterator[str]:
        words, tags = row[self.config.words] or [], row[self.config.tags] or []
        if not words:
            yield f"{self.config.words} is empty"
        elif len(words) != len(tags):
            yield f"{len(words)} words have {len(tags)} tags"

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        self.tags_ = sorted({tag for tags in train[self.config.tags] for tag in tags})
        self.tokenizer_ = AutoTokenizer.from_pretrained(resolve_model(source.name))
        return [f"tags: {', '.join(self.tags_)}"]

    def state(self) -> dict[str, Any]:
        return {"tags": self.tags_}

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        self.tags_ = state["tags"]
        self.tokenizer_ = AutoTokenizer.from_pretrained(folder)

    def build_model(self, source: ModelConfig) -> Tagger:
        return self._load(resolve_model(source.name), id2label=dict(enumerate(self.tags_)))

    def load_model(self, folder: Path | str) -> Tagger:
        return self._load(folder)

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        sizes = [len(self._encode(row, truncation=False)["input_ids"]) for row in rows]
        limit = self.config.max_length
        return [Length(min(size, limit), max(size - limit, 0)) for size in sizes]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        encoded = self._encode(row, truncation=True)
        words = encoded.word_ids()
        sample: Sample = {"inputs": dict(encoded), "words": words}
        if row.get(self.config.tags):
            tags = [self.tags_.index(tag) for tag in row[self.config.tags]]
            first = [
                word is not None and word != before
                for before, word in zip([None, *words], words, strict=False)
            ]
            sample["target"] = [
                tags[w] if is_first else NO_TAG for w, is_first in zip(words, first, strict=True)
            ]
        return sample

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        inputs = self.tokenizer_.pad([sample["inputs"] for sample in samples], return_tensors="pt")
        batch: Batch = {"inputs": dict(inputs), "words": [sample["words"] for sample in samples]}
        if all("target" in sample for sample in samples):
            width = inputs["input_ids"].shape[1]
            targets = [[*s["target"], *[NO_TAG] * (width - len(s["target"]))] for s in samples]
            batch["targets"] = torch.tensor(targets)  # [B, T]
            batch["count"] = {"loss": (batch["targets"] != NO_TAG).sum().float()}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {
            "loss": functional.cross_entropy(
                outputs.flatten(0, 1), batch["targets"].flatten(), reduction="sum"
            )
        }

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        known = batch["targets"] != NO_TAG
        return {
            "right": ((outputs.argmax(2) == batch["targets"]) & known).sum(1),
            "known": known.sum(1),
        }

    def summarize(self, stats: Stats) -> dict[str, float]:
        return {"accuracy": float(stats["right"].sum() / stats["known"].sum())}

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """{"tags": [one a word that was read]}."""
        best = model(batch).argmax(2).tolist()
        found = []
        for tags, words in zip(best, batch["words"], strict=True):
            first = {
                word: tag
                for tag, word in reversed(list(zip(tags, words, strict=False)))
                if word is not None
            }
            found.append({"tags": [self.tags_[first[word]] for word in sorted(first)]})
        return found

    def _load(self, path: Path | str, **config: Any) -> Tagger:
        with quiet_transformers():
            network = AutoModelForTokenClassification.from_pretrained(
                path, dtype=torch.float32, **config
            )
        return Tagger(network)

    def _encode(self, row: Row, *, truncation: bool) -> Any:
        words = list(row[self.config.words])
        return self.tokenizer_(
            words,
            is_split_into_words=True,
            truncation=truncation,
            max_length=self.config.max_length,
        )
