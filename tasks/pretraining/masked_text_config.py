"""Config of masked language modeling."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, PositiveInt

from finetune.config.schema import TaskConfig


class MaskedLanguageModelingConfig(TaskConfig):
    """Config keys of masked language modeling."""

    prediction_keys: ClassVar[frozenset[str]] = frozenset({"text", "top_k"})
    reads_images: ClassVar[bool] = False
    adapts_backbone: ClassVar[bool] = True
    column_keys: ClassVar[frozenset[str]] = frozenset({"text"})

    name: str = "masked-language-modeling"
    text: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Column of the text, or columns to join; null: detected."""
    join: str = " "
    """Text between joined columns; empty cells are left out."""
    max_length: PositiveInt = 256
    """Maximum number of tokens that the network reads at once, special tokens included."""
    chunk: bool = True
    """Split longer texts into pieces between words, so that every token is learned; false: read
    the start only.
    """
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the tokens to predict. Of their words, 80% are masked, 10% are replaced by random
    tokens, and 10% stay as they are (Devlin et al. 2019, arXiv:1810.04805).
    """
    whole_words: bool = True
    """Choose words with all of their tokens; false: choose single tokens."""
    top_k: PositiveInt = 5
    """Number of tokens in the prediction of a mask."""
