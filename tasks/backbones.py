"""Pretrained networks of transformers as TransferModels: where the head is, which blocks there are,
what LoRA may wrap.

Shapes: B rows, T tokens, H features, C outputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from finetune.config import ModelConfig
from finetune.errors import ModelError
from finetune.sources import resolve_model
from finetune.task import Batch
from tasks.logits import LogitsModel


class TextModel(LogitsModel):
    """A network over token ids."""


class NativeTextModel(TextModel):
    """A sequence-classification network of transformers with the head of its own class."""

    def __init__(self, network: PreTrainedModel, missing: Sequence[str]) -> None:
        base = network.base_model_prefix
        heads = [
            name
            for name, child in network.named_children()
            if name != base and has_parameters(child)
        ]
        # What the checkpoint lacks is new wherever it stands: a BERT without its pooler, say.
        lacking = (name.rpartition(".")[0] for name in missing)
        heads += [name for name in dict.fromkeys(lacking) if not name.startswith(tuple(heads))]
        blocks = find_blocks(network, heads)
        super().__init__(
            network,
            heads=heads,
            blocks=blocks,
            lora_targets=linear_layers(network, blocks),
            kind=kind_of(network.config),
        )
        self._head = network.get_submodule(heads[0]) if len(heads) == 1 else None
        self._reads_vector = isinstance(self._head, nn.Linear) and reads_one_vector(
            network, self._head
        )

    @property
    def cacheable(self) -> bool:
        return self._reads_vector

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the classifier reads: {"pooled": [B, H]}."""
        assert self._head is not None
        return {"pooled": head_input(self.network, self._head, inputs)}

    def logits(self, batch: Batch) -> Tensor:
        if "features" in batch:
            assert self._head is not None
            return self._head(batch["features"]["pooled"])  # type: ignore[no-any-return]
        return self.network(**batch["inputs"]).logits  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        self.fold_scale()
        self.network.save_pretrained(folder)  # type: ignore[operator]

    def adapter_config(self) -> dict[str, Any]:
        return {"task_type": "SEQ_CLS", "base_model_name_or_path": self.base}


class PooledNetwork(nn.Module):
    """A bare backbone, its states pooled to one vector a row, and a linear head."""

    def __init__(self, backbone: PreTrainedModel, pooling: str, outputs: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.hidden_size, outputs)
        self.pooling = pooling

    def pool(self, states: Tensor, mask: Tensor) -> Tensor:
        """States [B, T, H] under an attention mask [B, T] to vectors [B, H], in float32."""
        states = states.float()
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            last = (
                mask.long().cumsum(1).argmax(1)
            )  # of the first maximum: the last token that is not padding
            return states[torch.arange(len(states), device=states.device), last]
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


