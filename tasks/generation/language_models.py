"""Language models of transformers as TransferModels, with logits only where there is loss.

Shapes: B rows, K bins (or rows), T tokens, N positions that carry loss, H features, V tokens of the
vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError, format_count
from finetune.io.references import resolve_model
from finetune.model import Batch, TransferModel
from tasks.backbones.pretrained import load_whole, quiet_transformers, text_network_kind
from tasks.backbones.seams import find_blocks, linear_layers, output_at
from tasks.generation.fused_loss import loss_as_output
from tasks.generation.packed_attention import (
    PACKED,
    as_mask,
    boundary_mask,
    register_packed_attention,
)
from tasks.text.vocabulary import embedding_rows

Isolation = Literal["boundaries", "positions", "mask"]
"""Means to isolate rows of one bin: boundaries given to the attention, restarting position ids, or
a block-diagonal mask.
"""

ISOLATION_NOTES: dict[Isolation | None, str] = {
    "boundaries": "on, rows isolated by their boundaries, in torch's variable-length attention",
    "positions": "on, rows isolated by restarting position ids",
    "mask": "on, rows isolated by a block-diagonal attention mask",
    None: "off, because rows in one sequence cannot be isolated from each other in this network",
}
ISOLATIONS: tuple[Isolation, ...] = ("positions", "mask")  # apart from that of a GPU
# Share of the range of the logits, just above the float32 rounding error of reordered sums.
ISOLATION_TOLERANCE = 1e-5
# Distance of the probe's token ids: a vocabulary starts with special tokens, next to each other.
PROBE_STRIDE = 7919


class LanguageModel(TransferModel):
    """A causal or sequence-to-sequence network whose output layer runs only where there is loss.

    Attributes:
        isolation: means to isolate rows that share a bin; None if there is none.
        fuses_loss: if the output layer computes the loss in training.
        base: the reference that the pretrained network was loaded from.
    """

    may_round = True
    fuses_loss = False

    def __init__(self, network: Any, base: str = "", *, has_kernel: bool | None = None) -> None:
        blocks = find_blocks(network, [])
        is_causal = not network.config.is_encoder_decoder
        super().__init__(
            network,
            heads=[],
            blocks=blocks,
            lora_targets=linear_layers(network, blocks),
            kind="decoder" if is_causal else "seq2seq",
        )
        self.base = base
        self.is_causal = is_causal
        if is_causal:
            # Rows are padded on the right, where a causal network does not attend. transformers
            # would warn about a missing mask, after a check that synchronizes with the GPU.
            for part in network.modules():
                if hasattr(part, "warn_if_padding_and_no_attention_mask"):
                    part.warn_if_padding_and_no_attention_mask = _needs_no_mask
        self.isolation = find_isolation(network, has_kernel=has_kernel) if is_causal else None

    def forward(self, batch: Batch) -> Tensor:
        """Compute logits [N, V] at batch["inputs"]["positions"] [N], indices into [K * T].

        In training with a fused loss, compute their summed loss [] instead.
        """
        inputs = dict(batch["inputs"])
        positions, boundaries = inputs.pop("positions"), inputs.pop("boundaries", None)
        if boundaries is not None and self.isolation == "mask":
            bins, size = inputs["input_ids"].shape
            inputs["attention_mask"] = block_mask(boundaries, bins, size, self.network.config)
        elif boundaries is not None and self.isolation == "boundaries":
            inputs["attention_mask"] = as_mask(boundaries)
        fused: AbstractContextManager[None] = nullcontext()
        if self.fuses_loss and self.training and "targets" in batch:
            fused = loss_as_output(self.network, batch["targets"]["ids"])
        with output_at(self.network, positions), fused:
            return self.network(**inputs, use_cache=False).logits  # type: ignore[no-any-return]

    def dequantize(self) -> None:
        network: Any = self.network
        if not getattr(network, "is_quantized", False):
            return
        from transformers.integrations import dequantize_and_replace

        quantizer = network.hf_quantizer
        quantized = [name for name, part in network.named_modules() if _is_quantized(part)]
        for name in quantized:
            # One parent module at a time, as the GPU may not hold all float32 weights as well.
            part = network.get_submodule(name.rpartition(".")[0])
            if any(map(_is_quantized, part.modules())):
                with quiet_transformers():
                    dequantize_and_replace(part, quantizer.quantization_config, torch.float32)
                part.to("cpu")
        quantizer.remove_quantization_config(network)
        network.to("cpu", torch.float32)  # the parts that were not quantized

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)  # type: ignore[operator]

    def adapter_config(self) -> dict[str, Any]:
        kind = "CAUSAL_LM" if self.is_causal else "SEQ_2_SEQ_LM"
        return {"task_type": kind, "base_model_name_or_path": self.base}


def _needs_no_mask(*_: Any) -> None: ...


def _is_quantized(part: nn.Module) -> bool:
    return type(part).__module__.startswith("bitsandbytes.")


def block_mask(boundaries: Tensor, bins: int, size: int, config: Any) -> Tensor:
    """Make a causal mask [K, 1, T, T] that confines attention to the token's own row.

    It is of `bins` K of `size` T, and has the form that the network's attention takes.
    """
    allowed = boundary_mask(boundaries, bins, size)
    if config._attn_implementation != "eager":
        return allowed
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, lowest)


def find_isolation(network: Any, *, has_kernel: bool | None = None) -> Isolation | None:
    """Find out by forward passes how this network isolates two rows of a bin; None if it does not.

    `has_kernel` says whether there is variable-length attention, which is then preferred to
    transformers' default; null: on a GPU. Networks with sliding-window attention cannot use one
    mask for all layers.
    """
    vocabulary_size = network.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(1, 13, device=network.device) * PROBE_STRIDE) % vocabulary_size
    one, two = ids[:7], ids[7:]
    has_kernel = torch.cuda.is_available() if has_kernel is None else has_kernel
    was_training, attention = network.training, network.config._attn_implementation
    network.eval()
    with torch.inference_mode():
        alone = torch.cat([_logits(network, input_ids=ids[None])[0] for ids in (one, two)])
        if has_kernel and attention == "sdpa" and _takes_packed(network):
            if _isolates(network, "boundaries", one, two, alone):
                network.train(was_training)
                return "boundaries"
            network.set_attn_implementation(attention)
        working = (kind for kind in ISOLATIONS if _isolates(network, kind, one, two, alone))
        isolation = next(working, None)
    network.train(was_training)
    return isolation


def _takes_packed(network: Any) -> bool:
    """Give the network the attention that takes boundaries; False if it cannot have it."""
    register_packed_attention()
    try:
        network.set_attn_implementation(PACKED)
    except (ValueError, NotImplementedError, AttributeError):
        return False
    return bool(network.config._attn_implementation == PACKED)


def _isolates(network: Any, kind: Isolation, one: Tensor, two: Tensor, alone: Tensor) -> bool:
    joined = torch.cat([one, two])[None]
    positions = torch.cat([torch.arange(len(ids), device=ids.device) for ids in (one, two)])[None]
    inputs = {"input_ids": joined, "position_ids": positions}
    ends = torch.tensor([0, len(one), len(joined[0])], dtype=torch.int32, device=one.device)
    if kind == "boundaries":
        inputs["attention_mask"] = as_mask(ends)
    if kind == "mask":
        if getattr(network.config, "sliding_window", None) is not None:
            return False
        inputs["attention_mask"] = block_mask(ends, 1, joined.shape[1], network.config)
    try:
        packed = _logits(network, **inputs)[0]
    except (TypeError, ValueError, RuntimeError, IndexError):  # no such ids or mask accepted
        return False
    # Nothing precedes the first row, so its differences are rounding errors.
    differences = (packed - alone).abs()
    rounding = differences[: len(one)].max()
    limit = torch.maximum(2 * rounding, ISOLATION_TOLERANCE * (alone.max() - alone.min()))
    return bool(differences.max() <= limit)


def _logits(network: Any, **inputs: Tensor) -> Tensor:
    return network(**inputs, use_cache=False).logits.float()  # type: ignore[no-any-return]


def load_language_model(source: ModelConfig, config: Any, tokenizer: Any) -> LanguageModel:
    """Load a network in float32, with an embedding for every token of the tokenizer.

    Raises ModelError for an encoder.
    """
    is_causal = not config.is_encoder_decoder
    if is_causal and text_network_kind(config) != "decoder":
        raise ModelError(
            f"model.name: {source.name} ({config.model_type}) is a bidirectional encoder and "
            "cannot generate text; use a causal or sequence-to-sequence model, such as GPT-2, "
            "Llama, T5 or BART"
        )
    auto = "AutoModelForCausalLM" if is_causal else "AutoModelForSeq2SeqLM"
    network = load_whole(auto, source)
    size = network.get_input_embeddings().weight.shape[0]
    notes, rows = [], range(size, len(tokenizer))
    if rows:
        network.resize_token_embeddings(len(tokenizer))
        notes.append(
            f"embeddings: added for {format_count(len(rows), 'token')} of the tokenizer, "
            "initialized to the mean of the others; with method=lora, set "
            "method.train_tokens=true to train them"
        )
    has_kernel = None if source.attention is None else False  # a given attention is kept
    model = LanguageModel(network, resolve_model(source.name), has_kernel=has_kernel)
    model.notes = notes
    tables = [network.get_input_embeddings(), network.get_output_embeddings()]
    is_tied = tables[0].weight is tables[1].weight
    model.new_rows = embedding_rows(network, rows, *tables[: 1 if is_tied else 2])
    return model
