"""Reading of plain text: a document, or a row per line."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from pathlib import Path
from statistics import median

from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError
from finetune.tables.csv_records import DELIMITERS, Dialect, guess_columns
from finetune.tables.encodings import Decoder
from finetune.tables.faults import excerpt, keeps_faults

_LABEL = "__label__"
_SAMPLE = 200  # lines
_FEWEST = 5  # lines of a file that may be a list or a table
_SHORT = 200  # characters of the median line of a list
_MOST_BLANK = 0.05  # share of blank lines in a list; prose has one between two paragraphs


def read_document(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read a file of text as one row: its whole text, and the name of the file."""
    text = decoder.text(path)
    if not text.strip():
        raise DataError(f"{path}: is empty; expected text")
    lines = text.splitlines()
    if config.format == "auto":
        if all(line.startswith(_LABEL) for line in lines if line.strip()):
            return _from_fasttext(path, lines)
        check_not_table(path, lines)
    note = f"{path}: read as one document of {len(text)} characters in {len(lines)} lines"
    if looks_like_list(lines):
        note += "; its lines may be rows of their own: data.format=lines reads one row per line"
    return Dataset.from_dict({"text": [text], "file": [path.name]}), [note]


def read_lines(path: Path, config: DataConfig, decoder: Decoder) -> tuple[Dataset, list[str]]:
    """Read a row per line; blank lines are rows only if invalid rows keep their places."""
    lines = decoder.text(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    rows = [line for line in lines if line.strip()]
    if not rows:
        raise DataError(f"{path}: is empty; expected lines of text")
    if keeps_faults(config.on_error):
        return Dataset.from_dict({"text": lines if lines[-1] else lines[:-1]}), []
    blank = len(lines) - len(rows) - (not lines[-1])
    notes = [f"{path}: not read: blank lines ({blank})"] if blank else []
    return Dataset.from_dict({"text": rows}), notes


def looks_like_list(lines: list[str]) -> bool:
    """True for many short lines without paragraphs."""
    filled = [line for line in lines if line.strip()]
    if len(filled) < _FEWEST or len(lines) - len(filled) > _MOST_BLANK * len(lines):
        return False
    return median(map(len, filled)) <= _SHORT


def check_not_table(path: Path, lines: list[str]) -> None:
    """Raise AmbiguityError if all lines have the same number of cells by some delimiter."""
    filled = [line for line in lines if line.strip()][:_SAMPLE]
    for delimiter, name in DELIMITERS.items():
        dialect = Dialect(delimiter)
        widths = Counter(len(dialect.cells(line)) for line in filled)
        if len(filled) >= _FEWEST and len(widths) == 1 and 1 not in widths:
            format = "tsv" if delimiter == "\t" else "csv"
            width = next(iter(widths))
            raise AmbiguityError(
                f"{path}: every line has {width} cells separated by a {name}, such as"
                f" {excerpt(filled[0])}; write data.format={format} to read it as a table (with"
                f" data.columns={guess_columns(dialect.cells(filled[0]))} if it has no header),"
                " data.format=lines for a text per line, or data.format=text for one document"
            )


def _from_fasttext(path: Path, lines: list[str]) -> tuple[Dataset, list[str]]:
    """Read lines that begin with their labels, as in __label__sport a late goal."""
    texts, labels = [], []
    for line in filter(str.strip, lines):
        words = line.split()
        names = list(takewhile(lambda word: word.startswith(_LABEL), words))
        labels.append([name.removeprefix(_LABEL) for name in names])
        texts.append(" ".join(words[len(names) :]))
    note = f"{path}: in the format of fastText, a text per line after its labels"
    is_single = all(len(names) == 1 for names in labels)
    column = [names[0] for names in labels] if is_single else labels
    return Dataset.from_dict({"text": texts, "label": column}), [note]
