"""What a report is made of: a model's evaluation on a split, and the run that it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

from datasets import Dataset

from finetune.audit.sections import ReportSection
from finetune.audit.shown_rows import draw_thumbnails, text_of
from finetune.config.schema import DataConfig, ReportConfig
from finetune.data.opening import Splits, open_splits
from finetune.data.source import Source
from finetune.errors import ConfigError, DataError
from finetune.inference.evaluate import Measured, evaluate_source
from finetune.inference.model_loading import load_task, model_folder
from finetune.inference.predictor import Predictor
from finetune.inference.stored_code import check_stored_code
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console
from finetune.reports.intervals import Estimate, metric_intervals
from finetune.reports.slices import check_report_columns
from finetune.task import Task
from finetune.task_parts.samples import Prediction, Row, Stats, take_rows
from finetune.task_parts.views import LabelScores, Outcome

_ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class Evidence:
    """An evaluated split, and what else of the run is known.

    Attributes:
        name: of the split or of the data, without the folders that they lie in.
        run: its folder; None for a model without one.
        train: the rows that the model was trained on; None if they cannot be read again.
        train_numbers: of the rows of `train` in their table, from 1.
        report: the slices and groups to measure; None: those of the run's config.
    """

    measured: Measured
    name: str
    run: RunFolder | None = None
    train: Dataset | None = None
    train_numbers: Sequence[int] = ()
    report: ReportConfig | None = None

    @property
    def task(self) -> Task:
        return self.measured.task

    @cached_property
    def selected_checkpoint(self) -> bool:
        """True if the checkpoint was selected by these rows."""
        if self.run is None or not self.run.finished:
            return False
        return bool(self.run.read("results.json")["selected_on"] == self.name)

    @property
    def stats(self) -> Stats:
        """Statistics of the rows [N, ...]."""
        return self.measured.evaluation.stats

    @property
    def metrics(self) -> dict[str, float]:
        return self.measured.metrics

    @property
    def numbers(self) -> Sequence[int]:
        """Number of each row in its table, from 1."""
        return self.measured.numbers

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """Read the rows at these positions of the split."""
        return take_rows(self.measured.split.rows, positions)

    def stream(self, positions: Sequence[int]) -> Iterator[Row]:
        """Yield the rows at these positions; a row may hold the bytes of a picture."""
        for start in range(0, len(positions), _ROWS_AT_ONCE):
            yield from self.rows(positions[start : start + _ROWS_AT_ONCE])

    @property
    def whole_rows(self) -> tuple[Any, Sequence[int]]:
        """The rows of the split and their numbers; a row that was measured in parts once."""
        numbers, rows = list(dict.fromkeys(self.numbers)), self.measured.rows
        if len(numbers) == len(rows):
            return rows, numbers
        return self.measured.split.rows, self.numbers

    def __len__(self) -> int:
        return len(self.measured.split)

    @cached_property
    def has_pictures(self) -> bool:
        """True if the rows are pictures."""
        return bool(draw_thumbnails(self.task, self.rows([0])))

    def content(self, row: Row) -> str:
        """Return the text of a row, or the name of its picture without the folders it lies in."""
        text = text_of(row, self.task.rows.inputs)
        if self.has_pictures:
            return "/".join(PurePath(text).parts[-2:])
        return text or "\n".join(map(str, self.task.rows.texts(row)))

    @cached_property
    def intervals(self) -> dict[str, Estimate]:
        """The metrics with their bootstrap intervals."""
        return metric_intervals(self.task, self.stats)

    @cached_property
    def scores(self) -> LabelScores | None:
        """Probabilities of labels; None for a task without them."""
        return self.task.views.label_scores(self.stats)

    @cached_property
    def outcomes(self) -> list[Outcome]:
        """The outcome of each row; [] for a task without them."""
        evaluation, rows = self.measured.evaluation, self.measured.split.rows
        return self.task.views.outcomes(evaluation.stats, rows, evaluation.predictions)  # type: ignore[arg-type]

    @cached_property
    def own_sections(self) -> list[ReportSection]:
        """The sections that only this kind of output has."""
        return list(self.task.views.sections(self))

    def predict(self, positions: Sequence[int]) -> list[Prediction]:
        """Predict the rows at these positions once more, for what the statistics do not tell."""
        model = self.measured.model
        predictor = Predictor(self.task, model, next(model.network.parameters()).device)
        return predictor.window(self.rows(positions), batch_size=1)

    @cached_property
    def worst_first(self) -> list[int]:
        """Positions of the rows, those with the worst mistakes first."""
        if not self.outcomes:
            return list(range(len(self)))
        return sorted(range(len(self)), key=lambda index: -self.outcomes[index].mistake)


MISSED, EXTRA = "missed", "extra"


def mistaken_labels(outcome: Outcome) -> dict[str, list[str]]:
    """Return the labels of a row that were missed, and the extra ones; {} unless it has several."""
    true, predicted = (outcome.columns.get(name) for name in ("true", "predicted"))
    if not isinstance(true, list) or not isinstance(predicted, list):
        return {}
    return {
        MISSED: [str(label) for label in true if label not in predicted],
        EXTRA: [str(label) for label in predicted if label not in true],
    }


def gather_evidence(
    run: str,
    source: Source | None,
    console: Console,
    batch_size: int,
    *,
    splits: Splits | None = None,
    report: ReportConfig | None = None,
    trust_code: bool = False,
) -> Evidence:
    """Evaluate a model on `source`, by default on the test or validation split of its run.

    `splits` are those of the run, if they are at hand. Raises FinetuneError, also if the slices and
    groups of `report` could not be measured.
    """
    folder = RunFolder(Path(run))
    record = folder if folder.has_config else None
    if splits is None and record is not None:
        try:
            splits = _open_run(record, console, trust_code=trust_code)
        except DataError:
            if source is None:
                raise
    numbers: Sequence[int] | None = None
    if source is None:
        name, source, numbers = _held_out(run, splits)
    else:
        name = Path(source.name.rstrip("/")).name + (f" ({source.split})" if source.split else "")
    measured = evaluate_source(run, source, console, batch_size, trust_code=trust_code)
    if numbers is not None:
        original = [numbers[number - 1] for number in measured.numbers]
        measured = replace(measured, numbers=original)
    if report is not None:
        check_report_columns(report, measured.rows, measured.task.rows)
    evidence = Evidence(measured, name, record, report=report)
    if splits is None:
        return evidence
    return replace(evidence, train=splits.train, train_numbers=splits.numbers["train"])


def _held_out(run: str, splits: Splits | None) -> tuple[str, Source, Sequence[int]]:
    """Return the name, the rows and the numbers of the split that a run is judged by."""
    if splits is None:
        raise ConfigError(f"{run}: has no config that names its data; name rows: report {run} DATA")
    name = next((name for name in ("test", "validation") if name in splits.named), None)
    if name is None:
        raise ConfigError(f"{run}: no rows were held out; name labeled rows: report {run} DATA")
    return name, Source(splits.named[name], DataConfig()), splits.numbers[name]


def _open_run(record: RunFolder, console: Console, *, trust_code: bool) -> Splits | None:
    """Open the splits that a run was trained on; None if its rows were made in Python."""
    config = record.read_section("data", DataConfig)
    if config.source is None and config.train is None:
        return None
    if config.map is not None:
        file = record.path / "config.yaml"
        check_stored_code("data.map", config.map, file, trust_code=trust_code)
    task: Any = load_task(model_folder(record.path), trust_code=trust_code)
    with console.during("reading the rows of the run"):
        return open_splits(config, task)
