"""Custom task: token classification, such as named entities or parts of speech, with a BERT.

A row: {"words": ["Sales", "rose", "76%"], "tags": ["O", "O", "FIGURE"]}

    finetune train task=examples/token_tagging.py:TokenTagging data=words.jsonl model=MODEL
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

import finetune as ft
import tasks

NO_TAG = -100  # target of special tokens, padding, and all but the first token of a word


class TokenTaggingConfig(ft.TaskConfig):
    """Keys of the task."""

    name: str = "examples/token_tagging.py:TokenTagging"
    words: str = "words"
    """Column of the words of a sentence, a list of strings."""
    tags: str = "tags"
    """Column of their tags, a list of strings of the same length."""
    max_length: int = 128
    """Maximum number of tokens; longer sentences are truncated."""


class TaggedRows(ft.Rows):
    """Rows with a list of words and a list of tags."""

    @property
    def inputs(self) -> list[str]:
        return [self.config.words]

    def resolve(self, columns: Any, *, with_targets: bool = True) -> ft.Resolved:
        for role in ("words", "tags") if with_targets else ("words",):
            tasks.find_column(getattr(self.config, role), role, columns, (), ())
        return ft.Resolved({}, [])

    def validate(self, row: ft.Row) -> Iterator[str]:
        words, tags = row[self.config.words], row.get(self.config.tags, ())
        if not words:
            yield f"{self.config.words} is empty"
        elif self.config.tags in row and len(words) != len(tags or ()):
            yield f"{len(words)} words, but {len(tags or ())} tags"

    def labels(self, row: ft.Row) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row[self.config.tags] or ()))


class Tagger(ft.TransferModel):
    """A token-classification model of transformers; outputs are logits [B, T, tags]."""

    def __init__(self, source: ft.ModelConfig, **labels: Any) -> None:
        network = tasks.load_network("AutoModelForTokenClassification", source, **labels)
        blocks = tasks.find_blocks(network, heads := ["classifier"])
        layers = tasks.linear_layers(network, blocks)
        super().__init__(network, heads=heads, blocks=blocks, lora_targets=layers)

    def forward(self, batch: ft.Batch) -> Tensor:
        return self.network(**batch["inputs"]).logits


class TokenTagging(ft.Task):
    """Token classification: one tag per word."""

    name = TokenTaggingConfig.model_fields["name"].default
    Config = TokenTaggingConfig
    metric = ("accuracy", "max")

    @property
    def rows(self) -> TaggedRows:
        return TaggedRows(self.config)

    def setup(self, train: Any, source: ft.ModelConfig, *, frozen: bool) -> list[str]:
        self.tags_ = sorted({tag for row in train for tag in self.rows.labels(row)})
        self.tokenizer_ = tasks.load_tokenizer(source)
        return [f"tags: {', '.join(self.tags_)}"]

    def state(self) -> dict[str, Any]:
        return {"tags": self.tags_}

    def restore(self, state: Mapping[str, Any], source: ft.ModelConfig) -> None:
        self.tags_, self.tokenizer_ = state["tags"], tasks.load_tokenizer(source)

    def build_model(self, source: ft.ModelConfig) -> Tagger:
        return Tagger(source, **tasks.label_keys(self.tags_))

    def load_model(self, source: ft.ModelConfig) -> Tagger:
        return Tagger(source)

    def save(self, model: ft.TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    def unseen(self, row: ft.Row) -> Iterator[str]:
        for tag in set(self.rows.labels(row)) - set(self.tags_):
            yield f"{self.config.tags} contains {tag!r}, which does not occur in train"

    def lengths(self, rows: Sequence[ft.Row], *, predicting: bool = False) -> list[ft.Length]:
        sizes = [len(self._tokens(row, truncation=False)["input_ids"]) for row in rows]
        limit = self.config.max_length
        return [ft.Length(min(size, limit), max(size - limit, 0)) for size in sizes]

    def encode(self, row: ft.Row, rng: ft.Rng | None = None) -> ft.Sample:
        tokens = self._tokens(row, truncation=True)
        # Position of the first token of each word, which is the one that is tagged.
        first = {w: at for at, w in reversed([*enumerate(tokens.word_ids())]) if w is not None}
        sample: ft.Sample = {"inputs": dict(tokens), "first": [first[w] for w in sorted(first)]}
        if row.get(self.config.tags):
            sample["target"] = [NO_TAG] * len(tokens["input_ids"])
            for word, at in first.items():
                sample["target"][at] = self.tags_.index(row[self.config.tags][word])
        return sample

    def collate(self, samples: Sequence[ft.Sample], rng: ft.Rng | None = None) -> ft.Batch:
        inputs, pad = [s["inputs"] for s in samples], self.tokenizer_.pad_token_id
        batch = {"inputs": tasks.pad_tokens(inputs, pad), "first": [s["first"] for s in samples]}
        tagged = [{"input_ids": s["target"]} for s in samples if "target" in s]
        if len(tagged) == len(samples):
            targets = tasks.pad_tokens(tagged, NO_TAG)["input_ids"]
            batch |= {"targets": targets, "count": {"loss": (targets != NO_TAG).sum().float()}}
        return batch

    def loss(self, outputs: Tensor, batch: ft.Batch) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(outputs.mT, batch["targets"], reduction="sum")}

    def measure(self, outputs: Tensor, batch: ft.Batch) -> ft.Stats:
        correct = outputs.argmax(2) == batch["targets"]  # [B, T]; NO_TAG never matches
        return {"correct": correct.sum(1), "words": (batch["targets"] != NO_TAG).sum(1)}

    def summarize(self, stats: ft.Stats) -> dict[str, float]:
        return {"accuracy": float(stats["correct"].sum() / stats["words"].sum())}

    def predict(self, model: ft.TransferModel, batch: ft.Batch) -> list[ft.Prediction]:
        """Return {"tags": [one for each word before the truncation]} for each row."""
        rows = zip(model(batch).argmax(2).tolist(), batch["first"], strict=True)
        return [{"tags": [self.tags_[best[at]] for at in first]} for best, first in rows]

    def _tokens(self, row: ft.Row, *, truncation: bool) -> Any:
        settings = {"is_split_into_words": True, "max_length": self.config.max_length}
        return self.tokenizer_(list(row[self.config.words]), truncation=truncation, **settings)
