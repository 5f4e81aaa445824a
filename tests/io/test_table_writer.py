"""Writing of tables: every format reads back what was written, and writes are atomic."""

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
from finetune.io.table_writer import check_output, open_writer, quote_formulas

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
def test_csv_writer_writes_lists_as_json(delimiter: str, tmp_path: Path) -> None:
    path = write(tmp_path / ("rows.csv" if delimiter == "," else "rows.tsv"))
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter=delimiter))
    assert [row["text"] for row in rows] == [row["text"] for row in ROWS]
    assert [json.loads(row["label"]) for row in rows] == [row["label"] for row in ROWS]
    assert [row["note"] for row in rows] == ["", "late", ""]


def test_json_writers_read_back(tmp_path: Path) -> None:
    lines = write(tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == ROWS
    assert json.loads(write(tmp_path / "rows.json").read_text(encoding="utf-8")) == ROWS


def test_parquet_writer_takes_types_that_cannot_be_inferred(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.parquet", note=pa.string())
    assert pa.parquet.read_table(path).to_pylist() == ROWS
    with pytest.raises(DataError, match=r"does not fit its column .* write \.jsonl instead"):
        write(tmp_path / "other.parquet")
    assert not (tmp_path / "other.parquet").exists()


def test_json_writer_writes_an_empty_array_for_no_rows(tmp_path: Path) -> None:
    with open_writer(tmp_path / "rows.json"):
        pass
    assert json.loads((tmp_path / "rows.json").read_text()) == []


def test_open_writer_keeps_the_old_file_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with pytest.raises(KeyError), open_writer(path) as writer:
        writer([*ROWS, {"text": "without the other columns"}])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_open_writer_reports_a_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataError, match=r"rows\.csv: cannot be written"),
        open_writer(tmp_path / "file" / "rows.csv"),
    ):
        pass


def test_open_writer_reports_a_file_that_cannot_be_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with (
        pytest.raises(DataError, match=r"rows\.csv: cannot be written.*with -o"),
        open_writer(tmp_path / "rows.csv") as writer,
    ):
        writer(ROWS)


def test_check_output_rejects_the_input_file_and_unknown_endings(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text("text\na\n")
    (tmp_path / "link.csv").symlink_to(source)
    for same in (source, tmp_path / "link.csv", tmp_path / "." / "rows.csv"):
        with pytest.raises(ConfigError, match="is the input file"):
            check_output(same, source)
    with pytest.raises(ConfigError, match="did you mean '.jsonl'"):
        check_output(tmp_path / "rows.jsnl")
    with pytest.raises(ConfigError, match="choose from: .csv"):
        check_output(tmp_path / "rows")
    check_output(tmp_path / "new.parquet", source)


def test_open_writer_reports_a_disk_that_is_full_on_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows stay in the buffer until the file is closed."""

    class Full(io.StringIO):
        def close(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda *_, **__: Full())
    with pytest.raises(DataError, match=r"rows.csv: cannot be written: .*No space left"):
        write(tmp_path / "rows.csv")


def test_quote_formulas_leaves_numbers_and_text(tmp_path: Path) -> None:
    cells = [
        "=1+1",
        "+SUM(A1)",
        "-2+3",
        "@A1",
        "\t=1",
        "\r=1",
        "\n=1",
        "\uff1d1+1",
        "-cmd|' /C calc'!A0",
    ]
    kept = ["", "a=b", "-5", "+1.5e-3", "'=1", -0.5, ["=1"], None]
    with open_writer(tmp_path / "rows.csv") as writer:
        quote_formulas(writer)([{"=name": cell} for cell in [*cells, *kept]])
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = [row[0] if row else "" for row in csv.reader(file)]
    assert rows[: len(cells) + 1] == ["'=name", *(f"'{cell}" for cell in cells)]
    assert rows[len(cells) + 1 :] == ["", "a=b", "-5", "+1.5e-3", "'=1", "-0.5", '["=1"]', ""]
