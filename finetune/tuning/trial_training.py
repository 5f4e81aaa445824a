"""Training of single trials of a search, in their run folders, with what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.batching.shared_rows import SharedRows
from finetune.config.loading import Loaded
from finetune.config.schema import TaskConfig
from finetune.data.opening import Splits
from finetune.distributed.launch import this_process
from finetune.io.run_folder import RunFolder
from finetune.reporting.console import Console
from finetune.search_space.search_plan import SearchPlan
from finetune.task import Task
from finetune.training.run import read_splits, run
from finetune.training.state import TrialHooks
from finetune.tuning.search_folder import SearchFolder


class TrialTraining:
    """Trains the trials of a search in this process; work on the rows is done once for all.

    Attributes:
        make_task: creates the task that a config section describes.
        data: a dataset made in Python, in place of data.source.
    """

    def __init__(
        self,
        plan: SearchPlan,
        folder: SearchFolder,
        make_task: Callable[[TaskConfig], Task],
        data: Any,
        shared: SharedRows | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.make_task = make_task
        self.data = data
        self.shared = shared or SharedRows()

    def train(
        self,
        number: int,
        values: Mapping[str, Any],
        hooks: TrialHooks | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Train a trial with its seed number `seed`, or resume it."""
        keys: dict[str, Any] = {"output.dir": str(self.folder.trial(number, seed))}
        if seed:
            keys["train.seed"] = self.plan.load(values).config.train.seed + seed
        loaded = self.plan.load(values, **keys)
        task = self.make_task(loaded.config.task)
        with log_console(self.folder.log(number)) as console:
            run(loaded, task, data=self.data, hooks=hooks, shared=self.shared, console=console)

    def is_finished(self, number: int) -> bool:
        """False for a run that has ended as a trial only, if at all."""
        folder = RunFolder(self.folder.trial(number))
        return folder.finished and not folder.read("results.json").get("is_trial")

    def finish(self, number: int, values: Mapping[str, Any]) -> None:
        """Finish a trial like a run of its own: calibrated, with reports, measured on test."""
        state = this_process()
        if self.is_finished(number):
            return
        state.wait_for_everyone()  # all processes must have looked
        if state.is_main_process:
            (self.folder.trial(number) / "results.json").unlink(missing_ok=True)
        state.wait_for_everyone()
        self.train(number, values)

    def splits(self, loaded: Loaded, task: Task, console: Console) -> Splits:
        """Return the splits that a trial reads."""
        return read_splits(loaded.config, task, self.data, console, self.shared)


@contextmanager
def log_console(path: Path) -> Iterator[Console]:
    """Yield a console that appends what a trial prints to a file."""
    with path.open("a", encoding="utf-8") as file:
        yield Console(enabled=this_process().is_main_process, file=file)
