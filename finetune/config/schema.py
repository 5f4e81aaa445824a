"""The config of a run: its sections, their keys, units and defaults.

`finetune.config.loading` reads YAML and overrides into it; `finetune.training.recipes` fills keys
left at null with values that suit the network and the method.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from finetune.config.formats import DataFormat
from finetune.config.text_files import is_url

Share = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
_TYPE = re.compile(r"\b(?:int|float|bool)\b")
BatchNorm = Literal["train", "freeze"]
Tracker = Literal[
    "aim",
    "clearml",
    "comet_ml",
    "dvclive",
    "mlflow",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
]
"""The trackers of Accelerate."""
CalibrationWish = Literal["temperature", "none"] | None
SPOKEN_DELIMITERS = {"\\t": "\t", "tab": "\t"}
DEFAULT_METHOD = "lora"
KeyKind = Literal["free_keys", "length_keys", "place_keys", "code_keys"]


class Section(BaseModel):
    """A section of the config: immutable, finite numbers only, unknown keys rejected."""

    free_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that do not affect the trained weights: they may change when a run is resumed."""
    length_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that set the length of training: they may change when a run is extended."""
    place_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys about locations and speed rather than the training itself: omitted from model cards."""
    code_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that decide which code runs; a resumed run has them from the user, never from its files.
    """
    blank_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that may be an empty text although their default is null."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject true and false for numbers, which pydantic would read as 1 and 0."""
        if isinstance(value, bool):
            types = set(_TYPE.findall(str(cls.model_fields[str(info.field_name)].annotation)))
            if types & {"int", "float"} and "bool" not in types:
                raise ValueError("should be a number, not true or false")
        return value


class TaskConfig(Section):
    """The keys of every task; a task adds its own."""

    place_keys: ClassVar[frozenset[str]] = frozenset({"name"})
    code_keys: ClassVar[frozenset[str]] = frozenset({"name"})

    name: str
    """Name of a task, or your own as file.py:Class or module:Class."""
    prediction_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that may be overridden when predicting and evaluating."""
    formats: ClassVar[tuple[DataFormat, ...]] = ()
    """Data formats that only this task reads."""
    column_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys that hold the name of a column, or names of columns, in training data."""
    reads_images: ClassVar[bool] = True
    """False: cells that name image files, or have the names of some, are left as they are."""
    adapts_backbone: ClassVar[bool] = False
    """True: the final model is a backbone for runs of other tasks. `init` does not choose the task,
    which fits any texts or images, and `embed` reads its models as pretrained networks.
    """
    may_round: ClassVar[bool] = True
    """False: output.dtype does not apply to networks of this task."""
    metric_names: ClassVar[tuple[str, ...]] = ()
    """Names that metrics of the task may have, with <...> for a part that data or keys settle, as
    in f1/<label>; () if unknown.
    """

    @property
    def learns_thresholds(self) -> bool:
        """True if the minimum probability of each label is learned from the validation split."""
        return False

    @property
    def may_have_labels(self) -> bool:
        """False if no row has a label, so that keys about labels do not apply."""
        return True

    @property
    def metric_code(self) -> list[str]:
        """Names and paths of code that an evaluation runs, such as modules of `evaluate`."""
        return []

    def key_faults(self) -> Iterator[str]:
        """Yield the faults of keys that exclude each other, whatever the data and the network."""
        return iter(())

    def change_faults(self, changed: Self) -> Iterator[str]:
        """Yield the faults of a config that overrides keys of this one, which a model has."""
        return iter(())


