"""Shared by the tests of tables: a writer of small files, and a reader with its notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.config.schema import DataConfig
from finetune.tables.encodings import Decoder
from finetune.tables.table_files import read_table

Write = Callable[[str, str | bytes], Path]
Read = Callable[..., tuple[Dataset, list[str]]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def read(write: Write) -> Read:
    """Write a file and read it."""

    def read_content(
        content: str | bytes, name: str = "a.csv", **keys: Any
    ) -> tuple[Dataset, list[str]]:
        config = DataConfig(**keys)
        return read_table(write(name, content), config, Decoder(config.encoding))

    return read_content
