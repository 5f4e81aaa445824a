"""Text classifiers of transformers as TransferModels, with a native or a pooled head.

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
from tasks.backbones.pretrained import (
    from_pretrained,
    load_network,
    load_whole,
    quiet_transformers,
    text_network_kind,
)
from tasks.backbones.seams import (
    find_blocks,
    has_parameters,
    head_input,
    linear_layers,
    reads_one_vector,
)
from tasks.backbones.vector_heads import HiddenShape, make_vector_head, read_head, save_head
from tasks.text.text_config import Pooling
from tasks.text.text_windows import WINDOWS, pool_windows


class TextModel(LogitsModel):
    """A network that maps token ids to logits.

    Attributes:
        window_pooling: pooling of the logits of a long text's windows.
    """

    window_pooling: Pooling = "mean"

    @property
    def encoder(self) -> Any:
        """The model of transformers, which holds the token embeddings."""
        return self.network

    def text_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute the input of the head for each text or window, [W, H]."""
        raise NotImplementedError

    def text_logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute the logits of each text or window, [W, C]."""
        raise NotImplementedError

    def head(self, vectors: Tensor) -> Tensor:
        """Compute the logits [B, C] from `text_vectors` [B, H]."""
        raise NotImplementedError

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the input of the head per row: {"pooled": [B, H]}."""
        return {"pooled": self._pool_rows(self.text_vectors, inputs, "mean")}

    def logits(self, batch: Batch) -> Tensor:
        if "features" in batch:
            return self.head(batch["features"]["pooled"])
        return self._pool_rows(self.text_logits, batch["inputs"], self.window_pooling)

    def _pool_rows(
        self,
        compute: Callable[[Mapping[str, Tensor]], Tensor],
        inputs: Mapping[str, Tensor],
        pooling: Pooling,
    ) -> Tensor:
        if WINDOWS not in inputs:
            return compute(inputs)
        values = compute({name: tensor for name, tensor in inputs.items() if name != WINDOWS})
        return pool_windows(values, inputs[WINDOWS], pooling)


class NativeTextModel(TextModel):
    """A sequence-classification model of transformers with its own head."""

    def __init__(self, network: Any, missing: Sequence[str]) -> None:
        base = network.base_model_prefix
        children = [name for name, child in network.named_children() if has_parameters(child)]
        heads = [name for name in children if name != base]
        # Modules missing in the checkpoint are new wherever they are, such as BERT's pooler.
        new = (name.rpartition(".")[0] for name in missing)
        heads += [name for name in dict.fromkeys(new) if not name.startswith(tuple(heads))]
        # In the order of the network, so that the layer that computes the logits comes last.
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
        # A linear head commutes with mean pooling of windows, but not with max pooling.
        return self._reads_vector and self.window_pooling == "mean"

    def text_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        assert self._head is not None
        return head_input(self.network, self._head, inputs)

    def text_logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.network(**inputs).logits  # type: ignore[no-any-return]

    def head(self, vectors: Tensor) -> Tensor:
        assert self._head is not None
        return self._head(vectors)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        self.consolidate()
        with quiet_transformers():
            self.network.save_pretrained(folder)  # type: ignore[operator]

    def adapter_config(self) -> dict[str, Any]:
        return {"task_type": "SEQ_CLS", "base_model_name_or_path": self.base}


class PooledNetwork(nn.Module):
    """A bare backbone, pooling of its hidden states to one vector per text, and a head."""

    def __init__(self, backbone: Any, pooling: str, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.pooling = pooling

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """Pool hidden states [B, T, H] under an attention mask [B, T] to [B, H], in float32."""
        states = states.float()
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            # argmax returns the first maximum, which is the last token that is not padding.
            last = mask.long().cumsum(1).argmax(1)
            return states[torch.arange(len(states), device=states.device), last]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class PooledTextModel(TextModel):
    """A bare backbone with a head on pooled hidden states, suited to frozen features."""

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

    def text_vectors(self, inputs: Mapping[str, Tensor]) -> Tensor:
        states = self.network.backbone(**inputs).last_hidden_state
        return self.network.pool(states, inputs["attention_mask"])

    def text_logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.text_vectors(inputs))

    def head(self, vectors: Tensor) -> Tensor:
        return self.network.head(vectors)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """Write the backbone in the format of AutoModel, and the head to a file of its own."""
        self.consolidate()
        with quiet_transformers():
            self.network.backbone.save_pretrained(folder)
        save_head(self.network.head, folder, pooling=self.network.pooling)

    def adapter_config(self) -> dict[str, Any]:
        return {"task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": self.base}


def load_native(source: ModelConfig, **config: Any) -> NativeTextModel:
    """Load AutoModelForSequenceClassification in float32; `config` sets its labels.

    Raises ModelError if the model has no padding token.
    """
    network, info = load_network(
        "AutoModelForSequenceClassification",
        source,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        **config,
    )
    if network.config.pad_token_id is None:
        raise ModelError(
            f"model.name: {source.name} defines no padding token, which batches of texts need; "
            "set pad_token_id in its config.json"
        )
    model = NativeTextModel(network, sorted(info["missing_keys"]))
    if "id2label" in config and model.has_loaded_head(info):
        saved = from_pretrained("AutoConfig", source).id2label
        model.keep_head(list(saved.values()), list(config["id2label"].values()))
    model.base = resolve_model(source.name)
    return model


def load_native_folder(folder: ModelConfig) -> NativeTextModel:
    """Load a folder that NativeTextModel.save wrote."""
    return NativeTextModel(load_whole("AutoModelForSequenceClassification", folder), [])


def load_pooled(
    source: ModelConfig, pooling: str, outputs: int, hidden: HiddenShape | None = None
) -> PooledTextModel:
    """Load a backbone with AutoModel, in float32, and add a new head."""
    backbone = _without_pooler(load_network("AutoModel", source), source)
    head = make_vector_head(backbone.config.hidden_size, hidden, outputs)
    model = PooledTextModel(PooledNetwork(backbone, pooling, head))
    model.base = resolve_model(source.name)
    return model


def load_pooled_folder(folder: ModelConfig) -> PooledTextModel:
    """Load a folder that PooledTextModel.save wrote."""
    head, facts = read_head(Path(folder.name))
    backbone = _without_pooler(load_whole("AutoModel", folder, lambda _: ["pooler"]), folder)
    return PooledTextModel(PooledNetwork(backbone, facts["pooling"], head))


def _without_pooler(backbone: Any, source: ModelConfig) -> Any:
    if getattr(backbone, "pooler", None) is not None:
        # It is unused and would get no gradient, which distributed training does not allow.
        backbone.pooler = None
    if backbone.config.is_encoder_decoder:
        _check_decoder(backbone, source)
    return backbone


def _check_decoder(backbone: Any, source: ModelConfig) -> None:
    """Raise ModelError if the decoder requires inputs of its own, as in T5."""
    try:
        with torch.inference_mode():
            backbone.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long))
    except ValueError as error:
        raise ModelError(
            f"model.name: the decoder of {source.name} ({backbone.config.model_type}) requires "
            "inputs of its own, so its hidden states cannot be pooled; set task.head=native, or "
            "use an encoder"
        ) from error
