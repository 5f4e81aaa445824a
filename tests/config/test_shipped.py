"""Shipped configs: they load, and their headers have working commands and measured results."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from finetune.commands.arguments import config_and_overrides
from finetune.config.json_schema import config_schema
from finetune.config.loading import Layer, load_config
from finetune.config.shipped import find_config, shipped_configs
from finetune.config.yaml import read_yaml
from finetune.errors import ConfigError
from finetune.registry import INSTALLED, find_method, find_task, method_names, task_names
from finetune.search_space.search_config import LEAVES, SearchConfig
from finetune.search_space.search_plan import plan_search

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "configs" / "config.schema.json"
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
COMMAND = re.compile(r"^(?:finetune train|(?:\S+=\S+ )*accelerate launch .*-m finetune train)\b")
MEASURED = re.compile(
    r"\b(?:accuracy|f1|rmse|ap|map|iou|dice|perplexity|rouge)\w*\s+\d*\.\d{2,}", re.I
)


def header(path: Path) -> list[str]:
    """Return the lines of the comment at the top of a config."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def commands(path: Path) -> list[str]:
    return [line for line in header(path) if COMMAND.match(line)]


def test_shipped_configs_lists_all_config_files() -> None:
    assert CONFIGS
    assert sorted(shipped_configs().values()) == CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_loads(path: Path) -> None:
    loaded = load_config(path, [], INSTALLED)
    assert loaded.config.data.source or loaded.config.data.train
    assert loaded.config.task.name == path.parent.name, "a config must be in its task's folder"
    assert not loaded.notes


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_header_has_commands_and_measured_results(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert commands(path), "the header has no `finetune train` or `accelerate launch` command"
    for command in commands(path):
        # The result may follow the command as a shell comment.
        words = shlex.split(command.partition("finetune train")[2], comments=True)
        name, overrides = config_and_overrides([word for word in words if word[0] != "-"])
        assert name is not None, f"{command}: names no config"
        assert find_config(name).resolve() == path, f"{command}: names another config"
        load_config(name, overrides, INSTALLED)
    text = "\n".join(header(path))
    assert MEASURED.search(text) or "Not measured yet" in text, "the header has no result"


def test_shipped_schema_is_up_to_date() -> None:
    tasks = {name: find_task(name).Config for name in sorted(task_names())}
    methods = {name: find_method(name).Config for name in method_names()}
    schema = config_schema(tasks, methods, SearchConfig, LEAVES)
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == schema, (
        "regenerate it: finetune tasks --schema > configs/config.schema.json"
    )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_conforms_to_the_schema(path: Path) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    validator.check_schema(validator.schema)
    validator.validate(read_yaml(path))


@pytest.mark.parametrize(
    ("keys", "is_valid"),
    [
        ({"search": {"space": {"lr": "log(1e-5, 1e-3)"}, "trials": 5, "time": "30m"}}, True),
        ({"space": {"rank": [4, 8]}, "time": "1.5h", "search": {"workers": 2}}, True),
        ({"search": {"sampler": "tpa"}}, False),
        ({"search": {"time": "soon"}}, False),
        ({"search": {"trails": 5}}, False),
    ],
)
def test_config_schema_agrees_with_plan_search(keys: dict[str, Any], is_valid: bool) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    keys = {"task": "text-classification", "model": "bert", "data": "a.csv", **keys}
    assert validator.is_valid(keys) == is_valid
    try:
        plan_search([Layer("a.yaml", [*keys.items()])], INSTALLED)
    except ConfigError:
        assert not is_valid
    else:
        assert is_valid


@pytest.mark.parametrize(
    ("keys", "is_valid"),
    [
        ({"task": "text-classification", "model": "bert", "data": "a.csv", "epochs": 2}, True),
        ({"task": "mine.py:Mine", "model": "bert", "method": "lora", "optim.lr": 1e-3}, True),
        ({"task": {"name": "segmentation", "decoder": "fpn"}, "model": "timm/x"}, True),
        ({"task": {"name": "mine.py:Mine", "tags": ["a"]}, "model": {"name": "bert"}}, True),
        ({"task": "text-classification", "model": "bert", "epoch": 2}, False),
        ({"task": "text-clasification", "model": "bert"}, False),
        ({"task": {"name": "segmentation", "decodr": "fpn"}, "model": "timm/x"}, False),
        ({"task": "segmentation", "model": "x", "method": {"name": "full", "rank": 4}}, False),
        ({"task": "segmentation", "model": "x", "train": {"batch_size": 0}}, False),
    ],
)
def test_config_schema_agrees_with_load_config(keys: dict[str, Any], is_valid: bool) -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert validator.is_valid(keys) == is_valid
    if "mine.py" not in str(keys["task"]):  # that file does not exist
        try:
            load_config(None, keys, INSTALLED)
        except ConfigError:
            assert not is_valid
        else:
            assert is_valid


# ---- finding a config by name


def test_find_config_rejects_a_data_file(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("text,label\na: b: c,d\n")
    with pytest.raises(
        ConfigError,
        match=r"is a data file, not a config; pass it as data=.*news\.csv.*finetune init",
    ):
        find_config(tmp_path / "news.csv")


def test_find_config_says_how_a_task_is_written() -> None:
    with pytest.raises(ConfigError, match="'segmentation' is a task; write task=segmentation"):
        find_config("segmentation")


def test_find_config_reports_an_ambiguous_name() -> None:
    with pytest.raises(ConfigError, match="object-detection/scenes or segmentation/scenes"):
        find_config("scenes")


def test_find_config_suggests_a_file_in_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reviews.yaml").touch()
    with pytest.raises(ConfigError, match=r"did you mean '.*reviews\.yaml'"):
        find_config(tmp_path / "reveiws.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean 'reviews\.yaml'"):
        find_config("reveiws.yaml")


def test_shipped_configs_have_task_and_data_names() -> None:
    assert "text-classification/bbc-news" in shipped_configs()


def test_find_config_suggests_a_run_and_refuses_its_folder(tmp_path: Path) -> None:
    (tmp_path / "news-lora").mkdir()
    (tmp_path / "news-lora" / "config.yaml").write_text("task: text-classification\n")
    with pytest.raises(ConfigError, match=r"did you mean '.*news-lora'\?"):
        find_config(tmp_path / "news-lra")
    with pytest.raises(ConfigError, match=r"the folder of a run; name its config: .*config\.yaml"):
        find_config(tmp_path / "news-lora")
