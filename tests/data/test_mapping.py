"""data.map: a row in, a row or None out."""

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
    name = f"rows_{tmp_path.name.replace('-', '_')}.py"  # a module of its own for each test
    (tmp_path / name).write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    return name


def test_rows_are_those_that_the_function_makes(functions: str) -> None:
    config = DataConfig(map=f"{functions}:first_line", validation=0)
    splits = open_splits(config, TextClassification(), ROWS)
    assert splits.train[0] == {"text": "line 0", "label": "a"}
    assert len(splits.train) == 11
    assert f"train: 11 rows by {functions}:first_line, 1 are dropped" in splits.notes


def test_another_function_makes_another_run(functions: str) -> None:
    found = []
    for name in ("first_line", "upper"):
        task = TextClassification()
        splits = open_splits(DataConfig(map=f"{functions}:{name}", validation=0), task, ROWS)
        found.append(digest_splits(splits, task))
    assert found[0] != found[1]


def test_fault_of_a_made_row_has_the_number_of_its_row(functions: str) -> None:
    config = DataConfig(map=f"{functions}:empty", validation=0)
    with pytest.raises(DataError, match="train row 6: text is empty"):
        open_splits(config, TextClassification(text="text", label="label"), ROWS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("broken", "train row 1: data.map=.*broken fails: KeyError: 'stories'"),
        ("listed", "a row is a dict of columns, and None drops it"),
        ("none", "dropped all 12 rows"),
    ],
)
def test_function_that_makes_no_rows_is_told(name: str, said: str, functions: str) -> None:
    with pytest.raises(DataError, match=said):
        open_splits(DataConfig(map=f"{functions}:{name}"), TextClassification(), ROWS)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nowhere.py:f", "data.map: 'nowhere.py' is neither a file"),
        ("first_line", "data.map: 'first_line' names nothing"),
        ("{}:fist_line", "has no 'fist_line'; did you mean 'first_line'"),
    ],
)
def test_function_that_is_not_there_is_told(reference: str, said: str, functions: str) -> None:
    config = DataConfig(map=reference.format(functions))
    with pytest.raises(ConfigError, match=said):
        open_splits(config, TextClassification(), ROWS)
