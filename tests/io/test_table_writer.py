"""Files of rows: every format reads back to what was written, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from finetune.errors import ConfigError, DataError
from finetune.io.table_writer import check_output, open_writer

ROWS: list[dict[str, Any]] = [
    {"text": 'a "quoted", b', "count": 3, "label": ["x", "y"], "note": None},
    {"text": "two\nlines, ü", "count": 4, "label": [], "note": "late"},
    {"text": "", "count": 5, "label": ["z"], "note": None},
]


def write(path: Path, **types: pa.DataType) -> Path:
    with open_writer(path, types) as writer:
        writer(ROWS[:1])
        writer(ROWS[1:])
    return path


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_table_of_text_holds_lists_as_json(delimiter: str, tmp_path: Path) -> None:
    path = write(tmp_path / ("rows.csv" if delimiter == "," else "rows.tsv"))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [json.loads(row["label"]) for row in rows] == [row["label"] for row in ROWS]
    assert [row["note"] for row in rows] == ["", "late", ""]


def test_json_lines_and_a_json_array_read_back(tmp_path: Path) -> None:
    lines = write(tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert json.loads(write(tmp_path / "rows.json").read_text(encoding="utf-8")) == ROWS


def test_parquet_takes_types_that_the_first_rows_do_not_tell(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", note=pa.string())
    assert pa.parquet.read_table(path).to_pylist() == ROWS
    with pytest.raises(DataError, match=r"does not fit its column .* write \.jsonl instead"):
        write(tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_no_rows_make_an_empty_array(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.json"):
        pass
    assert json.loads((tmp_path / "rows.json").read_text()) == []


def test_a_file_that_is_not_whole_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with pytest.raises(KeyError), open_writer(path) as writer:
        writer([*ROWS, {"text": "without the other columns"}])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataError, match=r"rows\.csv: cannot be written"),
        open_writer(tmp_path / "file" / "rows.csv"),
    ):
        pass


def test_a_folder_that_takes_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with (
        pytest.raises(DataError, match=r"rows\.csv: cannot be written.*by -o"),
        open_writer(tmp_path / "rows.csv") as writer,
    ):
        writer(ROWS)


def test_check_output_refuses_what_would_be_regretted(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("text\na\n")
    (tmp_path / "link.csv").symlink_to(source)
    for same in (source, tmp_path / "link.csv", tmp_path / "." / "rows.csv"):
        with pytest.raises(ConfigError, match="is the file that is read"):
            check_output(same, source)
    with pytest.raises(ConfigError, match="did you mean '.jsonl'"):
        check_output(tmp_path / "rows.jsnl")
    with pytest.raises(ConfigError, match="choose from: .csv"):
        check_output(tmp_path / "rows")
    check_output(tmp_path / "new.parquet", source)


def test_a_disk_that_is_full_at_the_end_is_a_fault_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What few rows give is held back, and written when the file is closed."""

    class Full(io.StringIO):
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_, **__: Full())
    with pytest.raises(DataError, match=r"rows.csv: cannot be written: .*No space left"):
        write(tmp_path / "rows.csv")
