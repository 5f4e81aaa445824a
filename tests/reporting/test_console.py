"""Progress on terminals of different widths and in files, and names of slow work."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console as RichConsole

from finetune.reporting import console as consoles
from finetune.reporting.console import Console

VALUES = {"loss": 11.2266, "lr": 2e-5, "samples_per_second": 12345.6}


def last_line(width: int) -> str:
    """Return the line of a step on a terminal, near the end of a long run."""
    console, terminal = Console(), io.StringIO()
    console._rich = RichConsole(
        file=terminal, force_terminal=True, width=width, color_system=None, highlight=False
    )
    console.start_steps(0, 125_000)
    console.tick(99_999)
    console.log(99_999, 125_000, VALUES)
    assert console._bar is not None
    console._bar.refresh()
    console.stop_steps()
    lines = [line for line in terminal.getvalue().split("\r") if "step" in line]
    return lines[-1].removeprefix("\x1b[2K").partition("\n")[0]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_line_of_a_step_shows_the_time_left_and_all_values(width: int) -> None:
    line = last_line(width)
    assert len(line) <= width
    assert line.split("  ")[-3:] == ["loss 11.2266", "lr 2.00e-05", "12345.6 samples/s"]
    assert " left " in line
    assert "99999/125000" in line
    assert ("━" in line) == (width >= 100)


def test_printed_line_of_a_step_fits_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Console().log(9_999, 9_999, VALUES, seconds_left=3599)
    line = capsys.readouterr().out.rstrip("\n")
    assert line.endswith("59 min 59 s left")
    assert len(line) <= 80


@pytest.mark.parametrize(("seconds", "shown"), [(0.0, ""), (0.2, "loading the network ...\n")])
def test_during_names_work_that_takes_long(
    seconds: float,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(consoles, "SECONDS_OF_SILENCE", 0.05)
    with Console().during("loading the network"):
        time.sleep(seconds)
    time.sleep(0.1)
    assert capsys.readouterr().out == shown
    with Console(enabled=False).during("loading the network"):
        time.sleep(seconds)
    assert capsys.readouterr().out == ""


def test_during_ends_the_command_when_its_words_find_a_closed_pipe() -> None:
    script = (
        "import time; from finetune.reporting import console as c; c.SECONDS_OF_SILENCE = 0.01\n"
        "with c.Console().during('work'): time.sleep(0.5)\n"
        "raise ValueError('goes on')"
    )
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_count_prints_a_line_from_time_to_time_into_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Console().count(100, "rows") as advance:
        advance(30)
        monkeypatch.setattr(consoles, "SECONDS_BETWEEN_LINES", 0.0)
        advance(40)
    assert list(Console().track(range(2), 2, "blocks")) == [0, 1]
    assert capsys.readouterr().out == "rows 70/100\nblocks 1/2\nblocks 2/2\n"


def test_tables_show_labels_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["[/b]", "[red]", ":100:", "[INST]"]
    Console().table("by [label]", ["value", "rows"], [[label, 1] for label in labels])
    Console().print("first row: [/b] :100:")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("│")] == labels
    assert lines[0].strip() == "by [label]"
    assert lines[-1] == "first row: [/b] :100:"


def test_wide_tables_show_the_names_of_runs_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [f"reviews-all_minilm_l6_v2-frozen-{number}" for number in range(9)]
    Console().table("metrics", ["metric", *runs], [["validation/accuracy", *[0.9123] * 9]])
    cells = [re.split("[┃│]", line)[1:-1] for line in capsys.readouterr().out.splitlines()[2:-1]]
    columns = ["".join(map(str.strip, column)) for column in zip(*filter(None, cells), strict=True)]
    assert columns == ["metricvalidation/accuracy", *(f"{run}0.9123" for run in runs)]
