"""Columns of CSV: files without a header, columns without a name, decimal commas."""

from __future__ import annotations

import pytest

from finetune.errors import AmbiguityError, DataError
from finetune.tables.csv_records import guess_columns
from tests.tables.conftest import Read

SMS = "ham\tsee you at ten\nspam\tfree prizes now\nham\tok then\nham\tat home\nspam\tcall now\n"
NEWS = "".join(f'"{n % 4 + 1}","Title {n}","A long description of news {n}"\n' for n in range(12))
REVIEWS = "".join(f"this movie number {n} was really great\n" for n in range(5))
PATHS = "img/a.jpg,cat\nimg/b.jpg,dog\nimg/c.jpg,cow\n"
DATES = "2020-01-01,5\n2020-01-02,7\n2020-01-03,6\n"


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (
            SMS,
            "a.tsv",
            r"'ham' is also the value of 2 cells of column 1.*data\.columns=\[label, text\]",
        ),
        (NEWS, "a.csv", r"column 1.*data\.columns=\[label, column_2, text\]"),
        (REVIEWS, "a.csv", r"is a sentence.*data\.columns=\[text\]"),
        (PATHS, "a.csv", "'img/a.jpg' is an image file"),
        (DATES, "a.csv", "'2020-01-01' is a date"),
        ("0,0,hello there\n1,0,bye\n0,1,yes\n", "a.csv", "'0' is a number"),
        (
            "question\tWho?\nquestion\tWhy?\nanswer\tHe.\nquestion\tHow?\n",
            "a.tsv",
            "'question' is also",
        ),
    ],
)
def test_read_csv_refuses_a_first_line_of_data(
    read: Read, content: str, name: str, reason: str
) -> None:
    with pytest.raises(AmbiguityError, match=f"line 1 .*{reason}.*data.columns=header"):
        read(content, name)


@pytest.mark.parametrize(
    "content",
    [
        "label,0,1,2\n5,0,0,0\n7,0,255,0\n",  # pixels
        "0,1\nsome text,1\nother text,0\n",  # pandas without names
        "country,2019,2020,2021\nfr,1,2,3\nde,4,5,6\n",
        "comment_text,toxic\na,toxic\nb,toxic\nc,clean\n",
        "What did you like about the new product?,grade\nI liked the way that it feels,good\n",
        "a,b\n1,2\n",
    ],
)
def test_read_csv_accepts_headers_of_other_kinds(read: Read, content: str) -> None:
    assert read(content)[0].column_names == content.splitlines()[0].split(",")


def test_read_csv_names_the_columns_of_a_headerless_file(read: Read) -> None:
    rows, _ = read(SMS, "a.tsv", columns=["label", "text"])
    assert len(rows) == 5
    assert rows[0] == {"label": "ham", "text": "see you at ten"}


def test_read_csv_takes_the_first_line_as_header_on_request(read: Read) -> None:
    assert read(SMS, "a.tsv", columns="header")[0].column_names == ["ham", "see you at ten"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["text"], r"data\.columns has 1 name, but the first line has 2 cells: 'text, label'"),
        (["a", "b"], "line 1 looks like one: 'text, label'; remove data.columns"),
    ],
)
def test_read_csv_refuses_columns_that_do_not_fit(
    read: Read, columns: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read("text,label\nx,pos\ny,neg\n", columns=columns)


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_read_csv_drops_the_index_of_pandas(read: Read, name: str) -> None:
    rows, notes = read(f"{name},text\n7,a\n3,b\n")
    assert rows.to_list() == [{"text": "a"}, {"text": "b"}]
    assert "column 1 without a name counts the rows like the index of pandas" in notes[0]


def test_read_csv_drops_empty_columns_without_a_name(read: Read) -> None:
    rows, notes = read("v1,v2,,,\nham,a,,,\nspam,b, ,,\n")
    assert rows.column_names == ["v1", "v2"]
    assert notes[0].endswith("columns 3, 4, 5 without a name or a value not read")


def test_read_csv_names_filled_columns_without_a_name(read: Read) -> None:
    rows, notes = read("v1,v2,,\nham,a,,\nspam,b, and more,\n")
    assert rows.column_names == ["v1", "v2", "column_3"]
    assert any("called column_3; 1 of 2 cells are filled" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "dropped"),
    [
        ('"text","label"\n"1","a","pos"\n"2","b","neg"\n', "column 1 without a name counts"),
        ("text,label\na,pos,\nb,neg,\n", "column 3 without a name or a value"),
    ],
    ids=["row names of R", "delimiter at the end"],
)
def test_read_csv_reads_rows_with_one_cell_more_than_the_header(
    read: Read, content: str, dropped: str
) -> None:
    rows, notes = read(content)
    assert rows.to_list() == [{"text": "a", "label": "pos"}, {"text": "b", "label": "neg"}]
    assert dropped in notes[0]


