"""Parsing of command-line words into names, overrides and data sources."""

from __future__ import annotations

import pytest

from finetune.commands.arguments import config_and_overrides, embedding_source, source_of
from finetune.config.yaml import split_override
from finetune.errors import ConfigError


def test_config_and_overrides_accepts_any_order() -> None:
    words = ["lr=1e-3", "news.yaml", "train.best=-loss"]
    assert config_and_overrides(words) == ("news.yaml", ["lr=1e-3", "train.best=-loss"])
    assert config_and_overrides(["task=x"]) == (None, ["task=x"])
    assert config_and_overrides(None) == (None, [])


@pytest.mark.parametrize("path", ["./year=2024/news.csv", "/data/year=2024", "news.yaml", "-"])
def test_config_and_overrides_recognizes_a_path_with_an_equals_sign(path: str) -> None:
    assert config_and_overrides([path]) == (path, [])


def test_config_and_overrides_rejects_a_second_name() -> None:
    with pytest.raises(
        ConfigError, match=r"'news.yaml' and 'epochs'; write everything else as key="
    ):
        config_and_overrides(["news.yaml", "epochs", "3"][:2])


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("k=1e-4", 1e-4),
        ("k=3", 3),
        ("k=true", True),
        ("k=null", None),
        ("k=", None),
        ("k=[a, b]", ["a", "b"]),
        ("k={a: 1}", {"a": 1}),
        ("k='1'", "1"),
        # Plain YAML would parse these as a comment, block, alias, mapping or error.
        ("k=|", "|"),
        ("k=#topic", "#topic"),
        ("k=,", ","),
        ("k=;", ";"),
        ("k=*x", "*x"),
        ("k=a: b", "a: b"),
        ("k=@here", "@here"),
        ("k=x=y", "x=y"),
    ],
)
def test_split_override_parses_values(word: str, value: object) -> None:
    assert split_override(word) == ("k", value)


def test_split_override_rejects_an_unclosed_list() -> None:
    with pytest.raises(ConfigError, match=r"'k=\[a, b' is not valid YAML"):
        split_override("k=[a, b")


@pytest.mark.parametrize("words", [["--lr", "1e-4"], ["news.yaml", "--lr=1e-4"]])
def test_config_and_overrides_explains_keys_written_as_options(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="unknown option --lr.*without dashes: lr=VALUE"):
        config_and_overrides(words)


def test_source_of_accepts_keys_with_and_without_their_section() -> None:
    source = source_of(["delimiter=;", "news.csv", "data.encoding=cp1252", "split=test"])
    assert source.reference == "news.csv"
    assert (source.config.delimiter, source.config.encoding) == (";", "cp1252")
    assert source.split == "test"


def test_source_of_reports_all_errors_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        source_of(["news.csv", "delimeter=;", "limit=none", "validation=0.1"])
    message = str(caught.value)
    assert "delimeter: unknown key for reading rows; did you mean 'delimiter'?" in message
    assert "data.limit: 'none'" in message
    assert "validation: unknown key" in message


def test_source_of_requires_data_or_a_default() -> None:
    assert source_of(["limit=3"], missing="-").reference == "-"
    with pytest.raises(ConfigError, match="DATA: missing"):
        source_of(["limit=3"])


def test_source_of_takes_the_data_by_their_key_too() -> None:
    for word in ("data=new.csv", "data.source=new.csv", "new.csv"):
        source = source_of([word, "delimiter=;"])
        assert (source.reference, source.config.delimiter) == ("new.csv", ";")
    with pytest.raises(ConfigError, match="expected one DATA, got 'b.csv' and 'a.csv'"):
        source_of(["a.csv", "data=b.csv"])


def test_embedding_source_takes_keys_of_tasks_with_and_without_their_section() -> None:
    for words in (["task.text=body"], ["text=body"]):
        source = embedding_source(["news.csv", "task=text-classification", "limit=3", *words])
        assert (source.reference, source.config.limit) == ("news.csv", 3)
        assert source.options == {"name": "text-classification", "text": "body"}
    with pytest.raises(ConfigError, match="limt: unknown key for reading rows; did you mean 'lim"):
        embedding_source(["news.csv", "limt=3"])
    with pytest.raises(ConfigError, match="did you mean 'max_length'"):
        embedding_source(["news.csv", "max_lenght=3"])


def test_split_override_asks_for_the_blank_of_a_mapping() -> None:
    for word in ("task.labels={0:neg,1:pos}", "task.metrics=[{name:f1}]", "a={b: {c:1}}"):
        with pytest.raises(ConfigError, match="write a blank after the colon"):
            split_override(word)
    assert split_override("a={b: null, c: x:y}") == ("a", {"b": None, "c": "x:y"})
    assert split_override("task.prompt={body}:") == ("task.prompt", "{body}:")


def test_source_of_rejects_two_values_of_one_key() -> None:
    for words in (
        ["news.csv", "data.encoding=utf-8", "encoding=cp1252"],
        ["news.csv", "task.text=body", "text=title"],
    ):
        with pytest.raises(ConfigError, match="are two values of one key; remove one"):
            source_of(words, takes_options=True)
    source = source_of(["news.csv", "task.text=body", "text=body"], takes_options=True)
    assert source.options == {"text": "body"}
