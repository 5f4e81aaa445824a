"""Reading of every kind of source into named splits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from finetune.config.formats import DataFormat, TaskTables
from finetune.config.schema import DataConfig
from finetune.data.readers import from_object, read_reference
from finetune.errors import DataError

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
SPLITS = {"train": ROWS, "test": ROWS[:1]}


def as_lists(value: Any) -> dict[str, list[Any]]:
    tables = from_object(value, DataConfig())
    return {name: rows.to_list() for name, rows in tables.splits.items()}


@pytest.mark.parametrize(
    "value",
    [
        ROWS,
        Dataset.from_list(ROWS),
        pd.DataFrame(ROWS, index=[5, 6]),
        {"text": ["a", "b"], "label": ["x", "y"]},
        DatasetDict({"train": Dataset.from_list(ROWS)}),
    ],
    ids=["list", "Dataset", "DataFrame", "columns", "DatasetDict"],
)
def test_from_object_reads_every_kind_of_table(value: Any) -> None:
    assert as_lists(value) == {"train": ROWS}


@pytest.mark.parametrize("kind", [list, Dataset.from_list, pd.DataFrame, tuple])
def test_from_object_reads_a_dict_of_splits(kind: Any) -> None:
    assert as_lists({name: kind(rows) for name, rows in SPLITS.items()}) == SPLITS


def test_from_object_reads_paths(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\nb,y\n")
    assert as_lists(path) == as_lists({"train": str(path)}) == {"train": ROWS}


def test_from_object_reports_the_row_that_breaks_the_type_of_a_column() -> None:
    rows = [{"n": [1]}, {"n": [2]}, {"n": [[3]]}, {"n": [4]}]
    with pytest.raises(DataError, match=r"column 'n' have no common type: row 3 differs, \[\[3"):
        from_object(rows, DataConfig())


def test_from_object_reads_mixed_columns_of_a_frame_as_text() -> None:
    frame = pd.DataFrame(
        {"text": ["a", "b", None], "label": pd.Series([1, "x", None], dtype=object)}
    )
    tables = from_object(frame, DataConfig())
    assert tables.splits["train"]["label"][:] == ["1", "x", None]
    assert "'label'" in tables.notes[0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (42, "int is not a dataset"),
        (["text"], "row 1 is 'text'"),
        ({"text": ["a"], "label": []}, "different lengths"),
        (Dataset.from_list(ROWS).to_iterable_dataset(), "IterableDataset"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "both called 'a'"),
        ([], "no columns"),
    ],
)
def test_from_object_rejects_other_values(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_object(value, DataConfig())


def test_from_object_keeps_class_names_and_turns_hidden_labels_into_none() -> None:
    rows = Dataset.from_dict({"id": [1, 2, 3], "label": [1, 0, -1], "text": ["a", "b", "c"]})
    rows = rows.cast_column("label", ClassLabel(names=["no", "yes"])).select([2, 0, 1])
    tables = from_object(rows, DataConfig())
    named = tables.splits["train"]
    assert named.column_names == ["id", "label", "text"]
    assert named["label"][:] == [None, 1, 0]
    assert named.features["label"].names == ["no", "yes"]


def test_read_reference_loads_a_local_folder_in_hub_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, text in {"small": "s", "big": "b"}.items():
        (tmp_path / "set" / name).mkdir(parents=True)
        Dataset.from_list([{"text": text}]).to_parquet(tmp_path / "set" / name / "train.parquet")
    (tmp_path / "set" / "README.md").write_text(
        "---\nconfigs:\n- {config_name: small, data_files: small/*}\n"
        "- {config_name: big, data_files: big/*}\n---\n"
    )
    config = DataConfig(subset="big")
    assert read_reference(str(tmp_path / "set"), config).splits["train"]["text"][:] == ["b"]
    with pytest.raises(DataError, match="small.*big|big.*small"):
        read_reference(str(tmp_path / "set"), DataConfig(format="hub"))


def test_read_reference_reports_an_unreachable_hub() -> None:
    with pytest.raises(DataError, match="no such file or folder, and the hub cannot be reached"):
        read_reference("no-such-data-set", DataConfig())
    with pytest.raises(DataError, match="data.format=csv excludes"):
        read_reference("no-such-data-set", DataConfig(format="csv"))


def test_read_reference_writes_nothing_into_a_package(tmp_path: Path, monkeypatch: Any) -> None:
    folder = tmp_path / "shelf_with_set"
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    rows.cast_column("label", ClassLabel(names=["x", "y"])).save_to_disk(folder / "saved")
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    before = sorted(folder.rglob("*"))
    tables = read_reference("pkg://shelf_with_set/saved", DataConfig())
    assert tables.splits["train"].select([1]).to_list() == [{"text": "b", "label": 1}]
    assert sorted(folder.rglob("*")) == before


def test_readers_import_without_network_access() -> None:
    # A connection attempt on import would hang a machine without a network. The process exits at
    # once, since the caller might catch an exception.
    code = (
        "import os, sys\n"
        "sys.addaudithook(lambda event, _: event == 'socket.connect' and os._exit(7))\n"
        "import finetune.data.readers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_formats_of_a_task_are_found_in_the_only_folder(tmp_path: Path) -> None:
    inner = tmp_path / "archive" / "set"
    inner.mkdir(parents=True)
    (inner / "data.own").write_text("x")
    (tmp_path / "README.txt").write_text("about the data")
    own = DataFormat(
        "own",
        lambda path: (path / "data.own").is_file(),
        lambda path, _: TaskTables({"train": [{"text": path.name}]}),
    )
    tables = read_reference(str(tmp_path), DataConfig(), [own])
    assert tables.splits["train"]["text"] == ["set"]
    assert tables.notes == [f"{tmp_path}: read its only folder, {inner}"]
