"""Text classification: one label, several labels or a number for a text or a pair of texts.

A row: {"text": "Ad sales boost Time Warner profit ...", "label": "business"}

Shapes: B rows, T tokens, C classes (1 for a number).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, DataError
from finetune.model import Batch, TransferModel
from finetune.task import About, Length, Rng, Row, Sample
from tasks.backbones.pretrained import from_pretrained, kind_of, label_keys
from tasks.backbones.vector_heads import hidden_shape
from tasks.classification import classifier_code as usage
from tasks.classification.label_columns import TEXT_NAMES, find_column, prose_columns
from tasks.classification.labelled import LabelledTask
from tasks.classification.targets import Number, label_remarks, learn_targets, restore_targets
from tasks.text.text_config import TextClassificationConfig
from tasks.text.text_models import TextModel, load_native, load_pooled, load_pooled_folder
from tasks.text.text_windows import (
    COUNT,
    check_windows,
    encode_windows,
    split_windows,
    window_length,
)
from tasks.text.tokenization import (
    encode_ends,
    load_tokenizer,
    longest_input,
    pad,
    settle_length,
    token_lengths,
    unknown_note,
)
from tasks.text.vocabulary import add_words, added_note, broken_words, embed_words, name_rows


class TextClassification(LabelledTask):
    """Classify or rate texts with any encoder or decoder of transformers."""

    name = "text-classification"
    export_axes = ("batch", "length")
    Config = TextClassificationConfig
    config: TextClassificationConfig

    head_: str
    pooling_: str
    tokenizer_: Any = None

    # ---- what is known before a network is loaded

    def choose_inputs(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        config, notes = self.config, []
        if isinstance(config.text, list):
            found = [find_column(name, "text", columns, (), ()) for name in config.text]
            text: str | list[str] = [name for name, _ in found]
        else:
            prose = [name for name in prose_columns(columns) if name != config.label]
            text, note = find_column(config.text, "text", columns, TEXT_NAMES, prose)
            notes += [note] if note else []
        self.config = config.model_copy(update={"text": text})
        return notes

    def validate(self, row: Row) -> Iterator[str]:
        for column, text in zip(self.input_columns(), self._texts(row), strict=True):
            if not isinstance(text, str):
                yield f"{column} is {text!r}, not text"
            elif not text.strip():
                yield f"{column} is empty"
        yield from self.label_faults(row)

    def input_columns(self) -> list[str]:
        text = self.config.text or "text"
        return [text] if isinstance(text, str) else text

    def identity(self, row: Row) -> Any:
        return tuple(self._texts(row))

    def row_of(self, value: Any) -> Row:
        columns = self.input_columns()
        values = list(value) if isinstance(value, list | tuple) else [value]
        if len(values) != len(columns):
            raise DataError(
                f"{self.name}: {value!r} does not fit the columns {', '.join(columns)}; give dicts"
            )
        return dict(zip(columns, values, strict=True))

    # ---- learning labels, loading what encodes

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        self.targets_ = learn_targets(self.config, train)
        network = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        self._pieces = add_words(self.tokenizer_, self.config.add_tokens)
        notes = [
            *label_remarks(self.config, self.targets_.names),
            *self._settle_head(kind_of(network), frozen),
            *self._settle_length(network),
            *added_note(self._pieces, self._texts_of(train)),
            *unknown_note(self.tokenizer_, self._texts_of(train)),
        ]
        self._check_length()
        return notes

    def state(self) -> dict[str, Any]:
        return {"targets": self.targets_.state, "head": self.head_, "pooling": self.pooling_}

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        self.targets_ = restore_targets(self.config, state["targets"])
        self.head_, self.pooling_ = state["head"], state["pooling"]
        self.tokenizer_ = load_tokenizer(self.saved(folder))
        self._set_sides()

    def build_model(self, source: ModelConfig) -> TransferModel:
        names = self.targets_.names
        if self.head_ == "pooled":
            model: TextModel = load_pooled(
                source, self.pooling_, len(names), hidden_shape(self.config)
            )
        else:
            model = load_native(
                source,
                **label_keys(names),
                problem_type=self.targets_.problem_type,
                pad_token_id=self.tokenizer_.pad_token_id,
            )
        if isinstance(self.targets_, Number):
            model.set_scale(self.targets_.state["deviation"], self.targets_.state["mean"])
        embed_words(model.encoder, self.tokenizer_, self._pieces)
        rows = self.tokenizer_.convert_tokens_to_ids(list(self._pieces))
        model.new_rows = name_rows(model.network, rows, model.encoder.get_input_embeddings())
        model.window_pooling = self.config.window_pooling
        return model

    def load_model(self, folder: Path | str) -> TransferModel:
        if self.head_ == "pooled":
            model: TextModel = load_pooled_folder(self.saved(folder))
        else:
            model = load_native(self.saved(folder))
        model.window_pooling = self.config.window_pooling
        return model

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    # ---- one row through the house

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        first, *second = zip(*(self._texts(row) for row in rows), strict=True)
        pairs = second[0] if second else None
        config = self.config
        found = token_lengths(self.tokenizer_, first, pairs, config.max_length)
        if config.truncation != "windows":
            return found
        specials = self.tokenizer_.num_special_tokens_to_add()
        shape = (config.max_length, specials, config.window_overlap, config.max_windows)
        return [window_length(each, *shape) for each in found]

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        config, texts = self.config, self._texts(row)
        longest = config.max_length
        if config.truncation == "windows":
            inputs = encode_windows(
                self.tokenizer_, texts[0], longest, config.window_overlap, config.max_windows
            )
        elif config.truncation == "head-tail":
            inputs = encode_ends(self.tokenizer_, texts[0], longest)
        else:
            inputs = dict(self.tokenizer_(*texts, truncation=True, max_length=longest))
        return self.with_target({"inputs": inputs}, row)

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch: Batch = {}
        if "inputs" in samples[0]:
            inputs = [sample["inputs"] for sample in samples]
            counts = [len(each[COUNT]) for each in inputs if COUNT in each]
            texts = split_windows(inputs) if counts else inputs
            batch["inputs"] = pad(texts, self.tokenizer_.pad_token_id)
            if counts:
                batch["inputs"][COUNT] = torch.tensor(counts)
        return self.with_targets(batch, samples)

    def show(self, sample: Sample) -> str:
        return " ".join(self.tokenizer_.convert_ids_to_tokens(sample["inputs"]["input_ids"]))

    def survey(self, rows: Sequence[Row]) -> dict[str, str]:
        found = broken_words(self.tokenizer_, self._texts_of(rows))
        named = [f"{word} ({pieces} pieces, {count} times)" for word, pieces, count in found]
        told = f"{', '.join(named)}; task.add_tokens keeps a word whole"
        return {"broken words": told} if named else {}

    def build_embedder(self, source: ModelConfig) -> TransferModel:
        network = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        self._settle_head(kind_of(network), frozen=True)
        self._settle_length(network)
        return load_pooled(source, self.pooling_, outputs=1)

    def about(self, model: TransferModel) -> About:
        pair = len(self.input_columns()) == 2
        kind = self.targets_.problem_type
        blanks = {
            "labels": self.targets_.names,
            "max_length": self.config.max_length,
            "several": ", top_k=None" if kind == "multi_label_classification" else "",
            "activation": usage.ACTIVATIONS[kind],
            "texts": "*text" if pair else "text",
            "example": '("A text.", "Its pair.")' if pair else '"A text."',
            "sides": ', truncation_side="left"' if self.config.truncation == "tail" else "",
        }
        note = usage.CUT_OTHERWISE.get(self.config.truncation, "")
        if self.head_ == "pooled":
            scores = usage.scores(usage.ACTIVATIONS[kind], self.config.head_hidden)
            blanks |= {"pooled": usage.POOLED[self.pooling_], "scores": scores}
            has_pooler = "add_pooling_layer" in signature(type(model.encoder)).parameters
            blanks["no_pooler"] = ", add_pooling_layer=False" if has_pooler else ""
            code = usage.fill(usage.POOLED_TEXT, **blanks)
            return About(self.name, code=note + code)
        code = usage.fill(usage.PAIR_OF_TEXTS if pair else usage.TEXT, **blanks)
        # New words are rows of the embeddings, which an adapter has not.
        adapted = "" if self.config.add_tokens else note + usage.fill(usage.ADAPTED_TEXT, **blanks)
        return About(self.name, "transformers", note + code, adapted)

    # ---- parts

    def _texts_of(self, rows: Iterable[Row]) -> Iterator[str]:
        return (text for row in rows for text in self._texts(row))

    def _texts(self, row: Row) -> list[Any]:
        return [row.get(column) for column in self.input_columns()]

    def _settle_head(self, kind: str, frozen: bool) -> list[str]:
        self.pooling_ = self.config.pooling or ("last" if kind == "decoder" else "mean")
        if self.config.head == "native" and self.config.head_hidden:
            raise ConfigError(
                "task.head_hidden: is a layer of a pooled head; leave it out, or task.head=native"
            )
        if self.config.head != "auto":
            self.head_ = self.config.head
            return []
        asked = [key for key in ("pooling", "head_hidden") if getattr(self.config, key)]
        self.head_ = "pooled" if frozen or asked else "native"
        reason = "the network's own class"
        if asked:
            reason = f"as task.{asked[0]} is set"
        elif frozen:
            reason = f"{self.pooling_} pooling serves a frozen backbone best"
        return [f"head: {self.head_}, {reason}"]

    def _settle_length(self, network: Any) -> list[str]:
        self._set_sides()
        longest = longest_input(self.tokenizer_, network)
        length, notes = settle_length(self.config.max_length, longest)
        self.config = self.config.model_copy(update={"max_length": length})
        return notes

    def _check_length(self) -> None:
        config, is_pair = self.config, len(self.input_columns()) == 2
        specials = self.tokenizer_.num_special_tokens_to_add(pair=is_pair)
        if config.max_length <= specials:
            raise ConfigError(
                f"task.max_length: of {config.max_length} tokens nothing is left for a text, since "
                f"{specials} begin and end it; raise it"
            )
        if config.truncation in ("head-tail", "windows") and isinstance(config.text, list):
            raise ConfigError(
                f"task.truncation: {config.truncation} cuts one text, not a pair; "
                "use head or tail, or join the two columns"
            )
        if config.truncation == "windows" and config.head_hidden:
            raise ConfigError(
                "task.truncation: the logits of windows are pooled as those of a linear head; "
                "leave task.head_hidden out, or use head, tail or head-tail"
            )
        if config.truncation == "windows":
            check_windows(self.tokenizer_, config.max_length, config.window_overlap)

    def _set_sides(self) -> None:
        self.tokenizer_.truncation_side = "left" if self.config.truncation == "tail" else "right"
        self.tokenizer_.padding_side = "right"
