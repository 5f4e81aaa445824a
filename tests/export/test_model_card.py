"""The card of a model: metadata that a hub reads, and nothing that the run did not measure."""

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
from finetune.export.card_metadata import base_reference, data_reference, licence
from finetune.export.limitations import find_limits
from finetune.export.model_card import renamed, write_card, write_cards
from finetune.methods.lora import LoraConfig
from finetune.reporting.run_facts import RunFacts
from finetune.task_parts import CardFacts, Length
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
    """Of 40 rows, `support` of them rare."""
    found = {"loss": 0.5, "accuracy": 0.9, "f1_macro": float("nan")}
    for label, recall, rows in (("rare", rare_recall, support), ("common", 0.9, 40 - support)):
        found |= {f"precision/{label}": recall, f"recall/{label}": recall, f"f1/{label}": recall}
        found[f"support/{label}"] = float(rows)
    return found


def facts(*choices: str) -> RunFacts:
    return RunFacts("", "", "Bert", "1 of 2 are trained", "cpu", "7", "4 samples", choices, ())


def story(**changes: Any) -> CardData:
    """A run on 200 training rows, of which 6 are rare, and 40 test rows."""
    held = CardData(
        config=config(),
        about=CardFacts(
            "text-classification", "transformers", "load('OWNER/NAME')", "peft('BASE')"
        ),
        adapter="LoRA adapter",
        length_unit="tokens",
        lengths={"train": [Length(9)] * 200, "test": [Length(9)] * 40},
        labels={"common": {"train": 194, "test": 36}, "rare": {"train": 6, "test": 4}},
        notes=["train: 3 of 203 rows left out: text is empty (3)"],
        facts=facts(),
        results={"test": metrics()},
        selected=None,
        step=7,
        difference=2e-7,
    )
    return replace(held, **changes)


def read(text: str) -> ModelCard:
    return ModelCard(text)


def test_metadata_are_read_back_by_the_client_of_the_hub() -> None:
    card = read(write_card(story(config=config(license="mit")), "finetune"))
    data = card.data
    assert (data.license, data.library_name) == ("mit", "transformers")
    assert (data.base_model, data.base_model_relation) == ("owner/bert", "finetune")
    assert (data.pipeline_tag, data.datasets) == ("text-classification", ["owner/news"])
    assert {"finetune-kit", "sorting"} <= set(data.tags)
    found = [
        (each.metric_type, each.metric_value, each.dataset_split) for each in data.eval_results
    ]
    assert found == [("accuracy", 0.9, "test")], (
        "no loss, no label's own, nothing that is no number"
    )


def test_adapter_is_one_of_its_base_model() -> None:
    card = read(write_cards(story(), with_adapter=True)["adapter/README.md"])
    assert (card.data.base_model_relation, card.data.library_name) == ("adapter", "peft")
    assert "peft('owner/bert')" in card.text
    cannot = replace(story(), about=CardFacts("text-classification"))
    assert write_cards(cannot, with_adapter=True).keys() == {"README.md"}
    assert write_cards(story(), with_adapter=False).keys() == {"README.md"}


def test_adapter_in_the_model_has_code_if_that_runs_elsewhere() -> None:
    text = write_cards(story(), with_adapter=True)["README.md"]
    assert "### The adapter\n" in text
    assert "peft('owner/bert')" in text
    local = story(config=config("/home/someone/models/bert"))
    text = write_cards(local, with_adapter=True)["README.md"]
    assert "peft(" not in text
    assert "`bert`, which is no id of a hub" in text


def test_card_for_another_place_bears_its_name() -> None:
    text = write_card(story(config=config("me/news-base")), "finetune")
    first = renamed(text, "me/news")
    assert "# me/news\n" in first
    assert "OWNER/NAME" not in first
    again = renamed(first, "you/copy")
    assert "name: you/copy" in again
    assert 'finetune.load("you/copy")' in again
    assert "me/news-base" in again, "what it came from keeps its name"


def test_choices_of_a_run_are_told_apart() -> None:
    text = write_card(story(facts=facts("head: native", "length: 9")), "finetune")
    assert "| choices | head: native; length: 9 |" in text


def test_small_rates_are_told_as_they_were_set() -> None:
    small = OptimConfig(lr=3e-5, l1_head=1e-6)
    text = write_card(story(config=config().model_copy(update={"optim": small})), "finetune")
    assert "| optim.lr | 3e-05 |" in text
    assert "| optim.l1_head | 1e-06 |" in text


