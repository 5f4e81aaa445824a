"""Reports on text generation: losses of words, ends of texts, whole reports on runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.batching.data_loader import encode_batch
from tasks.generation.decoding import continue_prompts
from tasks.generation.generation_report import explain_losses
from tests.support.report_pages import HOSTILE, read_page
from tests.support.text_generators import (
    ANSWERED,
    NETWORKS,
    PLAIN,
    TEMPLATES,
    set_up,
    train,
)
from tests.support.tiny_models import answered_rows, text_rows


@pytest.mark.parametrize("network", NETWORKS)
def test_words_add_up_to_the_loss_of_a_row(network: str, model_folders: dict[str, Path]) -> None:
    task, model, _ = set_up(model_folders[network], ANSWERED, **TEMPLATES)
    for row in ANSWERED[:2]:
        explanation = explain_losses(task, model, row)
        assert explanation is not None
        batch = encode_batch(task, [row])
        with torch.inference_mode():
            outputs = model(batch)
        losses = torch.nn.functional.cross_entropy(
            outputs, batch["targets"]["ids"], reduction="none"
        )
        special = torch.isin(batch["targets"]["ids"], torch.tensor(task.tokenizer_.all_special_ids))
        total = -float(losses[~special].sum())  # an end token is no word
        assert sum(weight for _, weight in explanation.words) == pytest.approx(total, rel=1e-4)
        learned = [word for word, weight in explanation.words if weight]
        assert "".join(learned).replace(" ", "") == row["answer"].replace(" ", "")
        before = [word for word, weight in explanation.words if not weight]
        assert before[-1].strip(":")  # the end of the prompt


def test_words_of_plain_text_are_learned_but_for_the_first(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, PLAIN)
    explanation = explain_losses(task, model, PLAIN[0])
    assert explanation is not None
    assert all(weight < 0 for _, weight in explanation.words[1:])


def test_a_text_has_ended_at_its_end_token_or_stop_string(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES, max_new_tokens=6)
    prompts = task.codec_.prompts([task.encode(ANSWERED[0])])

    def go_on() -> Any:
        return continue_prompts(model.network, task.tokenizer_, prompts, task.resolved_)[0]

    whole = go_on()
    assert not whole.is_ended
    task.settle({"stop": [whole.text[2:4]]})
    assert go_on().is_ended
    task.settle({"stop": []})
    network: Any = model.network
    ids = network.generate(**prompts, max_new_tokens=6, do_sample=False, pad_token_id=0)
    third = int(ids[0, prompts["input_ids"].shape[1] + 2])
    network.generation_config.eos_token_id = third
    assert go_on().is_ended


@pytest.mark.slow
@pytest.mark.parametrize("generates", [True, False])
def test_report_of_prompts_shows_samples_before_and_after(
    generates: bool, llama_folder: Path, tmp_path: Path
) -> None:
    rows = answered_rows(60)
    rows[3]["body"] = f"{HOSTILE} {rows[3]['body']}"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = shutil.copytree(llama_folder, tmp_path / "base")
    keys = {"generate": generates, "max_new_tokens": 8, "max_steps": 3, "validation": 0.5}
    run = train(
        base, tmp_path / "run", str(tmp_path / "rows.jsonl"), method="lora", **TEMPLATES, **keys
    )  # type: ignore[arg-type]
    report = run.report()
    sections, data = read_page(report.path)
    assert list(sections) == [
        "metrics", "curves", "losses", "answers", "samples", "worst", "duplicates", "rows"
    ]  # fmt: skip
    assert data["columns"][-1] == "loss"
    losses = [row["values"][-1] for row in data["rows"]]
    assert losses == sorted(losses, reverse=True)
    assert ("predicted" in data["columns"]) == generates
    assert "before training" in sections["answers"]
    assert "24 rows" in sections["answers"] or "do not end" in sections["answers"]
    assert HOSTILE not in report.path.read_text(encoding="utf-8")
    figures = {path.name for path in (report.path.parent / "figures").iterdir()}
    assert {"row-losses.png", "answer-lengths.png", "length-by-reference.png"} <= figures
    if not generates:
        shutil.rmtree(base)
        without = run.report(output=tmp_path / "without").path
        assert (
            "network from before training could not be loaded" in read_page(without)[0]["answers"]
        )
        assert str(tmp_path) not in without.read_text(encoding="utf-8")


@pytest.mark.slow
def test_report_of_plain_text_continues_its_pieces(gpt2_folder: Path, tmp_path: Path) -> None:
    long = [{"text": " ".join(row["text"] for row in text_rows(8, seed=n))} for n in range(12)]
    keys = {"max_length": 24, "max_new_tokens": 6, "max_steps": 2, "validation": 0.5}
    run = train(gpt2_folder, tmp_path / "run", long, **keys)
    report = run.report(long[:6], tmp_path / "report")
    sections, data = read_page(report.path)
    assert list(sections) == [
        "metrics", "curves", "losses", "answers", "samples", "worst", "duplicates", "rows"
    ]  # fmt: skip
    assert "do not end" not in sections["answers"]
    points = data["charts"]["loss-by-length"]["spec"]["data"]["values"]
    assert len(points) > 6  # pieces
    assert {point["row"] for point in points} == set(range(1, 7))
