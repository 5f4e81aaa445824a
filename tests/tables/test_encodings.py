"""Strict decoding of text files with the configured encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.tables.encodings import Decoder


def test_decoder_reports_the_undecodable_byte_and_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo \xa3 5")
    with pytest.raises(DataError) as caught:
        Decoder("utf-8").text(path)
    message = str(caught.value)
    assert f"{path}: byte 8 (line 2) is 0xa3" in message
    assert "data.encoding=[utf-8, cp1252]" in message


def test_decoder_takes_the_first_encoding_that_fits_and_notes_fallbacks(tmp_path: Path) -> None:
    for name, content in [("a", "plain"), ("b", "£ 5"), ("c", "£ 6"), ("d", "naïve")]:
        encoding = "cp1252" if name in "bc" else "utf-8"
        (tmp_path / f"{name}.txt").write_bytes(content.encode(encoding))
    decoder = Decoder(["utf-8", "cp1252"])
    texts = [decoder.text(tmp_path / f"{name}.txt", f"x/{name}.txt") for name in "abcd"]
    assert texts == ["plain", "£ 5", "£ 6", "naïve"]
    assert decoder.notes() == ["2 of 4 files are not utf-8, read as cp1252: x/b.txt, x/c.txt"]


def test_decoder_rejects_text_that_no_encoding_fits(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xa3\x81")  # 0x81 is undefined in cp1252
    with pytest.raises(DataError, match="not valid utf-8 or cp1252.*latin-1"):
        Decoder(["utf-8", "cp1252"]).text(path)


@pytest.mark.parametrize("encoding", ["utf8x", "base64", []])
def test_decoder_rejects_invalid_encodings(encoding: str | list[str]) -> None:
    with pytest.raises(DataError, match="data.encoding"):
        Decoder(encoding)
