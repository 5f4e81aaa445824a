"""Misspelled columns and splits are found before data are read; what may be there is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.commands.data_names import check_data_names
from finetune.config.loading import load_config
from finetune.errors import ConfigError
from finetune.registry import INSTALLED

ROW = {"text": "Shares fell", "label": "business", "source": "bbc"}
HEADERS = {"news.csv": ",", "news.tsv": "\t", "semicolons.csv": ";"}


def check(data: Path, *overrides: str) -> None:
    words = ["task=text-classification", "model=bert", f"data={data}", *overrides]
    check_data_names(load_config(None, words, INSTALLED).config)


@pytest.fixture(params=[*HEADERS, "news.jsonl"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    if request.param == "news.jsonl":
        path.write_text(json.dumps(ROW))
    else:
        lines = (HEADERS[request.param].join(words) for words in (ROW, ROW.values()))
        path.write_text("\n".join(lines))
    return path


def test_misspelled_column_is_refused_with_the_near_one(table: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.group: .* no column 'sorce'.*mean 'source'"):
        check(table, "data.group=sorce")
    check(table, "data.group=source", "task.label=Label", "task.text=[text, source]")


def test_column_that_may_be_made_later_is_not_refused(table: Path) -> None:
    check(table, "data.group=sorce", "data.map=maps.py:add")
    check(table, "data.group=sorce", "data.columns=[text, label, sorce]")
    check(table, "data.group=author")  # the readers know all columns
    table.write_bytes("téxt,label,sourcé\n".encode("cp1252"))
    check(table, "data.group=source_")


def test_misspelled_split_is_refused_unless_the_data_may_have_it(
    table: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'tets' is not a split of .*; did you mean 'test'"):
        check(table, "data.test=tets")
    check(table, "data.validation=dev", "data.test=holdout")
    table.write_text(table.read_text() + "\na,b,tets")
    check(table, "data.test=tets")
    (tmp_path / "tets").mkdir()
    (tmp_path / "tets" / "a.txt").write_text("a")
    check(tmp_path, "data.test=tets")
