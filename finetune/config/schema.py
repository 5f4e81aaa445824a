"""The config of a run: its sections, their keys, units and defaults.

Reading YAML and overrides into it is `finetune.config.loading`; the values that a network and a
method choose for keys left at null are `finetune.training.recipes`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from finetune.config.formats import DataFormat

Share = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
BatchNorm = Literal["train", "freeze"]
DEFAULT_METHOD = "lora"


class Section(BaseModel):
    """A part of the config: immutable, of finite numbers, without keys that are not named here."""

    free_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that do not change which weights a run ends with: a resumed run may change them."""
    length_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that say how long a run trains: one that is extended may change them."""
    place_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that say where and how fast, not what was trained: a card does not repeat them."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class TaskConfig(Section):
    """The keys that every task has; an adapter adds its own."""

    place_keys: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    """Name of a task, or file.py:Class, or module:Class."""
    prediction_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that predictions and their evaluation may set otherwise than training."""
    formats: ClassVar[tuple[DataFormat, ...]] = ()
    """Formats of data that only this task reads."""


class ModelConfig(Section):
    """Which pretrained network."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"activation_checkpointing"})
    place_keys: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    """Hub id, folder, timm/<name>, or pkg://<package>/<path> for files of an installed package."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    weights: str | None = None
    """A file or pkg://<package>/<path> of weights for the architecture timm/<name>: safetensors, or
    torch files without any code in them.
    """
    match: Literal["name", "order"] = "name"
    """How the tensors of `weights` find their places: by name, or in order if every shape agrees.
    """
    quantize: Literal["4bit", "8bit"] | None = None
    """Pretrained weights are held in 4 bits (NF4) or 8 bits (LLM.int8), for method=lora on a CUDA
    device; when training has ended they are made whole in the memory of the host, 4 bytes each.
    """
    attention: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = None
    """How a network of transformers computes attention in training; null: as its library chooses.
    """
    dropout: Share | None = None
    """Share of activations that are dropped in training wherever the network drops some; null: what
    it was trained with.
    """
    drop_path: Share | None = None
    """Share of the samples for which the last residual branch is left out in training, less towards
    the input (stochastic depth, Huang et al. 2016, arXiv:1603.09382); null: what its library takes.
    """
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass, which saves memory and costs
    about a third of the time.
    """
    trust_remote_code: bool = False
    """Whether code that comes with the weights may run."""


class DataConfig(Section):
    """Which data, and how it is split."""

    place_keys: ClassVar[frozenset[str]] = frozenset({"source", "train", "validation", "test"})

    source: str | None = None
    """A file, a folder, a hub data set or pkg://<package>/<path>, with its splits inside."""
    train: str | None = None
    """A path or the name of a split in `source`; null: the split "train", or everything."""
    validation: str | Share | None = None
    """A path, the name of a split, or a share of train; it selects the checkpoint.

    0: none; null: chosen.
    """
    test: str | Share | None = None
    """A path, the name of a split, or a share of train; it selects nothing.

    0: none; null: the split "test".
    """
    subset: str | None = None
    """Name of a configuration of a hub data set."""
    revision: str | None = None
    """Branch, tag or commit of a hub data set."""
    format: str = "auto"
    """How the files are read: csv, tsv, jsonl, parquet, arrow, text-folder, image-folder, hub, or a
    format that the task registers, such as coco; auto: by their names.
    """
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of splits made by share, and of rows that are drawn by `limit` and `per_class`."""
    group: str | None = None
    """A column whose equal values stay in one split."""
    map: str | None = None
    """file.py:function or module:function that makes another row of each row; None drops one."""
    limit: PositiveInt | None = None
    """At most so many rows a split, for a quick try."""
    per_class: PositiveInt | None = None
    """Exactly so many rows of each class are drawn from train, after shares were cut off it; other
    splits stay whole.
    """
    delimiter: str | None = None
    """Between the cells of a CSV; null: found in the first line."""
    encoding: str | list[str] = "utf-8"
    """Of text files; of a list, the first that decodes a file is taken.

    Files that needed another than the first are counted.
    """
    on_error: Literal["stop", "skip", "clip"] = "stop"
    """What is done about rows that cannot be used.

    stop: list them and end; skip: leave them out and count them; clip: keep and count those that
    are mended by cutting (boxes that reach out of their picture), and end at others.
    """


class MethodConfig(Section):
    """The keys that every method has; a method adds its own."""

    place_keys: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    """frozen, lora, partial, full, bitfit, ia3, or file.py:Class."""


class OptimConfig(Section):
    """How a gradient becomes an update."""

    name: str = "adamw"
    """adamw, sgd, or the name of an optimizer of timm.optim."""
    lr: NonNegative | None = None
    """Peak learning rate of pretrained and adapter parameters."""
    head_lr: NonNegative | None = None
    """Peak learning rate of the head."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Each block's learning rate as a share of the next one's, counted towards the input."""
    weight_decay: NonNegative = 0.01
    """Decoupled L2 strength; not on norms and biases."""
    l1_head: NonNegative = 0.0
    """Strength of an L1 penalty on the weights of the head, not on norms and biases: its gradient
    is added once an optimizer step.
    """
    momentum: Share = 0.9
    """Of sgd."""
    warmup_ratio: Share = 0.06
    """Share of all steps in which the rate rises from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """The same as a number of steps, which wins over warmup_ratio."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """How the rate falls after the warm-up; wsd: constant, then linear to 0."""
    decay_ratio: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of all steps in which wsd decays."""
    max_grad_norm: NonNegative = 1.0
    """Gradients are scaled down to this L2 norm; 0: never."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay a step of an exponential moving average of the weights, which is what is evaluated and
    saved; it is less in the first steps. null: the weights as they are.
    """