class ModelConfig(Section):
    """The pretrained network."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"activation_checkpointing"})
    place_keys: ClassVar[frozenset[str]] = frozenset({"name"})
    code_keys: ClassVar[frozenset[str]] = frozenset({"trust_remote_code"})

    name: str
    """Hub id, timm/<name>, folder of a network, of an adapter or of a finished run, or
    pkg://<package>/<path> for files of an installed package.
    """
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    weights: str | None = None
    """Weights for the architecture timm/<name>: a file or pkg://<package>/<path>, as safetensors or
    as a torch file that contains tensors only.
    """
    match: Literal["name", "order"] = "name"
    """Match the tensors of `weights` to parameters by name, or by order (all shapes must agree)."""
    quantize: Literal["4bit", "8bit"] | None = None
    """Quantize the pretrained weights to 4 bits (NF4) or 8 bits (LLM.int8), for method=lora on a
    CUDA device. After training they are dequantized to float32 in host memory.
    """
    attention: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = None
    """Attention implementation of a transformers model in training; null: the library's default."""
    dropout: Share | None = None
    """Dropout probability in training, wherever the network has dropout; null: the network's own.
    """
    drop_path: Share | None = None
    """Drop probability of the last residual branch in training, decreasing towards the input
    (stochastic depth, Huang et al. 2016, arXiv:1603.09382); null: the library's default.
    """
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: saves memory, takes about a third more time."""
    trust_remote_code: bool = False
    """Allow code in the folder of the weights to run; code of a hub repository never runs."""


class DataConfig(Section):
    """The data and its splits."""

    place_keys: ClassVar[frozenset[str]] = frozenset(
        {"source", "train", "validation", "test", "drop", "relabel", "answers", "unlabeled"}
    )
    code_keys: ClassVar[frozenset[str]] = frozenset({"map"})

    source: str | None = None
    """A file, a folder, a hub dataset or pkg://<package>/<path>, with its splits inside."""
    train: str | None = None
    """A path, or the name of a split in `source`; null: the split "train", or all rows."""
    validation: str | Share | None = None
    """A path, the name of a split, or a share of train. Used to select the best checkpoint.

    0: none; null: the split "validation", or a share of train if there is no other split.
    """
    test: str | Share | None = None
    """A path, the name of a split, or a share of train. Used for the final evaluation only.

    0: none; null: the split "test", if there is one.
    """
    subset: str | None = None
    """Configuration name of a hub dataset."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset."""
    format: str = "auto"
    """File format: csv, tsv, jsonl, parquet, arrow, text-folder, image-folder, hub, or a format of
    the task, such as coco; auto: by file name.
    """
    split_seed: Annotated[int, Field(ge=0)] = 0
    """Random seed of splits made by share, and of the rows that `limit` and `per_class` select."""
    group: str | None = None
    """Column of a group id: rows of the same group stay in the same split."""
    images: str | None = None
    """Folder that the image paths or image ids in the columns of a table are relative to; null: the
    table's folder, or a folder of images beside it.
    """
    class_level: Literal[-1] | PositiveInt | None = None
    """Level of the class folders in a folder of images, from 1 at the top; -1: the folder of the
    file; null: 1, unless deeper folders may be the classes.
    """
    map: str | None = None
    """file.py:function or module:function that is applied to each row; return None to drop a row.
    """
    drop: str | None = None
    """A table of training rows to leave out: their numbers in the column row, as in the reviewed
    output of `finetune label-issues`. With a column object, that object of the row is left out.
    """
    relabel: str | None = None
    """A table of training rows to relabel: their numbers in the column row, their labels in given,
    the right ones in suggested, as in the reviewed output of `finetune label-issues`. With a
    column object, that object of the row gets them, and the box in suggested_box.
    """
    answers: str | list[str] | None = None
    """A table of rows with the label that people filled in, such as the sheet of `finetune
    suggest`, or a list of tables: joined to the training rows after shares have been split off.
    Rows without a label, and rows that a split has already, are left out and counted.
    """
    unlabeled: str | None = None
    """Rows without labels, read like the others: a file, a folder, a hub dataset or pkg://...;
    train.semi says how training uses them. A column of labels in them is not read.
    """
    limit: PositiveInt | None = None
    """Maximum number of rows per split, for a quick try."""
    per_class: PositiveInt | None = None
    """Few-shot training: sample exactly this many rows of each class from train, after shares have
    been split off; other splits keep all rows.
    """
    columns: Annotated[list[str], Field(min_length=1)] | Literal["header"] | None = None
    """Names of the columns of a table without a header; header: the first line names the columns,
    whatever it looks like; null: it does, unless it looks like data.
    """
    field: str | None = None
    """Key of a JSON file that holds the rows, such as data or result.items. In exports of
    annotation tools: the attribute, choice or field of the tasks that is read if there are several.
    """
    delimiter: str | None = None
    """Delimiter of CSV files; null: detected from the first line."""
    quote: Literal["double", "single", "backslash", "none"] | None = None
    """Quoting in CSV files. double: ", doubled inside; single: ', doubled inside; backslash: ",
    preceded by a backslash inside; none: quotes are characters like any other; null: double, and
    cells that contain what looks like rows of their own are invalid.
    """
    encoding: str | list[str] | None = None
    """Encoding of text files. In a list, the first one that decodes a file is used; null: utf-8 or
    utf-16 (by its byte-order mark), and cp1252 for other files of Western European text.

    Files that the first one did not decode are counted in the header of the run.
    """
    rescale: bool | None = None
    """Annotations made on images of another size than the files have, such as before downsizing.
    true: scale them to the files; false: read them in the pixels of the files; null: such rows are
    invalid.
    """

    @field_validator("delimiter")
    @classmethod
    def _is_a_character(cls, delimiter: str | None) -> str | None:
        character = SPOKEN_DELIMITERS.get(delimiter or "", delimiter)
        is_one = not character or (len(character) == 1 and character.isascii())
        if not is_one or character in tuple("\"'\\\r\n\0"):
            raise ValueError("is not a single ASCII character; write ',' ';' '|' or tab")
        return delimiter

    @field_validator("columns")
    @classmethod
    def _differ(cls, columns: list[str] | str | None) -> list[str] | str | None:
        names = columns if isinstance(columns, list) else []
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"names {name!r} more than once; name each column once")
        return columns

    on_error: Literal["stop", "skip", "clip"] = "stop"
    """Handling of invalid rows.

    stop: list them and exit; skip: drop and count them; clip: keep and count those that clipping
    fixes (boxes that extend beyond their image), and exit on others.
    """
    on_leak: Literal["say", "drop", "stop"] = "say"
    """Handling of training rows that also occur in a held-out split, equal or nearly equal.

    say: count them; near duplicates only if that takes seconds; drop: leave them out of train;
    stop: list them and exit.
    """


