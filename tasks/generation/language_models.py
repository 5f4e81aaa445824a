"""Language models of transformers as TransferModels: logits at the positions that carry loss.

Shapes: B rows, K bins (or rows), T tokens, N positions that carry loss, H features, V words of the
vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io.references import resolve_model
from finetune.model import Batch, TransferModel
from tasks.backbones.pretrained import load_network, quiet_transformers, text_network_kind
from tasks.backbones.seams import find_blocks, linear_layers
from tasks.text.vocabulary import name_rows

Isolation = Literal["positions", "mask"]
"""How rows of one bin are kept apart: by positions that start again, or by a mask of blocks."""

ISOLATIONS: dict[Isolation | None, str] = {
    "positions": "rows share a row of tokens, kept apart by positions that start again",
    "mask": "rows share a row of tokens, kept apart by a mask of blocks",
    None: "off, since nothing keeps rows apart that would share a row of tokens of this network",
}
WAYS: tuple[Isolation, ...] = ("positions", "mask")
# Of the range of the logits: what float32 sums in another order differ by, and no more.
ISOLATED = 1e-5
# Tokens of the probe are that far apart: neighbours at the start of a vocabulary are special ones.
STRIDE = 7919


class LanguageModel(TransferModel):
    """A causal or sequence-to-sequence network, whose output layer runs only where there is loss.

    Attributes:
        isolation: how rows that share a bin are kept apart, None where nothing does.
        base: the reference that the network was loaded from.
    """

    may_round = True

    def __init__(self, network: Any, base: str = "") -> None:
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
            # Padding stands behind a row, where nothing looks at it. transformers would warn that a
            # mask may be missing, and make a GPU wait to find out.
            for part in network.modules():
                if hasattr(part, "warn_if_padding_and_no_attention_mask"):
                    part.warn_if_padding_and_no_attention_mask = _needs_no_mask
        self.isolation = find_isolation(network) if is_causal else None

    def forward(self, batch: Batch) -> Tensor:
        """Logits [N, V] at batch["inputs"]["positions"] [N], numbers in the flattened [K * T]."""
        inputs = dict(batch["inputs"])
        positions, segments = inputs.pop("positions"), inputs.pop("segments", None)
        if segments is not None:
            inputs["attention_mask"] = block_mask(segments, self.network.config)
        with _output_at(self.network, positions):
            return self.network(**inputs, use_cache=False).logits  # type: ignore[no-any-return]

    def widen(self) -> None:
        network: Any = self.network
        if not getattr(network, "is_quantized", False):
            return
        from transformers.integrations import dequantize_and_replace

        quantizer = network.hf_quantizer
        held = [name for name, part in network.named_modules() if _is_of_bits(part)]
        for name in held:
            # The whole weights of a layer or two at a time stand beside the few bits on a GPU.
            part = network.get_submodule(name.rpartition(".")[0])
            if any(map(_is_of_bits, part.modules())):
                with quiet_transformers():
                    dequantize_and_replace(part, quantizer.quantization_config, torch.float32)
                part.to("cpu")
        quantizer.remove_quantization_config(network)
        network.to("cpu", torch.float32)  # the parts that few bits would have spoilt

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)  # type: ignore[operator]

    def adapter_config(self) -> dict[str, Any]:
        kind = "CAUSAL_LM" if self.is_causal else "SEQ_2_SEQ_LM"
        return {"task_type": kind, "base_model_name_or_path": self.base}


def _needs_no_mask(*_: Any) -> None: ...


def _is_of_bits(part: nn.Module) -> bool:
    return type(part).__module__.startswith("bitsandbytes.")


@contextlib.contextmanager
def _output_at(network: Any, positions: Tensor) -> Iterator[None]:
    """The output layer of the network sees only the states at some positions, [N, H]."""

    def choose(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states = given[0]
        return (states.reshape(-1, states.shape[-1])[positions], *given[1:])

    handle = network.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def block_mask(segments: Tensor, config: Any) -> Tensor:
    """Which token may look at which, [K, 1, T, T]: those of its own row that stand before it.

    `segments` [K, T] numbers the rows of each bin; padding is one of them.
    """
    size = segments.shape[1]
    same = segments[:, None, :, None] == segments[:, None, None, :]
    allowed = same & torch.ones(size, size, dtype=torch.bool, device=segments.device).tril()
    if config._attn_implementation != "eager":
        return allowed
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(allowed.shape, device=segments.device).masked_fill(~allowed, lowest)


def find_isolation(network: Any) -> Isolation | None:
    """The way in which this very network keeps two rows of a bin apart, found by trying.

    One mask serves all layers only where none of them looks through a window.
    """
    words = network.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(1, 13, device=network.device) * STRIDE) % words
    one, two = ids[:7], ids[7:]
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        alone = torch.cat([_logits(network, input_ids=ids[None])[0] for ids in (one, two)])
        found = (way for way in WAYS if _isolates(network, way, one, two, alone))
        way = next(found, None)
    network.train(was_training)
    return way


def _isolates(network: Any, way: Isolation, one: Tensor, two: Tensor, alone: Tensor) -> bool:
    joined = torch.cat([one, two])[None]
    positions = torch.cat([torch.arange(len(ids), device=ids.device) for ids in (one, two)])[None]
    inputs = {"input_ids": joined, "position_ids": positions}
    if way == "mask":
        if getattr(network.config, "sliding_window", None) is not None:
            return False
        inputs["attention_mask"] = block_mask((positions == 0).cumsum(1), network.config)
    try:
        packed = _logits(network, **inputs)[0]
    except (TypeError, ValueError, RuntimeError):  # it takes no positions, or no such mask
        return False
    # Nothing stands before the first row, so what differs there is rounding.
    differences = (packed - alone).abs()
    rounding = differences[: len(one)].max()
    limit = torch.maximum(2 * rounding, ISOLATED * (alone.max() - alone.min()))
    return bool(differences.max() <= limit)


def _logits(network: Any, **inputs: Tensor) -> Tensor:
    return network(**inputs, use_cache=False).logits.float()  # type: ignore[no-any-return]


def load_language_model(source: ModelConfig, config: Any, tokenizer: Any) -> LanguageModel:
    """A network in float32 with an embedding for every token. Raises ModelError for an encoder."""
    is_causal = not config.is_encoder_decoder
    if is_causal and text_network_kind(config) != "decoder":
        raise ModelError(
            f"model.name: {source.name} ({config.model_type}) reads in both directions and cannot"
            " write; give a causal or a sequence-to-sequence model: GPT-2, Llama, T5, BART ..."
        )
    auto = "AutoModelForCausalLM" if is_causal else "AutoModelForSeq2SeqLM"
    network = load_network(auto, source)
    words = network.get_input_embeddings().weight.shape[0]
    notes, rows = [], range(words, len(tokenizer))
    if rows:
        network.resize_token_embeddings(len(tokenizer))
        notes.append(
            f"embeddings: {len(rows)} tokens of the tokenizer had none, so they begin at the mean "
            "of the others; under method=lora, method.train_tokens=true trains them"
        )
    model = LanguageModel(network, resolve_model(source.name))
    model.notes = notes
    tables = [network.get_input_embeddings(), network.get_output_embeddings()]
    is_tied = tables[0].weight is tables[1].weight
    model.new_rows = name_rows(network, rows, *tables[: 1 if is_tied else 2])
    return model
