"""The types that pass through a task, and the parts that a task holds beside its forward pass.

`Rows` reads and validates data, `Views` shows things to people, `Onnx` and `Embedder` are optional.
None of them is called during a training step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, DataError

if TYPE_CHECKING:  # readers of data and configs use these parts without torch
    from torch import Tensor

    from finetune.audit.evidence import Evidence
    from finetune.audit.sections import ReportSection
    from finetune.model import Batch, TransferModel

Row = dict[str, Any]
"""One raw example: {column name: value}."""


@runtime_checkable
class RowTable(Sized, Protocol):
    """Random access to rows: a datasets.Dataset, or anything that reads several rows at once."""

    def __getitems__(self, keys: list[int]) -> list[Row]: ...


def take_rows(rows: RowTable, positions: Iterable[int]) -> list[Row]:
    """Read the rows at `positions` in one access."""
    return list(rows.__getitems__(list(positions)))


ROWS_IN_MEMORY = 256
"""Rows that are read at once. Few, since a row may contain the bytes of an image."""


def windows_of(rows: RowTable) -> Iterator[list[Row]]:
    """Yield all rows, some at a time."""
    for start in range(0, len(rows), ROWS_IN_MEMORY):
        yield take_rows(rows, range(start, min(start + ROWS_IN_MEMORY, len(rows))))


def each_row(rows: RowTable | Iterable[Row]) -> Iterator[Row]:
    """Yield all rows, which is several times as fast as iterating a Dataset that was split."""
    return chain.from_iterable(windows_of(rows)) if isinstance(rows, RowTable) else iter(rows)


Sample = dict[str, Any]
"""One encoded example, without batch axis and padding.

"inputs" holds what the network reads, "target" what it should output; an unlabeled row gives no
"target". If features are cached, the engine removes "inputs" before collating.
"""

Stats = dict[str, "Tensor"]
"""Per-sample statistics of a batch, every tensor [B, ...].

