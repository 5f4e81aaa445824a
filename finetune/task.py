"""The contract between the engine and a task.

A row (a dict) is encoded to a sample, samples are collated to a batch, and the batch passes once
through the model to give losses, statistics or predictions. Everything off this path (reading data,
plots, model cards, ONNX, embeddings) is in the parts that a task holds (`finetune.task_parts`).
Shapes: B samples in a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from finetune.config.schema import ModelConfig, TaskConfig
from finetune.model import Batch, TransferModel
from finetune.task_parts.optional_parts import Embedder, Onnx
from finetune.task_parts.rows import Rows
from finetune.task_parts.samples import Length, Prediction, Rng, Row, Sample, Stats
from finetune.task_parts.views import Views

Parts = Callable[[Sequence[Row]], Sequence[Sequence[Row]]]
"""rows -> for each row its parts, each a dict of keys to add to the row."""
Score = Callable[[Sequence[Prediction], Sequence[Row]], dict[str, float]]
"""(predictions, their labeled rows) -> {metric: value}."""


class Task(ABC):
    """Definition of a task: its rows, its loss and metrics, and the shape of its predictions.

    Construct it from its own keys (`TextClassification(text="body")`) or from its `Config`. A
    subclass sets `name` and `Config` and implements the abstract methods; `finetune.testing` has
    `check_task`, which tests every promise made here. Attributes learned from data end in `_` and
    exist only after `setup` or `restore`.

    Attributes:
        config: the keys as given by the user; never changed.
        resolved_: a copy in which keys that were left open have the values chosen from the data and
            the network.
    """

    name: ClassVar[str]
    Config: ClassVar[type[TaskConfig]]

    def __init__(self, config: TaskConfig | None = None, **keys: Any) -> None:
        self.config: Any = config if config is not None else self.Config(name=self.name, **keys)
        self.resolved_: Any = self.config

    def settle(self, keys: Mapping[str, Any]) -> None:
        """Fill keys that the config left open, in `resolved_`."""
        self.resolved_ = self.resolved_.model_copy(update=dict(keys))

    # ---- parts

    @property
    def rows(self) -> Rows:
        """Part that defines the columns, valid rows and labels of the data.

        Override it to return your subclass of `Rows`; the default accepts any row.
        """
        return Rows(self.resolved_)

    @property
    def views(self) -> Views:
        """Part that shows samples, predictions and results to people; empty by default."""
        return Views()

    @property
    def onnx(self) -> Onnx | None:
        """Part that exports the network to ONNX; None (the default) if it cannot be exported."""
        return None

    @property
    def embedder(self) -> Embedder | None:
        """Part that embeds rows without labels; None (the default) if the task has none."""
        return None

    @property
    def sharding_fault(self) -> str:
        """The reason why this task cannot train sharded weights (train.shard), with a remedy.

        "" (the default) if it can.
        """
        return ""

    # ---- learned state, and the network

    @property
    @abstractmethod
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        """Validation metric that selects the best checkpoint, and its direction.

        A key of the dict that `summarize` returns, or "loss".
        """

    @abstractmethod
    def setup(self, train: Iterable[Row], source: ModelConfig, *, frozen: bool) -> list[str]:
        """Learn the labels from the training rows and load the tokenizer or image transform.

        Called once, before `build_model`. `source` names the pretrained model. `frozen` is True if
        the backbone will not be trained, so that a head suited to fixed features can be chosen.
        Return one sentence per choice made, for the run's header.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that `setup` learned, as JSON-able values."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        """Restore what `state` returned; load the tokenizer or transform from `source`.

        Afterwards, `encode` gives exactly the samples that the saved task would.
        """

    @abstractmethod
    def build_model(self, source: ModelConfig) -> TransferModel:
        """Load the pretrained network and give it a new head sized by the labels."""

    @abstractmethod
    def load_model(self, source: ModelConfig) -> TransferModel:
        """Load the fine-tuned network from a folder that `save` wrote, with its own library."""

    def save(self, model: TransferModel, folder: Path) -> None:
        """Write the network and its tokenizer or image processor to `folder`.

        The default writes the network only.
        """
        model.save(folder)

    def unseen(self, row: Row) -> Iterator[str]:
        """Yield a message for each thing in a labeled row that training did not cover.

        An example is a label that does not occur in train. Called for rows to evaluate on.
        """
        return iter(())

    # ---- from a row to a prediction

    @property
    def augments(self) -> bool:
        """True if `encode` or `collate` vary a row when given an rng."""
        return False

    @property
    def parts(self) -> Parts | None:
        """Function that splits training rows into parts, such as tiles of a large image.

        None (the default) trains on whole rows. The function takes rows and returns the parts of
        each; a part is a dict of keys to add to its row before `encode`, such as
        {"window": [0, 0, 512, 512]}. Held-out rows and rows to predict are not split: `encode` must
        handle them whole.
        """
        return None

    @property
    def measures_parts(self) -> bool:
        """True if held-out rows are split into parts for their loss and metrics, too.

        For statistics that add up over parts, without predictions of whole rows.
        """
        return False

    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> Sequence[Length]:
        """Return the length of each row as the network reads it; batches are divided by it.

        A labeled row with no trainable target left (after truncation, say) has length 0; it is
        skipped and counted. With `predicting`, count only the inputs read for a prediction.
        """
        return [Length(1)] * len(rows)

    def cost(self, lengths: Sequence[int]) -> int:
        """Estimate the compute of a batch of rows of these lengths, padding included.

        Only ratios matter: `inspect` extrapolates the time of a run from them.
        """
        return max(lengths) * len(lengths)

    @abstractmethod
    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        """Encode one row: tokenize the text, or decode and transform the image.

        Deterministic without `rng`; with it, all randomness comes from `rng`. A row without a label
        gives a sample without "target".
        """

    @abstractmethod
    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        """Pad and stack samples into a batch, and count the items of each loss term.

        May use what `setup` or `restore` learned, but not the model: it also runs in data-loading
        workers. Samples without "inputs" (their features are cached) give a batch without "inputs";
        samples without "target" give one without "targets".
        """

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the loss as float32 scalar sums, one for each term of batch["count"].

        Sums, not means: the engine divides each by its count over the whole optimizer step, so that
        micro-batches and the number of processes do not change the result.
        """

    @abstractmethod
    def measure(self, outputs: Any, batch: Batch) -> Stats:
        """Return per-sample statistics [B, ...], from which `summarize` computes the metrics."""

    @abstractmethod
    def summarize(self, stats: Stats) -> dict[str, float]:
        """Compute the metrics of a split from the statistics of all of its samples."""

    @abstractmethod
    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """Return one prediction per sample; labels must not be needed."""

    @property
    def score(self) -> Score | None:
        """Function that computes metrics from predictions and rows: ROUGE of generated text, say.

        None (the default) if `measure` and `summarize` suffice; evaluation then need not predict.
        """
        return None


def make_summarizer(task: Task, stats: Stats) -> Callable[[Sequence[int]], dict[str, float]]:
    """Return a function of row positions, with repetition, that gives their `Task.summarize`."""
    own = task.views.summarizer(stats)
    return own or (lambda some: task.summarize({n: tensor[some] for n, tensor in stats.items()}))
