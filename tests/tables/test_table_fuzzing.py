"""Whatever the bytes of a table, an answer: rows, or a DataError that names the file."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.config.schema import DataConfig
from finetune.data.readers import read_reference
from finetune.errors import DataError

# The gate sets 12: about a minute for each of the two fuzzers.
FUZZ = int(os.environ.get("FINETUNE_FUZZ", "1"))
FEW = settings(
    max_examples=150 * FUZZ,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
    derandomize=True,
)
MANY = settings(FEW, max_examples=5000, derandomize=False)
QUOTES = [None, "double", "single", "backslash", "none"]

MARKS = ', ; \t | \n \r\n \r " "" \' \\ \\" \0 \ufeff \u2028 - é \U0001f600 sep=;\n { } [ ] {} [] : ,,,\n'
WORDS = "a text label pos neg 0 1 1.0 0,5 1.234,5 null true NaN Infinity -Infinity 1e999 \\ud800"
LINES = ["text,label\n", "a,pos\n", "b,neg\n", "Unnamed: 0,", "__label__x ", "x" * 300, "9" * 30]
JSON = [
    '{"text": "a", "label": 1}',
    '{"a": {"b": [1]}}',
    '{"data": [',
    '{"train": ',
    '"a": 1, "a": 2',
]
BIT = st.sampled_from([*MARKS.split(" "), *WORDS.split(), *LINES, *JSON, "[" * 70, ""])
SOUP = st.lists(BIT, max_size=40).map("".join)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NESTED = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def answers(name: str, content: bytes, **keys: Any) -> None:
    """Read a file and all of its rows; only a DataError may come out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            config = DataConfig(**{**keys, "on_error": "stop"})
            config = config.model_copy(update=keys)  # "keep" is for predictions, and no key
            tables = read_reference(str(path), config)
        except DataError as error:
            assert str(path) in str(error) or str(error).startswith("data.")
            return
        assert tables.splits
        for rows in tables.splits.values():
            assert len(rows) and len(rows.to_list()) == len(rows)


@st.composite
def mutated(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw bytes that differ from valid ones in a few places."""
    content = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        count = draw(st.sampled_from([0, 1, 1, 2, 30]))
        content[at : at + count] = draw(st.binary(max_size=4))
    return bytes(content[: draw(st.sampled_from([len(content), len(content) // 2]))])


TABLE = pa.table({"text": ["a", "b"] * 20, "label": range(40), "boxes": [[1.0, 2.0]] * 40})


def parquet() -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(TABLE, file)
    return file.getvalue()


def arrow() -> bytes:
    file = io.BytesIO()
    with pa.ipc.new_file(file, TABLE.schema) as writer:
        writer.write_table(TABLE)
    return file.getvalue()


CSV = b'text,label\n"a ""b"", c",pos\nd,neg\n"e\nf",pos\n'
JSONL = b'{"text": "a", "label": 1}\n{"text": "b", "label": 2, "meta": {"id": [1, 2]}}\n'
VALID = {
    "a.csv": CSV,
    "a.tsv": CSV.replace(b",", b"\t"),
    "a.csv.gz": gzip.compress(CSV, mtime=0),
    "b.csv": CSV.decode().encode("utf-16"),
    "a.jsonl": JSONL,
    "a.json": json.dumps({"train": [{"a": 1}], "test": [{"a": 2}]}, indent=1).encode(),
    "a.parquet": parquet(),
    "a.arrow": arrow(),
    "a.txt": b"A text.\n\nAnother text.\n",
}


def check_mutations(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(VALID)))
    on_error = data.draw(st.sampled_from(["stop", "skip", "keep"]))
    answers(name, data.draw(mutated(VALID[name])), on_error=on_error)


def check_soup(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["a.csv", "a.tsv", "a.json", "a.txt"]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-16"]))
    keys = {
        "quote": data.draw(st.sampled_from(QUOTES)),
        "columns": data.draw(st.sampled_from([None, "header", ["text", "label"]])),
        "on_error": data.draw(st.sampled_from(["stop", "skip", "keep"])),
        "format": data.draw(st.sampled_from(["auto", "auto", "auto", "csv", "jsonl", "lines"])),
    }
    answers(name, data.draw(SOUP).encode(encoding), **keys)


def check_json(data: st.DataObject) -> None:
    values = data.draw(st.lists(NESTED, max_size=4))
    indent = data.draw(st.sampled_from([None, 1]))
    separator = data.draw(st.sampled_from(["\n", "", ",\n", " "]))
    answers("a.json", separator.join(json.dumps(each, indent=indent) for each in values).encode())


CHECKS = [check_mutations, check_soup, check_json]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_read_reference_answers_any_bytes(check: Any) -> None:
    FEW(given(st.data())(check))()


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_read_reference_answers_many_more_bytes(check: Any) -> None:
    MANY(given(st.data())(check))()
