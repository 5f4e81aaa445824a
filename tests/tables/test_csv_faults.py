"""Records of CSV that are not rows: lines in one cell by a quote, headers inside, NUL characters."""

from __future__ import annotations

import pytest

from finetune.errors import AmbiguityError, DataError
from finetune.tables.csv_records import Dialect
from tests.tables.conftest import Read

ROWS = "".join(f"text number {n},{'pos' if n % 2 else 'neg'}\n" for n in range(10))
SWALLOWED = f'text,label\n{ROWS}"never closed,pos\n{ROWS}"closed, here",neg\n{ROWS}'


def test_read_csv_reports_lines_swallowed_by_a_quote(read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read(SWALLOWED)
    assert "1 of 21 rows (12 lines) is invalid" in str(caught.value)
    assert 'line 12: opens a quote (") that the next one closes in line 23' in str(caught.value)
    assert "data.quote=none" in str(caught.value)


def test_read_csv_counts_skipped_lines(read: Read) -> None:
    rows, notes = read(SWALLOWED, on_error="skip")
    assert len(rows) == 20
    assert "1 of 21 rows (12 lines) skipped" in notes[0]


def test_read_csv_trusts_quotes_on_request(read: Read) -> None:
    assert len(read(f'text,label\n{ROWS}"a,pos\nb,neg\nc",pos\n', quote="double")[0]) == 11


def test_read_csv_reports_two_lines_joined_by_quotes(read: Read) -> None:
    with pytest.raises(DataError, match="line 12: opens a quote"):
        read(f'text,label\n{ROWS}"never closed,pos\n"a quoted word" first,neg\n')


@pytest.mark.parametrize(
    "cell",
    ["Dear all,\nfine, thanks\nbest, pos\nbye", "one\n\ntwo, three", "a,\nb,\nc,\nd,\ne,\nf,\ng"],
)
def test_read_csv_accepts_cells_of_several_lines(read: Read, cell: str) -> None:
    rows, _ = read(f'text,label\n{ROWS}"{cell}",pos\n{ROWS}')
    assert rows[10] == {"text": cell, "label": "pos"}


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_read_csv_refuses_an_open_quote_in_any_column(read: Read, on_error: str) -> None:
    with pytest.raises(AmbiguityError, match="line 12 opens a quote.*never closed, and 11 lines"):
        read(f'text,label\n{ROWS}"open,pos\n{ROWS}', on_error=on_error)
    with pytest.raises(DataError, match="line 1 opens a quote"):
        read('"text,label\na,pos\n', on_error=on_error)


def test_read_csv_reads_quotes_as_characters_on_request(read: Read) -> None:
    content = 'label\ttext\nspam\t"Free now\nham\tok "then"\nspam\t"a"\n'
    rows, _ = read(content, "a.tsv", quote="none")
    assert rows["text"][:] == ['"Free now', 'ok "then"', '"a"']


@pytest.mark.parametrize(
    ("content", "quote", "cells"),
    [
        ("text,label\n'a, b',x\n'it''s',y\n", "single", ["a, b", "it's"]),
        (
            'text,label\n"he said \\"hi\\" ok",x\n"a, b",y\n',
            "backslash",
            ['he said "hi" ok', "a, b"],
        ),
    ],
)
def test_read_csv_reads_other_quotes(
    read: Read, content: str, quote: str, cells: list[str]
) -> None:
    assert read(content, quote=quote)[0]["text"][:] == cells


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        ('"he said \\"hi\\" ok",pos', "data.quote=backslash"),
        ('"he said "hi" ok",pos', "data.quote=none"),
        ('"Hello" she said,pos', "data.quote=double"),
    ],
)
def test_read_csv_reports_text_after_a_closing_quote(read: Read, row: str, remedy: str) -> None:
    with pytest.raises(DataError, match=f"line 12: text follows a closing quote.*{remedy}"):
        read(f"text,label\n{ROWS}{row}\n{ROWS}")


