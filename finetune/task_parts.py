"""The types that pass through a task, and the parts that a task holds beside its forward pass.

`Rows` is what reading and checking data needs, `Views` what people see, `Onnx` and `Embedder` what
only some tasks offer. None of them is asked during a training step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, DataError
from finetune.model import Batch, TransferModel

Row = dict[str, Any]
"""One raw example: a column name to its value."""


class RowTable(Sized, Protocol):
    """Rows by their positions: a datasets.Dataset, or anything that reads several rows at once."""

    def __getitems__(self, keys: list[int]) -> list[Row]: ...


def take_rows(rows: RowTable, positions: Iterable[int]) -> list[Row]:
    """The rows at some positions, read together."""
    return list(rows.__getitems__(list(positions)))


Sample = dict[str, Any]
"""One encoded example, without batch axis and padding.

What the network reads is under "inputs", what it should output under "target", which an unlabeled
row does not have. A sample whose "inputs" the engine has removed (its features are cached) is
collated to a batch without them.
"""

Stats = dict[str, Tensor]
"""Statistics of a batch, every tensor [B, ...].

The axes after the first may differ between batches and are padded with 0 before batches are joined,
so a ragged statistic carries its length beside it.
"""

Prediction = dict[str, Any]
"""The prediction for one row: JSON-able, in the shape of the matching transformers pipeline."""

Rng = np.random.Generator


class Fixable(str):
    """A fault that `encode` repairs by itself, such as a box that reaches out of its image.

    Under data.on_error=clip a row is kept if it has no other faults.
    """


class Length(NamedTuple):
    """How much of a row the network reads and how much is truncated, in `Views.length_unit`.

    Of what is read, `repeated` is read twice: the overlap of windows.
    """

    used: int
    cut: int = 0
    repeated: int = 0


# ---- rows


class Resolved(NamedTuple):
    """Values for keys that the config left open, and a sentence for each choice made."""

    keys: dict[str, Any]
    notes: list[str]


class Rows:
    """What a row is: all that reading, checking and splitting data needs to know of a task.

    It knows the task's keys, and neither learned labels nor a network, so `validate` gives the same
    answer before and after training. The defaults take rows as they are.
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def inputs(self) -> list[str]:
        """The columns that a prediction reads; [] if it reads all of them."""
        return []

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        """Choose the columns to read, from their names and first values.

        Without `with_targets`, only those that the network reads: rows to embed have no label.
        Raises DataError if a column that the config names is missing, or if there is no one
        sensible choice.
        """
        return Resolved({}, [])

    def validate(self, row: Row) -> Iterator[str]:
        """Yield what is wrong with a row, in words that a person can act on.

        A label that is None is a fault; a row without the label's column is one to predict.
        """
        return iter(())

    def validate_many(self, rows: Sequence[Row]) -> list[list[str]]:
        """The faults of each row; override it to check several rows at a time."""
        return [list(self.validate(row)) for row in rows]

    def identity(self, row: Row) -> Any:
        """A hashable value, equal for rows that must not be in two splits."""
        return repr(sorted(row.items()))

    def labels(self, row: Row) -> tuple[str, ...]:
        """The labels of a row, each once; () where it has none.

        Splits are stratified by them, and the card counts them.
        """
        return ()

    def truth(self, row: Row) -> Any:
        """A value that changes whenever what is to be learned from the row does."""
        return self.labels(row)

    def from_value(self, value: Any) -> Row:
        """A row from a bare value (a text, the path of an image), for predictions of one column."""
        raise DataError(
            f"{self.config.name}: {value!r} is not a row; give dicts with the columns that the "
            "model was trained on"
        )


def validate_in_threads(rows: Rows, some: Sequence[Row]) -> list[list[str]]:
    """`Rows.validate_many` for checks that decode files."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda row: list(rows.validate(row)), some))


# ---- views


class Picture(NamedTuple):
    """An image for people to look at: a caption, and uint8 [H, W, 3]."""

    caption: str
    pixels: np.ndarray


REPOSITORY, BASE = "OWNER/NAME", "BASE"
"""Placeholders in code on a card, for the model's repository and for its pretrained network."""


@dataclass(frozen=True)
class CardFacts:
    """What the card of a final model says about its task and its library.

    Attributes:
        pipeline: the transformers pipeline that gives the same predictions, "" if there is none.
        library: what the hub calls the library that loads the model.
        code: Python that loads the model from REPOSITORY with that library, without this kit, and
            predicts one row.
        adapter_code: the same for an adapter on the network BASE; "" if peft cannot load it.
        base: hub id of the pretrained network, where model.name does not tell it; "" if none is.
    """

    pipeline: str = ""
    library: str = "finetune-kit"
    code: str = ""
    adapter_code: str = ""
    base: str | None = None


class Views:
    """What people see of a task: rows, batches, predictions and results. By default, nothing."""

    length_unit = "units"
    """What `Task.lengths` counts, in the plural: "tokens"."""

    def show(self, sample: Sample) -> str:
        """A sample as a person can check it, such as its tokens."""
        return ""

    def pictures(self, batch: Batch) -> list[Picture]:
        """The samples of a batch as images; [] if there is nothing to look at."""
        return []

    def survey(self, rows: Sequence[Row]) -> dict[str, str]:
        """Findings on the training rows for `inspect`, {topic: sentence}; it may take seconds."""
        return {}

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        """Sentences on a held-out split beside what was learned, such as a class that it lacks."""
        return []

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        """A sentence on an evaluation while training goes on; "" for none.

        `first` are the metrics before training, {} where they are not known.
        """
        return ""

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        """Write files that show the result of a split (a confusion matrix); their paths.

        `rows` are those of the split, in the order of the statistics.
        """
        return []

    def report_change(
        self,
        rows: Sequence[Row],
        before: Sequence[Prediction],
        after: Sequence[Prediction],
        folder: Path,
    ) -> list[Path]:
        """Write files that show predictions before and after training side by side; their paths.

        Called for tasks with a `score`.
        """
        return []

    def present(self, prediction: Prediction) -> Any:
        """A prediction in the types of the transformers pipeline, as Python code gets it."""
        return prediction

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        """Write images of a prediction into `folder`, their names beginning with `name`."""
        raise ConfigError("--draw: this task has no images to draw; leave it out")

    def card(self, model: TransferModel) -> CardFacts:
        """The task's part of the card of a final model."""
        return CardFacts()


# ---- what only some tasks offer


def _as_logits(outputs: Any) -> dict[str, Tensor]:
    return {"logits": outputs}


@dataclass(frozen=True)
class Onnx:
    """How a task's networks are exported to ONNX.

    Attributes:
        axes: the first axes of every input that the exported network leaves open: ("batch",
            "length").
        outputs: the exported tensors by name, every one [B, ...]. Several tensors are of items [B,
            N, ...], such as boxes and their scores, whose order does not matter.
    """

    axes: tuple[str, ...]
    outputs: Callable[[Any], dict[str, Tensor]] = field(default=_as_logits)


@dataclass(frozen=True)
class Embedder:
    """How a task embeds rows by a pretrained network, without labels.

    Attributes:
        build: the network, whose `features` are one vector a row; it also loads what encodes rows.
            Raises ModelError where a row has no such vector.
    """

    build: Callable[[ModelConfig], TransferModel]
