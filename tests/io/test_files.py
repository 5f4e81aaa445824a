"""Atomic writes: two processes that write one file, and what killed ones leave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.errors import ConfigError
from finetune.inference.part_files import PartFiles
from finetune.io.files import atomic, partial_path, write_text

# Writes many rows in chunks to a file that the other process writes, too.
WRITER = """
import sys
from pathlib import Path
from finetune.io.table_writer import open_writer
for _ in range(30):
    with open_writer(Path(sys.argv[1])) as write:
        for number in range(200):
            write([{"row": number, "by": sys.argv[2]}])
"""


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_two_processes_that_write_one_file_leave_the_whole_of_one(
    ending: str, tmp_path: Path
) -> None:
    path = tmp_path / f"out.{ending}"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("a", "b")
    ]
    assert [writer.wait(300) for writer in writers] == [0, 0]
    lines = path.read_text().splitlines()
    assert len(lines) == 200 + (ending == "csv")
    assert len({line.count('a"') or line.endswith(",a") for line in lines[1:]}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_atomic_removes_what_a_killed_process_left_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out [1].csv"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    killed, running = partial_path(path, gone.pid), partial_path(path, 1)
    other = partial_path(tmp_path / "out.csv", gone.pid)
    for each in (killed, running, other):
        each.mkdir()
        (each / "file").write_text("half")
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, running.name, other.name}


def test_atomic_leaves_the_old_file_and_no_other_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="broken"), atomic(path) as partial:
        partial.write_text("new")
        raise ValueError("broken")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_part_files_of_one_output_are_written_by_one_command(tmp_path: Path) -> None:
    output = tmp_path / "vectors.parquet"
    with PartFiles(output, "one", 8, 4).prepared():
        with (
            pytest.raises(ConfigError, match=r"-o .*vectors.parquet: another command is writing"),
            PartFiles(output, "two", 8, 4).prepared(),
        ):
            pass
        assert (tmp_path / "vectors.parquet.parts").is_dir()
    with PartFiles(output, "two", 8, 4).prepared():
        assert {path.name for path in tmp_path.iterdir()} > {"vectors.parquet.parts"}
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.parquet.parts"]
