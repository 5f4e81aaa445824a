"""JSON in every shape that holds rows, and strict parsing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError
from finetune.tables.encodings import Decoder
from finetune.tables.table_files import read_table_splits
from tests.tables.conftest import Read, Write

ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
LISTS = [[row["text"], row["label"]] for row in ROWS]
MESSAGES = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHAPES: dict[str, Any] = {
    "array": ROWS,
    "container": {"version": 1, "data": ROWS},
    "only key": {"corpus": ROWS},
    "container in a container": {"data": {"items": ROWS}},
    "columns": {"text": ["a", "b"], "label": [1, 0]},
    "pandas columns": {"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}},
    "pandas index": {"0": ROWS[0], "1": ROWS[1]},
    "pandas split": {"columns": ["text", "label"], "index": [0, 1], "data": LISTS},
    "pandas table": {"schema": {"fields": []}, "data": [{"index": 5, **row} for row in ROWS]},
}
ONE_ROW: dict[str, Any] = {
    "plain": {"text": "a", "label": 1},
    "dialogue": {"messages": MESSAGES},
    "dialogue with tools": {"messages": MESSAGES, "tools": [{"name": "x"}]},
    "prompt and completion": {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
    "translation": {"translation": {"en": "a", "fr": "b"}},
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_read_json_finds_the_rows(read: Read, shape: str, indent: int | None, name: str) -> None:
    rows, notes = read(json.dumps(SHAPES[shape], indent=indent), name)
    assert rows.to_list() == ROWS
    assert bool(notes) == (shape != "array")


@pytest.mark.parametrize("row", ONE_ROW)
def test_read_json_reads_one_object_as_a_row(read: Read, row: str) -> None:
    assert read(json.dumps(ONE_ROW[row]), "a.json")[0].to_list() == [ONE_ROW[row]]


def test_read_json_names_what_is_beside_the_rows(read: Read) -> None:
    _, notes = read(json.dumps({"version": 1, "data": ROWS, "source": "x"}), "a.json")
    assert any(note.endswith("its rows are under 'data' (data.field)") for note in notes)
    assert any(note.endswith("not read: version, source") for note in notes)


def test_read_json_reads_rows_under_their_keys(read: Read) -> None:
    content = {f"id{n}": {"text": "a", "label": n} for n in range(12)}
    rows, notes = read(json.dumps(content), "a.json")
    assert rows[11] == {"key": "id11", "text": "a", "label": 11}
    assert "column 'key'" in notes[0]


def test_read_json_reads_splits(write: Write) -> None:
    path = write("a.json", json.dumps({"train": ROWS, "dev": ROWS[:1], "info": {}}))
    splits, notes = read_table_splits(path, DataConfig(), Decoder())
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "dev": 1}
    assert any(note.endswith("not read: info") for note in notes)


@pytest.mark.parametrize("separator", ["\n", "", " ", ",\n"])
@pytest.mark.parametrize("indent", [None, 2])
def test_read_json_reads_objects_one_after_the_other(
    read: Read, separator: str, indent: int | None
) -> None:
    rows, notes = read(separator.join(json.dumps(row, indent=indent) for row in ROWS), "a.json")
    assert rows.to_list() == ROWS
    plain = separator == "\n" and indent is None
    assert bool(notes) != plain


def test_read_json_takes_the_rows_that_a_key_names(read: Read) -> None:
    content = json.dumps({"a": {"b": ROWS}, "c": 1})
    assert read(content, "a.json", field="a.b")[0].to_list() == ROWS
    with pytest.raises(DataError, match="data.field=a.x: no key 'x'; choose from: b"):
        read(content, "a.json", field="a.x")


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": [{"id": 1}]},
        {"corpus": ROWS * 6, "count": 12},
    ],
)
def test_read_json_refuses_several_candidates(read: Read, content: Any) -> None:
    with pytest.raises(AmbiguityError, match="data.field="):
        read(json.dumps(content), "a.json")


def test_read_json_refuses_columns_of_different_lengths(read: Read) -> None:
    with pytest.raises(DataError, match="'text' has 2, 'label' has 1"):
        read(json.dumps({"text": ["a", "b"], "label": [0]}), "a.json")


@pytest.mark.parametrize("content", [json.dumps(LISTS), "\n".join(map(json.dumps, LISTS))])
def test_read_json_names_the_cells_of_lists(read: Read, content: str) -> None:
    assert read(content, "a.json", columns=["text", "label"])[0].to_list() == ROWS
    with pytest.raises(DataError, match="data.columns="):
        read(content, "a.json")
    with pytest.raises(DataError, match="2 cells, but data.columns has 1 name"):
        read(content, "a.json", columns=["text"])


def test_read_json_refuses_names_for_objects_and_repeated_names(read: Read) -> None:
    with pytest.raises(DataError, match="remove data.columns"):
        read(json.dumps(ROWS), "a.json", columns=["a", "b"])
    with pytest.raises(DataError, match="item 1: repeats the names"):
        read(json.dumps([["text", "label"], *LISTS]), "a.json", columns=["text", "label"])


def test_read_json_reads_nan_as_missing(read: Read) -> None:
    rows, notes = read('{"text": "a", "n": NaN}\n{"text": NaN, "n": 2}\n', "a.jsonl")
    assert rows.to_list() == [{"text": "a", "n": None}, {"text": None, "n": 2}]
    assert notes[0].endswith("2 NaN read as null, a missing value")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("Infinity", "Infinity is not a JSON number"),
        ("1e999", "1e999 is too large"),
        ('1, "n": 2', "the key 'n' occurs twice"),
        ('"\\ud800"', "half of a character"),
        ("[" * 100 + "]" * 100, "nested more than 64 levels"),
        ("[" * 9999 + "]" * 9999, "nested more than 64 levels"),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_read_json_is_strict(read: Read, value: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"line 2: invalid JSON .*{reason}"):
        read(f'{{"n": 1}}\n{{"n": {value}}}\n{{"n": 3}}\n', "a.jsonl")
    with pytest.raises(DataError, match=f"neither valid JSON nor.*{reason}"):
        read(f'[\n{{"n": {value}}}\n]', "a.json")


def test_read_json_gives_the_line_of_a_broken_array(read: Read) -> None:
    with pytest.raises(DataError, match="line 7 column"):
        read(json.dumps(ROWS, indent=2)[:60], "a.json")


def test_read_json_tells_of_objects_in_columns(read: Read) -> None:
    rows, notes = read('{"text": "a", "meta": {"id": 1}}\n{"text": "b", "meta": null}\n', "a.jsonl")
    assert rows["meta"][:] == [{"id": 1}, None]
    assert "column 'meta' holds objects (id)" in notes[0]


def test_splits_of_one_object_may_be_lists_of_cells(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    cells = {"train": [["a b", "x"], ["c d", "y"]], "val": [["e", "x"]], "oos_val": [["f", "x"]]}
    path.write_text(json.dumps(cells))
    config = DataConfig(columns=["text", "label"])
    splits, notes = read_table_splits(path, config, Decoder(None))
    assert splits["train"][0] == {"text": "a b", "label": "x"}
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "val": 1}
    assert any("not read: oos_val" in note for note in notes)


def test_rows_that_are_lists_of_messages_are_dialogues(read: Read) -> None:
    dialogue = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for content in (f"{json.dumps(dialogue)}\n" * 2, json.dumps([dialogue] * 2)):
        rows, _ = read(content, "a.jsonl")
        assert rows["messages"][:] == [dialogue] * 2


def test_read_json_refuses_lists_that_mix_objects_and_values(read: Read) -> None:
    cells = [[{"b": 1}, 2, "x"], [[3], None]]
    with pytest.raises(DataError, match="the values of column 'a' have no common type: row 1"):
        read("".join(f"{json.dumps({'a': cell})}\n" for cell in cells), "a.jsonl")
