"""check_task names every promise that a task breaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from finetune.config.schema import ModelConfig
from finetune.model import Batch, TransferModel
from finetune.task_parts.samples import Length, Prediction, Rng, Row, Sample, Stats
from finetune.task_parts.views import Outcome
from finetune.testing import check_task
from tasks import TextClassification
from tasks.text.text_rows import TextRows
from tasks.text.text_views import TextViews
from tests.support.tiny_models import text_rows

ROWS = text_rows(6)


def test_check_task_passes_a_correct_task(bert_folder: Path) -> None:
    check_task(TextClassification(), ROWS, str(bert_folder))


class MeanLoss(TextClassification):
    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": super().loss(outputs, batch)["loss"] / len(outputs)}


class MeanCount(TextClassification):
    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch = super().collate(samples, rng)
        return batch | ({"count": {"loss": torch.tensor(1.0)}} if "count" in batch else {})


class OtherTerms(TextClassification):
    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"cross_entropy": super().loss(outputs, batch)["loss"]}


class LossPerRow(TextClassification):
    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"loss": super().loss(outputs, batch)["loss"].expand(len(outputs))}


class NondeterministicEncoding(TextClassification):
    calls = count(5)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        sample = super().encode(row, rng)
        sample["inputs"]["input_ids"][1] = next(self.calls)
        return sample


class GlobalAugmentation(TextClassification):
    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        sample = super().encode(row, rng)
        if rng is not None:  # draws from the global generator instead of rng
            sample["inputs"]["input_ids"][1] = 5 + int(torch.randint(30, ()))
        return sample


class ZeroLengths(TextClassification):
    def lengths(self, rows: Sequence[Row], *, predicting: bool = False) -> list[Length]:
        return [Length(0) for _ in rows]


class RejectingRows(TextRows):
    def validate(self, row: Row) -> Any:
        yield f"{row['text'][:9]}... is not literature"


class RejectsValidRows(TextClassification):
    @property
    def rows(self) -> TextRows:
        return RejectingRows(self.resolved_)


class ChangedConfig(TextClassification):
    def setup(self, *args: Any, frozen: bool) -> list[str]:
        self.config = self.config.model_copy(update={"max_length": 9})
        return super().setup(*args, frozen=frozen)


class CollateNeedsModel(TextClassification):
    padding: int

    def build_model(self, source: ModelConfig) -> TransferModel:
        model = super().build_model(source)
        self.padding = model.network.config.pad_token_id
        return model

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        assert hasattr(self, "padding"), "the model was not built"
        return super().collate(samples, rng)


class UnseenTrainingRows(TextClassification):
    def unseen(self, row: Row) -> Any:
        yield "a label that does not occur in train"


class MissingBlock(TextClassification):
    def build_model(self, source: ModelConfig) -> TransferModel:
        model = super().build_model(source)
        del model.blocks[1]
        return model


class LoraOnHead(TextClassification):
    def build_model(self, source: ModelConfig) -> TransferModel:
        model = super().build_model(source)
        model.lora_targets.append("classifier")
        return model


class UnusedLayer(TextClassification):
    def build_model(self, source: ModelConfig) -> TransferModel:
        model = super().build_model(source)
        model.network.classifier.spare = nn.Linear(2, 2)
        return model


class WiderInTraining(TextClassification):
    def build_model(self, source: ModelConfig) -> TransferModel:
        model = super().build_model(source)
        original = model.forward
        model.forward = lambda batch: [original(batch)] * (1 + model.training)  # type: ignore[method-assign]
        return model

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        return super().loss(outputs[0], batch)

    def measure(self, outputs: Any, batch: Batch) -> Stats:
        return super().measure(outputs[0], batch)


class OtherFeatures(TextClassification):
    def build_model(self, source: ModelConfig) -> TransferModel:
        model = super().build_model(source)
        original = model.features
        model.features = lambda inputs: {"pooled": 2 * original(inputs)["pooled"]}  # type: ignore[method-assign]
        model.logits = lambda batch: model.network.head(  # type: ignore[attr-defined]
            (batch["features"] if "features" in batch else original(batch["inputs"]))["pooled"]
        )
        return model


class ReducedStatistics(TextClassification):
    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        return {name: value[:1] for name, value in super().measure(outputs, batch).items()}


class OtherMetric(TextClassification):
    metric = ("f2", "max")


class TensorAsMetric(TextClassification):
    def summarize(self, stats: Stats) -> dict[str, float]:
        return {"accuracy": torch.tensor(0.5)}  # type: ignore[dict-item]


class SinglePrediction(TextClassification):
    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        return super().predict(model, batch)[:1]


class FewerOutcomes(TextClassification):
    @property
    def views(self) -> TextViews:
        class Shorter(TextViews):
            def outcomes(self, *arguments: Any) -> list[Outcome]:
                return super().outcomes(*arguments)[1:]

        return Shorter(self)


class PredictionNeedsLabel(TextClassification):
    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        return super().predict(model, batch)[: len(batch.get("targets", ()))]


class ReloadLosesHead(TextClassification):
    def load_model(self, source: ModelConfig) -> TransferModel:
        model = super().load_model(source)
        nn.init.ones_(model.network.classifier.weight)
        return model


class RestoreLosesTruncation(TextClassification):
    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        super().restore(state, source)
        self.tokenizer_.truncation_side = "left"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (MeanLoss(), "it must be a sum"),
        (MeanCount(), "count 'loss' must be a sum"),
        (OtherTerms(), "loss and count have different terms"),
        (LossPerRow(), "a loss term must be a float32 scalar"),
        (NondeterministicEncoding(), "encode without rng is random"),
        (GlobalAugmentation(), "encode draws random numbers from another source than its rng"),
        (ZeroLengths(), "lengths returns a `used` below 1"),
        (RejectsValidRows(), "validate rejects a valid row: .* is not literature"),
        (ChangedConfig(), "task.config was changed"),
        (CollateNeedsModel(), "the model was not built"),
        (UnseenTrainingRows(), "unseen reports a row that setup has seen"),
        (MissingBlock(), "belongs to no block or head"),
        (LoraOnHead(), "lora_targets contains classifier, which is part of a head"),
        (UnusedLayer(), "these parameters get no gradient.*classifier.spare"),
        (WiderInTraining(), "outputs differ in shape"),
        (OtherFeatures(head="pooled"), "outputs from cached features differ from live ones"),
        (ReducedStatistics(), "must have the batch axis first"),
        (OtherMetric(), "summarize does not return 'f2'"),
        (TensorAsMetric(), "metrics must be floats"),
        (SinglePrediction(), "predict does not return one prediction per sample"),
        (FewerOutcomes(), "outcomes does not return one outcome per row"),
        (PredictionNeedsLabel(), "rows without a label cannot be predicted"),
        (ReloadLosesHead(), "the outputs of the reloaded model differ"),
        (RestoreLosesTruncation(max_length=8), "a restored task encodes rows differently"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, TextClassification) else "",
)
def test_check_task_names_the_broken_promise(
    task: TextClassification, message: str, bert_folder: Path
) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=message):
        check_task(task, ROWS, str(bert_folder))


def test_check_task_requires_four_rows(bert_folder: Path) -> None:
    with pytest.raises(AssertionError, match="at least 4 rows"):
        check_task(TextClassification(), ROWS[:3], str(bert_folder))
