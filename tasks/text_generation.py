"""Text generation: answer, continue, summarise or translate, by any language model of transformers.

A row: {"body": "Time Warner's profit rose ...", "headline": "Ad sales boost Time Warner profit"}

Shapes: B rows, K bins, T tokens, N positions that carry loss, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from finetune.config import ModelConfig
from finetune.errors import DataError
from finetune.task import (
    Batch,
    Length,
    Prediction,
    Rng,
    Row,
    Sample,
    Stats,
    Task,
    TransferModel,
)
from tasks import prompts
from tasks.codecs import CausalCodec, Codec, Exchange, Seq2SeqCodec
from tasks.decoding import DecodingConfig, generate
from tasks.dialogues import (
    Piece,
    before_answer,
    messages_of,
    pieces_of,
    render_prompt,
    settle_template,
)
from tasks.language_models import load_language_model
from tasks.pretrained import from_pretrained
from tasks.prompts import PromptConfig
from tasks.templates import fill
from tasks.text import load_tokenizer, longest_input
from tasks.tokens import Truncation, start_token


class TextGenerationConfig(PromptConfig, DecodingConfig):
    """What is read from a row, what of it is learned, and how text is written."""

    name: str = "text-generation"
    max_length: PositiveInt = 1024
    """Tokens of a row that the network reads, its completion included; of a sequence-to-sequence
    network, of each side.
    """
    truncation: Truncation | None = None
    """What is done with a row that is too long.

    prompt: the start of its prompt is cut; end: its end is cut; drop: it is left out; refuse: the
    run ends. null: prompt for rows of prompt and completion, else end.
    """
    packing: bool | None = None
    """Whether rows share a row of tokens; null: if the network keeps them apart."""
    chat_template: str | None = None
    """A Jinja template for dialogues, or a file with one; null: the tokenizer's."""
    generate: bool = False
    """Whether evaluation writes text, and measures ROUGE, BLEU and chrF on it."""


class TextGeneration(Task):
    """Fine-tune any causal or sequence-to-sequence network of transformers to write text."""

    name = "text-generation"
    Config = TextGenerationConfig
    config: TextGenerationConfig

    tokenizer_: Any = None
    network_config_: Any = None
    codec_: Codec

    # ---- what is known before a network is loaded

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        keys, notes = prompts.choose_prompts(self.config, columns)
        self.config = self.config.model_copy(update=keys)
        return notes

    def validate(self, row: Row) -> Iterator[str]:
        yield from prompts.prompt_faults(self.config, row)

    def input_columns(self) -> list[str]:
        return prompts.prompt_columns(self.config)

    def identity(self, row: Row) -> Any:
        if self.config.messages is not None:
            return repr(messages_of(row[self.config.messages]))
        return fill(self.config.prompt or self.config.text or "{text}", row)

    def truth(self, row: Row) -> Any:
        return prompts.answer(self.config, row)

    def row_of(self, value: Any) -> Row:
        columns = self.input_columns()
        if self.config.kind == "chat":
            held = [{"role": "user", "content": value}] if isinstance(value, str) else value
            return {columns[0]: held}
        if len(columns) != 1:
            raise DataError(
                f"{self.name}: {value!r:.80} does not fit the columns {', '.join(columns)};"
                " give dicts"
            )
        return {columns[0]: value}

    # ---- the tokenizer and the network

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return "perplexity", "min"

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        self.network_config_ = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        notes = self._settle_length()
        if self.config.kind == "chat":
            begins = start_token(self.tokenizer_) is not None
            notes += settle_template(self.tokenizer_, self.config.chat_template, begins)
        self.codec_ = self._make_codec()
        return notes

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        source = ModelConfig(name=str(folder))
        self.network_config_ = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        self.codec_ = self._make_codec()

    def build_model(self, source: ModelConfig) -> TransferModel:
        model = load_language_model(source, self.network_config_, self.tokenizer_)
        if isinstance(self.codec_, CausalCodec):
            packs = self.config.packing is not False and model.isolation is not None
            self.codec_ = replace(self.codec_, packs=packs)
        return model

    def load_model(self, folder: Path | str) -> TransferModel:
        return self.build_model(ModelConfig(name=str(folder)))

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    # ---- one row through the house

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        return [self.codec_.length(self._exchange(row)) for row in rows]

    def cost(self, lengths: Sequence[int]) -> int:
        return self.codec_.cost(lengths)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        return self.codec_.encode(self._exchange(row))

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch: Batch = {}
        if rng is None:
            batch["prompts"] = self.codec_.prompts(samples)
        if all("target" in sample for sample in samples):
            batch |= self.codec_.collate(samples)
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(outputs, batch["targets"]["ids"], reduction="sum")}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        targets = batch["targets"]
        losses = functional.cross_entropy(outputs, targets["ids"], reduction="none")
        sums = losses.new_zeros(len(targets["tokens"]))
        return {"loss": sums.index_add(0, targets["rows"], losses), "tokens": targets["tokens"]}

    def summarize(self, stats: Stats) -> dict[str, float]:
        mean = float(stats["loss"].double().sum() / stats["tokens"].sum())
        return {"perplexity": math.exp(min(mean, 700.0))}

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        texts = generate(model.network, self.tokenizer_, batch["prompts"], self.config)
        return [{"generated_text": text} for text in texts]

    def show(self, sample: Sample) -> str:
        return " ".join(self.tokenizer_.convert_ids_to_tokens(sample["inputs"]["input_ids"]))

    # ---- parts

    def _exchange(self, row: Row) -> Exchange:
        config, tokenizer = self.config, self.tokenizer_
        if config.kind == "chat":
            messages = messages_of(row[str(config.messages)])
            asked = render_prompt(tokenizer, before_answer(messages))
            is_answered = prompts.has_answer(config, row)
            pieces = pieces_of(tokenizer, messages) if is_answered else None
            return Exchange(asked, pieces, prompts.answer(config, row))
        if config.kind == "text":
            text = fill(config.text or "{text}", row)
            return Exchange(text, [Piece(text, True)])
        asked, answer = fill(str(config.prompt), row), prompts.answer(config, row)
        pieces = None if answer is None else [Piece(asked, False), Piece(answer, True)]
        return Exchange(asked, pieces, answer)

    def _make_codec(self) -> Codec:
        config, network = self.config, self.network_config_
        bound = longest_input(self.tokenizer_, network)
        how = config.truncation or ("prompt" if config.kind == "prompt" else "end")
        prompt = config.max_length
        if network.is_encoder_decoder:
            start = network.decoder_start_token_id
            return Seq2SeqCodec(self.tokenizer_, config.max_length, prompt, how, start)
        if bound is not None:
            prompt = min(prompt, max(bound - config.max_new_tokens, 1))
        start, is_closed = start_token(self.tokenizer_), config.kind != "chat"
        return CausalCodec(self.tokenizer_, config.max_length, prompt, how, start, is_closed)

    def _settle_length(self) -> list[str]:
        longest = longest_input(self.tokenizer_, self.network_config_)
        if longest is None or self.config.max_length <= longest:
            return []
        asked = self.config.max_length
        note = f"max_length: {longest}, the most that this network takes, in place of {asked}"
        self.config = self.config.model_copy(update={"max_length": longest})
        return [note]
