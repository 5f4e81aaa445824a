"""Masked language modeling: adapt an encoder to the language of a domain, without labels.

A row: {"text": "Ad sales boost Time Warner profit ..."}

Shapes: B rows, T tokens, N positions to predict, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError
from finetune.model import Batch, TransferModel
from finetune.task import Parts, Task
from finetune.task_parts.samples import Length, Prediction, Rng, Row, Sample, Stats
from tasks.pretraining.masked_language_models import (
    POSITIONS,
    check_masked_network,
    load_masked_folder,
    load_masked_model,
)
from tasks.pretraining.masked_text_config import MaskedLanguageModelingConfig
from tasks.pretraining.masked_text_views import MaskedTextViews
from tasks.pretraining.masked_texts import UnlabeledTextRows, split_texts
from tasks.pretraining.word_masking import NO_WORD, WordMasking, number_words, ordinary_tokens
from tasks.text.tokenization import (
    limit_length,
    load_tokenizer,
    max_input_length,
    pad_tokens,
    token_lengths,
    unknown_tokens_note,
)


class MaskedLanguageModeling(Task):
    """Prediction of masked words with any masked language model of transformers."""

    name = "masked-language-modeling"
    Config = MaskedLanguageModelingConfig
    config: MaskedLanguageModelingConfig
    metric = ("perplexity", "min")
    resolved_: MaskedLanguageModelingConfig

    tokenizer_: Any = None
    masking_: WordMasking

    @property
    def rows(self) -> UnlabeledTextRows:
        return UnlabeledTextRows(self.resolved_)

    @property
    def views(self) -> MaskedTextViews:
        return MaskedTextViews(self)

    # ---- the tokenizer and the network

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        network = check_masked_network(source)
        self._load_tokenizer(source)
        limit = max_input_length(self.tokenizer_, network)
        length, notes = limit_length(self.resolved_.max_length, limit)
        specials = self.tokenizer_.num_special_tokens_to_add()
        if length <= specials:
            raise ConfigError(
                f"task.max_length: {length} tokens leave no room for text beside the {specials} "
                f"special tokens; raise it above {specials}"
            )
        self.settle({"max_length": length})
        if not self.tokenizer_.is_fast:
            self.settle({"whole_words": False, "chunk": False})
            notes.append(
                "masks: single tokens, and the start of long texts, since this tokenizer does not "
                "say which tokens are of one word"
            )
        return [*notes, *unknown_tokens_note(self.tokenizer_, map(self.rows.whole_text, train))]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        self._load_tokenizer(source)

    def _load_tokenizer(self, source: ModelConfig) -> None:
        tokenizer = load_tokenizer(source)
        if tokenizer.mask_token_id is None:
            raise ModelError(
                f"model.name: the tokenizer of {source.name!r} has no mask token; set it in "
                'tokenizer_config.json: "mask_token": "[MASK]"'
            )
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        self.tokenizer_ = tokenizer
        ratio = self.resolved_.mask_ratio
        self.masking_ = WordMasking(ratio, tokenizer.mask_token_id, ordinary_tokens(tokenizer))

    def build_model(self, source: ModelConfig) -> TransferModel:
        return load_masked_model(source, self.tokenizer_)

    def load_model(self, source: ModelConfig) -> TransferModel:
        return load_masked_folder(source)

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    # ---- from a row to a prediction

    @property
    def augments(self) -> bool:
        return True

    @property
    def parts(self) -> Parts | None:
        if not self.resolved_.chunk or self.tokenizer_ is None:
            return None
        room = self.resolved_.max_length - self.tokenizer_.num_special_tokens_to_add()
        rows = self.rows
        return lambda some: split_texts(self.tokenizer_, list(map(rows.whole_text, some)), room)

    @property
    def measures_parts(self) -> bool:
        return True

    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> Sequence[Length]:
        texts = list(map(self.rows.text, rows))
        lengths = token_lengths(self.tokenizer_, zip(texts), self.resolved_.max_length)
        if predicting:
            return lengths
        specials = self.tokenizer_.num_special_tokens_to_add()
        return [
            Length(0) if length.used <= specials or self._has_masks(text) else length
            for text, length in zip(texts, lengths, strict=True)
        ]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        """Draw the masks of a text; those that a text to predict has itself are kept."""
        text = self.rows.text(row)
        settings = {"truncation": True, "max_length": self.resolved_.max_length}
        encoded = self.tokenizer_([text], return_special_tokens_mask=True, **settings)
        inputs = {name: values[0] for name, values in encoded.items()}
        specials = inputs.pop("special_tokens_mask")
        ids = inputs["input_ids"]
        if self._has_masks(text):
            mask = self.masking_.mask_id
            return {
                "inputs": inputs,
                "positions": [at for at, id_ in enumerate(ids) if id_ == mask],
            }
        if self.resolved_.whole_words:
            words = number_words(encoded, text)
        else:
            words = [NO_WORD if is_special else at for at, is_special in enumerate(specials)]
        masked = self.masking_.draw(ids, words, rng)
        inputs["input_ids"] = masked.ids
        return {"inputs": inputs, "positions": masked.positions, "target": masked.targets}

    def _has_masks(self, text: str) -> bool:
        return self.tokenizer_.mask_token in text

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        inputs = pad_tokens([sample["inputs"] for sample in samples], self.tokenizer_.pad_token_id)
        longest = inputs["input_ids"].shape[1]
        positions = [
            row * longest + position
            for row, sample in enumerate(samples)
            for position in sample["positions"]
        ]
        inputs[POSITIONS] = torch.tensor(positions, dtype=torch.long)  # [N]
        counts = [len(sample["positions"]) for sample in samples]
        batch: Batch = {"inputs": inputs, "masks": torch.tensor(counts)}  # [B]
        if all("target" in sample for sample in samples):
            batch["targets"] = torch.tensor([id_ for s in samples for id_ in s["target"]])  # [N]
            batch["count"] = {"loss": batch["masks"].sum().float()}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(outputs, batch["targets"], reduction="sum")}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        losses = functional.cross_entropy(outputs, batch["targets"], reduction="none")  # [N]
        correct = (outputs.argmax(1) == batch["targets"]).to(losses.dtype)
        counts = batch["masks"]
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)  # [N]
        zeros = losses.new_zeros(len(counts))
        return {
            "loss": zeros.index_add(0, rows, losses),
            "correct": zeros.index_add(0, rows, correct),
            "tokens": counts,
        }

    def summarize(self, stats: Stats) -> dict[str, float]:
        tokens = stats["tokens"].sum()
        mean = float(stats["loss"].double().sum() / tokens)
        accuracy = float(stats["correct"].double().sum() / tokens)
        return {"perplexity": math.exp(min(mean, 700.0)), "accuracy": accuracy}

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """Return {"masks": [the most likely tokens of each mask]} for each row.

        The masks are those of the text. A text without any is masked as in an evaluation, and
        "was" holds the tokens that were there.
        """
        count = min(self.resolved_.top_k, len(self.tokenizer_))
        scores, ids = model(batch).float().softmax(1).topk(count, dim=1)
        fills = [
            [
                {"score": score, "token": id_, "token_str": self.tokenizer_.decode([id_])}
                for score, id_ in zip(row_scores, row_ids, strict=True)
            ]
            for row_scores, row_ids in zip(scores.tolist(), ids.tolist(), strict=True)
        ]
        ends = batch["masks"].cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        predictions: list[Prediction] = [
            {"masks": fills[start:end]} for start, end in zip(starts, ends, strict=True)
        ]
        if "targets" in batch:
            tokens = list(map(self.tokenizer_.decode, batch["targets"].tolist()))
            for prediction, start, end in zip(predictions, starts, ends, strict=True):
                prediction["was"] = tokens[start:end]
        return predictions