def test_read_csv_counts_blank_lines_of_a_single_column(read: Read) -> None:
    rows, notes = read("text\none\n\nthree\n\n")
    assert rows["text"][:] == ["one", "three"]
    assert any("not read: blank lines (1)" in note for note in notes)


def test_read_csv_refuses_unquoted_commas_in_all_rows(read: Read) -> None:
    with pytest.raises(DataError, match="none of the 2 other lines has as many cells, most have 3"):
        read("text,label\ngood, thanks,pos\nbad, sadly,neg\n")


@pytest.mark.parametrize("title", ["Made by a tool", "Report of 2024,", "Report of 2024,\n,"])
def test_read_csv_refuses_a_title_above_the_header(read: Read, title: str) -> None:
    with pytest.raises(DataError, match="line 1 is read as the names"):
        read(f"{title}\ntext,label\ngood,pos\nbad,neg\n")


@pytest.mark.parametrize("comment", ["# by a tool, 2024", "# one\n# two, three", "// a", "% a, b"])
def test_read_csv_leaves_out_comments_above_the_header(read: Read, comment: str) -> None:
    rows, notes = read(f"{comment}\ntext,label\ngood,pos\nbad,neg\n")
    assert rows["text"][:] == ["good", "bad"]
    assert f"comments above the header ({comment.count(chr(10)) + 1})" in notes[0]
    with pytest.raises(DataError, match=f"line {comment.count(chr(10)) + 4}: 1 cell"):
        read(f"{comment}\ntext,label\ngood,pos\nbad\n")


def test_read_csv_refuses_a_comment_that_may_be_the_header(read: Read) -> None:
    assert read("# id,text\n1,good\n2,bad\n")[0].column_names == ["# id", "text"]
    content = "# note, more\nWort,Klasse\ngut,eins\nschlecht,zwei\n"
    with pytest.raises(AmbiguityError, match=r"'# note, more' may be a comment or the names"):
        read(content)
    assert read(content, columns="header")[0].column_names == ["# note", "more"]


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("text~label\ngood~pos\nbad~neg\n", "data.delimiter='~'"),
        ("text :: label\ngood :: pos\nbad :: neg\n", "replace ' :: ' by a tab"),
        ("text   label\ngood   pos\nbad   neg\n", "replace '   ' by a tab"),
        ('"text,label"\n"good,pos"\n"bad, really,neg"\n', "remove the quotes around whole lines"),
    ],
)
def test_read_csv_refuses_a_single_column_with_a_delimiter(
    read: Read, content: str, remedy: str
) -> None:
    with pytest.raises(AmbiguityError, match=remedy):
        read(content)
    assert len(read(content, delimiter=",")[0]) == 2


def test_read_csv_reads_a_single_column_of_texts_with_marks(read: Read) -> None:
    assert len(read("question: text\nwhy: me\nno\n")[0]) == 2
    assert len(read('"text, or more"\n"one, two"\nthree\n')[0]) == 2


ROWS = "".join(f"a film of number {i},{'pn'[i % 2]}\n" for i in range(6))
REVERSED = "".join(f"{'pn'[i % 2]},a film of number {i}\n" for i in range(6))


