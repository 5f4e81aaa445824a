"""`finetune check`: what is found in data, in which order, and the files that it writes."""

from __future__ import annotations

import csv
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import finetune
from finetune.checks.data_check import check_data
from finetune.commands.check_command import load_for_check
from finetune.errors import ConfigError
from finetune.registry import make_task
from finetune.reporting.console import Console
from finetune.task_parts.rows import Finding

Table = list[dict[str, Any]]


def article(rng: random.Random, topic: str) -> str:
    return " ".join(f"{topic}{rng.randrange(40)} word{rng.randrange(900)}" for _ in range(25))


@pytest.fixture
def table() -> Table:
    rng = random.Random(0)
    topics = ["sport", "trade", "film"]
    return [{"text": article(rng, topics[i % 3]), "label": topics[i % 3]} for i in range(240)]


def write(path: Path, table: Table) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def check(*words: str, output: Path | None = None) -> list[Finding]:
    loaded = load_for_check(list(words))
    return check_data(loaded, make_task(loaded.config.task), Console(enabled=False), output)


def about(findings: list[Finding], topic: str) -> str:
    return "\n".join(f"{each.harm} {each.text}" for each in findings if each.topic == topic)


def test_clean_data_have_no_finding(tmp_path: Path, table: Table) -> None:
    write(tmp_path / "train.csv", table[:120])
    write(tmp_path / "test.csv", table[120:])
    assert check(str(tmp_path)) == []


def test_leaks_duplicates_and_contradictions_are_found_and_written(
    tmp_path: Path, table: Table
) -> None:
    test = table[120:]
    test[0] = table[3]  # row 4 of train
    test[1] = {**table[4], "text": table[4]["text"].replace(" word", " edited ", 1)}
    train = [*table[:120], table[10], {**table[11], "label": "sport"}]
    write(tmp_path / "train.csv", train)
    write(tmp_path / "test.csv", test)
    found = check(str(tmp_path), output=tmp_path / "out")
    assert [each.harm for each in found] == sorted((each.harm for each in found), reverse=True)
    leak = "3 2 of 120 test rows also occur in train (1 equal, 1 nearly): rows 1, 2;"
    assert about(found, "leakage").startswith(leak)
    assert "2 of 122 train rows repeat another one (2 equal, 0 nearly, 1 with another" in about(
        found, "duplicates"
    )
    assert (
        "2 of 122 train rows are equal to another one but for their label (film / sport (1))"
        in (about(found, "contradictions"))
    )
    with (tmp_path / "out" / "drop.csv").open() as file:
        assert [line["row"] for line in csv.DictReader(file)] == ["4", "5", "121", "122"]
    facts = json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]
    assert facts[0]["rows"] == {"test": [1, 2], "train": [4, 5]}
    (tmp_path / "test.csv").unlink()
    assert not about(
        check(str(tmp_path / "train.csv"), f"drop={tmp_path}/out/drop.csv"), "duplicates"
    )


def test_many_long_labels_of_equal_rows_are_said_in_a_few_words(
    tmp_path: Path, table: Table
) -> None:
    copies = [{**table[0], "label": f"{number} {'long ' * 90}"} for number in range(100, 140)]
    write(tmp_path / "train.csv", [*table, *copies])
    (finding,) = [each for each in check(str(tmp_path)) if each.topic == "contradictions"]
    assert "100 long long" in finding.text
    assert " / 33 more (1)" in finding.text
    assert len(finding.text) < 900


def test_copies_of_a_nearly_equal_row_all_leak(tmp_path: Path, table: Table) -> None:
    edited = {**table[4], "text": table[4]["text"].replace(" word", " edited ", 1)}
    write(tmp_path / "train.csv", [*table[:120], table[4]])
    write(tmp_path / "test.csv", [*table[120:], edited, edited])
    found = check(str(tmp_path), output=tmp_path / "out")
    leak = "3 2 of 122 test rows also occur in train (0 equal, 2 nearly): rows 121, 122;"
    assert about(found, "leakage").startswith(leak)
    assert "1 of 122 test rows repeat another one (1 equal" in about(found, "duplicates")
    facts = json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]
    assert facts[0]["rows"]["train"] == [5, 5]
    with (tmp_path / "out" / "drop.csv").open() as file:
        assert [line["row"] for line in csv.DictReader(file)] == ["5", "121"]


def test_many_copies_of_few_texts_are_compared_once(tmp_path: Path, table: Table) -> None:
    write(tmp_path / "news.csv", [row for row in table for _ in range(40)])  # 187200 equal pairs
    before = time.process_time()
    found = check(str(tmp_path / "news.csv"), "test=0", "validation=0")
    assert time.process_time() - before < 3  # about 7 if each pair is compared
    assert "9360 of 9600 train rows repeat another one (9360 equal, 0 nearly)" in about(
        found, "duplicates"
    )


