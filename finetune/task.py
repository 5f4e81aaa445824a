"""The contract between the engine and the tasks: what a task says, what the engine may ask.

A row enters as a dict, is encoded to a sample, collated to a batch, goes once through the model,
and becomes a loss, a statistic and a prediction. The engine knows these steps and nothing else of a
task. Shapes: B samples in a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from torch import Tensor

from finetune.config.schema import ModelConfig, TaskConfig
from finetune.errors import ConfigError, DataError, ModelError
from finetune.model import Batch, TransferModel

Row = dict[str, Any]
"""One raw example: a column name to its value."""

Sample = dict[str, Any]
"""One encoded example, without batch axis and padding.

What the network reads lies under "inputs", what it should say under "target", which an unlabelled
row has not. A sample whose "inputs" the engine has taken out (its features are cached) is collated
to a batch without them.
"""

Stats = dict[str, Tensor]
"""Statistics of a batch, every tensor [B, ...].

The axes after the first may differ between batches and are padded with 0 before batches are joined,
so a ragged statistic carries its length beside it.
"""

Prediction = dict[str, Any]
"""What is said of one row: JSON-able, in the shape of the matching transformers pipeline."""

Rng = np.random.Generator


class Mendable(str):
    """A fault that `encode` mends by itself, such as a box that reaches out of its picture.

    Under data.on_error=clip a row is kept that has no other faults.
    """


class Picture(NamedTuple):
    """A sample as a person can look at it: what is said of it, and uint8 [H, W, 3]."""

    caption: str
    pixels: np.ndarray


class Length(NamedTuple):
    """How much of a row the network computes, and how much was cut away, in the task's unit.

    Of what is computed, `repeated` was computed before: what a window shares with another.
    """

    used: int
    cut: int = 0
    repeated: int = 0


REPOSITORY, BASE = "OWNER/NAME", "BASE"
"""Stand in code of a card for the model's place on the hub, and for its pretrained network."""


@dataclass(frozen=True)
class About:
    """What the card of a final model says of its task and its library.

    Attributes:
        pipeline: the pipeline of transformers that gives the same predictions, "" if there is none.
        library: what the hub calls the library that loads the model.
        code: Python that loads the model from REPOSITORY with that library, without this kit, and
            predicts one row.
        adapter_code: the same for a LoRA adapter on the network BASE; "" if peft cannot load it.
        base: hub id of the pretrained network, where model.name does not tell it; "" if none is.
    """

    pipeline: str = ""
    library: str = "finetune-kit"
    code: str = ""
    adapter_code: str = ""
    base: str | None = None


