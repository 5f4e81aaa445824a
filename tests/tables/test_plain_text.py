"""Plain text: a document, a row per line, or a table in disguise."""

from __future__ import annotations

import gzip

import pytest

from finetune.errors import AmbiguityError, DataError
from tests.tables.conftest import Read

BOOK = "Chapter one.\n\nIt was a dark night.\nIt rained.\n\nThe end.\n"


def test_read_document_keeps_a_book_whole(read: Read) -> None:
    rows, notes = read(BOOK, "book.txt")
    assert rows.to_list() == [{"text": BOOK, "file": "book.txt"}]
    assert notes[0].endswith(f"read as one document of {len(BOOK)} characters in 6 lines")
    assert read(gzip.compress(BOOK.encode()), "book.txt.gz")[0]["text"][:] == [BOOK]


def test_read_document_says_that_a_list_may_be_rows(read: Read) -> None:
    content = "good\nbad\n\nfine\nawful\nok\n" + "meh\n" * 20
    rows, notes = read(content, "list.txt")
    assert len(rows) == 1 and "data.format=lines" in notes[0]
    rows, notes = read(content, "list.txt", format="lines")
    assert rows["text"][:3] == ["good", "bad", "fine"] and len(rows) == 25
    assert notes[0].endswith("blank lines (1)")


@pytest.mark.parametrize(
    ("delimiter", "format"), [("\t", "tsv"), (";", "csv"), ("|", "csv"), (",", "csv")]
)
def test_read_document_refuses_a_table(read: Read, delimiter: str, format: str) -> None:
    content = "".join(f"a text of number {n}{delimiter}pos\n" for n in range(6))
    with pytest.raises(
        AmbiguityError, match=f"format={format} .*columns=.text, label.*format=text"
    ):
        read(content, "a.txt")
    rows, _ = read(content, "a.txt", format=format, columns=["text", "label"])
    assert rows["label"][:] == ["pos"] * 6
    assert len(read(content, "a.txt", format="text")[0]) == 1


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{n} ::: a title ::: {label} ::: a text", "has 3 times ':::'"),
        ("a text of number {n}@{label}", "has 1 times '@'"),
        ("word{n} NN B-NP O", "has 4 words, as in sets of words with tags"),
        ("{label} a text of number {n}", "begins with one of 2 words .'neg', 'pos'."),
        ('"{n}" "a text of number {n}" "{label}"', "begins with a quote"),
    ],
)
def test_read_document_refuses_rows_in_lines(read: Read, line: str, found: str) -> None:
    end = "" if line.endswith("O") else " x"
    lines = [line.format(n=n, label=("neg", "pos")[n % 2]) + end * (n % 3) for n in range(24)]
    content = "\n\n".join(lines)
    with pytest.raises(AmbiguityError, match=f"every line {found}"):
        read(content, "a.txt")
    assert len(read(content, "a.txt", format="lines")[0]) == 24


def test_read_document_refuses_the_table_of_a_database(read: Read) -> None:
    frame = "+---+---+\n"
    rows = "".join(f"| a text, of number {n} | pos |\n" for n in range(24))
    content = f"{frame}| text | label |\n{frame}{rows}{frame}"
    with pytest.raises(AmbiguityError, match=r"25 of 28 have 4 cells separated by a bar"):
        read(content, "a.txt")


def test_read_document_reads_verses(read: Read) -> None:
    words = [
        "and",
        "the",
        "sun",
        "so",
        "bright",
        "on",
        "a",
        "day",
        "of",
        "may",
        "we",
        "two",
        "went",
        "far",
        "from",
        "home",
        "to",
        "see",
        "her",
    ]
    verses = [" ".join([words[n % 19], *words[: 3 + n % 5]]) for n in range(60)]
    assert len(read("\n".join(verses), "poem.txt")[0]) == 1


def test_read_document_reads_fasttext(read: Read) -> None:
    rows, notes = read("__label__pos good one\n__label__neg bad\n", "a.txt")
    assert rows.to_list() == [{"text": "good one", "label": "pos"}, {"text": "bad", "label": "neg"}]
    assert "fastText" in notes[0]
    rows, _ = read("__label__a __label__b both\n__label__a one\n", "a.txt")
    assert rows["label"][:] == [["a", "b"], ["a"]]


def test_read_document_refuses_empty_files(read: Read) -> None:
    for format in ("auto", "lines"):
        with pytest.raises(DataError, match="is empty"):
            read(" \n", "a.txt", format=format)