class PooledTextModel(TextModel):
    """A bare backbone under mean, cls or last pooling and a linear head: what frozen features serve
    best.
    """

    network: PooledNetwork

    def __init__(self, network: PooledNetwork) -> None:
        heads = ["head"]
        blocks = find_blocks(network, heads)
        kind = kind_of(network.backbone.config)
        super().__init__(
            network,
            heads=heads,
            blocks=blocks,
            lora_targets=linear_layers(network, blocks),
            kind=kind,
        )

    @property
    def cacheable(self) -> bool:
        return True

    @property
    def feature_kind(self) -> str:
        return f"{self.network.pooling} pooling"

    def features(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{"pooled": [B, H]}, float32."""
        states = self.network.backbone(**inputs).last_hidden_state
        return {"pooled": self.network.pool(states, inputs["attention_mask"])}

    def logits(self, batch: Batch) -> Tensor:
        features = batch["features"] if "features" in batch else self.features(batch["inputs"])
        return self.network.head(features["pooled"])  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        """The backbone as AutoModel loads it, and head.safetensors beside it."""
        from safetensors.torch import save_file

        self.fold_scale()
        self.network.backbone.save_pretrained(folder)
        save_file(
            self.network.head.state_dict(),
            folder / "head.safetensors",
            metadata={"pooling": self.network.pooling},
        )

    def adapter_config(self) -> dict[str, Any]:
        return {"task_type": "FEATURE_EXTRACTION", "base_model_name_or_path": self.base}


def load_native(source: ModelConfig, **config: Any) -> NativeTextModel:
    """A network by AutoModelForSequenceClassification, in float32; `config` sets its labels."""
    network, info = load_pretrained(
        AutoModelForSequenceClassification,
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


def load_pooled(source: ModelConfig, pooling: str, outputs: int) -> PooledTextModel:
    """A backbone by AutoModel, in float32, with a new head."""
    backbone = load_pretrained(AutoModel, source)
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = (
            None  # unread, so it would get no gradient, which a distributed run cannot have
        )
    model = PooledTextModel(PooledNetwork(backbone, pooling, outputs))
    model.base = resolve_model(source.name)
    return model


def load_pooled_folder(folder: Path) -> PooledTextModel:
    """What PooledTextModel.save wrote."""
    from safetensors import safe_open

    with safe_open(folder / "head.safetensors", "pt") as file:
        pooling, state = (
            file.metadata()["pooling"],
            {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118 - no dict,
        )
    model = load_pooled(ModelConfig(name=str(folder)), pooling, len(state["weight"]))
    model.network.head.load_state_dict(state)
    return model


def load_config_of(source: ModelConfig) -> PretrainedConfig:
    """The config of a network, before its weights are read. Raises ModelError if there is none."""
    return load_pretrained(AutoConfig, source, dtype=None)


def load_pretrained(
    auto: Any, source: ModelConfig, dtype: torch.dtype | None = torch.float32, **arguments: Any
) -> Any:
    """What an Auto class of transformers makes of a reference. Raises ModelError."""
    # Without a dtype a half-precision checkpoint would be trained in half precision.
    facts = {
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        **arguments,
    }
    try:
        with quiet_transformers():
            return auto.from_pretrained(
                resolve_model(source.name), **facts, **({"dtype": dtype} if dtype else {})
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model.name: {source.name!r} cannot be loaded by {auto.__name__}: {first} "
            "Give a hub id, a folder with config.json and safetensors, or pkg://<package>/<path>"
        ) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without the reports and bars of transformers: what matters of them, the kit says itself."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def kind_of(config: PretrainedConfig) -> str:
    """ "decoder" for networks that only read to the left, else "encoder"."""
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return (
        "decoder"
        if causal and config.model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        else "encoder"
    )


def find_blocks(network: nn.Module, heads: Sequence[str]) -> list[tuple[str, ...]]:
    """The pretrained parts from input to output: the layers of every list of layers, and what
    stands between them.

    What comes before the first layer (embeddings) is a block of its own; what follows a layer (a
    last norm, a pooler) belongs to that layer's block.
    """
    lists: list[str] = []
    for name, module in network.named_modules():
        nested = name.startswith(tuple(f"{outer}." for outer in lists)) if lists else False
        if isinstance(module, nn.ModuleList) and not nested and has_parameters(module):
            lists.append(name)
    blocks: list[list[str]] = [[]]
    for name, _ in network.named_parameters():
        if any(name == head or name.startswith(f"{head}.") for head in heads):
            continue
        holder = next((outer for outer in lists if name.startswith(f"{outer}.")), None)
        if holder is not None:
            part = f"{holder}.{name[len(holder) + 1 :].partition('.')[0]}"
            if part not in blocks[-1]:
                blocks.append([part])
        else:
            part = _loose_part(name, [*lists, *heads])
            if part not in blocks[-1]:
                blocks[-1].append(part)
    return [tuple(block) for block in blocks if block]


def has_parameters(module: nn.Module) -> bool:
    """Whether there is anything in a module that could be trained."""
    return next(module.parameters(), None) is not None


def _loose_part(name: str, apart: Sequence[str]) -> str:
    """The largest part around a parameter that holds none of the parts that stand apart."""
    steps = name.split(".")
    for depth in range(1, len(steps)):
        part = ".".join(steps[:depth])
        if not any(other == part or other.startswith(f"{part}.") for other in apart):
            return part
    return name


def linear_layers(network: nn.Module, blocks: Sequence[Sequence[str]]) -> list[str]:
    """The linear layers inside lists of layers: attention and feed-forward, not embeddings or
    poolers.
    """
    layers = tuple(
        f"{name}." for block in blocks for name in block if name.rpartition(".")[2].isdigit()
    )
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and layers and name.startswith(layers)
    ]


def head_input(network: nn.Module, head: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """What `head` is given when `network` runs on `inputs`."""
    caught: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        network(**inputs)
    finally:
        handle.remove()
    return caught[0]


def reads_one_vector(network: PreTrainedModel, head: nn.Linear) -> bool:
    """Whether the head reads one vector [B, H] a row and its outputs are the logits: then it can be
    cached.
    """
    ids = torch.tensor([[1, 2, 3]])
    training = network.training
    network.eval()
    with torch.inference_mode():
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        given = head_input(network, head, inputs)
        fits = given.ndim == 2 and torch.equal(head(given), network(**inputs).logits)
    network.train(training)
    return fits
