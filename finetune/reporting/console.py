"""What a person sees: on a terminal a progress bar, otherwise plain lines.

Only the main process speaks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

T = TypeVar("T")

# metrics.jsonl holds every line of a log; a person reading a pipe wants to see that it moves.
SECONDS_BETWEEN_LINES = 5.0


class Console:
    """Header, notes, progress and tables of a run."""

    def __init__(self, *, speaks: bool = True, stderr: bool = False) -> None:
        self.speaks = speaks
        # Files and pipes have no width of their own; 80 columns would break paths and numbers.
        width = None if (sys.stderr if stderr else sys.stdout).isatty() else 200
        self._rich = RichConsole(highlight=False, soft_wrap=True, width=width, stderr=stderr)
        self._bar: Progress | None = None
        self._printed = 0.0

    @property
    def live(self) -> bool:
        """Whether there is a terminal, or a notebook, that redraws."""
        return self._rich.is_terminal or self._rich.is_jupyter

    def print(self, text: str = "") -> None:
        if self.speaks:
            self._rich.print(text, markup=False)

    def heading(self, text: str) -> None:
        if self.speaks:
            self._rich.print(text, style="bold", markup=False)

    def facts(self, facts: Mapping[str, str]) -> None:
        """Two columns: what, and how much. The second may have several lines."""
        if not facts:
            return
        width = max(len(name) for name in facts)
        for name, text in facts.items():
            first, *rest = text.splitlines() or [""]
            self.print(f"  {name:<{width}}  {first}")
            for line in rest:
                self.print(f"  {'':<{width}}  {line}")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """A table; numbers are right-aligned and rounded for reading."""
        table = Table(title=title, title_justify="left", title_style="bold")
        rows = [[format_value(cell) for cell in row] for row in rows]
        for place, column in enumerate(columns):
            table.add_column(column, justify="left" if place == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        if self.speaks:
            self._rich.print(table)

    # ---- progress

    def start_steps(self, done: int, total: int) -> None:
        """Show a bar for the steps of a training run, on a terminal."""
        if self.speaks and self.live and total > done:
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[said]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
            )
            self._bar = Progress(*columns, console=self._rich, transient=True, refresh_per_second=4)
            self._bar.add_task("steps", completed=done, total=total, said="")
            self._bar.start()

    def tick(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def log(
        self, step: int, total: int, values: Mapping[str, float], seconds_left: float | None = None
    ) -> None:
        """One line of training: in the bar on a terminal, else printed."""
        words = [f"loss {values['loss']:.4f}", f"learning rate {values['lr']:.2e}"]
        words.append(f"{values['samples_per_second']:.1f} samples/s")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], said="  ".join(words))
        elif time.perf_counter() - self._printed > SECONDS_BETWEEN_LINES or step == total:
            self._printed = time.perf_counter()
            left = f"  {format_duration(seconds_left)} left" if seconds_left is not None else ""
            self.print(f"step {step}/{total}  " + "  ".join(words) + left)

    def stop_steps(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def count(self, total: int, title: str) -> Iterator[Callable[[int], None]]:
        """A function that is told of every few that are done: a bar on a terminal, else nothing.

        Without a `total` there is no bar.
        """
        if not (self.speaks and self.live and total):
            yield lambda done: None
            return
        columns = (TextColumn(title), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.advance(task, done)

    def track(self, items: Iterable[T], total: int, title: str) -> Iterator[T]:
        """The items, with their progress shown: a bar on a terminal, else a line at every fifth."""
        with self.count(total, title) as advance:
            for place, item in enumerate(items, start=1):
                yield item
                advance(1)
                is_fifth = total >= 20 and place * 5 // total > (place - 1) * 5 // total
                if is_fifth and not self.live:
                    self.print(f"{title} {place}/{total}")


def format_value(value: Any) -> str:
    """A cell of a table: four digits after the point, none for whole numbers."""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4f}"
    return str(value)


def format_setting(value: Any) -> str:
    """A value of a config as one would type it: nothing of a small rate is rounded away."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def format_count(count: int, word: str, ending: str = "s") -> str:
    """A number of things: 1 process, 2 processes."""
    return f"{count} {word}" if count == 1 else f"{count} {word}{ending}"


def format_duration(seconds: float) -> str:
    """Seconds as 45 s, 3 min 20 s or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
