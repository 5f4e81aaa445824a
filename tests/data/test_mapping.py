"""data.map: user functions that transform or drop rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.config.schema import DataConfig
from finetune.data.opening import open_splits
from finetune.errors import ConfigError, DataError
from finetune.training.run import digest_splits
from tasks import TextClassification

ROWS = [{"story": f"line {n}\nthe rest of {n}", "label": "ab"[n % 2]} for n in range(12)]
FUNCTIONS = """
def first_line(row):
    if row["story"].startswith("line 3"):
        return None
    return {"text": row["story"].splitlines()[0], "label": row["label"]}

def upper(row):
    return {"text": row["story"].upper(), "label": row["label"]}

def broken(row):
    return {"text": row["stories"]}

def listed(row):
    return [row]

def empty(row):
    return {"text": "" if row["story"].startswith("line 5") else "x y", "label": "a"}

def none(row):
    return None
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"rows_{tmp_path.name.replace('-', '_')}.py"  # a different module for each test
    (tmp_path / name).write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return name


def test_map_replaces_and_drops_rows(functions: str) -> None:
    config = DataConfig(map=f"{functions}:first_line", validation=0)
    splits = open_splits(config, TextClassification(), ROWS)
    assert splits.train[0] == {"text": "line 0", "label": "a"}
    assert len(splits.train) == 11
    assert f"train: 11 rows from {functions}:first_line, 1 dropped" in splits.notes


def test_map_changes_the_digest_of_the_data(functions: str) -> None:
    digests = []
    for name in ("first_line", "upper"):
        task = TextClassification()
        splits = open_splits(DataConfig(map=f"{functions}:{name}", validation=0), task, ROWS)
        digests.append(digest_splits(splits, task))
    assert digests[0] != digests[1]


def test_map_keeps_row_numbers_for_faults_of_new_rows(functions: str) -> None:
    config = DataConfig(map=f"{functions}:empty", validation=0)
    with pytest.raises(DataError, match="train row 6: text is empty"):
        open_splits(config, TextClassification(text="text", label="label"), ROWS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "train row 1: data.map=.*broken fails: KeyError: 'stories'"),
        ("listed", "return a dict of columns, or None to drop the row"),
        ("none", "dropped all 12 rows"),
    ],
)
def test_map_reports_functions_that_fail(name: str, message: str, functions: str) -> None:
    with pytest.raises(DataError, match=message):
        open_splits(DataConfig(map=f"{functions}:{name}"), TextClassification(), ROWS)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nowhere.py:f", "data.map: 'nowhere.py' is neither a file"),
        ("first_line", "data.map: no function name in 'first_line'"),
        ("{}:fist_line", "has no 'fist_line'; did you mean 'first_line'"),
    ],
)
def test_map_reports_missing_functions(reference: str, message: str, functions: str) -> None:
    config = DataConfig(map=reference.format(functions))
    with pytest.raises(ConfigError, match=message):
        open_splits(config, TextClassification(), ROWS)
