"""Text classification: one label, several labels or a number for a text or a pair of texts.

A row: {"text": "Ad sales boost Time Warner profit ...", "label": "business"}

Shapes: B rows, T tokens, C classes (1 for regression).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError
from finetune.model import Batch, TransferModel
from finetune.task_parts.optional_parts import Embedder, Onnx
from finetune.task_parts.samples import Length, Rng, Row, Sample
from tasks.backbones.load_faults import check_outputs
from tasks.backbones.pretrained import from_pretrained, label_keys, text_network_kind
from tasks.backbones.vector_heads import hidden_shape, unused_head_notes
from tasks.classification.labeled import LabeledTask
from tasks.classification.targets import Number, restore_targets
from tasks.text.long_texts import shorten_texts
from tasks.text.sentence_pooling import saved_pooling
from tasks.text.text_config import TextClassificationConfig, pair_fault
from tasks.text.text_models import (
    TextModel,
    load_native,
    load_native_folder,
    load_pooled,
    load_pooled_folder,
)
from tasks.text.text_rows import TextRows
from tasks.text.text_views import TextViews
from tasks.text.text_windows import (
    WINDOWS,
    check_windows,
    encode_windows,
    split_windows,
    window_length,
)
from tasks.text.tokenization import (
    encode_head_tail,
    limit_length,
    load_tokenizer,
    max_input_length,
    pad_tokens,
    token_lengths,
    unknown_tokens_note,
)
from tasks.text.vocabulary import (
    add_words,
    added_tokens_note,
    check_embeddings,
    embed_words,
    embedding_rows,
)


class TextClassification(LabeledTask):
    """Classification of texts, or regression, with any encoder or decoder of transformers."""

    name = "text-classification"
    Config = TextClassificationConfig
    config: TextClassificationConfig
    resolved_: TextClassificationConfig

    head_: str
    pooling_: str
    tokenizer_: Any = None

    @property
    def rows(self) -> TextRows:
        return TextRows(self.resolved_, self.targets_.state if self.targets_ else {})

    @property
    def views(self) -> TextViews:
        return TextViews(self)

    @property
    def onnx(self) -> Onnx:
        return Onnx(axes=("batch", "length"))

    @property
    def embedder(self) -> Embedder:
        return Embedder(self._build_embedder)

    # ---- labels, tokenizer and network

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        remarks = self.learn(train)
        network = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        self._pieces = add_words(self.tokenizer_, self.resolved_.add_tokens)
        notes = [
            *remarks,
            *self._settle_head(source, text_network_kind(network), frozen),
            *self._settle_length(network),
            *added_tokens_note(self._pieces, self.rows.all_texts(train)),
            *unknown_tokens_note(self.tokenizer_, self.rows.all_texts(train)),
        ]
        self._check_length()
        return notes

    def state(self) -> dict[str, Any]:
        return {"targets": self.targets.state, "head": self.head_, "pooling": self.pooling_}

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        self.targets_ = restore_targets(self.resolved_, state["targets"])
        self.head_, self.pooling_ = state["head"], state["pooling"]
        self.tokenizer_ = load_tokenizer(source)
        self._set_sides()

    def build_model(self, source: ModelConfig) -> TransferModel:
        names = self.targets.names
        if self.head_ == "pooled":
            model: TextModel = load_pooled(
                source, self.pooling_, len(names), hidden_shape(self.resolved_)
            )
        else:
            model = load_native(
                source,
                **label_keys(names),
                problem_type=self.targets.problem_type,
                pad_token_id=self.tokenizer_.pad_token_id,
            )
        model.notes += unused_head_notes(source.name)
        if isinstance(self.targets, Number):
            model.set_scale(self.targets.state["deviation"], self.targets.state["mean"])
        check_embeddings(model.encoder, self.tokenizer_, source.name)
        embed_words(model.encoder, self.tokenizer_, self._pieces)
        rows = self.tokenizer_.convert_tokens_to_ids(list(self._pieces))
        model.new_rows = embedding_rows(model.network, rows, model.encoder.get_input_embeddings())
        model.window_pooling = self.resolved_.window_pooling
        return model

    def load_model(self, source: ModelConfig) -> TransferModel:
        is_pooled = self.head_ == "pooled"
        model: TextModel = load_pooled_folder(source) if is_pooled else load_native_folder(source)
        check_outputs(model.outputs, self.targets.names, source)
        model.window_pooling = self.resolved_.window_pooling
        if isinstance(self.targets, Number):
            model.keep_last_layer_precise()
        return model

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    # ---- from a row to a batch

    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> Sequence[Length]:
        config = self.resolved_
        windows = config.max_windows if config.truncation == "windows" else 1
        texts = self.rows.texts_of(rows)
        lengths = token_lengths(self.tokenizer_, texts, config.max_length, windows)
        if config.truncation != "windows":
            return lengths
        specials = self.tokenizer_.num_special_tokens_to_add()
        settings = (config.max_length, specials, config.window_overlap, config.max_windows)
        return [window_length(length, *settings) for length in lengths]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        config, texts = self.resolved_, self.rows.texts(row)
        max_length = config.max_length
        if config.truncation == "windows":
            inputs = encode_windows(
                self.tokenizer_, texts[0], max_length, config.window_overlap, config.max_windows
            )
        elif config.truncation == "head-tail":
            inputs = encode_head_tail(self.tokenizer_, texts[0], max_length)
        else:
            tail = config.truncation == "tail"
            texts = list(shorten_texts(self.tokenizer_, texts, max_length, tail=tail))
            inputs = dict(self.tokenizer_(*texts, truncation=True, max_length=max_length))
        return self.with_target({"inputs": inputs}, row)

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch: Batch = {}
        if "inputs" in samples[0]:
            inputs = [sample["inputs"] for sample in samples]
            counts = [len(each[WINDOWS]) for each in inputs if WINDOWS in each]
            texts = split_windows(inputs) if counts else inputs
            batch["inputs"] = pad_tokens(texts, self.tokenizer_.pad_token_id)
            if counts:
                batch["inputs"][WINDOWS] = torch.tensor(counts)
        return self.with_targets(batch, samples)

    def _build_embedder(self, source: ModelConfig) -> TransferModel:
        network = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        self._settle_head(source, text_network_kind(network), frozen=True)
        self._settle_length(network)
        return load_pooled(source, self.pooling_, outputs=1)

    # ---- choosing open keys, checking the others

    def _settle_head(self, source: ModelConfig, kind: str, frozen: bool) -> list[str]:
        saved = None if self.resolved_.pooling else saved_pooling(source.name)
        usual = saved or ("last" if kind == "decoder" else "mean")
        self.pooling_ = self.resolved_.pooling or usual
        if self.resolved_.head != "auto":
            self.head_ = self.resolved_.head
            return []
        pooled_keys = [key for key in ("pooling", "head_hidden") if getattr(self.resolved_, key)]
        self.head_ = "pooled" if frozen or pooled_keys else "native"
        reason = "the model's own classification head"
        if pooled_keys:
            reason = f"because task.{pooled_keys[0]} is set"
        elif frozen:
            reason = f"{self.pooling_} pooling works best with a frozen backbone"
            if saved:
                reason = f"{saved} pooling, that of the model of sentence-transformers"
        return [f"head: {self.head_}, {reason}"]

    def _settle_length(self, network: Any) -> list[str]:
        self._set_sides()
        limit = max_input_length(self.tokenizer_, network)
        length, notes = limit_length(self.resolved_.max_length, limit)
        self.settle({"max_length": length})
        return notes

    def _check_length(self) -> None:
        config, is_pair = self.resolved_, self.rows.is_pair
        specials = self.tokenizer_.num_special_tokens_to_add(pair=is_pair)
        if config.max_length <= specials:
            raise ConfigError(
                f"task.max_length: {config.max_length} tokens leave no room for text beside the "
                f"{specials} special tokens; raise it above {specials}"
            )
        if config.truncation in ("head-tail", "windows") and is_pair:
            raise ConfigError(pair_fault(config.truncation))
        if config.truncation == "windows":
            check_windows(self.tokenizer_, config.max_length, config.window_overlap)

    def _set_sides(self) -> None:
        self.tokenizer_.truncation_side = "left" if self.resolved_.truncation == "tail" else "right"
        self.tokenizer_.padding_side = "right"
