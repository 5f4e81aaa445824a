"""From YAML and overrides to a config: what may be left out, what is dropped, and all faults at once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config.loading import Loaded, load_config
from finetune.config.schema import RunConfig, TaskConfig
from finetune.config.shipped import find_config, shipped_configs
from finetune.config.yaml import flatten, parse_value, split_override, to_yaml
from finetune.errors import ConfigError
from finetune.methods.full import FullConfig
from finetune.methods.lora import LoraConfig
from finetune.registry import INSTALLED


class NewsConfig(TaskConfig):
    """The keys of a task."""

    text: str | None = None
    """A column."""
    labels: list[str] | None = None
    """Names."""
    max_length: int = 256
    """Tokens."""
    dropout: float = 0.0
    """A key that method=lora has too."""


class OtherConfig(TaskConfig):
    """The keys of another task."""

    image: str | None = None
    """A column."""


def task_config(name: str) -> type[TaskConfig]:
    return {"news": NewsConfig, "other": OtherConfig}[name]


FOUND = replace(INSTALLED, task=task_config)


def load(*overrides: str, source: Path | None = None) -> RunConfig:
    return loaded(*overrides, source=source).config


def loaded(*overrides: str, source: Path | None = None) -> Loaded:
    return load_config(source, overrides, FOUND)


def faults(*overrides: str, source: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*overrides, source=source)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        "task: {name: news, text: body, max_length: 64}\n"
        "model: {name: bert, revision: abc, trust_remote_code: true}\n"
        "data: news.csv\n"
        "method: {name: lora, rank: 4, targets: [query]}\n"
        "optim:\n  lr: 1e-4\n"
        "train:\n"
    )
    return path


# ---- what may be left out


def test_scalar_means_the_name_of_its_section() -> None:
    config = load(
        "task=news", "model=bert", "method=full", "optim=sgd", "data=a.csv", "output=here"
    )
    assert config.task == NewsConfig(name="news")
    assert config.model.name == "bert"
    assert config.method == FullConfig()
    assert config.optim.name == "sgd"
    assert config.data.source == "a.csv"
    assert config.output.dir == "here"


def test_train_given_as_a_scalar_is_the_training_data() -> None:
    assert load("task=news", "model=b", "train=a.csv").data.train == "a.csv"


def test_unique_leaf_stands_without_its_section() -> None:
    config = load("task=news", "model=b", "lr=1e-3", "epochs=2", "rank=16", "text=body")
    assert (config.optim.lr, config.train.epochs) == (1e-3, 2)
    assert config.method == LoraConfig(rank=16)
    assert config.task.text == "body"


def test_leaf_of_several_sections_is_refused_with_their_names() -> None:
    text = faults("task=news", "model=b", "revision=x")
    assert "revision: stands in several sections; write model.revision or data.revision" in text
    assert "task.dropout or method.dropout" in faults("task=news", "model=b", "dropout=0.1")


def test_file_and_overrides_and_mapping_agree(file: Path) -> None:
    config = load("lr=5e-5", source=file)
    assert config.optim.lr == 5e-5
    assert config.method == LoraConfig(rank=4, targets=["query"])
    mapping = load_config(file, {"lr": 5e-5}, FOUND).config
    assert mapping == config


def test_origins_name_the_place_of_each_value(file: Path) -> None:
    found = loaded("lr=5e-5", source=file).origins
    assert found["optim.lr"] == "command line"
    assert found["method.rank"] == str(file)


def test_empty_section_is_no_fault(file: Path) -> None:
    assert load(source=file).train.batch_size == 32


# ---- a name that is overridden


def test_other_method_drops_the_keys_of_the_old_one_and_says_so(file: Path) -> None:
    found = loaded("method=full", source=file)
    assert found.config.method == FullConfig()
    assert found.notes == [
        "method=full (command line) drops keys of method=lora: method.rank, method.targets"
    ]
    assert "method.rank" not in found.origins


def test_other_method_keeps_the_keys_given_with_it(file: Path) -> None:
    for order in (("blocks=1", "method=partial"), ("method=partial", "blocks=1")):
        config = load(*order, source=file)
        assert (config.method.name, config.method.blocks) == ("partial", 1)  # type: ignore[union-attr]


def test_same_method_keeps_its_keys(file: Path) -> None:
    found = loaded("method=lora", "rank=32", source=file)
    assert found.config.method == LoraConfig(rank=32, targets=["query"])
    assert found.notes == []


def test_keys_of_the_method_that_is_meant_without_its_name_are_dropped_too(file: Path) -> None:
    file.write_text("task: news\nmodel: bert\nrank: 4\n")
    found = loaded("method=full", source=file)
    assert found.config.method == FullConfig()
    assert "drops keys of method=lora: method.rank" in found.notes[0]


def test_other_task_drops_the_keys_of_the_old_one(file: Path) -> None:
    assert load("task=other", source=file).task == OtherConfig(name="other")


def test_other_model_drops_revision_and_trust_of_the_old_one(file: Path) -> None:
    """Above all the consent to run code that comes with the weights."""
    found = loaded("model=gpt2", source=file)
    assert found.config.model.revision is None
    assert found.config.model.trust_remote_code is False
    assert "model.trust_remote_code" in found.notes[0]
    assert load("model=bert", source=file).model.revision == "abc"


# ---- faults


def test_all_faults_come_at_once_with_key_value_place_and_remedy(file: Path) -> None:
    text = faults(
        "optim.lr=fast",
        "train.batch_size=0",
        "bach_size=3",
        "metod.rank=3",
        "blocks=2",
        "data.encodin=x",
        "method.rank=-1",
        "optim.head_lr=.inf",
        source=file,
    )
    for part in [
        "optim.lr: 'fast': ",
        "train.batch_size: 0: should be greater than 0",
        "bach_size: unknown key; did you mean 'batch_size'?",
        "metod.rank: unknown key; did you mean 'method.rank'?",
        "blocks: method=lora has no such key, method=partial has",
        "data.encodin: unknown key; did you mean 'encoding'?",
        "method.rank: -1: should be greater than 0",
        "optim.head_lr: inf: should be a finite number",
    ]:
        assert part in text, (part, text)
    assert text.count("(command line)") == 8


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.lr", "optim.lr"),
        ("training.batch_size", "train.batch_size"),
        ("learning_rate", "optim.lr"),
        ("optim.num_train_epochs", "train.epochs"),
        ("lora_r", "method.rank"),
        ("evaluation_strategy", "train.evaluate_every"),
        ("test_size", "data.test"),
        ("hub_model_id", "output.hub"),
        ("init_lora_weights", "method.init"),
    ],
)
def test_key_of_another_section_or_library_is_answered_with_ours(
    key: str, meant: str, file: Path
) -> None:
    assert f"{key}: unknown key; did you mean '{meant}'?" in faults(f"{key}=3", source=file)


def test_fault_in_a_file_names_the_file(file: Path) -> None:
    file.write_text(file.read_text() + "  epochs: many\n")
    assert f"({file})" in faults(source=file)


def test_unknown_method_is_answered_with_the_nearest() -> None:
    assert "method.name: unknown method 'lor'; did you mean 'lora'?" in faults(
        "task=news", "model=b", "method=lor"
    )


def test_missing_task_and_model_are_named() -> None:
    assert "task: no task is named" in faults("model=b")


def test_faults_are_told_although_the_task_is_misspelt() -> None:
    """Keys that may be its own cannot be checked, so that nothing is said of them."""
    with pytest.raises(ConfigError) as caught:
        load_config(
            None,
            ["task=text-clasification", "model=b", "lr=fast", "method.rnk=4", "truncation=tail"],
            INSTALLED,
        )
    told = str(caught.value).splitlines()[1:]
    assert [line.strip().partition(":")[0] for line in told] == [
        "task.name",
        "optim.lr",
        "method.rnk",
    ]
    assert "did you mean 'text-classification'" in told[0]
    assert "model.name: no pretrained network is named" in faults("task=news")


def test_negative_seed_is_a_fault_of_the_config() -> None:
    text = faults("task=news", "model=b", "train.seed=-1", "data.split_seed=-3")
    assert "train.seed: -1" in text
    assert "data.split_seed: -3" in text


@pytest.mark.parametrize("text", ["lr", "=3", "lr=[1", "lr: 3"])
def test_override_that_is_none_is_refused(text: str) -> None:
    assert "command line" in faults("task=news", "model=b", text)


def test_file_that_is_no_mapping_is_refused(file: Path) -> None:
    for content in ("- a\n- b\n", "just text", "a: [1"):
        file.write_text(content)
        assert str(file) in faults(source=file)


def test_missing_config_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"CONFIG: there is no file 'bbc-new'.*bbc-news"):
        load_config("bbc-new", [], FOUND)


def test_data_in_the_place_of_a_config_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "news.csv").write_text("text,label\na: b: c,d\n")
    with pytest.raises(
        ConfigError, match=r"holds data; name it as data=.*news\.csv.*finetune init"
    ):
        find_config(tmp_path / "news.csv")


def test_name_that_two_shipped_configs_share_is_answered_with_both() -> None:
    with pytest.raises(ConfigError, match="object-detection/scenes or segmentation/scenes"):
        find_config("scenes")


def test_misspelt_config_is_answered_with_the_file_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reviews.yaml").touch()
    with pytest.raises(ConfigError, match=r"did you mean '.*reviews\.yaml'"):
        find_config(tmp_path / "reveiws.yaml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean 'reviews\.yaml'"):
        find_config("reveiws.yaml")


def test_shipped_configs_are_found_by_name() -> None:
    assert "text-classification/bbc-news" in shipped_configs()


# ---- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("12", 12),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("NO", "NO"),
        ("2024-01-02", "2024-01-02"),
        ("12:30", "12:30"),
        ("0123", "0123"),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("'1e-4'", "1e-4"),
        ("[a, 1e-3]", ["a", 1e-3]),
        ("a=b", "a=b"),
    ],
)
def test_values_are_read_as_people_write_them(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["{headline}", "{body}\nTL;DR:", "{q}: {a}", "[INST] {q} [/INST]"])
def test_a_template_of_columns_is_text(text: str) -> None:
    assert split_override(f"task.prompt={text}") == ("task.prompt", text)


def test_a_mapping_is_no_template() -> None:
    assert split_override("rank_pattern={query: 16}") == ("rank_pattern", {"query": 16})


def test_value_may_hold_an_equals_sign() -> None:
    assert load("task=news", "model=b", "text=a=b").task.text == "a=b"


def test_label_that_looks_like_a_country_stays_text(file: Path) -> None:
    assert load("task=news", "model=b", "labels=[no, se, dk]").task.labels == ["no", "se", "dk"]


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
    st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{0,2})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(
        ["null", "~", "yes", "No", "true", "1e5", "1E-4", "0x1f", "01", ".inf", "=", "<<"]
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=3),
    TEXT,
    st.one_of(st.none(), st.floats(0, 1e6, allow_nan=False)),
    st.floats(1e-300, 1e10),
)
def test_config_written_as_yaml_is_read_back(
    labels: list[str], name: str, rate: float | None, epochs: float
) -> None:
    overrides = {"task": "news", "task.labels": labels, "model.name": name, "train.epochs": epochs}
    config = load_config(None, {**overrides, "optim.lr": rate}, FOUND).config
    text = to_yaml(config)
    tree = parse_value(text)
    again = load_config(None, tree, FOUND).config
    assert again == config
    # And by any other reader of YAML, as far as text is concerned.
    assert yaml.safe_load(text)["task"]["labels"] == labels


def test_flat_keys_are_those_of_the_overrides() -> None:
    flat = flatten(load("task=news", "model=b", "lr=1e-3"))
    assert flat["optim.lr"] == 1e-3
    assert flat["method.name"] == "lora"
    assert all(key.count(".") == 1 for key in flat)
    assert not any(isinstance(value, float) and math.isnan(value) for value in flat.values())
