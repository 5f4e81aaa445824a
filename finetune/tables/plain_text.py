"""Reading of plain text: a document, or a row per line."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import takewhile
from pathlib import Path
from statistics import median

from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.errors import AmbiguityError, DataError, format_count
from finetune.tables.csv_records import DELIMITERS, Dialect, guess_columns
from finetune.tables.encodings import Decoder
from finetune.tables.faults import excerpt, keeps_faults

_LABEL = "__label__"
_SAMPLE = 200  # lines
_FEWEST = 5  # lines of a file that may be a list or a table
_SHORT = 200  # characters of the median line of a list
_MANY = 20  # lines whose form is no chance
_NEARLY_ALL = 0.8  # share of the lines of a table with a title or a frame
_FEW_WORDS = 0.1  # distinct words at the start of lines, and inside of them, as a share of lines
_TAG = re.compile(r"[A-Z][A-Z$]*|[A-Z]-\S+")
_RARE = "\t|"  # delimiters that prose hardly has
_MARKS = ("+++$+++", ":::", "::", "|||")
_AS_TEXT = "data.format=lines for a text per line, or data.format=text for one document"
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
    size = f"{format_count(len(text), 'character')} in {format_count(len(lines), 'line')}"
    note = f"{path}: read as one document of {size}"
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
    """Raise AmbiguityError if lines look like rows: by a delimiter, or by their first words."""
    filled = [line for line in lines if line.strip()][:_SAMPLE]
    check_not_json(path, lines)
    if len(filled) < _FEWEST:
        return
    for delimiter, name in DELIMITERS.items():
        dialect = Dialect(delimiter)
        widths = Counter(len(dialect.cells(line)) for line in filled)
        width, count = widths.most_common(1)[0]
        share = _NEARLY_ALL if delimiter in _RARE else 1
        if width > 1 and count >= share * len(filled):
            format = "tsv" if delimiter == "\t" else "csv"
            example = next(line for line in filled if len(dialect.cells(line)) == width)
            lead = "every line has" if count == len(filled) else f"{count} of {len(filled)} have"
            raise AmbiguityError(
                f"{path}: {lead} {width} cells separated by a {name}, such as {excerpt(example)};"
                f" write data.format={format} to read it as a table (with data.columns="
                f"{guess_columns(dialect.cells(example))} if it has no header), {_AS_TEXT}"
            )
    if found := _other_rows(filled):
        raise AmbiguityError(
            f"{path}: every line {found}, such as {excerpt(filled[0])}; make a table of it with a"
            f" tab between the cells, or write {_AS_TEXT}"
        )


def check_not_json(path: Path, lines: list[str]) -> None:
    """Raise AmbiguityError for a file of text that holds objects of JSON, or lines of them."""
    filled = (line for line in lines if line.strip())
    first = next(filled, "").lstrip()
    if first.startswith(("{", "[")) and any(map(_is_json, (first, "\n".join(lines)))):
        raise AmbiguityError(
            f"{path}: holds JSON, such as {excerpt(first)}, and not plain text; call it .json or"
            " .jsonl, or write data.format=text to read it as text nonetheless"
        )


def _is_json(text: str) -> bool:
    """True for an object, or for a list that holds one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (isinstance(value, list) and dict in map(type, value))


def _other_rows(lines: list[str]) -> str:
    """Say in what lines look like rows without a usual delimiter; "" if they do not."""
    for mark in _MARKS if len(lines) < _MANY else (*_MARKS, *"~^@"):
        counts = {line.count(mark) for line in lines}
        if len(counts) == 1 and counts != {0}:
            return f"has {counts.pop()} times {mark!r}"
    if len({*lines}) < max(_MANY, len(lines) / 2):
        return ""
    words = [line.split() for line in lines]
    if all(line.startswith('"') for line in lines):
        return "begins with a quote, as in tables with blanks between the cells"
    if len({*map(len, words)}) == 1 and all(_TAG.fullmatch(each[-1]) for each in words):
        return f"has {len(words[0])} words, as in sets of words with tags (CoNLL)"
    first = Counter(each[0] for each in words)
    others = sum(word in first for each in words for word in each[1:])
    if 1 < len(first) <= _FEW_WORDS * len(lines) and others <= _FEW_WORDS * len(lines):
        shown = ", ".join(repr(word) for word, _ in first.most_common(3))
        return f"begins with one of {len(first)} words ({shown}), labels or names of speakers"
    return ""


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