Axes after the first may differ between batches; they are padded with 0 when batches are joined, so
a ragged statistic needs its length as another statistic.
"""

Prediction = dict[str, Any]
"""The prediction for one row: JSON-able, in the format of the matching transformers pipeline."""

Rng = np.random.Generator


class Fixable(str):
    """A validation message about a fault that `encode` repairs, such as a box outside its image.

    With data.on_error=clip, a row whose faults are all of this kind is kept.
    """


class Length(NamedTuple):
    """Number of units of a row that the network reads (`used`) and that are truncated (`cut`).

    The unit is `Views.length_unit`. `repeated` of the used ones are read twice: the overlap of
    windows.
    """

    used: int
    cut: int = 0
    repeated: int = 0


# ---- rows


class Finding(NamedTuple):
    """What a check found in the data: it harms a model, or what is measured of it.

    Attributes:
        harm: 3: results will be wrong or useless; 2: they will be worse; 1: worth knowing.
        topic: one or two words, such as "leakage".
        text: what was found, with its counts.
        remedy: the key or command that helps, or what to do.
        share: of the rows concerned, by which findings of equal harm are ranked.
        rows: {split: numbers of the rows concerned, from 1}.
    """

    harm: int
    topic: str
    text: str
    remedy: str
    share: float = 0.0
    rows: Mapping[str, Sequence[int]] = MappingProxyType({})


class Resolved(NamedTuple):
    """Values for keys that the config left open, and one sentence for each choice made."""

    keys: dict[str, Any]
    notes: list[str]


class Rows:
    """The data format of a task: the columns it reads, its valid rows and their labels.

    It is built from the task's config alone, without learned labels or a network, so validation
    gives the same result before and after training. The defaults accept any row.

    Attributes:
        config: the task's `resolved_` config.
    """

    label_unit = "rows"
    """Unit of `occurrences`, in the plural."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @property
    def inputs(self) -> list[str]:
        """Names of the columns needed to predict; [] if all of them are."""
        return []

    @property
    def targets(self) -> list[str]:
        """Names of the columns that hold the target; [] if the task does not say."""
        return []

    @property
    def certainty(self) -> int:
        """How surely the target's columns are the target, to choose the task of a dataset.

        0: by their values alone; 1: by usual names; 2: by names that mean nothing else.
        """
        return 1

    def describe(self, row: Row) -> str:
        """Render a row as it is read, for a person to check: "text 'Ad sales' -> label 'sport'".

        Shown before training. `row` has all of its columns; values are shortened.
        """
        read, wanted = (
            ", ".join(f"{name} {shorten(row[name])}" for name in columns if name in row)
            for columns in (self.inputs or list(row), self.targets)
        )
        return f"{read} -> {wanted}" if wanted else read

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        """Choose the columns to read, by their names and first values.

        `columns` maps each column to its first values. Without `with_targets`, choose only the
        input columns: rows to embed have no label. Raises DataError if a configured column is
        missing or the choice is ambiguous.
        """
        return Resolved({}, [])

    def complete(self, splits: Mapping[str, Iterable[Row]]) -> Resolved:
        """Fill keys that take the valid rows of all splits, such as classes of masks.

        Asked once they are open. The default fills none.
        """
        return Resolved({}, [])

    def validate(self, row: Row) -> Iterator[str]:
        """Yield a message for each fault of a row, worded so that the user can fix it.

        A label that is None is a fault. A row without the label column is not: it is a row to
        predict.
        """
        return iter(())

    def validate_many(self, rows: Sequence[Row]) -> list[list[str]]:
        """Return the faults of each row; override it if checking rows in bulk is faster."""
        return [list(self.validate(row)) for row in rows]

    def identity(self, row: Row) -> Any:
        """Return a hashable key of the row's content, by which duplicates and leakage are found.

        Splits made by share keep rows with equal keys together.
        """
        return repr(sorted(row.items()))

    def labels(self, row: Row) -> tuple[str, ...]:
        """Return the labels of a row without repetition; () if it has none.

        Used to stratify splits and to balance sampling.
        """
        return ()

    def occurrences(self, row: Row) -> tuple[str, ...]:
        """Return the labels of a row with repetition, such as that of each object of an image.

        They are counted for the run's header and the model card, in `label_unit`.
        """
        return self.labels(row)

    def truth(self, row: Row) -> Any:
        """Return a value that changes whenever the target of the row changes.

        It lets a resumed run notice edited labels. The default is `labels`.
        """
        return self.labels(row)

    def texts(self, row: Row) -> list[Any]:
        """Return the texts of a row that the network reads, for checks; [] if it reads none."""
        return []

    def size(self, row: Row) -> tuple[int, int] | None:
        """Return the height and width of a row's picture in pixels; None if it has none."""
        return None

    def thumbnail(self, row: Row, side: int) -> np.ndarray | None:
        """Return a row's picture in gray, uint8 [side, side], for checks; None if it has none."""
        return None

    def examine(self, split: str, rows: Iterable[Row], numbers: Sequence[int]) -> Iterator[Finding]:
        """Yield what only the task can find in a split, such as boxes of a few pixels.

        `numbers` are those of the rows in their table.
        """
        return iter(())

    def divide(self, row: Row, shares: Mapping[str, float]) -> dict[str, Row] | None:
        """Divide a row into disjoint ones: {split: row} for train and for each split of `shares`.

        Asked if a dataset has a single row, such as one large image, of which an area can be held
        out. None (the default) if rows cannot be divided.
        """
        return None

    def from_value(self, value: Any) -> Row:
        """Build a row from a bare value, such as a text or the path of an image, for prediction.

        Raises DataError if a bare value is not enough, as by default.
        """
        raise DataError(
            f"{self.config.name}: {value!r} is not a row; pass dicts with the columns that the "
            "model was trained on"
        )


def shorten(value: Any, limit: int = 80) -> str:
    """Render a value in at most about `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 4]} ..."


def validate_in_threads(rows: Rows, some: Sequence[Row]) -> list[list[str]]:
    """Validate rows in a thread pool: `Rows.validate_many` for checks that decode files."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda row: list(rows.validate(row)), some))