def test_licence_is_asked_for_or_that_of_the_base_or_unknown(tmp_path: Path) -> None:
    base = tmp_path / "bert"
    base.mkdir()
    assert licence(config(str(base)), "") == {"license": "unknown"}
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: strange\n---\n# BERT\n")
    assert licence(config(str(base)), "") == {"license": "other", "license_name": "strange"}
    assert licence(config(str(base), license="mit"), "") == {"license": "mit"}
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    assert licence(config(str(base)), "") == {"license": "unknown"}


@pytest.mark.parametrize(
    ("model", "keys", "said"),
    [
        ("owner/bert", {}, "owner/bert"),
        ("pkg://json/model", {}, "pkg://json/model"),
        ("/home/someone/models/bert", {}, "bert"),
        ("/home/someone/models/bert", {"base_model": "owner/bert"}, "owner/bert"),
    ],
)
def test_base_model_is_named_as_others_can_find_it(
    model: str, keys: dict[str, str], said: str
) -> None:
    assert base_reference(config(model, **keys), CardFacts()) == said
    card = read(write_card(story(config=config(model, **keys)), "finetune"))
    assert card.data.base_model == (said if said == "owner/bert" else None)
    assert "/home/someone" not in card.content


def test_data_are_named_without_their_folder() -> None:
    assert data_reference(config(source="/home/someone/news.csv")) == "news.csv"
    assert data_reference(config(source="owner/news")) == "owner/news"
    card = read(write_card(story(config=config(source="/home/someone/news.csv")), "finetune"))
    assert card.data.datasets is None
    told = story(notes=["features of 3 rows computed (/home/someone/.cache/finetune/ab12)"])
    assert "(ab12)" in write_card(told, "finetune")


def test_counts_and_results_are_told_with_their_split() -> None:
    text = write_card(story(selected="test"), "finetune")
    assert "On test, 40 rows, the split that selected the checkpoint" in text
    assert "| train | 200 | 0 |" in text
    assert "| rare | 6 | 4 |" in text
    assert "3 of 203 rows left out" in text
    assert "2.0e-07 of the largest" in text
    assert "| method.rank | 8 |" in text


def limits(**changes: Any) -> str:
    return "\n".join(find_limits(story(**changes)))


def test_limits_are_those_that_the_data_show() -> None:
    said = limits()
    assert "fewer than 50 rows to learn from: rare (6)" in said
    assert "194 rows of 'common', 6 of 'rare'" in said
    assert "no row of test was recognised: rare (4)" in said
    assert "test has only 40 rows" in said
    assert "+-0.093" in said
    assert "cut" not in said


def test_limits_that_the_data_do_not_show_are_not_told() -> None:
    good = story(
        labels={label: {"train": 100, "test": 600} for label in LABELS},
        adapter="LoRA adapter",
        length_unit="tokens",
        lengths={"train": [Length(9)] * 200, "test": [Length(9)] * 1200},
        results={"test": metrics(rare_recall=0.8)},
    )
    (said,) = find_limits(good)
    assert "were not measured" in said


def test_limits_of_lengths_and_of_what_was_not_measured() -> None:
    lengths = {"train": [Length(8, 8), Length(4)], "test": [Length(8)] * 40}
    assert "In train 1 of 2 rows are cut to 8 tokens, which loses 40% of all" in limits(
        lengths=lengths
    )
    assert "not measured there: rare" in limits(results={"test": metrics(support=0)})
    assert "No row was held out" in limits(results={})
    found = {"test": {"mean_iou": 0.4, "iou/cat": 0.0, "iou/dog": 0.8}}
    assert "nothing in test was found: cat." in limits(results=found)
    many = {"test": {f"iou/{number}": 0.0 for number in range(13)}}
    assert "was found: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more." in limits(results=many)
    only = {"validation": metrics()}
    lengths = {"train": [Length(1)], "validation": [Length(1)] * 40}
    assert "There was no test split" in limits(results=only, selected="validation", lengths=lengths)


def test_card_of_a_run_tells_what_its_files_hold(bert_folder: Path, tmp_path: Path) -> None:
    """A row that is skipped, rows that are cut, a copy: from the data to the card."""
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
    assert {each.dataset_split for each in card.data.eval_results} == set(run.metrics)
    for each in card.data.eval_results:
        value = run.metrics[each.dataset_split][each.metric_type]
        assert each.metric_value == pytest.approx(value, abs=1e-6)
    assert f"{results['reload_difference']:.1e} of the largest" in text
    assert "1 of 41 rows left out" in text
    assert "are cut to 12 tokens" in text
    assert str(tmp_path) not in text
    assert str(bert_folder) not in text
    assert '"OWNER/NAME"' in text
