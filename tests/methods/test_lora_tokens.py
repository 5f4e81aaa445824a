"""method.train_tokens: embeddings of tokens that are new to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune.export.final_model import relative_difference
from finetune.methods.method_configs import LoraConfig
from finetune.model import saved_model
from tasks import TextClassification, TextGeneration
from tests.support.applied_methods import apply, build, disturb, evaluate, trained
from tests.support.tiny_models import text_rows

WORD = "fibromyalgia"


def rows_with_word(count: int = 12) -> list[dict[str, Any]]:
    return [row | {"text": f"{row['text']} {WORD}"} for row in text_rows(count)]


@pytest.mark.parametrize("head", ["native", "pooled"])
def test_train_tokens_trains_saves_and_merges_added_words(
    head: str, gpt2_folder: Path, tmp_path: Path
) -> None:
    rows = rows_with_word()
    task, model = build(TextClassification(add_tokens=[WORD], head=head), gpt2_folder, rows)
    table = model.encoder.get_input_embeddings().weight.detach().clone()  # type: ignore[attr-defined]
    method = apply(model, LoraConfig(train_tokens=True))
    batch = task.collate([task.encode(row) for row in rows])
    method.train_mode(model)
    model(batch).square().sum().backward()
    named = dict(model.network.named_parameters())
    (delta,) = (n for n in trained(model) if n.endswith("trainable_tokens_delta.default"))
    assert named[delta].shape == (1, 32)
    assert named[delta].grad.abs().sum() > 0
    assert all(named[name].grad is not None for name in trained(model))
    disturb(model)
    before = evaluate(model, batch)
    method.save_adapter(model, tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(tensor.shape[0] < len(table) for tensor in saved.values())  # no full embedding
    if head == "native":
        assert relative_difference([before], [by_peft(tmp_path / "adapter", table, batch)]) < 1e-5
    method.merge(model)
    assert relative_difference([before], [evaluate(model, batch)]) < 1e-5
    after = model.encoder.get_input_embeddings().weight  # type: ignore[attr-defined]
    assert torch.equal(after[:-1], table[:-1])
    assert not torch.equal(after[-1], table[-1])
    (tmp_path / "final").mkdir()
    task.save(model, tmp_path / "final")
    assert (
        relative_difference(
            [before], [evaluate(task.load_model(saved_model(tmp_path / "final")), batch)]
        )
        < 1e-5
    )


def by_peft(adapter: Path, table: torch.Tensor, batch: Any) -> torch.Tensor:
    """Return the outputs of plain peft on the pretrained network with resized embeddings."""
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForSequenceClassification

    base = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3, pad_token_id=1)
    network.resize_token_embeddings(len(table), mean_resizing=False)
    loaded = PeftModel.from_pretrained(network, str(adapter)).eval()
    with torch.inference_mode():
        return loaded(**batch["inputs"]).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("network", ["gpt2", "llama"])
def test_train_tokens_covers_input_and_output_embeddings(
    network: str, gpt2_folder: Path, llama_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = {"gpt2": gpt2_folder, "llama": llama_folder}[network]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<turn>"])
    tokenizer.save_pretrained(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "base")
    keys = {"prompt": "{text} <turn>", "completion": " {label}<turn>", "max_length": 128}
    rows = text_rows(6)
    task, model = build(TextGeneration(**keys), tmp_path / "base", rows)
    method = apply(model, LoraConfig(train_tokens=True))
    tables = [n for n in trained(model) if n.endswith("trainable_tokens_delta.default")]
    assert len(tables) == (1 if network == "gpt2" else 2)  # GPT-2 ties them
    disturb(model)
    batch = task.collate([task.encode(row) for row in rows])
    before = evaluate(model, batch)
    method.merge(model)
    assert relative_difference([before], [evaluate(model, batch)]) < 1e-5
    (tmp_path / "final").mkdir()
    task.save(model, tmp_path / "final")
    assert (
        relative_difference(
            [before], [evaluate(task.load_model(saved_model(tmp_path / "final")), batch)]
        )
        < 1e-5
    )
