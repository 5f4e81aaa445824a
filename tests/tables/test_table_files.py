"""Reading of single files: cells are kept verbatim, and faults are reported by line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.tables.encodings import Decoder
from finetune.tables.table_files import read_table


def read(path: Path, **keys: Any) -> tuple[Dataset, list[str]]:
    config = DataConfig(**keys)
    return read_table(path, config, Decoder(config.encoding))


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def test_read_csv_keeps_every_cell_as_text(write: Any) -> None:
    rows, _ = read(write("a.csv", "text,label\nNA,007\nNone,1.0\n,true\n2024-01-31,1e3\n"))
    assert rows.to_list() == [
        {"text": "NA", "label": "007"},
        {"text": "None", "label": "1.0"},
        {"text": "", "label": "true"},
        {"text": "2024-01-31", "label": "1e3"},
    ]


def test_read_csv_accepts_quoted_newlines_quotes_and_delimiters(write: Any) -> None:
    content = 'text,label\r\n"one\ntwo",x\r\n"he said ""hi"", then left",y\r\n5" pipe,z'
    rows, _ = read(write("a.csv", content))
    assert rows["text"][:] == ["one\ntwo", 'he said "hi", then left', '5" pipe']


@pytest.mark.parametrize(
    ("delimiter", "name"), [(";", "semicolon"), ("\t", "tab"), ("|", "bar"), (",", None)]
)
def test_read_csv_detects_and_notes_the_delimiter(
    write: Any, delimiter: str, name: str | None
) -> None:
    other = "," if delimiter == ";" else ";"
    text = f'"the{other}text"{delimiter}label\n"a{delimiter}b"{delimiter}c\n'
    rows, notes = read(write("a.csv", text))
    assert rows.to_list() == [{f"the{other}text": f"a{delimiter}b", "label": "c"}]
    assert [name in note for note in notes] == ([True] if name else [])


def test_read_csv_takes_the_configured_delimiter(write: Any) -> None:
    path = write("a.csv", "a;b,c\n1;2,3\n")
    assert read(path, delimiter=";")[0].to_list() == [{"a": "1", "b,c": "2,3"}]
    assert read(write("b.csv", "a\tb\n1\t2\n"), delimiter="\\t")[0].column_names == ["a", "b"]
    with pytest.raises(ValueError, match="delimiter\n.*not a single ASCII character"):
        read(path, delimiter="::")


def test_read_csv_accepts_a_single_column(write: Any) -> None:
    assert read(write("a.csv", "text\nhello\n"))[0].to_list() == [{"text": "hello"}]


def test_read_csv_splits_tsv_at_tabs_only(write: Any) -> None:
    assert read(write("a.TSV", "text\tlabel\na, b\tc\n"))[0]["text"][:] == ["a, b"]


def test_read_csv_reports_ragged_rows_by_line(write: Any) -> None:
    path = write(
        "a.csv", 'text,label\n"one\ntwo",x\nfirst,y,extra\nthird,z\nalone\nfirst,y,extra\n'
    )
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert f"{path}: 3 of 5 rows are invalid" in message
    assert "line 4: 3 cells, but the header has 2: 'first,y,extra'" in message
    assert "line 6: 1 cell, but the header has 2: 'alone'" in message
    assert "line 7:" in message
    assert "data.on_error=skip" in message


def test_read_csv_skips_ragged_rows_on_request(write: Any) -> None:
    rows, notes = read(write("a.csv", "a,b\n1,2\n3\n4,5\n"), on_error="skip")
    assert rows["a"][:] == ["1", "4"]
    assert "1 of 3 rows skipped" in notes[0]


def test_read_csv_reports_an_unclosed_quote(write: Any) -> None:
    with pytest.raises(DataError, match=r"line 3 opens a quote.*never closed"):
        read(write("a.csv", 'label,text\na,b\nc,"open\nd,e\nf,g\n'))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("text,label\n", "no rows"),
        ("text,label", "no rows"),
        ("text,text\na,b\n", "columns 1 and 2 are both called 'text'"),
    ],
)
def test_read_csv_rejects_empty_files_and_bad_headers(
    write: Any, content: str, message: str
) -> None:
    path = write("a.csv", content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_read_csv_counts_leading_blank_lines(write: Any) -> None:
    with pytest.raises(DataError, match="line 5: 1 cell,"):
        read(write("a.csv", "\n\na,b\n1,2\n3\n"))


def test_read_csv_accepts_a_byte_order_mark_and_utf16(write: Any) -> None:
    assert read(write("a.csv", b"\xef\xbb\xbftext,b\nx,y\n"))[0].column_names == ["text", "b"]
    path = write("b.csv", "text,b\nhéllo,y\n".encode("utf-16"))
    for encoding in ("utf-16", None):
        assert read(path, encoding=encoding)[0]["text"][:] == ["héllo"]
    with pytest.raises(DataError, match="data.encoding=utf-16"):
        read(path, encoding="utf-8")


def test_read_csv_does_not_depend_on_the_block_size(write: Any, monkeypatch: Any) -> None:
    cells = [f'{number}, "quoted"\n\nand é' for number in range(3000)]
    file = io.StringIO(newline="")
    csv.writer(file).writerows([["text", "label"], *([cell, "x"] for cell in cells)])
    path = write("a.csv", file.getvalue() + "ragged\n")
    monkeypatch.setattr("finetune.tables.delimited._BLOCK", 1 << 12)
    assert read(path, on_error="skip")[0]["text"][:] == cells
    with pytest.raises(DataError, match="line 9002: 1 cell,"):
        read(path)


def test_read_csv_suggests_an_unclosed_quote_for_an_endless_row(
    write: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr("finetune.tables.delimited._BLOCK", 1 << 12)
    with pytest.raises(DataError, match="check for a quote"):
        read(write("a.csv", 'text,label\n"open,x\n' + "row,y\n" * 5000))


def test_read_table_accepts_gzipped_csv_and_jsonl(write: Any) -> None:
    assert len(read(write("a.csv.gz", gzip.compress(b"a,b\n1,2\n")))[0]) == 1
    assert len(read(write("a.jsonl.gz", gzip.compress(b'{"a": 1}\n')))[0]) == 1
    with pytest.raises(DataError, match="cannot be read"):
        read(write("b.csv.gz", b"not gzip"))


def test_read_jsonl_keeps_nested_values_and_dates(write: Any) -> None:
    records = [
        {"text": "2024-01-31T00:00:00", "boxes": [[1, 2], [3, 4]], "meta": {"id": 1}},
        {"text": "line\u2028separator", "boxes": [], "meta": {"id": 2}},
    ]
    lines = "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    assert read(write("a.jsonl", lines))[0].to_list() == records
    assert read(write("a.json", json.dumps(records)))[0].to_list() == records


def test_read_jsonl_reads_columns_of_mixed_types_as_text(write: Any) -> None:
    path = write("a.jsonl", '{"label": 1, "n": 1}\n{"label": "b", "n": 2.5}\n{"label": true}\n')
    rows, notes = read(path)
    assert rows["label"][:] == ["1", "b", "true"]
    assert rows["n"][:] == [1.0, 2.5, None]
    assert len(notes) == 1 and "'label'" in notes[0]


def test_read_jsonl_reports_invalid_json_by_line(write: Any) -> None:
    path = write("a.jsonl", '{"a": 1}\n\n{"a": 2\n[1]\n')
    with pytest.raises(DataError) as caught:
        read(path)
    assert "line 3: invalid JSON" in str(caught.value)
    assert "line 4: is '[1]'; expected an object" in str(caught.value)
    rows, notes = read(path, on_error="skip")
    assert len(rows) == 1 and "2 of 3 rows skipped" in notes[0]


def test_read_jsonl_reports_the_column_without_a_common_type(write: Any) -> None:
    with pytest.raises(DataError, match="column 'big'"):
        read(write("a.jsonl", '{"ok": 1, "big": 1}\n{"ok": 2, "big": 1%s}\n' % ("0" * 30)))


def test_read_table_keeps_types_and_class_names_of_parquet_and_arrow(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    rows = rows.cast_column("label", ClassLabel(names=["no", "yes"]))
    rows.to_parquet(tmp_path / "a.parquet")
    table = rows.data.table
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as sink:
        sink.write_table(table)
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as sink:
        sink.write_table(table)
    for name in ("a.parquet", "file.arrow", "stream.arrow"):
        restored, _ = read(tmp_path / name)
        assert restored.to_list() == rows.to_list()
        assert restored.features["label"].names == ["no", "yes"]


def test_read_parquet_drops_the_index_and_categories_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", "b"]}, index=[7, 9])
    frame["label"] = pandas.Categorical(["x", "y"])
    frame.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet")[0].to_list() == [
        {"text": "a", "label": "x"},
        {"text": "b", "label": "y"},
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_read_table_reports_broken_binary_files(write: Any, name: str) -> None:
    path = write(name, b"nothing of the kind")
    with pytest.raises(DataError, match=name):
        read(path)


def test_read_table_lists_the_formats_for_an_unknown_ending(write: Any) -> None:
    path = write("news.dat", "a,b\n1,2\n")
    with pytest.raises(DataError, match=r"\.csv.*data\.format="):
        read(path)
    assert read(path, format="csv")[0].to_list() == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("name", ["a.arrow", "a.parquet"])
def test_read_table_refuses_text_that_is_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    table = pa.table({"text": ["a text of some length", "another"]})
    if name == "a.parquet":
        pa.parquet.write_table(table, path, compression="NONE")
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    path.write_bytes(path.read_bytes().replace(b"some", b"so\xffe"))
    with pytest.raises(DataError, match=rf"{name}: cannot be read"):
        read(path)


def test_read_table_refuses_decompression_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune.tables.encodings.LARGE", 1 << 20)
    texts = tmp_path / "a.csv.gz"
    texts.write_bytes(gzip.compress(b"text\n" + b"a" * (1 << 22)))
    table = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.table({"text": ["x" * 10_000] * 4000}), table)
    feathers = [tmp_path / "lz4.feather", tmp_path / "zstd.feather"]
    for path in feathers:
        column = pa.table({"text": ["x" * 10_000] * 1000})
        pyarrow.feather.write_feather(column, path, compression=path.stem)
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int16()), ["x" * 10_000])
    categories = tmp_path / "categories.arrow"
    with pa.ipc.new_stream(categories, pa.schema({"text": repeated.type})) as writer:
        writer.write_table(pa.table({"text": repeated}))
    for path in (texts, table, *feathers, categories):
        assert path.stat().st_size < 1 << 17
        with pytest.raises(DataError, match=rf"{path.name}: .* bytes expand to more than"):
            read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.parquet"])
def test_read_table_refuses_pointers_of_git_lfs(write: Any, name: str) -> None:
    content = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n"
    with pytest.raises(DataError, match=rf"{name}: is a pointer of Git LFS.*git lfs pull"):
        read(write(name, content))


def test_keys_without_effect_on_a_format_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("a line\n", encoding="utf-8")
    _, notes = read(path, columns=["label", "text"], quote="none")
    assert f"{path}: read as text, on which data.columns, data.quote have no effect" in notes


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_read_table_refuses_thousands_of_columns(write: Any, name: str) -> None:
    keys = [f"k{number}" for number in range(5001)]
    header = ",".join(keys)
    with pytest.raises(DataError, match=rf"{name}: has 5001 columns, .*'k0', 'k1'"):
        read(write(name, f"{header}\n" if name == "a.csv" else json.dumps(dict.fromkeys(keys, 1))))


@pytest.mark.parametrize("depth", [1, 2])
def test_objects_of_thousands_of_keys_are_kept_as_text(write: Any, depth: int) -> None:
    keys: Any = {f"k{number}": number for number in range(5001)}
    meta = keys if depth == 1 else {"inner": [keys]}
    rows, notes = read(write("a.jsonl", json.dumps({"text": "a", "meta": meta}) + "\n"))
    assert json.loads(rows[0]["meta"]) == meta
    assert any("column 'meta' have more than 5000 keys" in note for note in notes)


def test_a_mapped_table_is_not_copied_into_memory(tmp_path: Path) -> None:
    path, size = tmp_path / "a.arrow", 2**25
    table = pa.table({"text": ["a" * 2**15] * (size // 2**15)})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    del table
    allocated = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        rows, _ = read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(rows) == size // 2**15
    assert peak + pa.total_allocated_bytes() - allocated < size / 4