class MethodConfig(Section):
    """The keys of every method; a method adds its own."""

    place_keys: ClassVar[frozenset[str]] = frozenset({"name"})
    code_keys: ClassVar[frozenset[str]] = frozenset({"name"})

    takes_quantized: ClassVar[bool] = False
    """True if pretrained weights may be quantized to 4 or 8 bits."""
    freezes_backbone: ClassVar[bool] = False
    """True if the backbone runs as pretrained and only a head is trained."""

    name: str
    """frozen, lora, partial, full, bitfit, ia3, or your own as file.py:Class."""

    @property
    def tunes_backbone(self) -> bool:
        """True if a contrastive phase tunes the backbone before the first step."""
        return False

    @property
    def solves_head(self) -> bool:
        """True if the head is solved exactly instead of trained by the loop."""
        return False


class OptimConfig(Section):
    """The optimizer, the learning rates and their schedule."""

    name: str = "adamw"
    """adamw, sgd, or the name of an optimizer in timm.optim."""
    lr: NonNegative | None = None
    """Peak learning rate of pretrained and adapter parameters; null: the method's default."""
    head_lr: NonNegative | None = None
    """Peak learning rate of the head; null: the method's default."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Layer-wise learning rate decay: factor per block towards the input; null: none."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay; not applied to norms and biases."""
    l1_head: NonNegative = 0.0
    """Strength of an L1 penalty on the head's weights (not norms and biases). Its gradient is added
    once per optimizer step.
    """
    momentum: Share = 0.9
    """Momentum; used by sgd only."""
    warmup_ratio: Share = 0.06
    """Share of all steps in which the learning rate rises from 0."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Number of warm-up steps; overrides warmup_ratio."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """Learning rate schedule after the warm-up; wsd: constant, then linear to 0."""
    decay_ratio: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Share of all steps in which wsd decays the learning rate."""
    max_grad_norm: NonNegative = 1.0
    """Maximum L2 norm of the gradients, which are clipped to it; 0: no clipping."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay per step of an exponential moving average (EMA) of the weights, which is evaluated and
    saved in their place. Lower in the first steps. null: no EMA.
    """


