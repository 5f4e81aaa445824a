"""Attention that isolates packed rows by their boundaries, beside each row on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from tasks.generation.language_models import LanguageModel
from tasks.generation.packed_attention import PACKED, boundary_mask
from tests.support.text_generators import CLOSE

SIZES = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
WINDOW = 4
NETWORKS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4)),
}


def make_network(name: str) -> Any:
    torch.manual_seed(0)
    return NETWORKS[name]().eval()


def make_bins() -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Return five rows, and them in two bins of 40 tokens, of which the second has padding."""
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(1, 100, (size,), generator=generator) for size in (20, 17, 3, 25, 9)]
    ids = torch.cat([*rows, torch.zeros(6, dtype=torch.long)]).view(2, 40)
    sizes = [20, 17, 3, 25, 9, 6]
    positions = torch.cat([torch.arange(size) for size in sizes]).view(2, 40)
    boundaries = torch.tensor([0, 20, 37, 40, 65, 74, 80], dtype=torch.int32)
    return rows, {
        "input_ids": ids,
        "position_ids": positions,
        "boundaries": boundaries,
        "positions": torch.arange(74),
    }


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("has_kernel", [False, True])
def test_packed_rows_do_not_see_each_other(name: str, has_kernel: bool) -> None:
    network = make_network(name)
    rows, inputs = make_bins()
    with torch.inference_mode():
        alone = torch.cat([network(input_ids=row[None]).logits[0] for row in rows])
        model = LanguageModel(network, has_kernel=has_kernel)
        packed = model({"inputs": inputs})
    assert model.isolation == ("boundaries" if has_kernel else "positions")
    assert (network.config._attn_implementation == PACKED) is has_kernel
    assert (packed - alone).abs().max() <= CLOSE * (alone.max() - alone.min())


def test_packed_attention_generates_and_saves_as_sdpa(tmp_path: Any) -> None:
    network = make_network("window")
    ids = torch.arange(1, 25).view(2, 12)
    mask = torch.ones_like(ids).index_fill(1, torch.arange(3), 0)  # padded on the left
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 8}
    expected = network.generate(**arguments, do_sample=False)
    model = LanguageModel(network, has_kernel=True)
    assert model.network.generate(**arguments, do_sample=False).tolist() == expected.tolist()  # type: ignore[operator]
    model.save(tmp_path)
    loaded = MistralForCausalLM.from_pretrained(tmp_path)
    assert loaded.config._attn_implementation == "sdpa"


def test_boundary_mask_keeps_rows_and_window_apart() -> None:
    mask = boundary_mask(torch.tensor([0, 3, 4, 6, 8]), bins=2, size=4, window=2)
    first = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    second = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask.int().tolist() == [[first], [second]]


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(NETWORKS))
def test_kernel_of_a_gpu_agrees_with_a_mask(name: str) -> None:
    network = make_network(name).to("cuda")
    rows, inputs = make_bins()
    moved = {key: value.to("cuda") for key, value in inputs.items()}
    model = LanguageModel(network)
    assert model.isolation == "boundaries"
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):  # the kernel computes in half precision only
        with torch.autocast("cuda", dtype, enabled=dtype == torch.bfloat16):
            logits = model({"inputs": moved}).float()
        logits.logsumexp(-1).sum().backward()
        gradients.append([part.grad.clone() for part in network.parameters()])
        network.zero_grad()
    for exact, rounded in zip(*gradients, strict=True):
        assert (exact - rounded).norm() <= 0.03 * exact.norm() + 1e-4
    assert len(rows) == 5
