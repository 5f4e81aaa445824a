"""What a task shows to people: on the console, in reports, on the card and on drawings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from finetune.errors import ConfigError
from finetune.task_parts.samples import Prediction, Row, Sample, Stats

if TYPE_CHECKING:  # readers of data and configs use these parts without torch
    from finetune.audit.evidence import Evidence
    from finetune.audit.sections import ReportSection
    from finetune.model import Batch, TransferModel


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
        unlisted: further columns, by which a report finds rows without listing them.
    """

    columns: dict[str, Any]
    mistake: float
    unlisted: Mapping[str, Any] = MappingProxyType({})


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


class ItemScores(NamedTuple):
    """Scores of predicted items, of which a row may have several, such as boxes; P items, N rows.

    Attributes:
        scores: between 0 and 1 [P].
        right: True where an item is one of the true ones [P].
        rows: place in the split of the row of each item [P].
        objects: number of true items of each row [N].
        threshold: minimum score of a predicted item, unless another one is learned.
    """

    scores: np.ndarray
    right: np.ndarray
    rows: np.ndarray
    objects: np.ndarray
    threshold: float

    def take(self, chosen: np.ndarray) -> ItemScores:
        """Return those of some rows: a mask [N]."""
        kept, places = chosen[self.rows], np.cumsum(chosen) - 1
        return self._replace(
            scores=self.scores[kept],
            right=self.right[kept],
            rows=places[self.rows[kept]],
            objects=self.objects[chosen],
        )


class Views:
    """Human-readable views of samples, batches, predictions and results. Empty by default."""

    length_unit = "units"
    """The unit of `Task.lengths`, in the plural: "tokens"."""

    def length_facts(self) -> Any:
        """Return plain values that change whenever `Task.lengths` of the same rows do, or None.

        With them, lengths of many rows are kept on disk: those of rows whose identity is equal must
        be equal, too. None (the default) measures the rows in each run.
        """
        return None

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

    def summarizer(self, stats: Stats) -> Callable[[Sequence[int]], dict[str, float]] | None:
        """Return a function of row positions, with repetition, that gives their `Task.summarize`.

        Bootstrap intervals and slices call it hundreds of times: override it where work on single
        rows, such as matching boxes, can be done once. None (default) summarizes their statistics.
        """
        return None

    def item_scores(self, stats: Stats) -> ItemScores | None:
        """Return the scores of predicted items as the network gives them; None (default) if none.

        The metrics must depend on the order of the scores only, which a calibration keeps.
        """
        return None

    def keep_scale(self, scale: Sequence[float] | None) -> None:
        """Keep the slope and the offset of the logits of `item_scores`, as part of the state.

        Predictions have scores that are scaled by them; None leaves scores as they are. Called
        where `item_scores` returns some. The default keeps nothing.
        """

    def item_issues(
        self, stats: Stats, read: Callable[[Sequence[int]], Sequence[Row]]
    ) -> list[tuple[int, Row]]:
        """Return true items that the model contradicts: [(place in the split, line of a table)].

        The clearest first; `read` gives the rows at places. A line has what `Rows.revise_objects`
        reads. Override it where rows have several objects, such as boxes.
        """
        return []

    def keep_decisions(self, state: Mapping[str, Any]) -> None:
        """Keep what predictions need of learned decisions, as part of the task's state.

        Called where `label_scores` or `item_scores` return some. `state` may hold "thresholds", one
        for each label, "conformal", the scores for prediction sets, and "score_threshold", the
        minimum (scaled) score of an item. The default keeps nothing.
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

        Those on probabilities of labels are made of `label_scores`, those on rows of `outcomes`. A
        section with the key "worst" replaces the shared one of the worst rows; one with the key
        "classes" has the metrics of single classes ("iou/car"), which are then listed only there.
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
