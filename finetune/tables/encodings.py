"""Strict decoding of text files: an undecodable byte is an error and is never replaced."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from finetune.errors import DataError, listed

_NAMED = 3
_BYTE_ORDER_MARK = "\ufeff"


class Decoder:
    """Decode text files, each with the first encoding that fits all of it, and count the choices.

    Raises DataError for an unknown encoding.
    """

    def __init__(self, encodings: str | list[str]) -> None:
        self.encodings = [encodings] if isinstance(encodings, str) else list(encodings)
        if not self.encodings:
            raise DataError("data.encoding: the list is empty; write data.encoding=utf-8")
        for name in self.encodings:
            _check_known(name)
        self._file_count = 0
        self._fallbacks: dict[str, list[str]] = {}

    def text(self, path: Path, name: str | None = None) -> str:
        """Return the text of a file without its byte-order mark; notes call the file `name`."""
        content = _content(path)
        self._file_count += 1
        for encoding in self.encodings:
            try:
                text = content.decode(encoding)
            except UnicodeDecodeError:
                continue
            if encoding != self.encodings[0]:
                self._fallbacks.setdefault(encoding, []).append(name or path.name)
            return text.removeprefix(_BYTE_ORDER_MARK)
        raise DataError(self._undecodable(path, content))

    def notes(self) -> list[str]:
        """Return one sentence for each fallback encoding that was used."""
        return [
            f"{len(files)} of {self._file_count} files {'is' if len(files) == 1 else 'are'} not"
            f" {self.encodings[0]}, read as {encoding}: {listed(files, _NAMED)}"
            for encoding, files in self._fallbacks.items()
        ]

    def _undecodable(self, path: Path, content: bytes) -> str:
        first = self.encodings[0]
        try:
            content.decode(first)
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            byte = content[error.start] if error.start < len(content) else 0
            place = f"{path}: byte {error.start} (line {line}) is 0x{byte:02x}"
        tried = " or ".join(self.encodings)
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            remedy = "the file starts with a utf-16 byte-order mark; write data.encoding=utf-16"
        elif self.encodings == ["utf-8"]:
            remedy = "write data.encoding=[utf-8, cp1252] to try both, in this order, for each file"
        else:
            remedy = (
                f"add the file's encoding: data.encoding=[{', '.join(self.encodings)}, latin-1]"
            )
        return f"{place}, which is not valid {tried}; {remedy}"


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix.lower() == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _check_known(name: str) -> None:
    try:
        codec = codecs.lookup(name)
    except LookupError:
        raise DataError(
            f"data.encoding: unknown encoding {name!r}; write utf-8, utf-16, cp1252, latin-1,"
            " shift_jis, gb18030 ..."
        ) from None
    # Python also lists base64, rot13 and others as codecs, but they do not decode bytes to text.
    if not getattr(codec, "_is_text_encoding", True):
        raise DataError(f"data.encoding: {name!r} is not a text encoding; write utf-8")
