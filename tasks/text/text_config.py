"""Config of text classification."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from finetune.config.formats import DataFormat
from tasks.classification.label_config import TargetConfig
from tasks.label_studio.studio_texts import STUDIO_TEXTS

Pooling = Literal["mean", "max"]


class TextClassificationConfig(TargetConfig):
    """Config keys of text classification."""

    prediction_keys: ClassVar[frozenset[str]] = TargetConfig.prediction_keys | {"text"}

    blank_keys: ClassVar[frozenset[str]] = frozenset({"join"})
    column_keys: ClassVar[frozenset[str]] = frozenset({"text", "label"})
    formats: ClassVar[tuple[DataFormat, ...]] = (STUDIO_TEXTS,)
    reads_images: ClassVar[bool] = False

    name: str = "text-classification"
    join: str | None = None
    """Text between the columns of `text` if they are joined to one text, such as a title and a
    body; empty cells are left out. null: two columns are a pair of texts.
    """
    text: str | Annotated[list[str], Field(min_length=1)] | None = None
    """Column of the text, or two columns for a pair of texts, or columns to `join`; null: detected.
    """
    max_length: PositiveInt = 256
    """Maximum number of tokens per text, special tokens included; longer texts are truncated."""
    truncation: Literal["head", "tail", "head-tail", "windows"] = "head"
    """Part of a text that is kept if it is too long. head: the start; tail: the end; head-tail: a
    quarter of max_length from the start, the rest from the end (Sun et al. 2019, arXiv:1905.05583);
    windows: overlapping windows of max_length tokens, whose logits are pooled.
    """
    window_overlap: Annotated[int, Field(ge=0)] = 32
    """Number of tokens that consecutive windows share."""
    window_pooling: Pooling = "mean"
    """Pooling of the logits of a text's windows."""
    max_windows: PositiveInt = 8
    """Maximum number of windows per text."""
    add_tokens: tuple[str, ...] = ()
    """Words to add to the tokenizer as single tokens; each embedding is initialized to the mean of
    the word's previous tokens. `inspect` lists words that the tokenizer fragments.
    """
    head: Literal["auto", "native", "pooled"] = "auto"
    """native: the classification head of transformers; pooled: a new head on pooled hidden states;
    auto: pooled for a frozen backbone or if a key of the pooled head is set, else native.
    """
    pooling: Literal["mean", "cls", "last"] | None = None
    """Pooling of hidden states for a pooled head; null: that of a folder of sentence-transformers,
    else mean for encoders, last for decoders.
    """

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        if self.head == "native" and self.head_hidden:
            yield "task.head_hidden requires a pooled head; remove it, or remove task.head=native"
        if self.truncation == "windows" and self.head_hidden:
            yield (
                "task.truncation: windows requires a linear head, because logits are pooled; remove"
                " task.head_hidden, or use head, tail or head-tail"
            )

        for word in dict.fromkeys(self.add_tokens):
            if not word.strip():
                yield f"task.add_tokens: {word!r} is blank; remove it"
            elif self.add_tokens.count(word) > 1:
                yield f"task.add_tokens: {word!r} occurs more than once; list it once"
        columns = [] if self.text is None else _columns(self.text)
        label = self.label if isinstance(self.label, list) else [self.label]
        for name in dict.fromkeys(columns):
            if name in label:
                yield f"task.text and task.label both name the column {name!r}; name another one"
            if columns.count(name) > 1:
                yield f"task.text: names the column {name!r} twice; name it once"
        if self.truncation in ("head-tail", "windows") and len(columns) > 1 and self.join is None:
            yield pair_fault(self.truncation)
        if self.truncation == "windows" and self.window_overlap >= self.max_length:
            yield (
                f"task.window_overlap: {self.window_overlap} tokens are all of a window of"
                f" task.max_length={self.max_length}; set a lower value"
            )

    def change_faults(self, changed: Self) -> Iterator[str]:
        yield from super().change_faults(changed)
        one, other = _columns(self.text), _columns(changed.text)
        if self.join is None and len(one) != len(other):
            trained = "a pair of texts" if len(one) == 2 else "a single text"
            columns = ", ".join(one)
            yield (
                f"task.text: the model was trained on {trained} ({columns}), so it "
                f"needs {len(one)} of the columns of the data, not {len(other)}"
            )

    @field_validator("text")
    @classmethod
    def _check_columns(cls, text: str | list[str] | None, info: ValidationInfo) -> object:
        if isinstance(text, list) and len(text) > 2 and info.data.get("join") is None:
            raise ValueError(
                "two columns are a pair of texts; set task.join to join more of them to one text"
            )
        return text


def _columns(text: str | list[str] | None) -> list[str]:
    return list(text) if isinstance(text, list) else [text or "text"]


def pair_fault(truncation: str) -> str:
    """Return the fault of a truncation that a pair of texts does not have."""
    return (
        f"task.truncation: {truncation} supports a single text, not a pair; use head or tail, or"
        " join the two columns with task.join"
    )
