"""Large files of JSON lines, read in blocks, give what reading the whole file gives."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config.schema import DataConfig
from finetune.errors import DataError
from finetune.json_tables import json_lines
from finetune.json_tables.json_files import read_json_file
from finetune.tables.encodings import Decoder

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_infinity=False)
MESSAGES = st.lists(st.fixed_dictionaries({"role": TEXTS, "content": TEXTS | NUMBERS}), max_size=2)
VALUES = [TEXTS, NUMBERS, st.integers(-9, 9), st.booleans(), st.none(), st.lists(TEXTS), MESSAGES]
CELLS = st.sampled_from([*VALUES, st.one_of(VALUES)]).flatmap(lambda kind: kind)
ROWS = st.lists(st.dictionaries(st.sampled_from(["a", "b", "messages"]), CELLS), min_size=1)


def read(path: Path, *, in_blocks: bool, block: int = 40, **keys: Any) -> Any:
    """Return rows, types and notes of a file, or the words of the error."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_lines, "LARGE", 0 if in_blocks else 2**60)
        patch.setattr(json_lines, "_BLOCK", block)
        decoder = Decoder(keys.pop("encoding", None))
        try:
            splits, notes = read_json_file(path, DataConfig(source="rows", **keys), decoder)
        except DataError as error:
            return str(error)
        is_whole = any(json_lines.READ_AS_A_WHOLE in note for note in notes)
        assert in_blocks or not is_whole
        notes = [note for note in notes if json_lines.READ_AS_A_WHOLE not in note]
        notes = [*notes, *decoder.notes(), f"{decoder.file_count} files"]
        return {name: (rows.to_list(), rows.features) for name, rows in splits.items()}, notes


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 300))
def test_blocks_give_what_the_whole_gives(rows: list[dict[str, Any]], block: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        assert str(read(path, in_blocks=True, block=block)) == str(read(path, in_blocks=False))


LINES = [json.dumps({"text": f"row {number}", "label": number % 2}) for number in range(9)]


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ("\n".join([*LINES, "{broken", *LINES]), {}),
        ("\n".join([*LINES, "{broken", *LINES]), {"on_error": "skip"}),
        ("\n".join([*LINES, '["a", "list"]']), {"on_error": "skip"}),
        ("\n\n".join(LINES) + "\n \n", {}),
        ("\r\n".join(LINES), {}),
        ("\ufeff" + "\n".join(LINES), {}),
        ("\n".join([*LINES, '{"text": 7}']), {}),
        ("\n".join([*LINES, '{"text": "7", "text": "8"}']), {}),
        ("\n".join([*LINES, '{"text": NaN, "more": NaN}']), {}),
        ("\n".join([*LINES, '{"text": "CafÃ© \ufffd"}']), {}),
        ("\n".join([*LINES, '{"text": "a\u2028b"}']), {}),
        ("\n".join([*LINES, '{"text": "a\0b"}']), {}),
        ("\n".join(LINES).replace("row", "straße").encode("cp1252"), {}),
        ("\n".join(LINES).replace("row", "straße"), {"encoding": ["cp1252"]}),
        ("\n".join(LINES).encode("utf-16"), {}),
        ("<!DOCTYPE html>\n" + "\n".join(LINES), {}),
        (json.dumps([json.loads(line) for line in LINES], indent=1), {}),
        (json.dumps({"train": [json.loads(line) for line in LINES]}), {"field": "train"}),
        ("", {}),
    ],
)
def test_what_needs_a_decision_is_read_as_a_whole(
    content: str | bytes, keys: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    whole, blocks = (read(path, in_blocks=in_blocks, **keys) for in_blocks in (False, True))
    assert str(blocks) == str(whole)


def test_table_needs_no_file_that_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES))
    splits, _ = read(path, in_blocks=True)
    assert len(splits["train"][0]) == len(LINES)
    assert (tmp_path / "cache" / "tables").is_dir()
    assert not [*(tmp_path / "cache" / "tables").iterdir()]


def test_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "rows.jsonl", tmp_path / "cache"
    path.write_text("\n".join(LINES))
    cache.write_text("a file")
    monkeypatch.setenv("FINETUNE_CACHE", str(cache))
    assert "set the environment variable FINETUNE_CACHE" in read(path, in_blocks=True)
