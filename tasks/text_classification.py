"""Text classification: one label, several labels or a number for a text or a pair of texts.

A row: {"text": "Ad sales boost Time Warner profit ...", "label": "business"}

Shapes: B rows, T tokens, C classes (1 for a number).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt
from torch import Tensor

from finetune.config import ModelConfig
from finetune.errors import DataError
from finetune.task import Batch, Length, Prediction, Rng, Row, Sample, Stats, Task, TransferModel
from tasks import metrics
from tasks.backbones import TextModel, load_native, load_pooled, load_pooled_folder
from tasks.columns import LABEL_NAMES, TEXT_NAMES, counts_rows, find_column, prose_columns
from tasks.confusion import write_confusion
from tasks.labels import parse_number, split_labels
from tasks.pretrained import from_pretrained, kind_of
from tasks.targets import (
    KINDS,
    Number,
    SingleLabel,
    TargetConfig,
    Targets,
    kind_of_values,
    learn_targets,
    restore_targets,
)
from tasks.text import load_tokenizer, longest_input, pad, token_lengths


class TextClassificationConfig(TargetConfig):
    """What is read from a row and what is made of it."""

    name: str = "text-classification"
    text: str | Annotated[list[str], Field(min_length=1, max_length=2)] | None = None
    """Column of the text, or two columns for a pair; null: found."""
    max_length: PositiveInt = 256
    """Tokens of a text that the network reads."""
    truncation: Literal["head", "tail"] = "head"
    """Which end of a text that is too long is read."""
    head: Literal["auto", "native", "pooled"] = "auto"
    """native: the head of the library's own class; pooled: a linear head on pooled states."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """How states are pooled under a pooled head; null: mean for encoders, last for decoders."""


