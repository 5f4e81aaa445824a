"""Reports on a held-out split: predictions.csv, drawings, and what the task's views add.

All but the drawings come from the statistics of the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.batching.data_loader import Split
from finetune.inference.evaluation_loop import Evaluation
from finetune.inference.predictor import Predictor
from finetune.io.table_writer import open_writer
from finetune.model import TransferModel
from finetune.tables.faults import RowNumber
from finetune.task import Task
from finetune.task_parts.samples import Prediction, Row, take_rows
from finetune.task_parts.views import NamedRow, Outcome

PREDICTIONS = "predictions.csv"
_ROWS_AT_ONCE = 1024


def write_split_reports(
    model: TransferModel,
    task: Task,
    split: Split,
    evaluation: Evaluation,
    folder: Path,
    numbers: Sequence[int],
) -> list[Path]:
    """Write the reports of a split into a folder; return their paths.

    `numbers` are the numbers of the rows in their table, from 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows: Any = split.rows
    paths = task.views.report(evaluation.stats, folder, rows)
    outcomes = task.views.outcomes(evaluation.stats, rows, evaluation.predictions)
    if outcomes:
        path = folder / PREDICTIONS
        write_outcomes(path, outcomes, rows, numbers, [*task.rows.inputs, "file"])
        paths = [*paths, path]
    if not task.views.illustrated:
        return paths
    named = _named_rows(split, numbers, task.views.illustrated)

    def predict() -> list[Prediction]:
        predictor = Predictor(task, model, next(model.network.parameters()).device)
        return predictor.window([each.row for each in named], batch_size=1)

    return [*paths, *task.views.illustrate(named, evaluation.stats, predict, folder)]


def write_outcomes(
    path: Path,
    outcomes: Sequence[Outcome],
    rows: Any,
    numbers: Sequence[int],
    inputs: Sequence[str],
) -> None:
    """Write a line for each row, the worst mistakes first: its number, outcome and `inputs`.

    Inputs that a table cannot show, such as the bytes of an image, are left out. Where several
    files make up the table, the row's place in its file follows as `file`.
    """
    order = sorted(range(len(outcomes)), key=lambda index: -outcomes[index].mistake)
    first = take_rows(rows, [0])[0]
    shown = [name for name in dict.fromkeys(inputs) if _is_shown(first.get(name))]
    table = rows.select_columns(shown) if shown and hasattr(rows, "select_columns") else rows
    taken = {"row", *outcomes[0].columns}
    names = {name: f"input_{name}" if name in taken else name for name in shown}
    with open_writer(path) as write:
        for start in range(0, len(order), _ROWS_AT_ONCE):
            some = order[start : start + _ROWS_AT_ONCE]
            read: list[Row] = take_rows(table, some) if shown else [{} for _ in some]
            write(
                [
                    {
                        "row": int(numbers[index]),
                        **outcomes[index].columns,
                        **{names[name]: row.get(name) for name in shown},
                        **_place(numbers[index]),
                    }
                    for index, row in zip(some, read, strict=True)
                ]
            )


def _place(number: int) -> dict[str, str]:
    return {"file": number.place} if isinstance(number, RowNumber) else {}


def _is_shown(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_shown, value))
    if isinstance(value, dict):
        return all(map(_is_shown, value.values()))
    return isinstance(value, str | int | float)


def _named_rows(split: Split, numbers: Sequence[int], most: int) -> list[NamedRow]:
    """Return at most `most` rows, spread over the split."""
    count = min(most, len(split))
    indices = [len(split) * place // count for place in range(count)]
    named = []
    for index, row in zip(indices, take_rows(split.rows, indices), strict=True):
        file = row.get("file")
        name = f"row {numbers[index]}" + (f": {file}" if isinstance(file, str) else "")
        named.append(NamedRow(name, row, index))
    return named
