"""Views of classification results: the confusion matrix of a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.task_parts import Row, Stats, Views
from tasks.classification.classification_metrics import confusion_matrix
from tasks.classification.confusion import write_confusion
from tasks.classification.targets import SingleLabel, Targets


class LabelViews(Views):
    """Views of a task with learned `targets`."""

    def __init__(self, targets: Targets | None) -> None:
        self.targets = targets

    def report(self, stats: Stats, folder: Path, rows: Sequence[Row]) -> list[Path]:
        if not isinstance(self.targets, SingleLabel):
            return []
        names, predicted = self.targets.names, stats["scores"].argmax(1).numpy()
        matrix = confusion_matrix(predicted, stats["target"].numpy(), len(names))
        return write_confusion(matrix, names, folder)
