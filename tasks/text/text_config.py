"""The keys of text classification."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from tasks.classification.label_config import TargetConfig
from tasks.text.text_windows import Pooling


class TextClassificationConfig(TargetConfig):
    """What is read from a row and what is made of it."""

    name: str = "text-classification"
    text: str | Annotated[list[str], Field(min_length=1, max_length=2)] | None = None
    """Column of the text, or two columns for a pair; null: found."""
    max_length: PositiveInt = 256
    """Tokens of a text that the network reads."""
    truncation: Literal["head", "tail", "head-tail", "windows"] = "head"
    """What is read of a text that is too long: one end; a quarter from its head and the rest from
    its tail (Sun et al. 2019, arXiv:1905.05583); or all of it, in windows of max_length tokens
    whose answers are pooled.
    """
    window_overlap: Annotated[int, Field(ge=0)] = 32
    """Tokens that a window shares with the one before it."""
    window_pooling: Pooling = "mean"
    """How the logits of windows become those of the row."""
    max_windows: PositiveInt = 8
    """Windows that are read of one text at most."""
    add_tokens: tuple[str, ...] = ()
    """Words that the tokenizer shall keep whole; each starts as the mean of its pieces. `inspect`
    lists those that it breaks.
    """
    head: Literal["auto", "native", "pooled"] = "auto"
    """native: the head of the library's own class; pooled: a new head on pooled states."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """How states are pooled under a pooled head; null: mean for encoders, last for decoders."""
