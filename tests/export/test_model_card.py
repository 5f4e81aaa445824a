"""The model card: metadata that the hub reads, and only results that the run measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

import finetune
from finetune.config.schema import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    OutputConfig,
    RunConfig,
    TaskConfig,
)
from finetune.export.card_data import CardData
from finetune.export.card_metadata import base_reference, data_reference, find_license
from finetune.export.limitations import find_limitations
from finetune.export.model_card import rename_card, write_card, write_cards
from finetune.methods.method_configs import LoraConfig
from finetune.reporting.run_facts import AddedRows, RunFacts
from finetune.task_parts.samples import Length
from finetune.task_parts.views import CardFacts
from tests.support.tiny_models import text_rows

LABELS = ("rare", "common")


def config(model: str = "owner/bert", source: str = "owner/news", **output: Any) -> RunConfig:
    return RunConfig(
        task=TaskConfig(name="sorting"),
        model=ModelConfig(name=model),
        data=DataConfig(source=source),
        method=LoraConfig(),
        output=OutputConfig(**output),
    )


def metrics(rare_recall: float = 0.0, support: int = 4) -> dict[str, float]:
    """Metrics on 40 rows, `support` of them with the label "rare"."""
    values = {"loss": 0.5, "accuracy": 0.9, "f1_macro": float("nan")}
    for label, recall, rows in (("rare", rare_recall, support), ("common", 0.9, 40 - support)):
        values |= {f"precision/{label}": recall, f"recall/{label}": recall, f"f1/{label}": recall}
        values[f"support/{label}"] = float(rows)
    return values


def facts(*choices: str) -> RunFacts:
    return RunFacts("", "", "Bert", "1 of 2 are trained", "cpu", "7", "4 samples", choices, ())


def make_card(**changes: Any) -> CardData:
    """The card of a run on 200 training rows, 6 of them rare, and 40 test rows."""
    card = CardData(
        config=config(),
        about=CardFacts(
            "text-classification", "transformers", "load('OWNER/NAME')", "peft('BASE')"
        ),
        adapter="LoRA adapter",
        length_unit="tokens",
        lengths={"train": [Length(9)] * 200, "test": [Length(9)] * 40},
        label_unit="rows",
        labels={"common": {"train": 194, "test": 36}, "rare": {"train": 6, "test": 4}},
        notes=["train: 3 of 203 rows skipped: text is empty (3)"],
        facts=facts(),
        results={"test": metrics()},
        selected=None,
        step=7,
        difference=2e-7,
    )
    return replace(card, **changes)


def test_write_card_writes_metadata_that_the_hub_client_reads() -> None:
    card = ModelCard(write_card(make_card(config=config(license="mit")), "finetune"))
    data = card.data
    assert (data.license, data.library_name) == ("mit", "transformers")
    assert (data.base_model, data.base_model_relation) == ("owner/bert", "finetune")
    assert (data.pipeline_tag, data.datasets) == ("text-classification", ["owner/news"])
    assert {"finetune-kit", "sorting"} <= set(data.tags)
    results = [
        (result.metric_type, result.metric_value, result.dataset_split)
        for result in data.eval_results
    ]
    assert results == [("accuracy", 0.9, "test")], "no loss, no label metrics, only finite values"


def test_write_cards_writes_an_adapter_card_if_peft_can_load_it() -> None:
    card = ModelCard(write_cards(make_card(), with_adapter=True)["adapter/README.md"])
    assert (card.data.base_model_relation, card.data.library_name) == ("adapter", "peft")
    assert "peft('owner/bert')" in card.text
    without_code = replace(make_card(), about=CardFacts("text-classification"))
    assert write_cards(without_code, with_adapter=True).keys() == {"README.md"}
    assert write_cards(make_card(), with_adapter=False).keys() == {"README.md"}


def test_write_cards_shows_adapter_code_if_the_base_is_on_the_hub() -> None:
    text = write_cards(make_card(), with_adapter=True)["README.md"]
    assert "### The adapter\n" in text
    assert "peft('owner/bert')" in text
    local = make_card(config=config("/home/someone/models/bert"))
    text = write_cards(local, with_adapter=True)["README.md"]
    assert "peft(" not in text
    assert "for `bert`. That base model has no hub id" in text


def test_rename_card_replaces_the_repository_id() -> None:
    text = write_card(make_card(config=config("me/news-base")), "finetune")
    first = rename_card(text, "me/news")
    assert "# me/news\n" in first
    assert "OWNER/NAME" not in first
    again = rename_card(first, "you/copy")
    assert "name: you/copy" in again
    assert 'finetune.load("you/copy")' in again
    assert "me/news-base" in again, "the base model keeps its name"


def test_write_card_separates_choices() -> None:
    text = write_card(make_card(facts=facts("head: native", "length: 9")), "finetune")
    assert "| choices | head: native; length: 9 |" in text


def test_write_card_does_not_round_small_rates() -> None:
    small = OptimConfig(lr=3e-5, l1_head=1e-6)
    text = write_card(make_card(config=config().model_copy(update={"optim": small})), "finetune")
    assert "| optim.lr | 3e-05 |" in text
    assert "| optim.l1_head | 1e-06 |" in text


def test_find_license_prefers_the_config_then_the_base_model(tmp_path: Path) -> None:
    base = tmp_path / "bert"
    base.mkdir()
    assert find_license(config(str(base)), "") == {"license": "unknown"}
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: strange\n---\n# BERT\n")
    assert find_license(config(str(base)), "") == {"license": "other", "license_name": "strange"}
    assert find_license(config(str(base), license="mit"), "") == {"license": "mit"}
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    assert find_license(config(str(base)), "") == {"license": "unknown"}


@pytest.mark.parametrize(
    ("model", "keys", "name"),
    [
        ("owner/bert", {}, "owner/bert"),
        ("pkg://json/model", {}, "pkg://json/model"),
        ("/home/someone/models/bert", {}, "bert"),
        ("/home/someone/models/bert", {"base_model": "owner/bert"}, "owner/bert"),
    ],
)
def test_base_reference_is_a_public_name(model: str, keys: dict[str, str], name: str) -> None:
    assert base_reference(config(model, **keys), CardFacts()) == name
    card = ModelCard(write_card(make_card(config=config(model, **keys)), "finetune"))
    assert card.data.base_model == (name if name == "owner/bert" else None)
    assert ("in the Python package" in card.text) == name.startswith("pkg://")
    assert "/home/someone" not in card.content


def test_data_reference_has_no_folder() -> None:
    assert data_reference(config(source="/home/someone/news.csv")) == "news.csv"
    assert data_reference(config(source="owner/news")) == "owner/news"
    card = ModelCard(
        write_card(make_card(config=config(source="/home/someone/news.csv")), "finetune")
    )
    assert card.data.datasets is None
    noted = make_card(notes=["features of 3 rows computed (/home/someone/.cache/finetune/ab12)"])
    assert "(ab12)" in write_card(noted, "finetune")


def test_write_card_shows_counts_and_results_by_split() -> None:
    text = write_card(make_card(selected="test"), "finetune")
    assert "Metrics on the test split (40 rows; optimistically biased" in text
    assert "this split selected the checkpoint" in text
    assert "| train | 200 | 0 |" in text
    assert "| rare | 6 | 4 |" in text
    assert "3 of 203 rows skipped" in text
    assert "max relative difference 2.0e-07" in text
    assert "| method.rank | 8 |" in text


def test_write_card_counts_no_truncated_images() -> None:
    images = make_card(lengths={"train": [Length(1)] * 20, "test": [Length(1)] * 4})
    text = write_card(images, "finetune")
    assert "| split | rows |\n" in text
    assert "truncated" not in text


def limitations(**changes: Any) -> str:
    return "\n".join(find_limitations(make_card(**changes)))


def test_find_limitations_lists_what_the_data_shows() -> None:
    text = limitations()
    assert "fewer than 50 training rows: rare (6)" in text
    assert "194 training rows of 'common', 6 of 'rare'" in text
    assert "Labels never recognized in test (row counts in parentheses): rare (4)" in text
    assert "test split has only 40 rows" in text
    assert "±0.093" in text
    assert "truncated" not in text


def test_write_card_tells_rows_that_nobody_has_labeled() -> None:
    pseudo = AddedRows("pseudo-labeled", "train.semi=gan", {"common": 50, "rare": 10})
    text = write_card(make_card(added=(pseudo,)), "finetune")
    assert "- 60 pseudo-labeled rows (train.semi=gan): common 50, rare 10" in text
    assert "60 of the 260 rows that were trained on have pseudo-labels" in text
    synthetic = AddedRows("synthetic", "train.synthetic=smote", {"rare": 188})
    text = write_card(make_card(added=(synthetic,)), "finetune")
    assert "188 of the 388 rows that were trained on are synthetic" in text
    assert "Trained on as well" not in write_card(make_card(), "finetune")


def test_find_limitations_omits_what_does_not_apply() -> None:
    good = make_card(
        labels={label: {"train": 100, "test": 600} for label in LABELS},
        adapter="LoRA adapter",
        length_unit="tokens",
        lengths={"train": [Length(9)] * 200, "test": [Length(9)] * 1200},
        results={"test": metrics(rare_recall=0.8)},
    )
    (text,) = find_limitations(good)
    assert "Not evaluated: " in text


def test_find_limitations_lists_truncation_and_missing_measurements() -> None:
    lengths = {"train": [Length(8, 8), Length(4)], "test": [Length(8)] * 40}
    assert "In train, 1 of 2 rows are truncated to 8 tokens, which loses 40% of all" in (
        limitations(lengths=lengths)
    )
    assert "not measured there: rare" in limitations(results={"test": metrics(support=0)})
    assert "No rows were held out" in limitations(results={})
    one = {"test": {"mean_iou": 0.4, "iou/cat": 0.0, "iou/dog": 0.8}}
    assert "Classes never found in test: cat." in limitations(results=one)
    many = {"test": {f"iou/{number}": 0.0 for number in range(13)}}
    assert "in test: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more." in limitations(results=many)
    only = {"validation": metrics()}
    lengths = {"train": [Length(1)], "validation": [Length(1)] * 40}
    text = limitations(results=only, selected="validation", lengths=lengths)
    assert "There was no test split" in text


def test_train_writes_a_card_with_measured_facts(bert_folder: Path, tmp_path: Path) -> None:
    """The data contains an invalid row, truncated rows and a duplicate."""
    rows = [*text_rows(40), {"text": " ", "label": "tech"}]
    rows[1] = dict(rows[0])
    keys = {"model": str(bert_folder), "method": "full", "max_steps": 2, "batch_size": 8}
    run = finetune.train(
        "text-classification",
        data=rows,
        output=str(tmp_path / "run"),
        on_error="skip",
        max_length=12,
        test=0.25,
        **keys,
    )
    text = (run.path / "final" / "README.md").read_text()
    card, results = ModelCard(text), json.loads((run.path / "results.json").read_text())
    assert {result.dataset_split for result in card.data.eval_results} == set(run.metrics)
    for result in card.data.eval_results:
        value = run.metrics[result.dataset_split][result.metric_type]
        assert result.metric_value == pytest.approx(value, abs=1e-6)
    assert f"max relative difference {results['reload_difference']:.1e}" in text
    assert "1 of 41 rows skipped" in text
    assert "are truncated to 12 tokens" in text
    assert str(tmp_path) not in text
    assert str(bert_folder) not in text
    assert '"OWNER/NAME"' in text
