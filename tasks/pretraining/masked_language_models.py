"""Masked language models of transformers as TransferModels, with logits only where tokens are
predicted.

Shapes: B rows, T tokens, N positions to predict, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io.references import resolve_model
from finetune.model import Batch, TransferModel
from tasks.backbones.pretrained import (
    from_pretrained,
    load_network,
    load_whole,
    quiet_transformers,
    text_network_kind,
)
from tasks.backbones.seams import find_blocks, linear_layers, output_at
from tasks.text.vocabulary import check_embeddings

AUTO = "AutoModelForMaskedLM"
POSITIONS = "positions"
"""Input key: the positions to predict [N], as indices into the rows of a batch [B * T]."""


class MaskedLanguageModel(TransferModel):
    """A masked language model; its outputs are logits [N, V].

    Attributes:
        base: the reference that the pretrained network was loaded from.
    """

    may_round = True

    def __init__(self, network: Any, missing: Collection[str] = (), base: str = "") -> None:
        prefix = network.base_model_prefix
        children = [name for name, _ in network.named_children() if name != prefix]
        heads = [name for name in children if any(key.startswith(f"{name}.") for key in missing)]
        blocks = find_blocks(network, heads)
        super().__init__(
            network, heads=heads, blocks=blocks, lora_targets=linear_layers(network, blocks)
        )
        self.base = base

    def forward(self, batch: Batch) -> Tensor:
        inputs = dict(batch["inputs"])
        positions = inputs.pop(POSITIONS)
        with output_at(self.network, positions):
            return self.network(**inputs).logits  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        with quiet_transformers():
            self.network.save_pretrained(folder)  # type: ignore[operator]

    def adapter_config(self) -> dict[str, Any]:
        return {"base_model_name_or_path": self.base}


def check_masked_network(source: ModelConfig) -> Any:
    """Return the config of a network that can fill masks. Raises ModelError for another kind."""
    from transformers.models.auto import modeling_auto as mappings

    config = from_pretrained("AutoConfig", source)
    is_masked = config.model_type in mappings.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.is_encoder_decoder or text_network_kind(config) == "decoder" or not is_masked:
        kind = "a causal or sequence-to-sequence network, or one not for texts"
        raise ModelError(
            f"model.name: {source.name} ({config.model_type}) is {kind}; masked language modeling "
            "takes bidirectional encoders, such as BERT or RoBERTa. A causal network is trained on "
            "plain text by task=text-generation task.text=COLUMN"
        )
    return config


def load_masked_model(source: ModelConfig, tokenizer: Any) -> MaskedLanguageModel:
    """Load a network in float32, with a new head if the checkpoint has none."""
    network, info = load_network(AUTO, source, output_loading_info=True)
    check_embeddings(network, tokenizer, source.name)
    model = MaskedLanguageModel(network, info["missing_keys"], resolve_model(source.name))
    if model.heads:
        tables = network.get_input_embeddings().weight, network.get_output_embeddings().weight
        tied = ", its output layer tied to the token embeddings" if tables[0] is tables[1] else ""
        model.notes.append(
            f"head: new ({', '.join(model.heads)}), since the checkpoint has no head for masked "
            f"tokens{tied}; the first steps teach the head"
        )
    return model


def load_masked_folder(folder: ModelConfig) -> MaskedLanguageModel:
    """Load a folder that MaskedLanguageModel.save wrote."""
    return MaskedLanguageModel(load_whole(AUTO, folder))
