"""The loss without stored logits, beside the usual one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import CohereConfig, CohereForCausalLM

import finetune
from finetune.errors import ModelError
from tasks.generation import fused_loss as module
from tasks.generation.fused_loss import check_output_layer, fused_loss
from tests.support.text_generators import ANSWERED, TEMPLATES, set_up


def gradients(compute: Any, device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return the loss and its gradients by states, weight and bias."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(*size, generator=generator) for size in ((50, 32), (1000, 32), (1000,))]
    parts = [part.to(device).requires_grad_() for part in parts]
    targets = torch.randint(0, 1000, (50,), generator=generator).to(device)
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        loss = compute(*parts, targets)
    loss.backward()
    return [loss.detach(), *(part.grad for part in parts if part.grad is not None)]


def plain_loss(states: Any, weight: Any, bias: Any, targets: Any) -> torch.Tensor:
    logits = functional.linear(states, weight, bias).float()
    return functional.cross_entropy(logits, targets, reduction="sum")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [1, 7000, 2**24])
def test_pieces_have_the_loss_and_gradients_of_the_whole(
    piece: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", piece)
    pieces, whole = (gradients(compute, "cpu", dtype) for compute in (fused_loss, plain_loss))
    limit = 1e-5 if dtype == torch.float32 else 1e-2
    for one, other in zip(pieces, whole, strict=True):
        assert (one - other).norm() <= limit * other.norm()


@pytest.mark.gpu
def test_kernel_of_a_gpu_has_the_loss_and_gradients_of_torch() -> None:
    pytest.importorskip("liger_kernel")
    for dtype, limit in ((torch.float32, 1e-3), (torch.bfloat16, 2e-2)):
        fused, plain = (gradients(compute, "cuda", dtype) for compute in (fused_loss, plain_loss))
        for one, other in zip(fused, plain, strict=True):
            assert (one - other).norm() <= limit * other.norm()


@pytest.mark.parametrize("network", ["llama", "t5"])
def test_key_changes_losses_by_rounding_only(
    network: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    results = []
    for fused in (False, True):
        run = finetune.train(
            {"name": "text-generation", "fused_loss": fused, "max_length": 60, **TEMPLATES},
            data={"train": ANSWERED * 4},
            validation=0.25,
            model=str(model_folders[network]),
            method="full",
            epochs=2,
            batch_size=4,
            precision="fp32",
            output=str(tmp_path / str(fused)),
        )
        results.append(run.metrics["validation"])
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)


def test_network_that_scales_its_logits_is_refused() -> None:
    config = CohereConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        logit_scale=0.5,
    )
    with pytest.raises(ModelError, match="changes the logits after its output layer"):
        check_output_layer(CohereForCausalLM(config))


def test_replaced_output_layer_is_refused(gpt2_folder: Path) -> None:
    task, model, _ = set_up(gpt2_folder, ANSWERED, fused_loss=True)
    batch = task.collate([task.encode(row) for row in ANSWERED])
    model.train()
    network: Any = model.network
    network.lm_head = torch.nn.Sequential(network.lm_head)
    with pytest.raises(ModelError, match="replaces the output layer by Sequential"):
        model(batch)
