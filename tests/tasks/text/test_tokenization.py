"""Length and truncation of texts, and notes on likely mistakes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError
from finetune.task_parts.samples import Length, Row
from tasks import TextClassification
from tasks.text import long_texts
from tasks.text.tokenization import load_tokenizer
from tests.support.characters import characters_read
from tests.support.contract import resolve
from tests.support.text_classifiers import PAIR, SINGLE, labeled, set_up
from tests.support.tiny_models import LONGEST


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_truncation_cuts_the_configured_end_and_counts(truncation: str, bert_folder: Path) -> None:
    words = ["market"] + ["the"] * 58 + ["goal"]
    rows = [*SINGLE, {"text": " ".join(words), "label": "sport"}]
    task, _ = set_up(bert_folder, rows, truncation=truncation)
    assert task.lengths(rows)[-1] == Length(LONGEST, 60 + 2 - LONGEST)  # [CLS] and [SEP] count
    shown = task.views.show(task.encode(rows[-1])).split()
    assert len(shown) == LONGEST
    assert ("market" in shown, "goal" in shown) == (truncation == "head", truncation == "tail")
    assert (shown[0], shown[-1]) == ("[CLS]", "[SEP]")


@pytest.mark.parametrize("keys", [{}, {"text": ["first", "second"]}])
def test_lengths_are_those_of_encoded_rows(keys: dict[str, Any], bert_folder: Path) -> None:
    rows = PAIR if keys else SINGLE
    task, _ = set_up(bert_folder, rows, max_length=20, **keys)
    lengths = task.lengths(rows)
    assert any(length.cut for length in lengths)
    assert [length.used for length in lengths] == [
        len(task.encode(row)["inputs"]["input_ids"]) for row in rows
    ]


@pytest.mark.parametrize(
    ("rows", "keys", "specials"), [(SINGLE, {}, 2), (PAIR, {"text": ["first", "second"]}, 3)]
)
def test_max_length_must_leave_room_for_text(
    rows: list[Row], keys: dict[str, Any], specials: int, bert_folder: Path
) -> None:
    set_up(bert_folder, rows, max_length=specials + 1, **keys)
    with pytest.raises(ConfigError, match=f"task.max_length: {specials} tokens leave no room"):
        set_up(bert_folder, rows, max_length=specials, **keys)


def test_max_length_is_limited_to_the_network_with_a_note(bert_folder: Path) -> None:
    table = Dataset.from_list(SINGLE)
    task = TextClassification(max_length=512, text="text", label="label", kind="single")
    notes = task.setup(table, ModelConfig(name=str(bert_folder)), frozen=False)
    assert task.resolved_.max_length == LONGEST
    assert any(note.startswith(f"max_length: {LONGEST}") and "512" in note for note in notes)


@pytest.mark.parametrize(
    ("rows", "keys", "note"),
    [
        (
            labeled("sport", "Sport ", "tech"),
            {},
            "labels: 'Sport' and 'sport' are different labels, but differ only in case",
        ),
        (
            labeled("a", "a", "b"),
            {"class_weights": "balanced", "logit_adjustment": 1.0},
            "so rare labels are favored twice",
        ),
        (
            [{"text": "на рынке рост", "label": "a"}, {"text": "the market", "label": "b"}],
            {},
            "60% of the tokens of the first 2 texts are [UNK]",
        ),
        (
            [{"text": "xyzzy rose", "label": "a"}, {"text": "the market", "label": "b"}],
            {"add_tokens": ["xyzzy", "plugh"]},
            "add_tokens: 2 tokens added, each embedding initialized to the mean of its pieces; "
            "with method=lora, set method.train_tokens=true to train them; not in any training "
            "row: plugh",
        ),
    ],
    ids=["labels", "weights", "unknown", "added"],
)
def test_setup_notes_point_out_likely_mistakes(
    rows: list[Row], keys: dict[str, Any], note: str, bert_folder: Path
) -> None:
    def notes(rows: list[Row], **keys: Any) -> str:
        task, table = TextClassification(**keys), Dataset.from_list(rows)
        resolve(task, table[:100])
        return "; ".join(task.setup(table, ModelConfig(name=str(bert_folder)), frozen=False))

    assert note in notes(rows, **keys)
    assert note.partition(" ")[2] not in notes(SINGLE, class_weights="balanced")


@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("truncation", ["head", "tail", "head-tail", "windows"])
def test_very_long_texts_are_encoded_as_a_whole_would_be(
    truncation: str, pair: bool, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pair and truncation in ("head-tail", "windows"):
        return
    words = ["the", "market", "fell", "goal", "team", "shares", "a", "match", "of"]
    texts = [" ".join(words[n % 9] for n in range(start, start + 500)) for start in (0, 1, 3)]
    texts += ["goal " * 400, "a " * 20, "ж" * 2000, "a " + " " * 900 + "ж" * 2000 + " match " * 9]
    rows = [
        {"first": text, "second": text[::-1], "label": "ab"[n % 2]} for n, text in enumerate(texts)
    ]
    keys = {"text": ["first", "second"] if pair else "first", "label": "label"}
    task, _ = set_up(bert_folder, rows, truncation=truncation, max_length=40, **keys)
    whole = [task.encode(row)["inputs"] for row in rows]
    for name, value in {"PART": 300, "WINDOW": 200, "_MARGIN": 5, "_KEPT": 110}.items():
        monkeypatch.setattr(long_texts, name, value)
    assert [task.encode(row)["inputs"] for row in rows] == whole
    if not pair:
        counted = task.lengths(rows)
        monkeypatch.setattr(long_texts, "PART", 10**6)
        assert counted == task.lengths(rows)


@pytest.mark.parametrize("kind", ["words", "one word", "signs", "blanks", "unknown"])
@pytest.mark.parametrize("network", ["bert", "gpt2", "t5"])
def test_tokens_of_parts_are_those_of_the_whole_text(
    network: str, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(0)
    words = ["the", "market", "fell", "goal,", "team\n", "é漢字", "😀👩‍👩‍👧", "x" * 150]
    texts = {
        "words": " ".join(rng.choice(words) for _ in range(600)),
        "one word": "market" * 600,
        "signs": "".join(rng.choice("aé漢😀👩\u200d👧\n.x ") for _ in range(3000)),
        "blanks": " " * 1000 + "the" + "\n" * 1000,
        "unknown": "the " + "ж" * 3000 + " fell",
    }
    tokenizer = load_tokenizer(ModelConfig(name=str(request.getfixturevalue(f"{network}_folder"))))
    whole = long_texts.token_spans(tokenizer, texts[kind])
    for name, value in {"PART": 300, "WINDOW": 200, "_CONTEXT": 40}.items():
        monkeypatch.setattr(long_texts, name, value)
    assert long_texts.token_spans(tokenizer, texts[kind]).equals(whole)


def test_parts_of_a_text_end_somewhere_if_their_tokens_never_agree(
    bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(ModelConfig(name=str(bert_folder)))
    text = "the market " * 100
    monkeypatch.setattr(long_texts, "_after", lambda *_: None)
    monkeypatch.setattr(long_texts, "PART", 300)
    monkeypatch.setattr(long_texts, "WINDOW", 200)
    spans = long_texts.token_spans(tokenizer, text)
    assert spans.ids.tolist() == tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("truncation", ["head", "tail", "head-tail", "windows"])
@pytest.mark.parametrize("kind", ["words", "unknown", "blanks", "nothing"])
def test_little_of_a_huge_text_is_tokenized_again(
    kind: str, truncation: str, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "words": "the goal " * 10_000,
        "unknown": "the " + "ж" * 90_000,
        "blanks": "the " + " " * 90_000 + "goal",
        "nothing": "the go" + "\u200b" * 90_000 + "al",
    }
    rows = [*SINGLE, {"text": texts[kind], "label": "sport"}]
    task, _ = set_up(bert_folder, rows, truncation=truncation, max_length=20, window_overlap=4)
    whole, counted = task.encode(rows[-1]), task.lengths(rows)
    constants = {"PART": 1000, "WINDOW": 500, "_CONTEXT": 40, "COUNTED": 5000, "_MARGIN": 5}
    for name, value in (constants | {"_KEPT": 110}).items():
        monkeypatch.setattr(long_texts, name, value)
    read = characters_read(task.tokenizer_, monkeypatch)
    lengths = task.lengths(rows)
    assert [task.encode(rows[-1]) for _ in range(5)] == [whole] * 5
    # Only a text of few tokens is read to its end: once to count them, once to shorten it.
    assert sum(read) < len(texts[kind]) * (0.5 if kind == "words" else 6)
    # A word around the end of a part is counted twice.
    assert lengths[-1].used == pytest.approx(counted[-1].used, abs=kind == "nothing")
    assert lengths[:-1] == counted[:-1]
    assert lengths[-1].is_estimate == (kind == "words")
    assert lengths[-1].cut == pytest.approx(counted[-1].cut, rel=0.1)


@pytest.mark.parametrize("longer", ["first", "second"])
@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_few_tokens_of_two_long_texts_reach_the_truncation_of_a_pair(
    truncation: str, longer: str, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library makes a piece of each part of one text with each of the other."""
    monkeypatch.setattr(long_texts, "PART", 5000)
    monkeypatch.setattr(long_texts, "WINDOW", 1000)

    def pair(count: int) -> Row:
        counts = (count + 1, count) if longer == "first" else (count, count + 1)
        texts = [f"the goal of {word} " * n for word, n in zip("ab", counts, strict=True)]
        return {"first": texts[0], "second": texts[1], "label": "ab"[count % 2]}

    keys = {"text": ["first", "second"], "label": "label", "truncation": truncation}
    task, _ = set_up(bert_folder, [pair(4001), pair(100)], max_length=40, **keys)
    read = characters_read(task.tokenizer_, monkeypatch)
    # Two texts get an odd number of tokens, one more of the longer text.
    assert task.encode(pair(4001))["inputs"] == task.encode(pair(100))["inputs"]
    assert max(read) <= 5000