class Task(ABC):
    """What a row is, how it is judged and what a prediction looks like.

    A task is made from its own keys (`TextClassification(text="body")`) or from its `Config`. Until
    `setup` or `restore` was called it knows nothing of data or labels.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]
    prediction_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of the config that predictions and their evaluation may have otherwise than training."""
    export_axes: ClassVar[Sequence[str]] = ()
    """The first axes of every input that an exported network leaves open: ("batch", "length").

    Empty: the network cannot be exported.
    """
    trusts_code: bool = False
    """Whether code in a folder that `restore` and `load_model` read may run: the user says so."""

    def __init__(self, config: TaskConfig | None = None, **keys: Any) -> None:
        self.config: Any = config if config is not None else self.Config(name=self.name, **keys)

    # ---- what is known before a network is loaded

    def read(self, path: Path, format: str) -> Mapping[str, Sequence[Row]] | None:
        """The splits of a file or folder in a format that only this task knows, such as COCO.

        `format` is data.format; under "auto" the task looks whether the path is one of its own.
        None: the engine's readers read it. A row's "file" names it in what is said of it. Raises
        DataError.
        """
        return None

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        """Settle which columns are read, from their names and first values.

        Returns a sentence for each choice made. Raises DataError if a column that the config names
        is missing, or if there is no one sensible choice.
        """
        return []

    def validate(self, row: Row) -> Iterator[str]:
        """What is wrong with a row, in words that a person can act on.

        A label that is None is a fault; a row without the label's column is one to predict, and may
        be good.
        """
        return iter(())

    def validate_rows(self, rows: Sequence[Row]) -> list[list[str]]:
        """What is wrong with each of some rows; a task whose check takes time does it in threads
        here.
        """
        return [list(self.validate(row)) for row in rows]

    def input_columns(self) -> list[str]:
        """The columns that a prediction reads; none named: all of a row is read."""
        return []

    def identity(self, row: Row) -> Any:
        """A hashable value that is equal for two rows that must not stand in two splits."""
        return repr(sorted(row.items()))

    def row_of(self, value: Any) -> Row:
        """A row from a bare value (a text, the path of an image), for predictions of one column."""
        raise DataError(
            f"{self.name}: {value!r} is no row; give dicts with the columns that were trained on"
        )

    def truth(self, row: Row) -> Any:
        """What a row is labelled: a value that changes when its label does."""
        return self.stratum(row)

    def stratum(self, row: Row) -> Any:
        """A hashable value whose shares are kept alike in all splits made by fraction."""
        return None

    # ---- learning labels, loading what encodes

    @property
    @abstractmethod
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        """The metric that selects the best checkpoint, and its direction."""

    @abstractmethod
    def setup(self, train: Iterable[Row], source: ModelConfig, *, frozen: bool) -> list[str]:
        """Learn the labels, load the tokenizer or transform; a sentence for each choice made.

        `frozen` says that the backbone stays as pretrained, so that a head fit for fixed features
        pays.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `setup` learned, as JSON."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        """Take back what `state` gave; what encodes is loaded from `folder`, where `save` was."""

    @abstractmethod
    def build_model(self, source: ModelConfig) -> TransferModel:
        """The pretrained network with a head sized by the labels."""

    @abstractmethod
    def load_model(self, folder: Path | str) -> TransferModel:
        """The fine-tuned network from a folder that `save` wrote, loaded by its own library."""

    def save(self, model: TransferModel, folder: Path) -> None:
        """Write the network and what encodes for it into `folder`."""
        model.save(folder)

    def saved(self, folder: Path | str) -> ModelConfig:
        """A folder that `save` wrote, as a model to load."""
        return ModelConfig(name=str(folder), trust_remote_code=self.trusts_code)

    def class_of(self, row: Row) -> Hashable | None:
        """The one class of a training row, which train.sampling=balanced and method.contrastive
        ask for; None: it has none, or may have several.
        """
        return None

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        """What a person should know of a held-out split: a class that it lacks, say."""
        return []

    # ---- one row through the house

    def parts(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]] | None:
        """The parts in which training sees each row, tiles of a large image say; None: whole rows.

        Of no rows [] or None tells which it is.

        A part is the keys that it adds to its row, {"window": [0, 0, 512, 512]}; `encode` finds
        them there. Held-out rows and rows to predict are never cut: of these `encode` gives all.
        """
        return None

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        """How long each row is for the network; batches are bucketed by it.

        A labelled row of which nothing is left to learn has the length 0: it is left out and
        counted.
        """
        return [Length(1)] * len(rows)

    def lengths_to_predict(self, rows: Sequence[Row]) -> list[Length]:
        """As `lengths`, of rows that are to be predicted: of these, other parts may be read."""
        return self.lengths(rows)

    def cost(self, lengths: Sequence[int]) -> int:
        """What the network computes for a batch of rows of these lengths, padding included."""
        return max(lengths) * len(lengths)

    @property
    def augments(self) -> bool:
        """Whether `encode` or `collate` make something else of a row when they are given an rng."""
        return False

    @abstractmethod
    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        """One row for the network.

        Without `rng` nothing is random; without a label the sample has no target.
        """

    @abstractmethod
    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        """Pad and stack samples, and count the items of each loss term."""

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

    # ---- what only some tasks have

    def present(self, prediction: Prediction) -> Any:
        """A prediction as Python code gets it: of the types of the transformers pipeline."""
        return prediction

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        """Write pictures of a prediction into `folder`, their names beginning with `name`."""
        raise ConfigError(f"--draw: {self.name} has no pictures to draw; leave it out")

    def exported(self, outputs: Any) -> dict[str, Tensor]:
        """What an exported network says, by name, every tensor [B, ...].

        Several tensors are of items [B, N, ...], boxes and their scores say, whose order means
        nothing.
        """
        return {"logits": outputs}

    def choose_inputs(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        """As `choose_columns`, but only what the network reads: rows to embed have no label."""
        return self.choose_columns(columns)

    def build_embedder(self, source: ModelConfig) -> TransferModel:
        """A pretrained network whose `features` are one vector a row, and what encodes for it.

        There are no labels. Raises ModelError where a row has no such vector.
        """
        raise ModelError(f"embed: {self.name} has no vector of a row")

    def about(self, model: TransferModel) -> About:
        """What a card says of the final model: its pipeline, its library, how to use it there."""
        return About()

    def show(self, sample: Sample) -> str:
        """A sample as a person can check it: its tokens, say."""
        return ""

    def survey(self, rows: Sequence[Row]) -> dict[str, str]:
        """What `inspect` tells of the training rows, {what: in words}; it may take seconds."""
        return {}

    def pictures(self, batch: Batch) -> list[Picture]:
        """The samples of a batch as a person can look at them: what the network reads, and what it
        should say. []: there is nothing to look at.
        """
        return []

    @property
    def scores_predictions(self) -> bool:
        """Whether `score` has something to say, so that evaluation must predict."""
        return False

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Metrics that no tensor holds: of generated text, of `evaluate` modules."""
        return {}

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        """What a person should know of an evaluation while the run goes on; "": nothing.

        `first` are the metrics before training, {} where they are not known.
        """
        return ""

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        """Write files that show the result of a split (a confusion matrix), and name them.

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
        """Write files that show what is said of some rows before training and after, and name them.

        It is asked where `scores_predictions`.
        """
        return []
