"""Loading a config from YAML and overrides: shorthands, dropped keys, and error messages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.config.loading import Loaded, load_config
from finetune.config.schema import RunConfig, TaskConfig
from finetune.config.yaml import flatten, parse_value, to_yaml
from finetune.errors import ConfigError
from finetune.methods.method_configs import FullConfig, LoraConfig
from finetune.registry import INSTALLED


class NewsConfig(TaskConfig):
    """Keys of a task."""

    text: str | None = None
    """A column."""
    labels: list[str] | None = None
    """Names."""
    max_length: int = 256
    """Tokens."""
    dropout: float = 0.0
    """A key that method=lora has, too."""


class OtherConfig(TaskConfig):
    """Keys of another task."""

    image: str | None = None
    """A column."""


def task_config(name: str) -> type[TaskConfig]:
    return {"news": NewsConfig, "other": OtherConfig}[name]


REGISTRY = replace(INSTALLED, task=task_config)


def load(*overrides: str, source: Path | None = None) -> RunConfig:
    return load_with_notes(*overrides, source=source).config


def load_with_notes(*overrides: str, source: Path | None = None) -> Loaded:
    return load_config(source, overrides, REGISTRY)


def error_message(*overrides: str, source: Path | None = None) -> str:
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


# ---- shorthands


def test_load_config_reads_a_scalar_as_the_name_of_its_section() -> None:
    config = load(
        "task=news", "model=bert", "method=full", "optim=sgd", "data=a.csv", "output=here"
    )
    assert config.task == NewsConfig(name="news")
    assert config.model.name == "bert"
    assert config.method == FullConfig()
    assert config.optim.name == "sgd"
    assert config.data.source == "a.csv"
    assert config.output.dir == "here"


def test_load_config_reads_a_scalar_train_as_data_train() -> None:
    assert load("task=news", "model=b", "train=a.csv").data.train == "a.csv"


def test_load_config_accepts_unique_keys_without_their_section() -> None:
    config = load("task=news", "model=b", "lr=1e-3", "epochs=2", "rank=16", "text=body")
    assert (config.optim.lr, config.train.epochs) == (1e-3, 2)
    assert config.method == LoraConfig(rank=16)
    assert config.task.text == "body"


def test_load_config_rejects_an_ambiguous_key_and_names_its_sections() -> None:
    text = error_message("task=news", "model=b", "revision=x")
    assert (
        "revision: ambiguous, several sections have this key; write model.revision or data.revision"
        in text
    )
    assert "task.dropout or method.dropout" in error_message("task=news", "model=b", "dropout=0.1")


def test_load_config_accepts_overrides_as_words_or_as_a_mapping(file: Path) -> None:
    config = load("lr=5e-5", source=file)
    assert config.optim.lr == 5e-5
    assert config.method == LoraConfig(rank=4, targets=["query"])
    mapping = load_config(file, {"lr": 5e-5}, REGISTRY).config
    assert mapping == config


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("lr=1e-3", "optim.lr=2e-3"), "optim.lr: has two values, lr=0.001 and optim.lr=0.002"),
        (("output=q1", "output.dir=q2"), "output.dir: has two values, output=q1 and output.dir=q2"),
        (("method={name: lora, rank: 2}", "rank=4"), "method.rank=2 and rank=4; remove one"),
        (("data=a.csv", "data.source=b.csv"), "data.source: has two values"),
    ],
)
def test_load_config_rejects_two_values_of_one_key(
    words: tuple[str, ...], fault: str, file: Path
) -> None:
    assert fault in error_message(*words, source=file)
    assert load("lr=1e-3", "optim.lr=1e-3", source=file).optim.lr == 1e-3


def test_load_config_uses_the_last_of_equal_words_and_says_so(file: Path) -> None:
    loaded = load_with_notes("lr=1e-3", "lr=2e-3", source=file)
    assert loaded.config.optim.lr == 2e-3
    assert "lr=0.001 and lr=0.002 (command line): the last one is used" in loaded.notes


def test_load_config_rejects_two_values_of_one_key_in_a_file(file: Path) -> None:
    file.write_text(f"{file.read_text()}lr: 2e-4\n")
    assert "optim.lr: has two values, optim.lr=0.0001 and lr=0.0002" in error_message(source=file)


def test_load_config_records_the_origin_of_each_value(file: Path) -> None:
    origins = load_with_notes("lr=5e-5", source=file).origins
    assert origins["optim.lr"] == "command line"
    assert origins["method.rank"] == str(file)


def test_load_config_accepts_an_empty_section(file: Path) -> None:
    assert load(source=file).train.batch_size == 32


# ---- overriding a name


def test_load_config_drops_keys_of_a_replaced_method_with_a_note(file: Path) -> None:
    loaded = load_with_notes("method=full", source=file)
    assert loaded.config.method == FullConfig()
    assert loaded.notes == [
        "method=full (command line) drops keys of method=lora: method.rank, method.targets"
    ]
    assert "method.rank" not in loaded.origins


def test_load_config_keeps_keys_given_with_a_new_method(file: Path) -> None:
    for order in (("blocks=1", "method=partial"), ("method=partial", "blocks=1")):
        config = load(*order, source=file)
        assert (config.method.name, config.method.blocks) == ("partial", 1)  # type: ignore[union-attr]


def test_load_config_keeps_keys_of_an_unchanged_method(file: Path) -> None:
    loaded = load_with_notes("method=lora", "rank=32", source=file)
    assert loaded.config.method == LoraConfig(rank=32, targets=["query"])
    assert loaded.notes == []


def test_load_config_drops_keys_of_a_replaced_default_method(file: Path) -> None:
    file.write_text("task: news\nmodel: bert\nrank: 4\n")
    loaded = load_with_notes("method=full", source=file)
    assert loaded.config.method == FullConfig()
    assert "drops keys of method=lora: method.rank" in loaded.notes[0]


def test_load_config_drops_keys_of_a_replaced_task(file: Path) -> None:
    assert load("task=other", source=file).task == OtherConfig(name="other")


def test_load_config_drops_revision_and_trust_of_a_replaced_model(file: Path) -> None:
    """Permission to run code that comes with the weights must not carry over to another model."""
    loaded = load_with_notes("model=gpt2", source=file)
    assert loaded.config.model.revision is None
    assert loaded.config.model.trust_remote_code is False
    assert "model.trust_remote_code" in loaded.notes[0]
    assert load("model=bert", source=file).model.revision == "abc"


# ---- errors


def test_load_config_reports_all_errors_at_once(file: Path) -> None:
    text = error_message(
        "optim.lr=fast",
        "train.batch_size=0",
        "bach_size=3",
        "metod.rank=3",
        "blocks=2",
        "data.encodin=x",
        "method.rank=-1",
        "method.unfreeze_every=1",
        "optim.head_lr=.inf",
        source=file,
    )
    for part in [
        "optim.lr: 'fast': ",
        "train.batch_size: 0: should be greater than 0",
        "bach_size: unknown key; did you mean 'batch_size'?",
        "metod.rank: unknown key; did you mean 'method.rank'?",
        "blocks: not a key of method=lora, but of method=partial",
        "data.encodin: unknown key; did you mean 'encoding'?",
        "method.rank: -1: should be greater than 0",
        "method.unfreeze_every: not a key of method=lora, but of method=partial",
        "optim.head_lr: inf: should be a finite number",
    ]:
        assert part in text, (part, text)
    assert text.count("(command line)") == 9


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.lr", "optim.lr"),
        ("training.batch_size", "train.batch_size"),
        ("learning_rate", "optim.lr"),
        ("learning_rte", "optim.lr"),
        ("lora_alph", "method.alpha"),
        ("optim.num_train_epochs", "train.epochs"),
        ("lora_r", "method.rank"),
        ("evaluation_strategy", "train.evaluate_every"),
        ("test_size", "data.test"),
        ("hub_model_id", "output.hub"),
        ("init_lora_weights", "method.init"),
    ],
)
def test_load_config_suggests_keys_of_other_sections_and_libraries(
    key: str, meant: str, file: Path
) -> None:
    assert f"{key}: unknown key; did you mean '{meant}'?" in error_message(f"{key}=3", source=file)


@pytest.mark.parametrize("key", ["lr", "epochs", "seed", "batch_size", "data.limit", "rank"])
def test_load_config_rejects_true_as_a_number(key: str) -> None:
    message = error_message("task=news", "model=b", f"{key}=true")
    assert "should be a number, not true or false (command line)" in message


@pytest.mark.parametrize("word", ["lr=log(1e-5,1e-3)", "rank=[4,8]", "epochs=choice(1,2)"])
def test_load_config_names_search_for_several_values(word: str, file: Path) -> None:
    assert "; `finetune search` tries several values (command" in error_message(word, source=file)
    assert "search" not in error_message("limit=[1,2]", "rank=x", source=file)


def test_load_config_shows_how_a_list_is_written(file: Path) -> None:
    message = error_message("trackers=wandb", source=file)
    assert "output.trackers: 'wandb': should be a list: trackers=[wandb] (command line)" in message


def test_load_config_names_the_file_of_an_invalid_value(file: Path) -> None:
    file.write_text(file.read_text() + "  epochs: many\n")
    assert f"({file})" in error_message(source=file)


def test_load_config_suggests_the_nearest_method() -> None:
    assert "method.name: unknown method 'lor'; did you mean 'lora'?" in error_message(
        "task=news", "model=b", "method=lor"
    )


def test_load_config_requires_a_task() -> None:
    text = error_message("tsak=news", "model=b")
    assert "task: no task given" in text
    assert "tsak: unknown key, unless it is one of the task's (command line)" in text


def test_load_config_reports_other_errors_beside_an_unknown_task() -> None:
    """Keys that may belong to the unknown task cannot be checked and are not reported."""
    with pytest.raises(ConfigError) as caught:
        load_config(
            None,
            ["task=text-clasification", "model=b", "lr=fast", "method.rnk=4", "truncation=tail"],
            INSTALLED,
        )
    messages = str(caught.value).splitlines()[1:]
    assert [line.strip().partition(":")[0] for line in messages] == [
        "task.name",
        "optim.lr",
        "method.rnk",
    ]
    assert "did you mean 'text-classification'" in messages[0]
    assert "model.name: no pretrained model given" in error_message("task=news")


def test_load_config_rejects_negative_seeds() -> None:
    text = error_message("task=news", "model=b", "train.seed=-1", "data.split_seed=-3")
    assert "train.seed: -1" in text
    assert "data.split_seed: -3" in text


@pytest.mark.parametrize("text", ["lr", "=3", "lr=[1", "lr: 3"])
def test_load_config_rejects_malformed_overrides(text: str) -> None:
    assert "command line" in error_message("task=news", "model=b", text)


def test_load_config_rejects_a_file_that_is_not_a_mapping(file: Path) -> None:
    for content in ("- a\n- b\n", "just text", "a: [1"):
        file.write_text(content)
        assert str(file) in error_message(source=file)


def test_load_config_suggests_the_nearest_shipped_config() -> None:
    with pytest.raises(ConfigError, match=r"CONFIG: there is no file 'bbc-new'.*bbc-news"):
        load_config("bbc-new", [], REGISTRY)


# ---- values


def test_load_config_keeps_an_equals_sign_in_a_value() -> None:
    assert load("task=news", "model=b", "text=a=b").task.text == "a=b"


def test_load_config_expands_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    news = ("task=news", "model=bert")
    assert load(*news, "output.dir=~/runs/a").output.dir == "/home/me/runs/a"
    assert load(*news, "output.dir=runs/~/a").output.dir == "runs/~/a"


def test_load_config_reads_the_label_no_as_text(file: Path) -> None:
    assert load("task=news", "model=b", "labels=[no, se, dk]").task.labels == ["no", "se", "dk"]


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12),
    st.from_regex(r"[-+]?[0-9]{1,3}(\.[0-9]{0,2})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.sampled_from(
        ["null", "~", "yes", "No", "true", "1e5", "1E-4", "0x1f", "01", ".inf", "=", "<<"]
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=3),
    TEXT,
    st.one_of(st.none(), st.floats(0, 1e6, allow_nan=False)),
    st.floats(1e-300, 1e9),
)
def test_to_yaml_round_trips_through_load_config(
    labels: list[str], name: str, rate: float | None, epochs: float
) -> None:
    overrides = {"task": "news", "task.labels": labels, "model.name": name, "train.epochs": epochs}
    config = load_config(None, {**overrides, "optim.lr": rate}, REGISTRY).config
    text = to_yaml(config)
    tree = parse_value(text)
    again = load_config(None, tree, REGISTRY).config
    assert again == config
    # Any other YAML reader returns the same strings.
    assert yaml.safe_load(text)["task"]["labels"] == labels


def test_flatten_returns_dotted_keys() -> None:
    flat = flatten(load("task=news", "model=b", "lr=1e-3"))
    assert flat["optim.lr"] == 1e-3
    assert flat["method.name"] == "lora"
    assert all(key.count(".") == 1 for key in flat)
    assert not any(isinstance(value, float) and math.isnan(value) for value in flat.values())
