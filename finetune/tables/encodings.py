"""Strict decoding of text files: an undecodable byte is an error and is never replaced."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from finetune.config.text_files import check_regular
from finetune.errors import AmbiguityError, DataError, listed

DETECTED = ("utf-8", "cp1252")
"""The encodings that are tried, in this order, unless data.encoding names others."""

_NAMED = 3
_HEAD = 200  # bytes that tell what a file is
_BYTE_ORDER_MARK = "\ufeff"
_MARKED = {  # those of utf-32 first: they begin with those of utf-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_BINARY = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive; export its sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file; export its sheet as CSV",
    b"PAR1": "a Parquet file; write data.format=parquet",
    b"ARROW1": "an Arrow file; write data.format=arrow",
    b"%PDF": "a PDF file; export its text",
    b"SQLite format 3": "an SQLite database; export its table as CSV",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ": "compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or compress it with gzip",
}
_OTHER_TEXT = {
    b"<!doctype html": "an HTML page",
    b"<html": "an HTML page",
    b"<?xml": "an XML document",
    b"%pdf-": "a PDF file",
    b"{\\rtf": "an RTF document",
}
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 24
LARGE = 1 << 29
"""Bytes up to which a file may be compressed by any factor."""
MOST_EXPANSION = 100
"""Factor by which larger files may be compressed; texts reach 10 or 20."""
_NULS = 0.1  # share of NUL bytes above which a file is utf-16 or utf-32 without a byte-order mark
# Western European words have single letters beyond ASCII; words of nothing else are of another
# alphabet, or of an encoding with two bytes per character.
_FOREIGN = re.compile(rb"[\x80-\xff]{3,}")
# Symbols of cp1252 inside words: accented letters of Mac and DOS, and of some Asian encodings.
_STRANGE = re.compile(
    rb"[a-z][\x81-\x83\x86-\x8a\x8c-\x90\x98\x9d\x9f]|[\x81\x83\x86-\x89\x8d\x8f\x90\x98][A-Za-z]"
)
_MOST_STRANGE = 0.2  # share of the bytes beyond ASCII
_MOST_FOREIGN = 0.4  # share of the bytes beyond ASCII that may be in such words
# A character of utf-8 whose bytes were read as cp1252 or latin-1, such as "\xc3\xa9".
_MISREAD = re.compile(
    "[\xc2-\xf4](?:[\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc]"
    "|[\u2013-\u203a\u20ac\u2122])+"
)
_LOST = "\ufffd"


class Decoder:
    """Decode text files, each with the first encoding that fits all of it, and count the choices.

    None: utf-8, utf-16 and utf-32 by their byte-order marks, and cp1252 for Western European text.
    Raises DataError for an unknown encoding.

    Attributes:
        file_count: number of files decoded so far.
    """

    def __init__(self, encodings: str | list[str] | None = None) -> None:
        self.is_open = encodings is None
        given = [encodings] if isinstance(encodings, str) else encodings
        self.encodings = list(DETECTED) if given is None else list(given)
        if not self.encodings:
            raise DataError("data.encoding: the list is empty; write data.encoding=utf-8")
        for name in self.encodings:
            _check_known(name)
        self.file_count = 0
        self._fallbacks: dict[str, list[str]] = {}
        self._remarks: list[str] = []

    def text(self, path: Path, name: str | None = None) -> str:
        """Return the text of a file without its byte-order mark; notes call the file `name`."""
        content = _content(path)
        self.file_count += 1
        if self.is_open:
            _check_plain(path, content)
        for encoding in self._candidates(content):
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if self.is_open and encoding != "utf-8":
                _check_western(path, content, encoding)
            if encoding != self.encodings[0]:
                self._fallbacks.setdefault(encoding, []).append(name or path.name)
            if text.count("\0") > _NULS * len(text):
                raise DataError(_binary_fault(path, content))
            self._remarks += _damaged_characters(name or path.name, text)
            return text.lstrip(_BYTE_ORDER_MARK)
        raise DataError(self._undecodable(path, content))

    def blocks(self, path: Path, size: int) -> Iterator[str]:
        """Yield the text of a utf-8 file in blocks of whole lines, of about `size` bytes.

        Raises UnicodeDecodeError for other encodings, and ValueError where `text` would add a note
        or an error: then the file is to be read as a whole.
        """
        if self.encodings[0] != "utf-8":
            raise ValueError("another encoding is to be tried first")
        check_regular(path)
        with path.open("rb") as file:
            for number, lines in enumerate(iter(lambda: file.readlines(size), [])):
                content = b"".join(lines)
                if number == 0 and content.startswith((*_BINARY, *_MARKED, _GZIP)):
                    raise ValueError("not utf-8")
                if number == 0 and self.is_open:
                    _check_plain(path, content)
                text = content.decode("utf-8")
                if "\0" in text or _damaged_characters(path.name, text):
                    raise ValueError("characters to be noted")
                yield text.lstrip(_BYTE_ORDER_MARK) if number == 0 else text

    def notes(self) -> list[str]:
        """Return a sentence for each fallback encoding, and for files with damaged characters."""
        fallbacks = [
            f"{len(files)} of {self.file_count} files {'is' if len(files) == 1 else 'are'} not"
            f" {self.encodings[0]}, read as {encoding}: {listed(files, _NAMED)}"
            for encoding, files in self._fallbacks.items()
        ]
        return [*fallbacks, *self._remarks[:_NAMED]]

    def _candidates(self, content: bytes) -> list[str]:
        if self.is_open:
            for mark, encoding in _MARKED.items():
                if content.startswith(mark):
                    return [encoding]
        return self.encodings

    def _undecodable(self, path: Path, content: bytes) -> str:
        if content.startswith(tuple(_BINARY)):
            return _binary_fault(path, content)
        place = f"{path}: {_first_fault(content, self._candidates(content)[0])}"
        tried = " or ".join(self._candidates(content))
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not self.is_open:
            remedy = "the file starts with a utf-16 byte-order mark; write data.encoding=utf-16"
        elif self.encodings == ["utf-8"]:
            remedy = "write data.encoding=[utf-8, cp1252] to try both, in this order, for each file"
        else:
            remedy = (
                f"name the file's encoding: data.encoding=[{', '.join(self.encodings)}, latin-1]"
            )
        return f"{place}, which is not valid {tried}; {remedy}"


def _first_fault(content: bytes, encoding: str) -> str:
    """Describe the first byte that cannot be decoded."""
    try:
        content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start] if error.start < len(content) else 0
        return f"byte {error.start} (line {line}) is 0x{byte:02x}"
    return ""


def _check_western(path: Path, content: bytes, encoding: str) -> None:
    """Raise AmbiguityError if a file that is not utf-8 may be anything but Western European text.

    cp1252 decodes almost all bytes, also those of a damaged utf-8 file or of a Russian text.
    """
    if encoding != "cp1252":
        return
    if content.startswith(tuple(_BINARY)):
        raise DataError(_binary_fault(path, content))
    decoded = content.decode("utf-8", errors="surrogateescape")
    broken = sum("\udc80" <= character <= "\udcff" for character in decoded)
    valid = sum(character > "\x7f" for character in decoded) - broken
    place = _first_fault(content, "utf-8")
    if valid and valid >= broken:
        raise AmbiguityError(
            f"{path}: {place}, which is not valid utf-8, while {valid} other characters beyond"
            f" ASCII are; correct the {broken} invalid bytes, or write data.encoding=cp1252 if all"
            " of the file is in that encoding"
        )
    beyond = sum(byte > 0x7F for byte in content)
    foreign = sum(len(run) for run in _FOREIGN.findall(content))
    strange = len(_STRANGE.findall(content))
    if foreign > _MOST_FOREIGN * beyond or strange > _MOST_STRANGE * beyond:
        raise AmbiguityError(
            f"{path}: {place}, which is not valid utf-8, and its words do not look like Western"
            " European text (cp1252); name the file's encoding, such as data.encoding=cp1251"
            " (Cyrillic), gb18030 (Chinese), shift_jis, euc_kr, mac_roman or cp850 (DOS), or cp1252"
            " if it is that"
        )


def _check_plain(path: Path, content: bytes) -> None:
    """Raise AmbiguityError for a page or document that is written as text."""
    start = content[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, kind in _OTHER_TEXT.items():
        if start.startswith(mark):
            raise AmbiguityError(
                f"{path}: is {kind}, as servers send it in place of a file; export its text or"
                " table, or write data.encoding=utf-8 to read it as it is"
            )


def _damaged_characters(name: str, text: str) -> list[str]:
    """Note characters that an earlier conversion of the file damaged or lost."""
    if text.isascii():
        return []
    notes, count, first = [], 0, ""
    for match in _MISREAD.finditer(text):
        meant = _reread(match[0])
        count, first = count + bool(meant), first or (meant and f"{match[0]!r} for {meant!r}")
    if count:
        notes.append(
            f"warning: {name}: holds utf-8 that was once read in another encoding, in {count}"
            f" places, such as {first}; export the file again as utf-8"
        )
    if lost := text.count(_LOST):
        notes.append(f"warning: {name}: characters lost in an earlier conversion: {lost} (\ufffd)")
    return notes


def _reread(text: str) -> str:
    """Return what a text meant if its bytes are utf-8; "" if they are not."""
    for encoding in ("cp1252", "latin-1"):
        try:
            return text.encode(encoding).decode("utf-8")
        except UnicodeError:
            continue
    return ""


def _binary_fault(path: Path, content: bytes) -> str:
    for start, remedy in _BINARY.items():
        if content.startswith(start):
            return f"{path}: is not a text file but {remedy}"
    name = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    return (
        f"{path}: {content.count(0)} of {len(content)} bytes are NUL, so this is not a utf-8 text;"
        f" write data.encoding={name} if it is a text in utf-16 without a byte-order mark"
    )


def _content(path: Path) -> bytes:
    try:
        check_regular(path)
        content = path.read_bytes()
        is_packed = path.suffix.lower() == ".gz" or content.startswith(_GZIP)
        return _unpack(path, content) if is_packed else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _unpack(path: Path, content: bytes) -> bytes:
    """Decompress a gzip file. Raises DataError if it expands as no real text does."""
    parts, size = list[bytes](), 0
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        while part := file.read(_CHUNK):
            size += len(part)
            if expands_too_much(size, len(content)):
                raise DataError(
                    f"{path}: {len(content)} compressed bytes expand to more than"
                    f" {LARGE >> 20} MiB, {MOST_EXPANSION} times as much, as in a decompression"
                    " bomb; unpack the file yourself if you trust it"
                )
            parts.append(part)
    return b"".join(parts)


def expands_too_much(size: int, compressed: int) -> bool:
    """True if a file of `compressed` bytes becomes so large that it may fill the memory."""
    return size > LARGE and size > MOST_EXPANSION * compressed


def _check_known(name: str) -> None:
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        raise DataError(
            f"data.encoding: unknown encoding {name!r}; write utf-8, utf-16, cp1252, latin-1,"
            " shift_jis, gb18030 ..."
        ) from None
    # Python also lists base64, rot13 and others as codecs, but they do not decode bytes to text.
    if not getattr(codec, "_is_text_encoding", True):
        raise DataError(f"data.encoding: {name!r} is not a text encoding; write utf-8")
