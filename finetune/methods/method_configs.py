"""Config keys of the built-in methods.

They are apart from the methods, so that a fault in a config is reported before torch is imported.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from finetune.config.schema import BatchNorm, MethodConfig, Share


class FrozenConfig(MethodConfig):
    """Train only the head, on features of the frozen backbone."""

    takes_quantized: ClassVar[bool] = True
    freezes_backbone: ClassVar[bool] = True
    free_keys: ClassVar[frozenset[str]] = frozenset({"cache_gib"})
    place_keys: ClassVar[frozenset[str]] = frozenset({"name", "cache_gib"})

    name: Literal["frozen"] = "frozen"
    contrastive: Annotated[int, Field(ge=0)] = 0
    """Steps of contrastive tuning of the backbone before it is frozen, for few rows per class:
    vectors of one class are pulled together (supervised contrastive loss, Khosla et al. 2020,
    arXiv:2004.11362). Each step uses train.batch_size rows and the rate optim.lr; 0: none.
    """
    contrastive_temperature: Annotated[float, Field(ge=0.001)] = 0.1
    """Divisor of the similarities in that loss; a lower one gives more weight to near rows."""
    cache: Literal["auto", "off"] = "auto"
    """Cache of features on disk.

    auto: used where the network allows it; off: features are computed on every step.
    """
    solver: Literal["loop", "exact"] = "loop"
    """Solver for the head.

    loop: the training loop; exact: a linear head at the optimum of its loss, with the L2 strength
    from cross-validation, or 1 / rows after contrastive tuning on the same rows.
    """
    views: PositiveInt = 1
    """Views cached per row. 1: the row without augmentation; more: that many augmented views, one
    per epoch in turn.
    """
    cache_gib: PositiveFloat = 8
    """Limit on the disk space of this run's features, in GiB."""

    @property
    def tunes_backbone(self) -> bool:
        return self.contrastive > 0

    @property
    def solves_head(self) -> bool:
        return self.solver == "exact"


class LoraConfig(MethodConfig):
    """Train low-rank adapters on frozen layers, and the head (Hu et al. 2021, arXiv:2106.09685)."""

    takes_quantized: ClassVar[bool] = True

    name: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    """Rank of the two adapter matrices of each layer."""
    alpha: PositiveFloat = 16
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    dropout: Share = 0.05
    """Dropout on the input of each adapter."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Learn the magnitude of each weight vector separately from its direction (DoRA, Liu et al.
    2024, arXiv:2402.09353).
    """
    init: Literal["zero", "pissa", "olora", "eva"] = "zero"
    """Initialization of adapters. zero: no change to the layer; pissa: the principal singular
    directions of its weight (Meng et al. 2024, arXiv:2404.02948); olora: an orthonormal basis
    (Buyukakyuz 2024, arXiv:2406.01775); both subtract that part from the layer until adapters are
    merged. eva: the directions that explain most variance of the layer's inputs over some training
    rows; layers that need more get up to twice the rank, others less or none (Paischer et al. 2024,
    arXiv:2410.07170).
    """
    targets: Annotated[list[str], Field(min_length=1)] | None = None
    """Layers to adapt, by full name or its ending; null: all that can be adapted."""
    rank_pattern: dict[str, PositiveInt] = {}  # noqa: RUF012 - pydantic copies it
    """Rank for specific layers: {name or ending: rank}; the last match wins."""
    alpha_pattern: dict[str, PositiveFloat] = {}  # noqa: RUF012
    """Alpha for specific layers: {name or ending: alpha}; the last match wins."""
    train_tokens: bool = False
    """Train the embeddings of tokens that are new to the network, such as task.add_tokens."""
    batch_norm: BatchNorm = "freeze"
    """BatchNorm statistics. train: updated; freeze: kept as pretrained."""


class Ia3Config(MethodConfig):
    """Train vectors that rescale activations, and the head (Liu et al. 2022, arXiv:2205.05638)."""

    name: Literal["ia3"] = "ia3"
    targets: Annotated[list[str], Field(min_length=1)] | None = None
    """Layers whose outputs are rescaled, by full name or its ending; null: peft's choice for this
    network (keys, values and the second feed-forward layer), else all layers that can be adapted.
    """
    feedforward: list[str] | None = None
    """Layers among the targets whose inputs are rescaled instead of their outputs, by full name or
    its ending; null: peft's choice for this network.
    """
    batch_norm: BatchNorm = "freeze"
    """BatchNorm statistics. train: updated; freeze: kept as pretrained."""


class BitFitConfig(MethodConfig):
    """Train only biases, norms and the head (Ben Zaken et al. 2021, arXiv:2106.10199)."""

    name: Literal["bitfit"] = "bitfit"
    batch_norm: BatchNorm = "freeze"
    """BatchNorm statistics. train: updated; freeze: kept as pretrained."""


class PartialConfig(MethodConfig):
    """Train the last blocks and the head."""

    name: Literal["partial"] = "partial"
    blocks: PositiveInt = 2
    """Number of blocks to train, counted from the output."""
    unfreeze_every: PositiveFloat | None = None
    """Gradual unfreezing: epochs until one more block is trained, starting from the head alone, or
    from the last block if there is no new head; null: all blocks from the start.
    """
    batch_norm: BatchNorm | None = None
    """BatchNorm statistics in trained blocks. train: updated; freeze: kept as pretrained; null:
    train, except for detectors, whose batches are small. Frozen blocks always keep theirs.
    """


class FullConfig(MethodConfig):
    """Train every parameter."""

    name: Literal["full"] = "full"
    batch_norm: BatchNorm | None = None
    """BatchNorm statistics. train: updated; freeze: kept as pretrained; null: train, except for
    detectors, whose batches are small.
    """