# ---- views


class Picture(NamedTuple):
    """An image to display: a caption, and pixels as uint8 [H, W, 3]."""

    caption: str
    pixels: np.ndarray


class Explanation(NamedTuple):
    """The parts of a row that an output of the network came from.

    Attributes:
        words: of a text in order, each with its weight: above 0 if it raised the output.
        pictures: of an image, with the places marked.
        note: the method, and how exact it was here.
    """

    words: Sequence[tuple[str, float]] = ()
    pictures: Sequence[Picture] = ()
    note: str = ""


REPOSITORY, BASE = "OWNER/NAME", "BASE"
"""Placeholders in model-card code, for the model's repository and for its base model."""


@dataclass(frozen=True)
class CardFacts:
    """Facts about the task and its library for the model card.

    Attributes:
        pipeline: name of the transformers pipeline that gives the same predictions; "" if none.
        library: the hub's name of the library that loads the model (`library_name`).
        code: Python code that loads the model from REPOSITORY with that library, without this kit,
            and predicts one row.
        adapter_code: the same for an adapter on top of BASE; "" if peft cannot load it.
        base: hub id of the base model; None to take model.name, "" if it has none.
    """

    pipeline: str = ""
    library: str = "finetune-kit"
    code: str = ""
    adapter_code: str = ""
    base: str | None = None


@dataclass(frozen=True)
class PredictionForm:
    """A form of predictions that other tools read, written by `predict --as`.

    Attributes:
        records: function of a row, its name and its prediction that returns records, such as one
            for each box.
        columns: names of the values of a record, in order.
        endings: of the file that all records are written to, such as (".csv", ".json"); () for a
            folder with a text file for each row, a record a line.
        files: further files of that folder, {name: text}.
    """

    records: Callable[[Row, str, Prediction], list[Row]]
    columns: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)


class NamedRow(NamedTuple):
    """A row of a split, its name for people, such as "row 12", and its place in the statistics."""

    name: str
    row: Row
    position: int


class Outcome(NamedTuple):
    """Truth and prediction of a held-out row, and the size of its error.

    Attributes:
        columns: {"true": ..., "predicted": ...} and further ones, such as "probability".
        mistake: the larger, the worse; the worst mistakes are listed first.
    """

    columns: dict[str, Any]
    mistake: float


class LabelScores(NamedTuple):
    """Probabilities of labels for the rows of a split, and the truth; N rows, C labels.

    Attributes:
        names: of the labels.
        scores: probabilities [N, C].
        truth: [N, C], True where a row has a label.
        exclusive: True if a row has exactly one label, so that its probabilities sum to 1.
    """

    names: Sequence[str]
    scores: np.ndarray
    truth: np.ndarray
    exclusive: bool

    def take(self, rows: np.ndarray) -> LabelScores:
        """Return these for some rows: a mask [N], or indices."""
        return self._replace(scores=self.scores[rows], truth=self.truth[rows])


