"""Configs, data and models that no command can use: one message, in time, without traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Runs
from tests.support.limited import run_limited

ROWS = "".join(f'{{"text": "a b {n}", "label": "{"xy"[n % 2]}"}}\n' for n in range(20))
DEEP = "[" * 20_000 + "]" * 20_000
BAD_ROWS = {
    "infinity": '{"text": "a", "label": Infinity}',
    "nan": '{"text": "a", "label": NaN}',
    "long number": f'{{"text": "a", "label": {"9" * 5000}}}',
    "large number": '{"text": "a", "label": 1e999999999}',
    "deep label": f'{{"text": "a", "label": {DEEP}}}',
    "deep row": DEEP,
    "nul": '{"text": "a\\u0000", "label": "x\\u0000"}',
    "surrogate": '{"text": "\\ud800", "label": "\\udfff"}',
}
CONFIGS = {
    "tag": "train: {lr: !!float abc}",
    "timestamp": "train: {seed: !!timestamp 2024-99-99}",
    "python": "train: !!python/name:os.system",
    "itself": "train: &a {x: *a}",
    "deep": "train: " + "[" * 20_000,
    "digits": f"train: {{seed: {'9' * 5000}}}",
    "large seed": f"train: {{seed: {2**64}}}",
    "large epochs": "train: {epochs: 1e308}",
    "nul": 'output: "a\\0b"',
    "control": "train: \x01",
    "mapping as a name": "model: {name: {a: 1}}",
    "megabytes": "".join(f"# {number}\n" for number in range(300_000)),
}
COMMANDS = [
    ["inspect", "{}.yaml"],
    ["predict", "{}", "rows.csv"],
    ["evaluate", "{}"],
    ["compare", "{}", "{}"],
    ["export", "{}"],
    ["push", "{}", "me/news", "--dry-run"],
    ["init", "{}.csv"],
    ["tasks", "{}"],
]


def inspected(runs: Runs, *words: str) -> list[str]:
    """Return the words that inspect the run with other keys."""
    changed = {word.partition("=")[0] for word in words}
    kept = [word for word in runs.words[1:] if word.partition("=")[0] not in changed]
    return ["inspect", *kept, *words]


def fails_plainly(words: list[str]) -> None:
    ended = run_limited(words)
    assert (ended.code, ended.fault) == (2, ""), ended.errors[-2000:]


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_row_that_no_command_can_use_ends_in_one_message(
    kind: str, runs: Runs, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{ROWS}{BAD_ROWS[kind]}\n")
    ended = run_limited(inspected(runs, f"data={path}"))
    assert not ended.fault, ended.errors[-2000:]


@pytest.mark.parametrize("kind", CONFIGS)
def test_config_that_no_command_can_use_ends_in_one_message(
    kind: str, runs: Runs, tmp_path: Path
) -> None:
    keys = {"task": "text-classification", "data": str(runs.data), "method": "full"}
    keys["model"] = str(runs.model)
    keys.pop(CONFIGS[kind].partition(":")[0], None)
    path = tmp_path / "news.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in keys.items()) + CONFIGS[kind])
    fails_plainly(["inspect", str(path)])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet", "txt", "zip"])
def test_pipe_or_device_as_data_ends_in_one_message(
    ending: str, runs: Runs, tmp_path: Path
) -> None:
    pipe, device = tmp_path / f"pipe.{ending}", tmp_path / f"device.{ending}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        fails_plainly(inspected(runs, f"data={path}"))


def test_pipe_or_device_as_config_ends_in_one_message(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    fails_plainly(["inspect", str(tmp_path / "pipe.yaml")])
    fails_plainly(["inspect", "/dev/zero"])


def test_pipes_and_devices_in_a_data_folder_are_not_read(runs: Runs, tmp_path: Path) -> None:
    for label in ("bad", "good"):
        (tmp_path / label).mkdir()
        for number in range(10):
            (tmp_path / label / f"{number}.txt").write_text(f"words of {label} {number}")
        os.mkfifo(tmp_path / label / "pipe.txt")
        (tmp_path / label / "device.txt").symlink_to("/dev/zero")
    ended = run_limited(inspected(runs, f"data={tmp_path}"))
    assert (ended.code, ended.fault) == (0, ""), ended.errors


def test_table_of_hundreds_of_columns_without_images_ends_in_one_message(tmp_path: Path) -> None:
    names, values = (",".join(f"{kind}{n}" for n in range(784)) for kind in ("pixel", ""))
    (tmp_path / "digits.csv").write_text(f"label,{names}\n" + f"1,{values}\n2,{values}\n" * 10)
    words = ["task=image-classification", "model=timm/test_resnet", "method=full"]
    fails_plainly(["inspect", f"data={tmp_path / 'digits.csv'}", *words])


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_name_of_more_than_255_bytes_ends_in_one_message(words: list[str]) -> None:
    fails_plainly([word.format("x" * 300, "x" * 300) for word in words])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_attention_heads", 0),
        ("hidden_size", "x"),
        ("num_hidden_layers", [1]),
        ("model_type", ["bert"]),
        ("hidden_size", 10**400),
        ("hidden_dropout_prob", float("nan")),
        ("vocab_size", 5),
    ],
)
def test_config_of_a_pretrained_network_with_wrong_values_ends_in_one_message(
    key: str, value: object, runs: Runs, tmp_path: Path
) -> None:
    model = runs.changed_model(tmp_path / "bert", key, value)
    fails_plainly(inspected(runs, f"model={model}"))


def changed_tokenizer(runs: Runs, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the pretrained network to `folder`, with another tokenizer.json."""
    model = Path(shutil.copytree(runs.model, folder / "bert"))
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    change(tokenizer)
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    return model


@pytest.mark.parametrize("vocabulary", [{}, {"[UNK]": 0, "[PAD]": 10**6, "the": 10**6}])
def test_tokenizer_that_fits_no_network_ends_in_one_message(
    vocabulary: dict[str, int], runs: Runs, tmp_path: Path
) -> None:
    model = changed_tokenizer(runs, tmp_path, lambda made: made["model"].update(vocab=vocabulary))
    fails_plainly(inspected(runs, f"model={model}"))


def test_tokenizer_with_a_pattern_of_exponential_time_ends_in_one_message(
    runs: Runs, tmp_path: Path
) -> None:
    pattern = {"Regex": "(([a-z ]+)+)+9"}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    model = changed_tokenizer(runs, tmp_path, lambda made: made.update(pre_tokenizer=split))
    ended = run_limited(inspected(runs, f"model={model}"))
    assert (ended.code, ended.fault) == (2, "")
    assert "takes exponential time: Onig" in ended.errors
    assert "panicked" not in ended.errors
