"""Folders and files whose names come from data, and may be anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.listing.image_paths import is_readable_file
from finetune.listing.walking import list_readable


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "missing", "file.txt/inside"])
def test_list_readable_and_is_readable_file_accept_names_that_no_system_allows(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").write_text("a")
    assert list_readable(tmp_path / name) == []
    assert not is_readable_file(tmp_path / name)
    assert is_readable_file(tmp_path / "file.txt")
