"""A task of one's own: tagging every word of a sentence (names, parts of speech) with a BERT.

A row: {"words": ["Sales", "rose", "76%"], "tags": ["O", "O", "FIGURE"]}

    finetune train task=examples/token_tagging.py:TokenTagging data=words.jsonl model=MODEL
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForTokenClassification

from finetune import Length, Task, TransferModel
from finetune.config.schema import ModelConfig, TaskConfig
from finetune.io.references import resolve_model
from finetune.model import Batch
from finetune.task import Prediction, Rng, Row, Sample, Stats
from tasks.backbones.pretrained import quiet_transformers
from tasks.backbones.seams import find_blocks, linear_layers
from tasks.classification.label_columns import find_column
from tasks.text.tokenization import load_tokenizer, pad

NO_TAG = -100  # of special tokens, padding, and all but the first token of a word


class TokenTaggingConfig(TaskConfig):
    """Which columns are read, and how much of a sentence."""

    name: str = "examples/token_tagging.py:TokenTagging"
    words: str = "words"
    """Column of the words of a sentence, a list of texts."""
    tags: str = "tags"
    """Column of their tags, a list of texts of the same length."""
    max_length: int = 128
    """Tokens that the network reads."""


class Tagger(TransferModel):
    """A token-classification network of transformers; it gives logits [rows, tokens, tags]."""

    def __init__(self, path: Path | str, **labels: Any) -> None:
        with quiet_transformers():
            network = AutoModelForTokenClassification.from_pretrained(path, **labels).float()
        blocks = find_blocks(network, heads := ["classifier"])
        layers = linear_layers(network, blocks)
        super().__init__(network, heads=heads, blocks=blocks, lora_targets=layers)

    def forward(self, batch: Batch) -> Tensor:
        return self.network(**batch["inputs"]).logits


class TokenTagging(Task):
    """Tag every word of a sentence."""

    name = TokenTaggingConfig.model_fields["name"].default
    Config = TokenTaggingConfig
    metric = ("accuracy", "max")
    tags_: Sequence[str] = ()

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        for role in ("words", "tags"):
            find_column(getattr(self.config, role), role, columns, (), ())
        return []

    def validate(self, row: Row) -> Iterator[str]:
        words, tags = row[self.config.words], row.get(self.config.tags, ())
        if not words:
            yield f"{self.config.words} is empty"
        elif self.config.tags in row and len(words) != len(tags or ()):
            yield f"{len(words)} words have {len(tags or ())} tags"
        if self.tags_ and (unseen := sorted(set(tags or ()) - set(self.tags_))):
            yield f"{self.config.tags} holds {unseen[0]!r}, which no row of train has"

    def input_columns(self) -> list[str]:
        return [self.config.words]

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        self.tags_ = sorted({tag for tags in train[self.config.tags] for tag in tags})
        self.tokenizer_ = load_tokenizer(source)
        return [f"tags: {', '.join(self.tags_)}"]

    def state(self) -> dict[str, Any]:
        return {"tags": self.tags_}

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        self.tags_ = state["tags"]
        self.tokenizer_ = load_tokenizer(self.saved(folder))

    def build_model(self, source: ModelConfig) -> Tagger:
        ids = {tag: index for index, tag in enumerate(self.tags_)}
        names = dict(enumerate(self.tags_))
        return Tagger(resolve_model(source.name), id2label=names, label2id=ids)

    def load_model(self, folder: Path | str) -> Tagger:
        return Tagger(folder)

    def save(self, model: TransferModel, folder: Path) -> None:
        with quiet_transformers():
            model.network.save_pretrained(folder)
        self.tokenizer_.save_pretrained(folder)

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        sizes = [len(self._tokens(row, truncation=False)["input_ids"]) for row in rows]
        limit = self.config.max_length
        return [Length(min(size, limit), max(size - limit, 0)) for size in sizes]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        tokens = self._tokens(row, truncation=True)
        # Where the first token of each word stands: it speaks for the word.
        first = {word: at for at, word in reversed(list(enumerate(tokens.word_ids())))}
        first.pop(None, None)
        sample: Sample = {"inputs": dict(tokens), "first": [first[word] for word in sorted(first)]}
        if row.get(self.config.tags):
            sample["target"] = [NO_TAG] * len(tokens["input_ids"])
            for word, at in first.items():
                sample["target"][at] = self.tags_.index(row[self.config.tags][word])
        return sample

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        inputs = pad([sample["inputs"] for sample in samples], self.tokenizer_.pad_token_id)
        batch: Batch = {"inputs": inputs, "first": [sample["first"] for sample in samples]}
        if all("target" in sample for sample in samples):
            targets = pad([{"input_ids": s["target"]} for s in samples], NO_TAG)["input_ids"]
            batch |= {"targets": targets, "count": {"loss": (targets != NO_TAG).sum().float()}}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        logits, targets = outputs.flatten(0, 1), batch["targets"].flatten()
        return {"loss": functional.cross_entropy(logits, targets, reduction="sum")}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        right = outputs.argmax(2) == batch["targets"]  # [B, T]; nothing equals NO_TAG
        return {"right": right.sum(1), "words": (batch["targets"] != NO_TAG).sum(1)}

    def summarize(self, stats: Stats) -> dict[str, float]:
        return {"accuracy": float(stats["right"].sum() / stats["words"].sum())}

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """{"tags": [one for each word that was read]}."""
        rows = zip(model(batch).argmax(2).tolist(), batch["first"], strict=True)
        return [{"tags": [self.tags_[best[at]] for at in first]} for best, first in rows]

    def _tokens(self, row: Row, *, truncation: bool) -> Any:
        settings = {"is_split_into_words": True, "max_length": self.config.max_length}
        return self.tokenizer_(list(row[self.config.words]), truncation=truncation, **settings)