def test_read_csv_reports_a_header_inside(read: Read) -> None:
    with pytest.raises(DataError, match="line 12: repeats the header"):
        read(f"text,label\n{ROWS}Text, label\n{ROWS}")
    assert len(read(f"text,label\n{ROWS}text,label\n{ROWS}", on_error="skip")[0]) == 20
    assert len(read("text\na\ntext\nb\n")[0]) == 3  # a word may be the name of its column


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_read_csv_refuses_a_header_in_another_order(read: Read, on_error: str) -> None:
    with pytest.raises(DataError, match="line 12 repeats the header in another order"):
        read(f"text,label\n{ROWS}Label,Text\npos,a text\n", on_error=on_error)


def test_read_csv_reports_the_dashes_of_a_markdown_table(read: Read) -> None:
    content = "|text|label|\n|---|:-:|\n|good|pos|\n|bad|neg|\n"
    with pytest.raises(DataError, match="line 2: is a line of dashes"):
        read(content)
    assert read(content, on_error="skip")[0].to_list() == [
        {"text": "good", "label": "pos"},
        {"text": "bad", "label": "neg"},
    ]


def test_read_csv_reports_nul_characters(read: Read) -> None:
    with pytest.raises(DataError, match="line 3: holds a NUL character"):
        read("text,label\na,x\nb\0,y\nc,z\n")
    with pytest.raises(DataError, match="column 1.*NUL"):
        read("te\0xt,label\na,x\n")


def test_dialect_finds_records_and_their_lines() -> None:
    text = 'a,b\r\n"x\ny",1\n\n5" pipe,"he ""q"" s"\r"z"tail,2\nq,"open\nmore\n'
    dialect = Dialect(",")
    records = list(dialect.records(text))
    assert [(each.line, each.lines, each.is_open) for each in records] == [
        (1, 1, False),
        (2, 2, False),
        (5, 1, False),
        (6, 1, False),
        (7, 3, True),
    ]
    assert dialect.cells(text[records[2].start :]) == ['5" pipe', 'he "q" s']


NUMBERS = "".join(f"text number {n},{n % 5}\n" for n in range(20))


@pytest.mark.parametrize("row", ["Total,40", "Average:,2", "count,20", "Total,2.0"])
def test_read_csv_reports_the_sums_of_a_spreadsheet(read: Read, row: str) -> None:
    with pytest.raises(DataError, match=f"line 22: sums up the rows above.*{row}"):
        read(f"text,stars\n{NUMBERS}{row}\n")
    assert len(read(f"text,stars\n{NUMBERS}{row}\n", on_error="skip")[0]) == 20


@pytest.mark.parametrize("row", ["Total,3", "text total,40", "Total,", "total"])
def test_read_csv_reads_a_last_row_that_sums_up_nothing(read: Read, row: str) -> None:
    content = f"text,stars\n{NUMBERS}{row}\n" if "," in row else "text\na\nb\nc\nd\ntotal\n"
    assert read(content)[0]["text"][-1] == row.partition(",")[0]


@pytest.mark.parametrize(
    "second",
    ["varchar,int", "varchar(20),int", ",(1-5)", "Open-Ended Response,Response", "Why?,How many?"],
)
def test_read_csv_refuses_a_second_header(read: Read, second: str) -> None:
    content = f"text,stars\n{second}\n{NUMBERS}"
    with pytest.raises(AmbiguityError, match="a second line of names, types or units"):
        read(content)
    assert len(read(content, columns="header")[0]) == 21


def test_read_csv_refuses_the_third_line_of_qualtrics(read: Read) -> None:
    with pytest.raises(AmbiguityError, match="row 2 below it looks like a second line"):
        read('Q1,Q2\nWhy?,How?\n"{""ImportId"":""QID1""}","{""ImportId"":""QID2""}"\ngood,a\n')


@pytest.mark.parametrize("first", ["good,N/A", "good,", "good,4 stars", "good,$3", "good,-1"])
def test_read_csv_reads_a_first_row_with_another_number(read: Read, first: str) -> None:
    assert read(f"text,stars\n{first}\n{NUMBERS}")[0]["text"][0] == "good"


def test_read_csv_reports_the_header_of_another_table_inside(read: Read) -> None:
    with pytest.raises(DataError, match="line 12: looks like the header of another table"):
        read(f"text,label\n{ROWS}text,sentiment\n{ROWS}")
