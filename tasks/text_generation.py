"""Text generation: answer, continue, summarize or translate, with any language model.

A row: {"body": "Time Warner's profit rose ...", "headline": "Ad sales boost Time Warner profit"}

Shapes: B rows, K bins, T tokens, N positions that carry loss, V tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, DataError
from finetune.model import Batch, TransferModel
from finetune.task import Parts, Score, Task
from finetune.task_parts.samples import Length, Prediction, Rng, Row, Sample, Stats, each_row
from tasks.backbones.pretrained import from_pretrained
from tasks.generation.codecs import CausalCodec, Codec, make_codec
from tasks.generation.decoding import end_tokens, generate_texts
from tasks.generation.documents import chunk_of, chunk_rows
from tasks.generation.fused_loss import check_output_layer
from tasks.generation.generation_config import TextGenerationConfig
from tasks.generation.generation_views import GenerationViews
from tasks.generation.language_models import ISOLATION_NOTES, load_language_model
from tasks.generation.tokens import special_token_notes, start_token
from tasks.metrics.extra_metrics import ExtraMetrics
from tasks.metrics.judged_rows import judge_texts
from tasks.metrics.text_metrics import TEXT_METRICS, check_scorers, score_texts
from tasks.prompts.chat_choice import choose_chat, dialogue_notes
from tasks.prompts.dialogues import settle_chat_template, turn_end_token
from tasks.prompts.messages import check_answered
from tasks.prompts.prompts import Exchange, PromptRows, make_exchange, reference_answer
from tasks.prompts.row_messages import row_messages
from tasks.text.tokenization import (
    limit_length,
    load_tokenizer,
    max_input_length,
    unknown_tokens_note,
)


class TextGeneration(Task):
    """Text generation with any causal or sequence-to-sequence network of transformers."""

    name = "text-generation"
    Config = TextGenerationConfig
    config: TextGenerationConfig
    metric = ("perplexity", "min")
    resolved_: TextGenerationConfig

    tokenizer_: Any = None
    network_config_: Any = None
    template_: str | None = None  # the chat template, if it is not the pretrained tokenizer's
    _turn_end: int | None = None
    _restored: bool = False
    _codec: tuple[Any, Codec] | None = None
    _extra: tuple[Any, ExtraMetrics] | None = None

    @property
    def rows(self) -> PromptRows:
        return PromptRows(self.resolved_, detects=not self._restored)

    @property
    def views(self) -> GenerationViews:
        return GenerationViews(self)

    @property
    def sharding_fault(self) -> str:
        if not self.resolved_.scores_texts:
            return ""
        key = "generate=true" if self.resolved_.generate else "metrics"
        return (
            f"task.{key} bypasses the module whose weights are sharded; generate and score "
            "texts afterwards with finetune evaluate RUN DATA task.generate=true"
        )

    # ---- the tokenizer and the network

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        self.network_config_ = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        self._check_keys()
        notes = [*special_token_notes(self.tokenizer_), *self._settle_length()]
        notes += self._settle_chat(train)
        is_plain = self.resolved_.kind == "text" and self.resolved_.truncation is None
        if self.resolved_.chunk is None:
            self.settle({"chunk": is_plain})
        texts = (f"{row.prompt}{row.answer or ''}" for row in map(self.exchange, train))
        return [*notes, *unknown_tokens_note(self.tokenizer_, texts), *self.extra_metrics.notes]

    def _settle_chat(self, train: Any) -> list[str]:
        """Choose whether rows are dialogues, and the chat template; return notes."""
        config = self.resolved_
        if config.messages is not None:
            check_answered(config.messages, train[config.messages], config.all_roles)
        else:
            chat, notes = choose_chat(config, self.tokenizer_, self.network_config_, train)
            self.settle({"chat": chat})
            if not chat:
                return notes
        pretrained = self.tokenizer_.chat_template
        has_start = start_token(self.tokenizer_) is not None
        template_notes = settle_chat_template(self.tokenizer_, config.chat_template, has_start)
        if config.messages is None:
            template_notes = [*notes, *template_notes]
        if config.tools and "tools" not in str(self.tokenizer_.chat_template):
            template_notes.append("chat template: it ignores tools, so the model does not see any")
        if self.network_config_.is_encoder_decoder:
            template_notes.append(
                "dialogues: only the last turn carries loss, the rest is the prompt"
            )
        config = self.resolved_
        self._turn_end = turn_end_token(
            self.tokenizer_, (row_messages(config, row) for row in each_row(train))
        )
        settled = self.tokenizer_.chat_template
        self.template_ = settled if settled != pretrained else None
        is_causal = not self.network_config_.is_encoder_decoder
        return [*template_notes, *dialogue_notes(config, self.tokenizer_, train, is_causal)]

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        self.network_config_ = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        self._restored = True

    def build_model(self, source: ModelConfig) -> TransferModel:
        model = load_language_model(source, self.network_config_, self.tokenizer_)
        if self.resolved_.fused_loss:
            check_output_layer(model.network)
            model.fuses_loss = True
        ends = end_tokens(model.network, self.tokenizer_)
        if model.is_causal and ends and self._turn_end not in {None, *ends}:
            names = " or ".join(repr(self.tokenizer_.decode([token])) for token in sorted(ends))
            model.notes.append(
                f"chat template: turns do not end with {names}, so generated text stops only at "
                "task.max_new_tokens or a string of task.stop"
            )
        if model.is_causal and self.resolved_.packing is not False:
            self.settle({"packing": model.isolation is not None})
            model.packs_rows = model.isolation is not None
            model.notes.append(f"packing: {ISOLATION_NOTES[model.isolation]}")
        elif self.resolved_.packing and not model.is_causal:
            model.notes.append("packing: off, not supported for sequence-to-sequence networks")
        return model

    def load_model(self, source: ModelConfig) -> TransferModel:
        return self.build_model(source)

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    # ---- from a row to a prediction

    @property
    def parts(self) -> Parts | None:
        codec = self.codec_ if self.resolved_.chunk and self.tokenizer_ is not None else None
        if not isinstance(codec, CausalCodec) or self.resolved_.kind != "text":
            return None
        return lambda rows: chunk_rows(codec, self.resolved_, rows)

    @property
    def measures_parts(self) -> bool:
        return True

    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> list[Length]:
        if predicting:
            return [self.codec_.prompt_length(self.exchange(row)) for row in rows]
        lengths = list(map(self._length, each_row(rows)))
        too_long = sum(length.cut > 0 for length in lengths)
        if too_long and self.resolved_.truncation == "refuse":
            raise DataError(
                f"task.truncation=refuse: {too_long} of {len(rows)} rows have more than "
                f"{self.resolved_.max_length} tokens; raise task.max_length, or set "
                "task.truncation to prompt, end or drop"
            )
        return lengths

    def _length(self, row: Row) -> Length:
        chunk = chunk_of(row)
        if chunk is None:
            return self.codec_.length(self.exchange(row))
        return Length(len(chunk.ids) if chunk.target_count else 0)

    def cost(self, lengths: Sequence[int]) -> int:
        return self.codec_.cost(lengths)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        chunk, codec = chunk_of(row), self.codec_
        if chunk is not None and isinstance(codec, CausalCodec):
            return codec.encode_tokens(chunk)
        return codec.encode(self.exchange(row))

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch: Batch = {}
        if rng is None:
            batch["prompts"] = self.codec_.prompts(samples)
        if all("target" in sample for sample in samples):
            batch |= self.codec_.collate(samples)
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        if outputs.ndim == 0:  # task.fused_loss
            return {"loss": outputs}
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
        self._check_room()
        texts = generate_texts(model.network, self.tokenizer_, batch["prompts"], self.resolved_)
        return [{"generated_text": text} for text in texts]

    @property
    def score(self) -> Score | None:
        return self._score if self.resolved_.scores_texts else None

    @property
    def extra_metrics(self) -> ExtraMetrics:
        """The metrics of task.metrics, loaded when they are first needed. Raises ConfigError."""
        key = self.resolved_.metrics
        if self._extra is None or self._extra[0] != key:
            self._extra = key, ExtraMetrics(self.resolved_.extra_metrics, "text")
        return self._extra[1]

    def _score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        texts = [prediction["generated_text"] for prediction in predictions]
        pairs = list(zip(texts, map(self.reference, rows), strict=True))
        # A turn that only calls a tool has no reference text to compare with.
        scored = [pair for pair in pairs if pair[1]] or pairs
        columns = [pair[0] for pair in scored], [pair[1] for pair in scored]
        results = score_texts(*columns) if self.resolved_.generate else {}
        return results | self.extra_metrics.compute(judge_texts(*columns))

    # ---- rows as tokens

    def reference(self, row: Row) -> str:
        """Return the reference text of a row; "" if there is none."""
        return (reference_answer(self.resolved_, row) or "").strip()

    def exchange(self, row: Row) -> Exchange:
        """Build the prompt and answer of a row."""
        return make_exchange(self.resolved_, self.tokenizer_, row)

    @property
    def codec_(self) -> Codec:
        """Encoder of rows for the current keys, some of which may change after training."""
        if self._codec is None or self._codec[0] is not self.resolved_:
            limit = max_input_length(self.tokenizer_, self.network_config_)
            room = None if limit is None else limit - self.resolved_.max_new_tokens
            packs = bool(self.resolved_.packing)
            arguments = (self.tokenizer_, self.network_config_, room, packs)
            self._codec = (self.resolved_, make_codec(self.resolved_, *arguments))
        return self._codec[1]

    def _check_keys(self) -> None:
        if self.resolved_.generate:
            check_scorers(TEXT_METRICS)
        if self.resolved_.scores_texts:
            self._check_room()
        for fault in self.resolved_.layout_faults():
            raise ConfigError(fault)
        if self.resolved_.kind == "text" and self.network_config_.is_encoder_decoder:
            raise ConfigError(
                "task.text: a sequence-to-sequence network needs a prompt and a completion, not "
                "plain text; set task.prompt and task.completion"
            )

    def _check_room(self) -> None:
        positions = getattr(self.network_config_, "max_position_embeddings", None)
        if positions is not None and self.resolved_.max_new_tokens >= positions:
            raise ConfigError(
                f"task.max_new_tokens: {self.resolved_.max_new_tokens} leaves no room for a prompt "
                f"in the {positions} positions of this network; set a lower value"
            )

    def _settle_length(self) -> list[str]:
        limit = max_input_length(self.tokenizer_, self.network_config_)
        length, notes = limit_length(self.resolved_.max_length, limit)
        self.settle({"max_length": length})
        return notes