@pytest.mark.parametrize(
    "content",
    [
        f"text,label\n{ROWS}a film, which I liked a lot;p\n",
        f"label,text\n{REVERSED}p;a film that I liked, seen twice\n",
    ],
)
def test_read_csv_refuses_two_delimiters(read: Read, content: str) -> None:
    with pytest.raises(AmbiguityError, match="seem to be by a semicolon"):
        read(content)
    assert len(read(content, delimiter=",")[0]) == 7


@pytest.mark.parametrize("cell", ["Science Fiction|p", "p|n", "x|p"])
def test_read_csv_takes_several_labels_for_one_cell(read: Read, cell: str) -> None:
    assert read(f"text,label\n{ROWS}a film,{cell}\n")[0]["label"][6] == cell


def test_read_csv_reads_decimal_commas_as_numbers(read: Read) -> None:
    rows, notes = read("text;score\na;1.234,5\nb;-0,25\nc;3\nd;\n")
    assert rows["score"][:] == ["1234.5", "-0.25", "3", ""]
    assert any("'score' has decimal commas" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("text;n\na;1,234\nb;5,600\n", "decimals or thousands"),
        ("text;labels\na;1,2\nb;0,3\n", ""),  # two labels each
        ("text;score\na;1,5\nb;2,5\nc;x\n", ""),
        ("text;score\na;1,5\nb;2.25\nc;2,5\n", ""),
        ('text,score\na,"0,5"\nb,"1,5"\n', ""),
    ],
)
def test_read_csv_keeps_commas_that_may_not_be_decimal(read: Read, content: str, note: str) -> None:
    rows, notes = read(content)
    delimiter = content[4]
    cells = [line.split(delimiter, 1)[1].strip('"') for line in content.splitlines()[1:]]
    assert rows[rows.column_names[1]][:] == cells
    assert bool(note) == any(note in each for each in notes if "column" in each)


def test_read_csv_takes_the_delimiter_of_an_excel_line(read: Read) -> None:
    rows, notes = read("sep=;\r\n\r\ntext;label\r\na,b;x\r\n")
    assert rows.to_list() == [{"text": "a,b", "label": "x"}]
    assert "gives the delimiter ';'" in notes[0]
    with pytest.raises(DataError, match="no line that names the columns"):
        read("sep=;\n")
    with pytest.raises(DataError, match="line 4: 1 cell,"):
        read("sep=;\ntext;label\na;x\nalone\n")


def test_columns_to_fill_in_are_shortened_where_there_are_many() -> None:
    assert guess_columns(["1", "some words"]) == "[label, text]"
    names = guess_columns([f"{number:03}" for number in range(785)])
    assert names == "[text, label, column_2, ..., column_784], 785 names in all"


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("'text','label'\n'a','x'\n'b','y'\n", "data.quote=single"),
        ("\u201ctext\u201d,label\n\u201ca\u201d,x\n\u201cb\u201d,y\n", "straight quotes"),
        ('text, label\na, "x"\nb, "y"\n', "remove the blanks"),
        ('text,label\n="a",x\n="b",y\n', "remove the equals signs"),
    ],
)
def test_read_csv_refuses_quotes_that_it_does_not_read(
    read: Read, content: str, remedy: str
) -> None:
    with pytest.raises(AmbiguityError, match=f"all cells of column .* in quotes.*{remedy}"):
        read(content)
    assert len(read(content, quote="double")[0]) == 2


def test_read_csv_reads_quotations(read: Read) -> None:
    rows, _ = read("text\n\u201ca\u201d\n\u201cb\u201d\n'c'\n")
    assert rows["text"][:] == ["\u201ca\u201d", "\u201cb\u201d", "'c'"]


def test_wide_tables_are_refused_by_their_header(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading 20,000 columns takes a minute."""
    monkeypatch.setattr("finetune.tables.delimited._parse", None)
    names = ["text", "label", *(f"c{number}" for number in range(20_000))]
    with pytest.raises(DataError, match="has 20002 columns, more than 5000, such as 'text'"):
        read(f"{','.join(names)}\n{','.join('1' for _ in names)}\n", "wide.csv")
