"""Strict decoding of text files with the configured encodings."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from finetune.errors import AmbiguityError, DataError
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_decoder_detects_encodings_by_default(tmp_path: Path, encoding: str) -> None:
    text = "“Café”, naïve, 5 £\n"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    decoder = Decoder()
    assert decoder.text(tmp_path / "a.txt") == text
    note = f"1 of 1 files is not utf-8, read as {encoding}: a.txt"
    assert decoder.notes() == ([] if encoding == "utf-8-sig" else [note])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("привет мир, пока\n".encode("cp1251"), "do not look like Western European.*cp1251"),
        ("你好世界\n".encode("gb18030"), "gb18030"),
        ("Café".encode() + b" \xa3 5", r"byte 6 \(line 1\) is 0xa3.*correct the 1 invalid"),
        ("text".encode("utf-16-le"), "4 of 8 bytes are NUL.*data.encoding=utf-16-le"),
        (b"\xa3\x81", "not valid utf-8 or cp1252"),
        (b"PK\x03\x04\x14\x00\xff", "an Excel workbook or a ZIP archive"),
        (b"PAR1\x15\x04\x81", "data.format=parquet"),
        (b"\n<!DOCTYPE html>\n<html>", "is an HTML page"),
        (b'<?xml version="1.0"?><Error/>', "is an XML document"),
        (b"%PDF-1.4\n", "is a PDF file"),
    ],
)
def test_decoder_refuses_what_is_not_western_text_by_default(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Decoder().text(tmp_path / "a.txt")


def test_decoder_unpacks_gzip_without_its_ending(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"text"))
    assert Decoder().text(tmp_path / "a.csv") == "text"


@pytest.mark.parametrize(
    ("word", "encoding"),
    [("caf\u00e9", "mac_roman"), ("caf\u00e9", "cp850"), ("\u6620\u753b", "shift_jis")],
)
def test_decoder_refuses_symbols_inside_of_words(tmp_path: Path, word: str, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(f"the {word} number one".encode(encoding))
    with pytest.raises(AmbiguityError, match=r"do not look like Western .* mac_roman"):
        Decoder().text(path)
    assert word in Decoder(encoding).text(path)


def test_decoder_reads_the_symbols_of_western_text(tmp_path: Path) -> None:
    text = "\u201esch\u00f6ner\u201c \u201aGr\u00f6\u00dfe\u2018 \u0153uvre \u0160koda \u20ac5 \u2013 don\u2019t \u2039x\u203a na\u00efve"
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode("cp1252"))
    assert Decoder().text(path) == text


def test_decoder_reads_a_page_on_request(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("<html>a</html>", encoding="utf-8")
    assert Decoder("utf-8").text(tmp_path / "a.txt") == "<html>a</html>"


@pytest.mark.parametrize(
    ("word", "note"),
    [
        ("caf\u00e9", "in 1 places, such as 'Ã©' for 'é'"),
        ("don\u2019t", "in 1 places, such as 'â€™' for '\u2019'"),
        ("\u043c\u0438\u0440", "for 'м"),
    ],
)
def test_decoder_notes_utf8_that_was_misread(tmp_path: Path, word: str, note: str) -> None:
    decoder, path = Decoder(), tmp_path / "a.txt"
    path.write_text(f"a {word.encode().decode('cp1252')}", encoding="utf-8")
    decoder.text(path)
    assert re.search(note, decoder.notes()[0])


def test_decoder_notes_lost_characters_and_no_others(tmp_path: Path) -> None:
    decoder, path = Decoder(), tmp_path / "a.txt"
    for text in (
        "N\u00c3O S\u00e3o \u00c2ge \u0420\u0418 \u4f60\u597d \u00ab\u00e9\u00bb",
        "caf\ufffd",
    ):
        path.write_text(text, encoding="utf-8")
        decoder.text(path)
    assert decoder.notes() == [
        "warning: a.txt: characters lost in an earlier conversion: 1 (\ufffd)"
    ]
