"""Config of text generation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from finetune.config.schema import TaskConfig
from tasks.metrics.metric_config import ExtraMetricsConfig
from tasks.prompts.prompt_config import PromptConfig

GENERATED = ("rouge1", "rouge2", "rougeL", "bleu", "chrf")
"""Metrics of generated texts."""
LOWEST_TEMPERATURE = 1e-6
CHUNK_FAULT = (
    "task.chunk=true splits long plain texts instead of truncating them; set task.text, and remove"
    " task.truncation, or remove task.chunk"
)
Truncation = Literal["prompt", "end", "drop", "refuse"]


class CodecConfig(PromptConfig):
    """Config keys of length, truncation and packing."""

    max_length: Annotated[int, Field(ge=2)] = 1024
    """Maximum number of tokens per row, completion included; for sequence-to-sequence networks, of
    the prompt and of the completion each.
    """
    truncation: Truncation | None = None
    """Handling of rows that are too long.

    prompt: cut the start of the prompt; end: cut the end; drop: skip the row; refuse: stop with an
    error. null: prompt for causal networks with prompt and completion, else end.
    """
    chunk: bool | None = None
    """Split plain texts of more than max_length tokens into pieces, so that every token is learned;
    null: yes, unless task.truncation is set.
    """
    fused_loss: bool = False
    """Compute output layer and loss of training in one, in pieces, without storing all logits:
    less memory for large vocabularies. By Liger on a GPU where liger-kernel is installed; else the
    pieces are computed twice.
    """
    packing: bool | None = None
    """Pack several rows into one sequence to reduce padding; null: if the network can isolate rows
    from each other.
    """


class DecodingConfig(TaskConfig):
    """Config keys of text generation at inference."""

    max_new_tokens: PositiveInt = 64
    """Maximum number of generated tokens."""
    temperature: NonNegativeFloat = 0.0
    """0: greedy decoding or beam search; above 0: sampling, more uniform the higher it is."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the most likely tokens whose probabilities add up to this (nucleus sampling)."""
    top_k: PositiveInt | None = None
    """Sample from this many of the most likely tokens; null: from all."""
    beams: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of beams in beam search; 1: no beam search."""
    stop: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """Strings that end the generated text, and are not part of it."""
    sampling_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of sampling: the same prompts in the same batches give the same texts."""

    @field_validator("temperature")
    @classmethod
    def _can_divide(cls, temperature: float) -> float:
        if 0 < temperature < LOWEST_TEMPERATURE:
            raise ValueError("scores divided by it overflow; write 0 for greedy decoding")
        return temperature

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        for key in ("top_p", "top_k"):
            if self.temperature == 0 and getattr(self, key) != type(self).model_fields[key].default:
                yield (
                    f"task.{key} requires sampling, which task.temperature=0 turns off; set"
                    f" task.temperature above 0, such as 0.7, or remove task.{key}"
                )


class TextGenerationConfig(CodecConfig, DecodingConfig, ExtraMetricsConfig):
    """Config keys of text generation."""

    prediction_keys: ClassVar[frozenset[str]] = frozenset(
        {"generate", "metrics", *DecodingConfig.model_fields} - {*TaskConfig.model_fields}
    )
    reads_images: ClassVar[bool] = False
    judges_texts: ClassVar[bool] = True
    metric_names: ClassVar[tuple[str, ...]] = ("perplexity", *GENERATED)

    name: str = "text-generation"
    generate: bool = False
    """Generate text in evaluations, and measure ROUGE, BLEU and chrF on it; `metrics` alone also
    generates, and measures only those.
    """

    @property
    def may_have_labels(self) -> bool:
        return False

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        if self.chunk and self.truncation is not None:
            yield CHUNK_FAULT
        elif self.has_layout:
            yield from self.layout_faults()

    def layout_faults(self) -> Iterator[str]:
        """Yield the faults of keys that do not fit the rows, whose layout is known."""
        is_text = self.kind == "text"
        if self.scores_texts and is_text:
            key = "generate" if self.generate else "metrics"
            yield (
                f"task.{key}: plain text has no reference to compare with; set task.prompt and"
                f" task.completion, or remove task.{key}"
            )
        no_chat = is_text or (self.kind == "prompt" and self.chat is False)
        if self.chat_template is not None and no_chat:
            yield (
                "task.chat_template requires dialogues, or prompts with task.chat=true, and these"
                " rows are neither; set task.messages to a column of dialogues, or remove"
                " task.chat_template"
            )
        if is_text and self.chat:
            yield (
                "task.chat=true requires prompts and completions, and these rows are plain text;"
                " set task.prompt and task.completion, or remove task.chat"
            )
        if self.chunk and (not is_text or self.truncation is not None):
            yield CHUNK_FAULT

    @property
    def scores_texts(self) -> bool:
        """True if evaluations generate text."""
        return self.generate or bool(self.metrics)
