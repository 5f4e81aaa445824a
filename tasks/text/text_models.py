"""Networks of transformers over texts as TransferModels, with a native or a pooled head.

Shapes: B rows, W texts or their windows, T tokens, H features, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig
from finetune.errors import ModelError
from finetune.io.references import resolve_model
from finetune.model import Batch
from tasks.backbones.logits_model import LogitsModel
from tasks.backbones.pretrained import load_network, quiet_transformers, text_network_kind
from tasks.backbones.seams import (
    find_blocks,
    has_parameters,
    head_input,
    linear_layers,
    reads_one_vector,
)
from tasks.backbones.vector_heads import HiddenShape, make_vector_head, read_head, save_head
from tasks.text.text_windows import COUNT, Pooling, pool_windows


class TextModel(LogitsModel):
    """A network over token ids.

    Attributes:
        window_pooling: how the windows of a long text become one row.
    """

    window_pooling: Pooling = "mean"

    @property
    def encoder(self) -> Any:
        """The network of transformers, with its token embeddings."""
        return self.network

    def read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the head reads of each text, or of each window, [W, H]."""
        raise NotImplementedError

    def answer(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits of each text, or of each window, [W, C]."""
        raise NotImplementedError

    def head(self, vectors: Tensor) -> Tensor:
        """Logits [B, C] of what `read` gave."""
        raise NotImplementedError

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the head reads: {"pooled": [B, H]}."""
        return {"pooled": self._by_row(self.read, inputs, "mean")}

    def logits(self, batch: Batch) -> Tensor:
        if "features" in batch:
            return self.head(batch["features"]["pooled"])
        return self._by_row(self.answer, batch["inputs"], self.window_pooling)

    def _by_row(
        self,
        compute: Callable[[Mapping[str, Tensor]], Tensor],
        inputs: Mapping[str, Tensor],
        pooling: Pooling,
    ) -> Tensor:
        if COUNT not in inputs:
            return compute(inputs)
        values = compute({name: tensor for name, tensor in inputs.items() if name != COUNT})
        return pool_windows(values, inputs[COUNT], pooling)


class NativeTextModel(TextModel):
    """A sequence-classification network of transformers with the head of its own class."""

    def __init__(self, network: Any, missing: Sequence[str]) -> None:
        base = network.base_model_prefix
        children = [name for name, child in network.named_children() if has_parameters(child)]
        heads = [name for name in children if name != base]
        # What the checkpoint lacks is new wherever it stands: a BERT without its pooler, say.
        lacking = (name.rpartition(".")[0] for name in missing)
        heads += [name for name in dict.fromkeys(lacking) if not name.startswith(tuple(heads))]
        # In the network's order, so that the layer that makes the logits is the last one.
        heads = [name for name, _ in network.named_modules() if name in heads]
        blocks = find_blocks(network, heads)
        super().__init__(
            network,
            heads=heads,
            blocks=blocks,
            lora_targets=linear_layers(network, blocks),
            kind=text_network_kind(network.config),
        )
        self._head = network.get_submodule(heads[0]) if len(heads) == 1 else None
        self._reads_vector = isinstance(self._head, nn.Linear) and reads_one_vector(
            network, self._head
        )

    @property
    def cacheable(self) -> bool:
        # A linear head of mean vectors gives the mean of the logits, and of no other pooling.
        return self._reads_vector and self.window_pooling == "mean"

    def read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        assert self._head is not None
        return head_input(self.network, self._head, inputs)

    def answer(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.network(**inputs).logits  # type: ignore[no-any-return]

    def head(self, vectors: Tensor) -> Tensor:
        assert self._head is not None
        return self._head(vectors)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        self.settle()
        with quiet_transformers():
            self.network.save_pretrained(folder)  # type: ignore[operator]

    def adapter_config(self) -> dict[str, Any]:
        return {"task_type": "SEQ_CLS", "base_model_name_or_path": self.base}


class PooledNetwork(nn.Module):
    """A bare backbone, its states pooled to one vector a row, and a head that reads it."""

    def __init__(self, backbone: Any, pooling: str, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.pooling = pooling

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] under an attention mask [B, T] to vectors [B, H], in float32."""
        states = states.float()
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            # argmax gives the first maximum: the last token that is not padding.
            last = mask.long().cumsum(1).argmax(1)
            return states[torch.arange(len(states), device=states.device), last]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class PooledTextModel(TextModel):
    """A bare backbone under a pooling and a head of vectors: what frozen features serve best."""

    network: PooledNetwork

    def __init__(self, network: PooledNetwork) -> None:
        heads = ["head"]
        blocks = find_blocks(network, heads)
        kind = text_network_kind(network.backbone.config)
        super().__init__(
            network,
            heads=heads,
            blocks=blocks,
            lora_targets=linear_layers(network, blocks),
            kind=kind,
        )

    @property
    def encoder(self) -> Any:
        return self.network.backbone

    @property
    def cacheable(self) -> bool:
        return self.window_pooling == "mean"

    @property
    def feature_kind(self) -> str:
        return f"{self.network.pooling} pooling"

    def read(self, inputs: Mapping[str, Tensor]) -> Tensor:
        states = self.network.backbone(**inputs).last_hidden_state
        return self.network.pool(states, inputs["attention_mask"])

    def answer(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.read(inputs))

    def head(self, vectors: Tensor) -> Tensor:
        return self.network.head(vectors)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """The backbone as AutoModel loads it, and the head beside it."""
        self.settle()
        with quiet_transformers():
            self.network.backbone.save_pretrained(folder)
        save_head(self.network.head, folder, pooling=self.network.pooling)

    def adapter_config(self) -> dict[str, Any]:
        return {"task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": self.base}


def load_native(source: ModelConfig, **config: Any) -> NativeTextModel:
    """A network by AutoModelForSequenceClassification, in float32; `config` sets its labels."""
    network, info = load_network(
        "AutoModelForSequenceClassification",
        source,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **config,
    )
    if network.config.pad_token_id is None:
        raise ModelError(
            f"model.name: {source.name} gives no padding token; a batch of texts needs one"
        )
    model = NativeTextModel(network, sorted(info["missing_keys"]))
    model.base = resolve_model(source.name)
    return model


def load_pooled(
    source: ModelConfig, pooling: str, outputs: int, hidden: HiddenShape | None = None
) -> PooledTextModel:
    """A backbone by AutoModel, in float32, with a new head."""
    backbone = _load_backbone(source)
    head = make_vector_head(backbone.config.hidden_size, hidden, outputs)
    model = PooledTextModel(PooledNetwork(backbone, pooling, head))
    model.base = resolve_model(source.name)
    return model


def load_pooled_folder(folder: ModelConfig) -> PooledTextModel:
    """What PooledTextModel.save wrote."""
    head, facts = read_head(Path(folder.name))
    return PooledTextModel(PooledNetwork(_load_backbone(folder), facts["pooling"], head))


def _load_backbone(source: ModelConfig) -> Any:
    backbone = load_network("AutoModel", source)
    if getattr(backbone, "pooler", None) is not None:
        # Unread, so it would get no gradient, which a distributed run cannot have.
        backbone.pooler = None
    if backbone.config.is_encoder_decoder:
        _check_decoder(backbone, source)
    return backbone


def _check_decoder(backbone: Any, source: ModelConfig) -> None:
    """Raise ModelError for a network like T5, whose decoder does not read the text by itself."""
    try:
        with torch.inference_mode():
            backbone.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long))
    except ValueError as error:
        raise ModelError(
            f"model.name: {source.name} ({backbone.config.model_type}) has a decoder that must be "
            "given a text of its own, so no vector of a text can be pooled; write "
            "task.head=native, or take an encoder"
        ) from error