class TrainConfig(Section):
    """Length of training, batches, evaluation and checkpoints."""

    free_keys: ClassVar[frozenset[str]] = frozenset(
        {"workers", "shard", "log_every", "save_every", "keep_checkpoints", "micro_batch"}
    )
    length_keys: ClassVar[frozenset[str]] = frozenset({"epochs", "max_steps", "early_stopping"})
    place_keys: ClassVar[frozenset[str]] = frozenset(
        {"workers", "log_every", "save_every", "keep_checkpoints"}
    )

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Random seed of head initialization, data order, augmentation and dropout."""
    epochs: Annotated[PositiveFloat, Field(le=1e9)] | None = None
    """Passes over the training split; null: the method's default."""
    max_steps: PositiveInt | None = None
    """Number of optimizer steps; overrides epochs."""
    batch_size: PositiveInt = 32
    """Samples per optimizer step, summed over all processes and micro-batches."""
    micro_batch: PositiveInt | None = None
    """Samples per forward pass on one device (the rest is gradient accumulation); null: all of the
    device's share of a batch, halved on out-of-memory errors.
    """
    semi: Literal["self-training", "label-spreading", "gan", "fixmatch"] | None = None
    """Pseudo-labels for the rows of data.unlabeled, with method=frozen. self-training: a head's own
    most confident predictions, in rounds; label-spreading: over a graph of neighbors (Zhou et al.
    2004); gan: a head that also tells rows from generated ones (GAN-BERT, Croce et al. 2020);
    fixmatch: a head that predicts the same of altered views (Sohn et al. 2020, arXiv:2001.07685).
    Not used, with a warning, where cross-validation on the labeled rows shows no gain.
    """
    sampling: Literal["each", "balanced"] = "each"
    """each: every row once per epoch; balanced: equally many rows of each class per epoch, with
    those of rare classes repeated; of each group under train.group_by. With method.solver=exact,
    all classes or groups have the same weight.
    """
    synthetic: Literal["smote", "gan"] | None = None
    """Synthetic feature vectors that bring each class to the size of the largest, for method=frozen
    with cached features. smote: between neighbors of the class (Chawla et al. 2002); gan: by a
    conditional GAN that is trained on the features.
    """
    group_by: str | None = None
    """Column that divides the rows of each label into groups, such as the source of a row or the
    background of an image. Evaluations then measure the worst group, as worst_group_accuracy.
    """
    group_dro: PositiveFloat | None = None
    """Step size of group DRO, which gives more weight to the groups with a high loss (Sagawa et al.
    2020, arXiv:1911.08731), such as 0.01; needs train.group_by. A micro-batch has rows of one only.
    """
    batching: Literal["length", "random"] | None = None
    """random: batches of rows in random order; on a CPU each is divided into micro-batches of
    similar length, which saves the padding and does not change the result; length: batches of rows
    of similar length; null: random where batches can be divided so (on a CPU, with
    train.dropout=by-sample, without a frozen backbone or BatchNorm), else length.
    """
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Precision of the computation; parameters stay float32. null: bf16 if the device computes it
    natively, else fp32.
    """
    dropout: Literal["by-sample", "by-batch"] | None = None
    """Random numbers of the dropout masks.

    by-sample: functions of seed, step, layer and sample, so that the division of a batch into
    micro-batches and processes does not change the result; by-batch: drawn for each micro-batch as
    a whole; null: by-sample on a CPU, where it is faster than torch's own dropout, unless rows are
    packed; by-batch otherwise.
    """
    matmul_attention: bool | None = None
    """Attention in training on a CPU: true: matrix products, often faster in bf16 for rows of some
    hundred tokens; false: torch's kernel; null: the faster of both, measured before the first step
    unless the run is short, train.deterministic is true or model.attention is set.
    """
    compile: bool = False
    """Compile the blocks of the network on a GPU (torch.compile): faster steps, after up to some
    minutes of compilation. No effect on a CPU, where compiled steps were slower.
    """
    shard: bool = False
    """Shard weights, gradients and optimizer state over the processes (FSDP2) to save memory.
    Evaluation needs all weights on each device. No effect with a single process.
    """
    deterministic: bool = False
    """Use deterministic GPU kernels only: same seed, same bits, but slower. CPU runs are
    deterministic without it.
    """
    workers: Annotated[int, Field(ge=0)] | None = None
    """Data-loading worker processes, at most 4 for each core of the machine; 0: encode rows in the
    training process; null: 0 on a CPU, whose cores compute the network, and for texts; elsewhere up
    to 8 that decode images, but a core less than there are.
    """
    log_every: PositiveInt = 10
    """Steps between logged training metrics."""
    evaluate_every: PositiveInt | Literal["epoch", "never"] = "epoch"
    """Steps between evaluations on the validation split."""
    save_every: PositiveInt | Literal["epoch", "never"] = "epoch"
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: PositiveInt = 2
    """Number of most recent checkpoints to keep, besides the best one."""
    early_stopping: PositiveInt | None = None
    """Early stopping: end after this many evaluations without improvement; null: never."""
    best: str | None = None
    """Metric that selects the final checkpoint, ties broken by lower loss; null: the task's metric.

    A prefix sets the direction (+f1_macro, -loss); worst_group_accuracy is that of the worst group
    of train.group_by; "last" takes the last checkpoint.
    """


def checked_folder(folder: str | None, instead: str = "mount the store as a folder") -> str | None:
    """Return the path of a folder to write to, with ~ expanded. Raises ValueError."""
    if folder and not folder.strip():
        raise ValueError("is blank; name a folder")
    if folder and not folder.isprintable():
        raise ValueError("contains a character that does not print; name another folder")
    if folder and is_url(folder):
        raise ValueError(f"is a URL; name a folder of this machine, or {instead}")
    is_at_home = folder is not None and re.match(r"~(/|$)", folder)
    return str(Path(str(folder)).expanduser()) if is_at_home else folder


class OutputConfig(Section):
    """The run folder, and where else results go."""

    free_keys: ClassVar[frozenset[str]] = frozenset(
        {"dir", "trackers", "hub", "dtype", "calibrate", "report", "license", "base_model"}
    )
    place_keys: ClassVar[frozenset[str]] = free_keys - {"calibrate"}

    dir: str | None = None
    """The run folder; null: runs/<data>-<model>-<method>, with -2, -3, ... at its end if that one
    holds a run with other keys or rows.
    """

    @field_validator("dir")
    @classmethod
    def _is_a_folder(cls, folder: str | None) -> str | None:
        return checked_folder(folder)

    trackers: list[Tracker] = []
    """Experiment trackers to log to: tensorboard, wandb, mlflow, trackio, or any other that
    Accelerate supports.
    """
    hub: str | None = None
    """OWNER/NAME: push the final model to this private repository on a model hub when the run ends.
    """
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of the final model's weights, for text generation: 16-bit weights take half the space
    and are rounded. The adapter of method=lora stays float32.
    """
    calibrate: CalibrationWish = None
    """Calibration of the final model's probabilities of labels, or of a detector's scores.
    temperature: scale the logits to the lowest log loss on the validation split; none: leave them;
    null: temperature, where that split has 100 rows (100 right and 100 wrong boxes) and rows
    outside the fit profit. Checkpoints stay as they are.
    """
    report: bool = False
    """Write a report on the final model when the run ends, the page reports/index.html, as
    `finetune report` does.
    """
    license: str | None = None
    """License of the fine-tuned model, for its card: apache-2.0, mit, ...; null: the base model's.
    """
    base_model: str | None = None
    """Hub id of the base model, for the card, if model.name is a local copy of it."""