class TextClassification(Task):
    """Classify or rate texts with any encoder or decoder of transformers."""

    name = "text-classification"
    Config = TextClassificationConfig
    config: TextClassificationConfig

    targets_: Targets
    head_: str
    pooling_: str
    tokenizer_: Any = None

    # ---- what is known before a network is loaded

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        config, notes = self.config, []
        if isinstance(config.text, list):
            found = [find_column(name, "text", columns, (), ()) for name in config.text]
            text: str | list[str] = [name for name, _ in found]
        else:
            prose = [name for name in prose_columns(columns) if name != config.label]
            text, note = find_column(config.text, "text", columns, TEXT_NAMES, prose)
            notes += [note] if note else []
        taken = {*([text] if isinstance(text, str) else text), "file"}
        rest = {k: v for k, v in columns.items() if k not in taken or k == config.label}
        others = [name for name, values in rest.items() if not counts_rows(values)]
        label, note = find_column(config.label, "label", rest, LABEL_NAMES, others)
        notes += [note] if note else []
        kind = config.kind or kind_of_values(columns[label])
        if config.kind is None and kind != "single":
            notes.append(f"kind: {kind}, by the values of column {label!r}")
        self.config = config.model_copy(update={"text": text, "label": label, "kind": kind})
        return notes

    def validate(self, row: Row) -> Iterator[str]:
        for column, text in zip(self.input_columns(), self._texts(row), strict=True):
            if not isinstance(text, str):
                yield f"{column} is {text!r}, not text"
            elif not text.strip():
                yield f"{column} is empty"
        if self.config.label not in row:
            return  # a row to predict
        label = row[self.config.label]
        if self.config.kind == "number":
            if parse_number(label) is None:
                yield f"{self.config.label} is {label!r}, not a number"
        elif self.config.kind == "single" and (label is None or not str(label).strip()):
            yield f"{self.config.label} is missing"
        elif self.tokenizer_ is not None:  # after setup the labels are known
            for name in self.targets_.unseen(label):
                yield f"{self.config.label} is {name!r}, which no row of train has"

    def input_columns(self) -> list[str]:
        text = self.config.text or "text"
        return [text] if isinstance(text, str) else text

    def identity(self, row: Row) -> Any:
        return tuple(self._texts(row))

    def truth(self, row: Row) -> Any:
        return row[self.config.label or ""]

    def stratum(self, row: Row) -> Any:
        value = row[self.config.label or ""]
        if self.config.kind == "number":
            return None
        if self.config.kind == "several":
            return tuple(split_labels(value, self.config.delimiter))
        return str(value)

    def row_of(self, value: Any) -> Row:
        columns = self.input_columns()
        values = [value] if isinstance(value, str) else list(value)
        if len(values) != len(columns):
            raise DataError(
                f"{self.name}: {value!r} does not fit the columns {', '.join(columns)}; give dicts"
            )
        return dict(zip(columns, values, strict=True))

    # ---- learning labels, loading what encodes

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return KINDS[self.config.kind or "single"].metric

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        self.targets_ = learn_targets(self.config, train)
        network = from_pretrained("AutoConfig", source)
        self.tokenizer_ = load_tokenizer(source)
        return [*self._settle_head(kind_of(network), frozen), *self._settle_length(network)]

    def state(self) -> dict[str, Any]:
        return {"targets": self.targets_.state, "head": self.head_, "pooling": self.pooling_}

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        self.targets_ = restore_targets(self.config, state["targets"])
        self.head_, self.pooling_ = state["head"], state["pooling"]
        self.tokenizer_ = load_tokenizer(ModelConfig(name=str(folder)))
        self._set_sides()

    def build_model(self, source: ModelConfig) -> TransferModel:
        names = dict(enumerate(self.targets_.names))
        if self.head_ == "pooled":
            model: TextModel = load_pooled(source, self.pooling_, len(names))
        else:
            model = load_native(
                source,
                num_labels=len(names),
                id2label=names,
                label2id={name: index for index, name in names.items()},
                problem_type=self.targets_.problem_type,
                pad_token_id=self.tokenizer_.pad_token_id,
            )
        if isinstance(self.targets_, Number):
            model.set_scale(self.targets_.state["deviation"], self.targets_.state["mean"])
        return model

    def load_model(self, folder: Path | str) -> TransferModel:
        if self.head_ == "pooled":
            return load_pooled_folder(Path(folder))
        return load_native(ModelConfig(name=str(folder)))

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        self.tokenizer_.save_pretrained(folder)

    # ---- one row through the house

    def lengths(self, rows: Sequence[Row]) -> list[Length]:
        first, *second = zip(*(self._texts(row) for row in rows), strict=True)
        pairs = second[0] if second else None
        return token_lengths(self.tokenizer_, first, pairs, self.config.max_length)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        longest = self.config.max_length
        encoded = self.tokenizer_(*self._texts(row), truncation=True, max_length=longest)
        sample: Sample = {"inputs": dict(encoded)}
        label = row.get(self.config.label or "")
        if label is not None and label != "":
            sample["target"] = self.targets_.target(label)
        return sample

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch: Batch = {}
        if "inputs" in samples[0]:
            inputs = [sample["inputs"] for sample in samples]
            batch["inputs"] = pad(inputs, self.tokenizer_.pad_token_id)
        if all("target" in sample for sample in samples):
            batch["targets"], count = self.targets_.stack([sample["target"] for sample in samples])
            batch["count"] = {"loss": count}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.targets_.loss(outputs, batch["targets"])}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        return {"scores": self.targets_.scores(outputs), "target": batch["targets"]}

    def summarize(self, stats: Stats) -> dict[str, float]:
        return self.targets_.summarize(stats["scores"].numpy(), stats["target"].numpy())

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        return self.targets_.predictions(self.targets_.scores(model(batch).float()).cpu())

    # ---- what is shown, evaluate modules, the confusion matrix

    def show(self, sample: Sample) -> str:
        return " ".join(self.tokenizer_.convert_ids_to_tokens(sample["inputs"]["input_ids"]))

    @property
    def scores_predictions(self) -> bool:
        return bool(self.config.metrics)

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        references = [self.targets_.target(row[self.config.label or ""]) for row in rows]
        answers = [said.get("label", said["score"]) for said in predictions]
        predicted = [self.targets_.target(answer) for answer in answers]
        classes, found = len(self.targets_.names), dict[str, float]()
        for name in self.config.metrics:
            found |= metrics.evaluate_module(name, predicted, references, classes=classes)
        return found

    def report(self, stats: Stats, folder: Path) -> list[Path]:
        if not isinstance(self.targets_, SingleLabel):
            return []
        names, predicted = self.targets_.names, stats["scores"].argmax(1).numpy()
        matrix = metrics.confusion_matrix(predicted, stats["target"].numpy(), len(names))
        return write_confusion(matrix, names, folder)

    # ---- parts

    def _texts(self, row: Row) -> list[Any]:
        return [row.get(column) for column in self.input_columns()]

    def _settle_head(self, kind: str, frozen: bool) -> list[str]:
        self.pooling_ = self.config.pooling or ("last" if kind == "decoder" else "mean")
        if self.config.head != "auto":
            self.head_ = self.config.head
            return []
        self.head_ = "pooled" if frozen or self.config.pooling else "native"
        reason = "the network's own class"
        if self.config.pooling:
            reason = "as task.pooling is set"
        elif frozen:
            reason = f"{self.pooling_} pooling serves a frozen backbone best"
        return [f"head: {self.head_}, {reason}"]

    def _settle_length(self, network: Any) -> list[str]:
        self._set_sides()
        longest = longest_input(self.tokenizer_, network)
        if longest is None or self.config.max_length <= longest:
            return []
        asked = self.config.max_length
        note = f"max_length: {longest}, the most that this network takes, in place of {asked}"
        self.config = self.config.model_copy(update={"max_length": longest})
        return [note]

    def _set_sides(self) -> None:
        self.tokenizer_.truncation_side = "right" if self.config.truncation == "head" else "left"
        self.tokenizer_.padding_side = "right"
