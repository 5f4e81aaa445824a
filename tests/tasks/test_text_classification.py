"""The text classifier: the contract on every kind of target and head, and what its final model says
in the libraries that it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from peft import AutoPeftModelForSequenceClassification
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import finetune
from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, DataError, ModelError
from finetune.export.final_model import compute_outputs
from finetune.model import TransferModel
from finetune.task_parts import Row
from finetune.testing import check_task
from tasks import TextClassification
from tests.support.contract import resolve
from tests.support.tiny_models import LABELS, LONGEST, text_rows

CLOSE = 1e-5
SINGLE = text_rows(8)
SEVERAL = [{**row, "label": [row["label"], LABELS[i % 3]]} for i, row in enumerate(SINGLE)]
NONE_OR_TEXT = [{**row, "label": "; ".join(row["label"][i % 2 :])} for i, row in enumerate(SEVERAL)]
NUMBER = [{**row, "label": 1000.5 + 10 * row["text"].count("a")} for row in SINGLE]
PAIR = [
    {"first": one["text"], "second": other["text"], "label": one["label"] == other["label"]}
    for one, other in zip(SINGLE, reversed(text_rows(11)[3:]), strict=True)
]


def set_up(
    model: Path, rows: list[Row] | Dataset, **keys: Any
) -> tuple[TextClassification, TransferModel]:
    """A task that has seen `rows`, and its untrained network."""
    table = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    task, source = TextClassification(**keys), ModelConfig(name=str(model))
    resolve(task, table[:100])
    task.setup(table, source, frozen=False)
    torch.manual_seed(0)
    return task, task.build_model(source)


# ---- the contract


@pytest.mark.parametrize("head", ["native", "pooled"])
@pytest.mark.parametrize("network", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        pytest.param(SINGLE, {}, id="single"),
        pytest.param(
            SINGLE, {"class_weights": "balanced", "label_smoothing": 0.1}, id="weighted-and-smooth"
        ),
        pytest.param(SEVERAL, {}, id="several"),
        pytest.param(NONE_OR_TEXT, {"kind": "several"}, id="several-in-a-text"),
        pytest.param(NUMBER, {}, id="number"),
        pytest.param(PAIR, {"text": ["first", "second"]}, id="pair"),
    ],
)
def test_contract_is_kept(
    head: str,
    network: str,
    rows: list[Row],
    keys: dict[str, Any],
    bert_folder: Path,
    gpt2_folder: Path,
) -> None:
    model = bert_folder if network == "bert" else gpt2_folder
    check_task(TextClassification(head=head, **keys), rows, str(model))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_contract_is_kept_by_every_pooling(pooling: str, bert_folder: Path) -> None:
    check_task(TextClassification(pooling=pooling), SINGLE, str(bert_folder))


# ---- columns


PROSE = ["a goal", "the market is new"]


@pytest.mark.parametrize(
    ("columns", "text", "label", "kind"),
    [
        ({"text": PROSE, "label": ["x", "y"]}, "text", "label", "single"),
        ({"Body": PROSE, "source": ["b", "c"], "Topic": ["x", "y"]}, "Body", "Topic", "single"),
        ({"lyrics": PROSE, "label": [0, 7]}, "lyrics", "label", "single"),
        ({"text": PROSE, "genre": ["x", "y"]}, "text", "genre", "single"),
        ({"text": PROSE, "label": [["x"], ["y"]]}, "text", "label", "several"),
        ({"text": PROSE, "label": [0.5, 2]}, "text", "label", "number"),
        ({"text": PROSE, "label": [3, 2]}, "text", "label", "single"),
    ],
)
def test_columns_and_kind_are_guessed(
    columns: Mapping[str, list[Any]], text: str, label: str, kind: str
) -> None:
    task = TextClassification()
    notes = resolve(task, columns)
    assert (task.resolved_.text, task.resolved_.label, task.resolved_.kind) == (text, label, kind)
    assert any(repr(text) in note for note in notes), notes
    assert any(repr(label) in note for note in notes), notes
    assert kind == "single" or any(note.startswith(f"kind: {kind}") for note in notes)


def test_columns_that_are_set_are_taken_in_silence() -> None:
    task = TextClassification(text="label", label="text", kind="single")
    assert resolve(task, {"text": ["x"], "label": PROSE}) == []
    assert (task.resolved_.text, task.resolved_.label) == ("label", "text")


@pytest.mark.parametrize(
    ("keys", "columns", "said"),
    [
        ({}, ["head", "tail", "label"], ["task.text", "'head', 'tail'", "task.text=COLUMN"]),
        ({}, ["text", "one", "two"], ["task.label", "'one', 'two'", "task.label=COLUMN"]),
        ({"text": "bdy"}, ["body", "label"], ["task.text", "'bdy'", "body"]),
        ({"label": "lable"}, ["text", "label"], ["task.label", "'lable'", "label"]),
        ({"label": "topic"}, ["text"], ["task.label", "'topic'", "read as input"]),
        ({"text": ["first", "secnd"]}, ["first", "second", "label"], ["'secnd'", "second"]),
        ({}, ["label"], ["task.label", "there are: none"]),
    ],
)
def test_column_that_cannot_be_found_is_an_error_with_the_choices(
    keys: dict[str, Any], columns: list[str], said: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        resolve(TextClassification(**keys), dict.fromkeys(columns, PROSE))
    assert all(part in str(caught.value) for part in said), caught.value


# ---- rows


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": None, "label": "x"}, "text is None, not text"),
        ({"text": 7, "label": "x"}, "text is 7, not text"),
        ({"text": " \n", "label": "x"}, "text is empty"),
        ({"text": "a", "label": None}, "label is missing"),
        ({"text": "a", "label": " "}, "label is missing"),
    ],
)
def test_unusable_row_is_found(row: Row, said: str) -> None:
    task = TextClassification(text="text", label="label", kind="single")
    assert list(task.rows.validate(row)) == [said]


def test_row_without_the_label_column_is_one_to_predict() -> None:
    task = TextClassification(text="text", label="label", kind="single")
    assert not list(task.rows.validate({"text": "a"}))


def test_number_that_is_none_is_found() -> None:
    task = TextClassification(text="text", label="label", kind="number")
    assert list(task.rows.validate({"text": "a", "label": "high"})) == [
        "label is 'high', not a number"
    ]


def test_label_that_training_has_not_seen_is_refused_in_a_held_out_split(
    bert_folder: Path, tmp_path: Path
) -> None:
    splits = {"train": SINGLE, "validation": [{"text": "a poem", "label": "poetry"}]}
    with pytest.raises(DataError, match="validation: 1 rows .*'poetry'.*task.labels"):
        finetune.train(
            "text-classification", data=splits, model=str(bert_folder), output=str(tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()


# ---- labels


def label_names(model: Path, rows: list[Row] | Dataset, **keys: Any) -> list[str]:
    task, built = set_up(model, rows, **keys)
    names: dict[int, str] = built.network.config.id2label
    assert [names[index] for index in range(len(names))] == task.targets_.names
    return task.targets_.names


def labelled(*labels: Any) -> list[Row]:
    return [{"text": f"the year {index}", "label": label} for index, label in enumerate(labels)]


def test_labels_are_sorted_unless_their_order_is_given(bert_folder: Path) -> None:
    rows = labelled("positive", "negative", "positive", "negative")
    assert label_names(bert_folder, rows) == ["negative", "positive"]
    given = ["positive", "neutral", "negative"]
    assert label_names(bert_folder, rows, labels=given) == given


def test_integer_labels_are_sorted_by_size(bert_folder: Path) -> None:
    assert label_names(bert_folder, labelled(10, 9, -1, 10)) == ["-1", "9", "10"]


def test_labels_of_a_data_set_keep_its_order(bert_folder: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "maybe", "a"])})
    rows = Dataset.from_list(labelled(0, 2, 1, 0), features=features)
    task, _ = set_up(bert_folder, rows)
    assert task.targets_.names == ["no", "maybe", "a"]
    assert [task.rows.labels(row) for row in rows] == [("no",), ("a",), ("maybe",), ("no",)]
    names = ClassLabel(names=["z", "b", "a"])
    features = Features({"text": Value("string"), "label": Sequence(names)})
    rows = Dataset.from_list(labelled([0], [2, 0], [], [1]), features=features)
    task, _ = set_up(bert_folder, rows)
    assert task.targets_.names == ["z", "b", "a"]
    assert [task.rows.labels(row) for row in rows] == [("z",), ("a", "z"), (), ("b",)]
    assert task.targets_.target([2, 0]) == [1.0, 0.0, 1.0]


def test_balanced_weights_are_inverse_to_the_frequency(bert_folder: Path) -> None:
    task, _ = set_up(bert_folder, labelled("a", "a", "a", "b"), class_weights="balanced")
    assert task.targets_.state["weights"] == pytest.approx([4 / 6, 4 / 2])
    assert float(task.collate([task.encode(r) for r in labelled("a", "b")])["count"]["loss"]) == (
        pytest.approx(4 / 6 + 4 / 2)
    )


def test_class_weights_of_other_labels_are_refused(bert_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"task.class_weights: 'c' is no label"):
        set_up(bert_folder, labelled("a", "b"), class_weights={"a": 1, "c": 2})
    with pytest.raises(ConfigError, match=r"task.class_weights: has no weight of 'b'; add {b: 1}"):
        set_up(bert_folder, labelled("a", "b"), class_weights={"a": 1})
    with pytest.raises(ConfigError, match=r"task.class_weights.*number"):
        set_up(bert_folder, NUMBER, class_weights="balanced")


@pytest.mark.parametrize("weight", [-2, 0, float("nan"), float("inf")])
def test_class_weights_that_no_loss_can_use_are_refused(weight: float) -> None:
    with pytest.raises(ValidationError, match=r"class_weights.*\n.*(finite|greater)"):
        TextClassification(class_weights={"a": 1, "b": weight})


# ---- length


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_text_that_is_too_long_is_cut_where_asked_and_counted(
    truncation: str, bert_folder: Path
) -> None:
    words = ["market"] + ["the"] * 58 + ["goal"]
    rows = [*SINGLE, {"text": " ".join(words), "label": "sport"}]
    task, _ = set_up(bert_folder, rows, truncation=truncation)
    assert task.lengths(rows)[-1] == (LONGEST, 60 + 2 - LONGEST, 0)  # [CLS] and [SEP] count
    shown = task.views.show(task.encode(rows[-1])).split()
    assert len(shown) == LONGEST
    assert ("market" in shown, "goal" in shown) == (truncation == "head", truncation == "tail")
    assert (shown[0], shown[-1]) == ("[CLS]", "[SEP]")


@pytest.mark.parametrize("keys", [{}, {"text": ["first", "second"]}])
def test_length_is_that_of_the_encoded_row(keys: dict[str, Any], bert_folder: Path) -> None:
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
def test_length_that_leaves_nothing_of_a_text_is_refused(
    rows: list[Row], keys: dict[str, Any], specials: int, bert_folder: Path
) -> None:
    set_up(bert_folder, rows, max_length=specials + 1, **keys)
    with pytest.raises(ConfigError, match=f"task.max_length: of {specials} tokens nothing is left"):
        set_up(bert_folder, rows, max_length=specials, **keys)


def test_more_tokens_than_the_network_takes_are_not_asked_for(bert_folder: Path) -> None:
    table = Dataset.from_list(SINGLE)
    task = TextClassification(max_length=512, text="text", label="label", kind="single")
    notes = task.setup(table, ModelConfig(name=str(bert_folder)), frozen=False)
    assert task.resolved_.max_length == LONGEST
    assert any(note.startswith(f"max_length: {LONGEST}") and "512" in note for note in notes)


# ---- what is worth a word before training


@pytest.mark.parametrize(
    ("rows", "keys", "said"),
    [
        (
            labelled("sport", "Sport ", "tech"),
            {},
            "labels: 'Sport' and 'sport' are two, though they look alike",
        ),
        (
            labelled("a", "a", "b"),
            {"class_weights": "balanced", "logit_adjustment": 1.0},
            "so rare labels are favoured twice",
        ),
        (
            [{"text": "на рынке рост", "label": "a"}, {"text": "the market", "label": "b"}],
            {},
            "60% of those of the first 2 texts are [UNK]",
        ),
        (
            [{"text": "xyzzy rose", "label": "a"}, {"text": "the market", "label": "b"}],
            {"add_tokens": ["xyzzy", "plugh"]},
            "add_tokens: 2 tokens, each the mean of its pieces at first; under method=lora, "
            "method.train_tokens=true trains them; in no training row: plugh",
        ),
    ],
    ids=["labels", "weights", "unknown", "added"],
)
def test_what_a_person_may_have_overlooked_is_said(
    rows: list[Row], keys: dict[str, Any], said: str, bert_folder: Path
) -> None:
    def notes(rows: list[Row], **keys: Any) -> str:
        task, table = TextClassification(**keys), Dataset.from_list(rows)
        resolve(task, table[:100])
        return "; ".join(task.setup(table, ModelConfig(name=str(bert_folder)), frozen=False))

    assert said in notes(rows, **keys)
    assert said.partition(" ")[2] not in notes(SINGLE, class_weights="balanced")


# ---- what a network says of a row


def test_network_whose_decoder_wants_a_text_of_its_own_has_no_vectors_to_pool(
    t5_folder: Path, bart_folder: Path
) -> None:
    with pytest.raises(ModelError, match=r"task\.head=native, or take an encoder"):
        set_up(t5_folder, SINGLE, head="pooled")
    set_up(t5_folder, SINGLE, head="native")
    set_up(bart_folder, SINGLE, head="pooled")


@pytest.mark.parametrize("head", ["native", "pooled"])
@pytest.mark.parametrize("network", ["bert", "gpt2"])
def test_prediction_does_not_depend_on_the_other_rows_of_a_batch(
    head: str, network: str, bert_folder: Path, gpt2_folder: Path
) -> None:
    task, model = set_up(bert_folder if network == "bert" else gpt2_folder, SINGLE, head=head)
    short, long = {"text": "the match was one year"}, {"text": "market " * 40}
    cpu = torch.device("cpu")
    (alone,) = compute_outputs(model, task, [short], cpu)
    (beside,) = compute_outputs(model, task, [long, short], cpu)
    assert (alone[0] - beside[1]).abs().max() <= CLOSE * alone.abs().max()
    assert not torch.allclose(beside[0], beside[1])


@pytest.fixture(scope="module")
def full_run(
    bert_folder: Path, news_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> finetune.Run:
    return train(bert_folder, news_csv, tmp_path_factory.mktemp("full") / "run", method="full")


@pytest.fixture(scope="module")
def lora_run(
    bert_folder: Path, news_csv: Path, tmp_path_factory: pytest.TempPathFactory
) -> finetune.Run:
    return train(bert_folder, news_csv, tmp_path_factory.mktemp("lora") / "run", method="lora")


def train(model: Path, data: Any, folder: Path, **keys: Any) -> finetune.Run:
    return finetune.train(
        "text-classification", data=data, model=str(model), output=str(folder), epochs=2, **keys
    )


def said_by_transformers(folder: Path, rows: list[Row]) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = pipeline("text-classification", model=str(folder))(
        [row["text"] for row in rows]
    )
    return answers


def logits(network: Any, folder: Path, rows: list[Row]) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.inference_mode():
        found: Tensor = network.eval()(**inputs).logits
    return found


def test_final_model_says_the_same_in_a_pipeline_of_transformers(full_run: finetune.Run) -> None:
    rows = text_rows(12, seed=1)
    ours, theirs = full_run.predict(rows), said_by_transformers(full_run.path / "final", rows)
    assert {said["label"] for said in ours} <= set(LABELS)
    assert len({said["label"] for said in ours}) > 1, "an untrained model proves little"
    assert [said["label"] for said in ours] == [said["label"] for said in theirs]
    assert [said["score"] for said in ours] == pytest.approx(
        [said["score"] for said in theirs], abs=CLOSE
    )


def test_final_model_loads_with_its_library_and_knows_its_labels(full_run: finetune.Run) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(full_run.path / "final")
    assert network.config.id2label == dict(enumerate(LABELS))
    assert network.config.label2id == {name: index for index, name in enumerate(LABELS)}
    assert network.config.problem_type == "single_label_classification"


def test_lora_is_kept_merged_and_as_an_adapter_that_peft_loads(lora_run: finetune.Run) -> None:
    rows, final = text_rows(12, seed=1), lora_run.path / "final"
    merged = AutoModelForSequenceClassification.from_pretrained(final)
    adapted = AutoPeftModelForSequenceClassification.from_pretrained(
        final / "adapter", num_labels=len(LABELS)
    )
    assert not any("lora" in name for name in merged.state_dict())
    assert any("lora" in name for name in adapted.state_dict())
    one, other = logits(merged, final, rows), logits(adapted, final, rows)
    assert (one - other).abs().max() <= CLOSE * one.abs().max()
    ours = [said["label"] for said in lora_run.predict(rows)]
    assert ours == [LABELS[index] for index in one.argmax(1).tolist()]


@pytest.mark.parametrize("method", ["full", "lora", "frozen"])
def test_number_is_said_in_its_own_unit_after_reload(
    method: str, bert_folder: Path, tmp_path: Path
) -> None:
    rows = [{"text": row["text"], "price": 5e5 + 1e4 * i} for i, row in enumerate(text_rows(20))]
    folder = tmp_path / "run"
    keys = {"kind": "number", "head": "native"}
    run = train(bert_folder, rows, folder, method=method, **keys)
    said = [prediction["score"] for prediction in run.predict(rows)]
    assert all(4e5 < price < 8e5 for price in said)
    network = AutoModelForSequenceClassification.from_pretrained(folder / "final")
    assert network.config.problem_type == "regression"
    assert logits(network, folder / "final", rows)[:, 0].tolist() == pytest.approx(said, rel=CLOSE)
    assert run.metrics["validation"]["rmse"] < 5e5


def test_several_labels_are_those_over_the_threshold(bert_folder: Path) -> None:
    task, _ = set_up(bert_folder, SEVERAL, threshold=0.4)
    said = task.targets_.predictions(torch.tensor([[0.4, 0.1, 0.9], [0.1, 0.2, 0.3]]))
    assert [prediction["label"] for prediction in said] == [[LABELS[2], LABELS[0]], []]
    assert said[0]["score"] == pytest.approx([0.9, 0.4])


def test_threshold_and_scores_can_be_changed_when_a_model_is_loaded(
    bert_folder: Path, tmp_path: Path
) -> None:
    run = train(bert_folder, SEVERAL * 4, tmp_path / "run", method="lora")
    row = {"text": SEVERAL[0]["text"]}
    assert finetune.load(run.path, threshold=0.999)([row])[0]["label"] == []
    said = finetune.load(run.path, threshold=0.001, scores="all")([row])[0]
    assert sorted(said["label"]) == sorted(LABELS)
    assert {f"score/{name}": said[f"score/{name}"] for name in LABELS} == {
        f"score/{name}": score for name, score in zip(said["label"], said["score"], strict=True)
    }