class Views:
    """Human-readable views of samples, batches, predictions and results. Empty by default."""

    length_unit = "units"
    """The unit of `Task.lengths`, in the plural: "tokens"."""

    def show(self, sample: Sample) -> str:
        """Render a sample as text that a person can check, such as its tokens."""
        return ""

    def pictures(self, batch: Batch) -> list[Picture]:
        """Render the samples of a batch as images; [] if the task has no images."""
        return []

    def survey(self, rows: Sequence[Row]) -> dict[str, str]:
        """Analyze the training rows for `inspect`; return {topic: finding}. May take seconds."""
        return {}

    def metric_names(self) -> list[str]:
        """Return the names of all metrics of an evaluation but the losses; [] if unknown.

        Called after `Task.setup` or `restore`, to check train.best. A metric that is listed may be
        missing in an evaluation in which it is undefined.
        """
        return []

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        """Compare a held-out split with what was learned from train; return one note per finding.

        An example is a class that does not occur in the split.
        """
        return []

    def remark(self, stats: Stats, metrics: Mapping[str, float], first: Mapping[str, float]) -> str:
        """Comment on an evaluation during training, such as one class predicted for all rows.

        "" for no comment. `first` holds the metrics before training, or {} if they are unknown.
        """
        return ""

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        """Write report files for a split, such as a confusion matrix; return their paths.

        `rows` are the rows of the split, in the order of the statistics.
        """
        return []

    def outcomes(
        self, stats: Stats, rows: Sequence[Row], predictions: Sequence[Prediction]
    ) -> list[Outcome]:
        """Return the outcome of each row of a split, for predictions.csv; [] without such a form.

        `predictions` are those of the rows if the task has a `score`, else [].
        """
        return []

    def label_scores(self, stats: Stats) -> LabelScores | None:
        """Return the probabilities of labels that the statistics hold; None without any (default).

        The network's outputs are then their logits, one for each label.
        """
        return None

    def keep_decisions(self, state: Mapping[str, Any]) -> None:
        """Keep what predictions need of learned decisions, as part of the task's state.

        Called where `label_scores` returns some. `state` may hold "thresholds", one for each label,
        and "conformal", the scores for prediction sets. The default keeps nothing.
        """

    illustrated = 0
    """Number of held-out rows for `illustrate`, spread over the split."""

    def illustrate(
        self,
        rows: Sequence[NamedRow],
        stats: Stats,
        predict: Callable[[], Sequence[Prediction]],
        folder: Path,
    ) -> list[Path]:
        """Draw held-out rows with what was predicted for them; return the paths.

        `predict` predicts these rows once more, for views that the statistics do not suffice for.
        """
        return []

    def report_change(
        self,
        rows: Sequence[Row],
        before: Sequence[Prediction],
        after: Sequence[Prediction],
        folder: Path,
    ) -> list[Path]:
        """Write predictions before and after training side by side; return the paths.

        Called only for tasks with a `score`.
        """
        return []

    def sections(self, evidence: Evidence) -> list[ReportSection]:
        """Return the sections of a report that only this kind of output has; [] by default.

        Those on probabilities of labels are made of `label_scores`, those on rows of `outcomes`.
        """
        return []

    def explain(
        self, model: TransferModel, rows: Sequence[Row], outputs: Sequence[int]
    ) -> list[Explanation]:
        """Explain an output of the network, given by its index, for each row; [] if it cannot be.

        Raises ConfigError if a library for it is not installed.
        """
        return []

    def present(self, prediction: Prediction) -> Any:
        """Convert a prediction to what Python callers get: the types of a transformers pipeline."""
        return prediction

    @property
    def forms(self) -> Mapping[str, PredictionForm]:
        """Forms of the predictions that other tools read, by their names for `predict --as`."""
        return {}

    def caveat(self, prediction: Prediction) -> str:
        """Return why a prediction may be incomplete, "" for no reason; rows are counted by it."""
        return ""

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        """Draw a prediction into image files in `folder` named `name`*; return their paths."""
        raise ConfigError("--draw: this task does not draw predictions; remove the option")

    def card(self, model: TransferModel) -> CardFacts:
        """Return the task's part of the model card."""
        return CardFacts()


# ---- optional parts


def _as_logits(outputs: Any) -> dict[str, Tensor]:
    return {"logits": outputs}


@dataclass(frozen=True)
class Onnx:
    """Settings of the ONNX export of a task's networks.

    Attributes:
        axes: names of the leading dynamic axes of every input, such as ("batch", "length").
        outputs: function that maps the model's outputs to the exported tensors, {name: [B, ...]}.
            If it returns several, they describe the same items [B, N, ...], such as boxes and their
            scores, and are compared with PyTorch's regardless of the order of the items.
    """

    axes: tuple[str, ...]
    outputs: Callable[[Any], dict[str, Tensor]] = field(default=_as_logits)


@dataclass(frozen=True)
class Embedder:
    """Settings for embedding rows with a pretrained network, without labels.

    Attributes:
        build: function that loads the network, whose `features` give one vector per row, and the
            tokenizer or transform. Raises ModelError if the network has no such vector.
    """

    build: Callable[[ModelConfig], TransferModel]