class ReportConfig(Section):
    """What is measured of the final model beside its metrics."""

    free_keys: ClassVar[frozenset[str]] = frozenset({"slices", "groups"})

    slices: list[str] | Literal["none"] | None = None
    """Columns whose values divide the held-out rows into slices, each compared with all other rows;
    language: that of the texts, if no column has this name. Without columns: label, length,
    confidence, folder, and clusters of cached features, where they apply; these are measured of
    100 or more rows, and beside columns, too. none: no slices.
    """
    groups: list[str] = []
    """Columns of groups of people, such as sex: differences between them in the rate of each label,
    and in its true and false positive rates.
    """


class RunConfig(Section):
    """The complete config of a run."""

    def keys_of(self, kind: KeyKind) -> set[str]:
        """Return the keys of one kind in all sections, as "section.key"."""
        sections = [(name, getattr(self, name)) for name in type(self).model_fields]
        return {f"{name}.{key}" for name, section in sections for key in getattr(section, kind)}

    task: Any
    """The task's section, validated by its Config."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    method: Any
    """The method's section, validated by its Config."""
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    report: ReportConfig = ReportConfig()
    output: OutputConfig = OutputConfig()


# The keys of `data` that control reading one table; the others are about the splits of a run.
READING_KEYS = (
    "subset",
    "revision",
    "format",
    "images",
    "class_level",
    "map",
    "limit",
    "columns",
    "field",
    "delimiter",
    "quote",
    "encoding",
    "rescale",
    "on_error",
)