def test_columns_that_tell_or_say_nothing_are_found(tmp_path: Path, table: Table) -> None:
    for number, row in enumerate(table):
        row |= {"id": f"a-{number}", "site": "x", "note": "", "code": ord(row["label"][0])}
    write(tmp_path / "news.csv", table)
    found = check(str(tmp_path / "news.csv"), "test=0.5")
    assert "columns that say nothing: note (empty), site (the same in all rows)" in about(
        found, "columns"
    )
    given = "column code gives away the label of 100% of the rows; it is not read"
    assert about(found, "label given away") == f"1 {given}"
    found = check(str(tmp_path / "news.csv"), "test=0.5", "text=id")
    assert "column id is read as text, but holds ids such as 'a-" in about(found, "ids")


def test_words_that_go_with_a_label_are_found(tmp_path: Path, table: Table) -> None:
    for row in table:
        row["text"] += " (Reuters)" if row["label"] == "trade" else ""
    write(tmp_path / "news.csv", table)
    assert "'reuters' (trade: 40 of 40 texts)" in about(
        check(str(tmp_path / "news.csv"), "test=0.5"), "label given away"
    )


def test_rare_labels_and_small_splits_are_found(tmp_path: Path, table: Table) -> None:
    rare = [row for row in table if row["label"] != "film"] + [
        row for row in table if row["label"] == "film"
    ][:3]
    write(tmp_path / "news.csv", rare)
    found = about(check(str(tmp_path / "news.csv"), "test=0.2"), "balance")
    assert "labels with fewer than 10 train rows: film" in found
    assert "so its metrics are imprecise" in found


def test_texts_of_other_languages_lengths_and_encodings_are_found(
    tmp_path: Path, table: Table
) -> None:
    pytest.importorskip("py3langid")
    german = "Der Minister sagte am Montag, dass die neuen Regeln erst im Herbst gelten werden. "
    english = "The minister said on Monday that the new rules will not apply before the autumn. "
    train = [{**row, "text": english + row["text"]} for row in table[:120]]
    test = [{**row, "text": german + row["text"]} for row in table[120:]]
    train[7]["text"] = "Too short"
    train[8]["text"] += " caf\ufffd"
    write(tmp_path / "train.csv", train)
    write(tmp_path / "test.csv", test)
    found = check(str(tmp_path))
    assert "3 test is in de 100%, train in en 100%" in about(found, "languages")
    assert "1 of 240 texts have fewer than 3 words" in about(found, "lengths")
    assert "1 of 120 train texts were decoded wrongly: row 9" in about(found, "encoding")


def test_broken_rows_do_not_end_a_check(tmp_path: Path, table: Table) -> None:
    table[2]["text"] = ""
    write(tmp_path / "news.csv", table)
    assert "3 train: 1 of 240 rows are invalid: text is empty" in about(
        check(str(tmp_path / "news.csv"), "test=0.5"), "broken rows"
    )


def test_pictures_are_compared_and_measured(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(44):
        name, side = ("cat", 64) if index % 2 else ("dog", 48)
        pixels = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
        for split in ("train", "test")[: 1 + (index == 0)]:  # the first one leaks, made smaller
            (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
            image.resize((40, 40) if split == "test" else image.size).save(
                tmp_path / split / name / f"{index}.png"
            )
    Image.fromarray(255 - pixels).resize((20, 90)).save(tmp_path / "test" / "dog" / "thin.png")
    (tmp_path / "train" / "cat" / "broken.png").write_bytes(b"no picture")
    found = check(str(tmp_path))
    assert "1 of 2 test rows also occur in train (0 equal, 1 nearly)" in about(found, "leakage")
    assert "size of the picture gives away the label of 100%" in about(found, "label given away")
    assert "1 of 2 test pictures are more than 4 times as long as wide" in about(found, "sizes")
    assert "1 of 45 rows are invalid" in about(found, "broken rows")
    assert not about(found, "ids")  # names of files are no ids that are read as text


def test_check_takes_data_a_config_or_a_run(tmp_path: Path, table: Table) -> None:
    write(tmp_path / "news.csv", table)
    config = tmp_path / "news.yaml"
    config.write_text(
        f"task: text-classification\nmodel: any\ndata: {tmp_path}/news.csv\ntest: 0.5\n"
    )
    assert load_for_check([str(config)]).config.data.test == 0.5
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config.read_text())
    assert load_for_check([str(tmp_path / "run"), "limit=20"]).config.data.limit == 20
    assert load_for_check(["bbc-news"]).config.task.name == "text-classification"
    with pytest.raises(ConfigError, match=r"check: name the data, as in"):
        load_for_check([])


def test_rows_made_in_python_are_checked(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    found = finetune.check("text-classification", data=[*table, table[0]], test=0.5)
    assert "1 equal, 0 nearly" in about(found, "duplicates")
    assert "1 finding: " in capsys.readouterr().out
