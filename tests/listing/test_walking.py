"""Folders and files whose names come from data, and may be anything."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.listing.image_paths import is_readable_file
from finetune.listing.walking import list_readable, list_visible, walk_visible


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "missing", "file.txt/inside"])
def test_list_readable_and_is_readable_file_accept_names_that_no_system_allows(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "file.txt").write_text("a")
    assert list_readable(tmp_path / name) == []
    assert not is_readable_file(tmp_path / name)
    assert is_readable_file(tmp_path / "file.txt")


@pytest.mark.parametrize("list_files", [list_visible, walk_visible, list_readable])
def test_names_that_are_not_utf8_are_refused(
    list_files: Callable[[Path], list[Path]], tmp_path: Path
) -> None:
    (tmp_path / "кот.png").touch()
    assert len(list_files(tmp_path)) == 1
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    except OSError:
        pytest.skip("this system allows only UTF-8")
    with pytest.raises(DataError, match=r"the name of b'\\xff.png' is not UTF-8"):
        list_files(tmp_path)
