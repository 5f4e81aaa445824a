"""Console output of a run: a progress bar on a terminal, plain lines otherwise.

Only the main process prints.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, TypeVar

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from finetune.errors import escape_controls, mask_secrets

T = TypeVar("T")

# metrics.jsonl has every logged step; the lines printed to a file or pipe only show progress.
SECONDS_BETWEEN_LINES = 5.0
# Work that takes longer is named.
SECONDS_OF_SILENCE = 2.0


class Console:
    """Printer of a run's header, notes, progress and tables."""

    def __init__(
        self, *, enabled: bool = True, stderr: bool = False, file: IO[str] | None = None
    ) -> None:
        self.enabled = enabled
        # Files and pipes have no width; rich's default of 80 columns would break paths and numbers.
        target = file or (sys.stderr if stderr else sys.stdout)
        width = None if target.isatty() else 200
        # Labels and texts are printed as they are: "[b]" is no style and ":100:" no emoji.
        self._rich = RichConsole(
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            width=width,
            stderr=stderr,
            file=file,
            force_jupyter=None if file is None else False,
        )
        self._bar: Progress | None = None
        self._printed = 0.0

    @property
    def live(self) -> bool:
        """True on a terminal or in a notebook, where lines can be redrawn."""
        return self._rich.is_terminal or self._rich.is_jupyter

    def print(self, text: str = "") -> None:
        if self.enabled:
            self._rich.print(_shown(text))

    def heading(self, text: str) -> None:
        if self.enabled:
            self._rich.print(_shown(text), style="bold")

    def facts(self, facts: Mapping[str, str]) -> None:
        """Print names and texts in two columns; a text may have several lines."""
        if not facts:
            return
        width = max(len(name) for name in facts)
        for name, text in facts.items():
            first, *rest = text.splitlines() or [""]
            self.print(f"  {name:<{width}}  {first}")
            for line in rest:
                self.print(f"  {'':<{width}}  {line}")

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table: numbers right-aligned and rounded, wide cells in several lines."""
        table = Table(title=title, title_justify="left", title_style="bold")
        rows = [[escape_controls(format_value(cell)) for cell in row] for row in rows]
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*row)
        if self.enabled:
            self._rich.print(table)

    # ---- progress

    def start_steps(self, done: int, total: int) -> None:
        """Start a progress bar for training steps, on a terminal only."""
        if self.enabled and self.live and total > done:
            # Without the bar, the line fits into 80 columns.
            bar = [BarColumn(bar_width=20)] if self._rich.width >= 100 else []
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                *bar,
                TimeRemainingColumn(),
                TextColumn("left  {task.fields[values]}"),
            )
            self._bar = Progress(*columns, console=self._rich, transient=True, refresh_per_second=4)
            self._bar.add_task("steps", completed=done, total=total, values="")
            self._bar.start()

    def tick(self, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def log(
        self, step: int, total: int, values: Mapping[str, float], seconds_left: float | None = None
    ) -> None:
        """Show the values of a step: in the bar on a terminal, otherwise as a printed line."""
        texts = [f"loss {values['loss']:.4f}", f"lr {values['lr']:.2e}"]
        texts.append(f"{values['samples_per_second']:.1f} samples/s")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], values="  ".join(texts))
        elif time.perf_counter() - self._printed > SECONDS_BETWEEN_LINES or step == total:
            self._printed = time.perf_counter()
            left = f"  {format_duration(seconds_left)} left" if seconds_left is not None else ""
            self.print(f"step {step}/{total}  " + "  ".join(texts) + left)

    def stop_steps(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextmanager
    def count(self, total: int, title: str) -> Iterator[Callable[[int], None]]:
        """Yield a function to call with the number of items just done; it advances a progress bar.

        Without a terminal, a line is printed from time to time; nothing is if `total` is 0.
        """
        if not (self.enabled and total):
            yield lambda done: None
            return
        if not self.live:
            yield self._line_counter(total, title)
            return
        columns = (TextColumn(title), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._rich, transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda done: bar.advance(task, done)

    def track(self, items: Iterable[T], total: int, title: str) -> Iterator[T]:
        """Yield the items and show progress, as `count` does."""
        with self.count(total, title) as advance:
            for item in items:
                yield item
                advance(1)

    def _line_counter(self, total: int, title: str) -> Callable[[int], None]:
        done, printed = 0, time.perf_counter()

        def advance(count: int) -> None:
            nonlocal done, printed
            done += count
            if time.perf_counter() - printed > SECONDS_BETWEEN_LINES:
                printed = time.perf_counter()
                self.print(f"{title} {done}/{total}")

        return advance

    @contextmanager
    def during(self, work: str) -> Iterator[None]:
        """Name the work of a block if it takes more than two seconds: "loading the network ..."."""
        if not self.enabled:
            yield
            return
        exits: list[SystemExit] = []

        def name_work() -> None:
            try:
                self.print(f"{work} ...")
            except SystemExit as ending:  # nobody reads the pipe anymore
                exits.append(ending)

        timer = threading.Timer(SECONDS_OF_SILENCE, name_work)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if exits:
            raise exits[0]


def _shown(text: str) -> str:
    return escape_controls(mask_secrets(text))


def format_value(value: Any) -> str:
    """Format a table cell: floats with four decimals, large whole numbers without."""
    if isinstance(value, float):
        return f"{value:.0f}" if value.is_integer() and abs(value) >= 10 else f"{value:.4f}"
    return str(value)


def format_setting(value: Any) -> str:
    """Format a config value as one would type it, without rounding small rates."""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def format_duration(seconds: float) -> str:
    """Format seconds as 45 s, 3 min 20 s or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
