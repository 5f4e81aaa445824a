"""The contract between the engine and the tasks: what a task defines, what the engine may ask.

A row enters as a dict, is encoded to a sample, collated to a batch, goes once through the model,
and becomes a loss, a statistic and a prediction. What this does not need is in the parts that a
task holds (`finetune.task_parts`). Shapes: B samples in a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from finetune.config.schema import ModelConfig, TaskConfig
from finetune.model import Batch, TransferModel
from finetune.task_parts import (
    Embedder,
    Length,
    Onnx,
    Prediction,
    Rng,
    Row,
    Rows,
    Sample,
    Stats,
    Views,
)

Parts = Callable[[Sequence[Row]], Sequence[Sequence[Row]]]
Score = Callable[[Sequence[Prediction], Sequence[Row]], dict[str, float]]


class Task(ABC):
    """What a row is, how it is judged and what a prediction looks like.

    A task is made from its own keys (`TextClassification(text="body")`) or from its `Config`. What
    is learned from data ends in `_`, and is not there before `setup` or `restore`.

    Attributes:
        config: the keys as they were given; never changed.
        resolved_: the same keys with the values that data and network gave to those left open.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]

    def __init__(self, config: TaskConfig | None = None, **keys: Any) -> None:
        self.config: Any = config if config is not None else self.Config(name=self.name, **keys)
        self.resolved_: Any = self.config

    def settle(self, keys: Mapping[str, Any]) -> None:
        """Take values for keys that the config left open."""
        self.resolved_ = self.resolved_.model_copy(update=dict(keys))

    # ---- parts

    @property
    def rows(self) -> Rows:
        """What reading, checking and splitting data needs."""
        return Rows(self.resolved_)

    @property
    def views(self) -> Views:
        """What people see; by default, nothing."""
        return Views()

    @property
    def onnx(self) -> Onnx | None:
        """How networks are exported to ONNX; None if they cannot be."""
        return None

    @property
    def embedder(self) -> Embedder | None:
        """How rows are embedded by a pretrained network; None if they cannot be."""
        return None

    # ---- what is learned, and the network

    @property
    @abstractmethod
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        """The metric that selects the best checkpoint, and its direction."""

    @abstractmethod
    def setup(self, train: Iterable[Row], source: ModelConfig, *, frozen: bool) -> list[str]:
        """Learn the labels, load the tokenizer or transform; a sentence for each choice made.

        `frozen` means that the backbone stays as pretrained, so a head suited to fixed features
        pays.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `setup` learned, as JSON."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        """Take back what `state` gave; the tokenizer or transform is loaded from `source`."""

    @abstractmethod
    def build_model(self, source: ModelConfig) -> TransferModel:
        """The pretrained network with a head sized by the labels."""

    @abstractmethod
    def load_model(self, source: ModelConfig) -> TransferModel:
        """The fine-tuned network from a folder that `save` wrote, loaded by its own library."""

    def save(self, model: TransferModel, folder: Path) -> None:
        """Write the network, and what encodes rows for it, into `folder`."""
        model.save(folder)

    def unseen(self, row: Row) -> Iterator[str]:
        """Yield what a labeled row holds that was not learned, such as a label that train lacks."""
        return iter(())

    # ---- one row on its way to a prediction

    @property
    def augments(self) -> bool:
        """Whether `encode` or `collate` change a row when they are given an rng."""
        return False

    @property
    def parts(self) -> Parts | None:
        """The parts in which training sees each row, such as tiles of a large image; None for
        whole rows.

        A part is the keys that it adds to its row, {"window": [0, 0, 512, 512]}; `encode` finds
        them there. Held-out rows and rows to predict are never cut: `encode` gives all of them.
        """
        return None

    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> list[Length]:
        """How long each row is for the network; batches are bucketed by it.

        A labeled row without anything left to learn has the length 0: it is skipped and counted.
        Where `predicting`, the lengths are those of what is read to predict the rows.
        """
        return [Length(1)] * len(rows)

    def cost(self, lengths: Sequence[int]) -> int:
        """What the network computes for a batch of rows of these lengths, padding included."""
        return max(lengths) * len(lengths)

    @abstractmethod
    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        """One row for the network.

        Without `rng` nothing is random; without a label the sample has no target.
        """

    @abstractmethod
    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        """Pad and stack samples, and count the items of each loss term.

        It needs what `setup` or `restore` learned, and no model.
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """float32 sums, one for each term of batch["count"].

        The engine divides each by its count over the whole step.
        """

    @abstractmethod
    def measure(self, outputs: Any, batch: Batch) -> Stats:
        """Statistics of each sample, not reduced."""

    @abstractmethod
    def summarize(self, stats: Stats) -> dict[str, float]:
        """Metrics of a whole split."""

    @abstractmethod
    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """One prediction for each sample."""

    @property
    def score(self) -> Score | None:
        """Metrics of predictions that no tensor holds, such as ROUGE of generated text; None if
        there are none, so that evaluation need not predict.
        """
        return None