class TrainConfig(Section):
    """How long, in what portions, and what is kept."""

    free_keys: ClassVar[frozenset[str]] = frozenset(
        {"workers", "shard", "log_every", "save_every", "keep_checkpoints", "micro_batch"}
    )
    length_keys: ClassVar[frozenset[str]] = frozenset({"epochs", "max_steps", "early_stopping"})
    place_keys: ClassVar[frozenset[str]] = frozenset(
        {"workers", "log_every", "save_every", "keep_checkpoints"}
    )

    seed: Annotated[int, Field(ge=0)] = 0
    """Of head, order, augmentation and dropout."""
    epochs: PositiveFloat | None = None
    """Passes over the training split."""
    max_steps: PositiveInt | None = None
    """Optimizer steps; wins over epochs."""
    batch_size: PositiveInt = 32
    """Samples an optimizer step, over all processes and micro-batches."""
    micro_batch: PositiveInt | None = None
    """Samples that one device holds at once; null: its whole share, halved when memory runs out."""
    sampling: Literal["each", "balanced"] = "each"
    """each: an epoch draws every row once; balanced: it draws as many rows of each class, those of
    rare ones several times.
    """
    batching: Literal["length", "random"] = "length"
    """length: rows of similar length share a batch, which saves padding; random: no such order."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Of the network's computation; parameters stay float32."""
    shard: bool = False
    """Whether weights, gradients and the optimizer's state are split among the processes (FSDP2),
    which saves memory; evaluation needs all weights on each device. One process has all of them.
    """
    deterministic: bool = False
    """Whether a GPU may use deterministic kernels only: equal bits from equal seeds, but slower. A
    CPU needs no such key.
    """
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that encode rows beside the training process."""
    log_every: PositiveInt = 10
    """Steps between lines of metrics."""
    evaluate_every: PositiveInt | Literal["epoch", "never"] = "epoch"
    """Steps between evaluations on the validation split."""
    save_every: PositiveInt | Literal["epoch", "never"] = "epoch"
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept, beside the best one."""
    early_stopping: PositiveInt | None = None
    """Evaluations without improvement after which training ends; null: never."""
    best: str | None = None
    """Metric that selects the final checkpoint, of equal ones that of less loss; null: the task's
    metric.

    + or - before it gives its direction (+f1_macro, -loss); "last" takes the last checkpoint.
    """


class OutputConfig(Section):
    """Where results go."""

    free_keys: ClassVar[frozenset[str]] = frozenset(
        {"dir", "trackers", "hub", "dtype", "license", "base_model"}
    )
    place_keys: ClassVar[frozenset[str]] = free_keys

    dir: str | None = None
    """The run folder; null: runs/<data>-<model>-<method>."""
    trackers: list[str] = []
    """Where metrics are shown as well: tensorboard, wandb, mlflow, trackio, or another of
    Accelerate's.
    """
    hub: str | None = None
    """OWNER/NAME on a model hub, to which the final model is pushed, private, when the run ends."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights of the final model, for text generation: those of 16 bits take half the room,
    and are rounded. The adapter of method=lora is float32 all the same.
    """
    license: str | None = None
    """Of the fine-tuned model, on its card: apache-2.0, mit ...; null: the base model's."""
    base_model: str | None = None
    """Hub id of the pretrained network, on the card, where model.name is a copy of it on disk."""


class RunConfig(Section):
    """All of a run."""

    def keys_of(self, kind: Literal["free_keys", "length_keys", "place_keys"]) -> set[str]:
        """The keys of one kind in all sections, as "section.key"."""
        sections = [(name, getattr(self, name)) for name in type(self).model_fields]
        return {f"{name}.{key}" for name, section in sections for key in getattr(section, kind)}

    task: Any
    """The task's own section, validated by its Config."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    method: Any
    """The method's own section, validated by its Config."""
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    output: OutputConfig = OutputConfig()


# The keys of `data` that say how one table is read; the others are about the splits of a run.
READING = ("subset", "revision", "format", "map", "limit", "delimiter", "encoding", "on_error")
