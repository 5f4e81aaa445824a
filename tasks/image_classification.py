"""Image classification: one label, several labels or a number per image.

A row: {"image": "flowers/daisy/1.jpg", "label": "daisy"}; the image may also be bytes, {"bytes",
"path"} or a PIL image.

Shapes: B rows, H, W pixels, C classes (1 for a number).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import DataError
from finetune.model import Batch, TransferModel
from finetune.task_parts.optional_parts import Embedder, Onnx
from finetune.task_parts.rows import Resolved
from finetune.task_parts.samples import Rng, Row, Sample, Stats
from tasks.backbones.load_faults import check_outputs
from tasks.backbones.pretrained import label_keys
from tasks.backbones.vector_heads import hidden_shape, unused_head_notes
from tasks.cells.picture_questions import refuse_picture_questions
from tasks.classification import classification_metrics as metrics
from tasks.classification.label_rows import LabelRows
from tasks.classification.labeled import LabeledTask
from tasks.classification.targets import (
    Number,
    SingleLabel,
    restore_targets,
)
from tasks.image.augmentation import Augmentation, mix
from tasks.image.image_config import is_active, settle_augmentation
from tasks.image.image_reading import find_fault
from tasks.image.image_views import ImageViews
from tasks.image.picture_rows import RGB, PictureRows
from tasks.image.preprocessing import (
    INPUT,
    Preprocessing,
    channel_keys,
    save_processor,
)
from tasks.image_formats.hidden_classes import check_class_folders
from tasks.image_formats.image_classification_config import ImageClassificationConfig

if TYPE_CHECKING:  # timm and transformers take seconds to import; configs do not need them
    from tasks.backbones.vision_models import VisionModel
    from tasks.backbones.vision_sources import VisionSource

TOP = 5


class ImageLabelRows(PictureRows, LabelRows):
    """Rows with an image and a label."""

    config: ImageClassificationConfig

    def resolve(
        self, columns: Mapping[str, Sequence[Any]], *, with_targets: bool = True
    ) -> Resolved:
        if with_targets and self.config.label is None and columns.keys() == {"image", "file"}:
            raise DataError(
                f"task.label: the images have no labels (such as {columns['file'][0]!r}, in no "
                "folder of a class); move each into the folder of its class, or give a table of "
                "their names and labels; a label in the name of a file is read by "
                "data.map=file.py:function"
            )
        if with_targets and self.config.image is None:
            refuse_picture_questions(columns)
        keys, notes = LabelRows.resolve(self, columns, with_targets=with_targets)
        if with_targets and self.config.label is None:
            check_class_folders(columns, keys["image"], keys["label"])
        if with_targets:
            return Resolved(keys, notes)
        # Rows to embed have no training set from which the range of their pixels is learned.
        valid = ({keys["image"]: cell} for cell in columns[keys["image"]] if not find_fault(cell))
        pixels = type(self)(self.config.model_copy(update=keys)).settle_pixels(valid)
        return Resolved(keys | pixels.keys, notes + pixels.notes)

    def validate(self, row: Row) -> Iterator[str]:
        yield from PictureRows.validate(self, row)
        yield from LabelRows.validate(self, row)


class ImageClassification(LabeledTask):
    """Classify or rate images with any network of timm or transformers."""

    name = "image-classification"
    Config = ImageClassificationConfig
    config: ImageClassificationConfig
    resolved_: ImageClassificationConfig

    preprocessing_: Preprocessing
    processor_: dict[str, Any] | None
    """Config of the image processor; None for a timm network."""
    source_: VisionSource
    augmentation_: Augmentation | None

    @property
    def rows(self) -> ImageLabelRows:
        rows = ImageLabelRows(self.resolved_, self.targets_.state if self.targets_ else {})
        rows.is_trained = hasattr(self, "preprocessing_")
        return rows

    @property
    def views(self) -> ImageViews:
        return ImageViews(self)

    @property
    def onnx(self) -> Onnx:
        return Onnx(axes=("batch",))

    @property
    def embedder(self) -> Embedder:
        return Embedder(self._build_embedder)

    # ---- learned state, and the network

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        notes = self.learn(train)
        self._settle_source(source)
        pixels = self.rows.settle_pixels(train)
        keys, note = settle_augmentation(self.resolved_, frozen=frozen)
        self.settle(pixels.keys | keys)
        self._set_augmentation()
        texts = (self.source_.note, self._describe_input(), *pixels.notes, note)
        return [*notes, *filter(None, texts)]

    def state(self) -> dict[str, Any]:
        return {
            "targets": self.targets.state,
            "preprocessing": self.preprocessing_.state(),
            "processor": self.processor_,
        }

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        self.targets_ = restore_targets(self.resolved_, state["targets"])
        self.preprocessing_ = Preprocessing.from_state(state["preprocessing"])
        self.processor_ = state["processor"]
        self._set_augmentation()

    def build_model(self, source: ModelConfig) -> TransferModel:
        from tasks.backbones.vision_sources import build_vision_model

        names = self.targets.names
        model = build_vision_model(
            self.source_,
            names,
            hidden_shape(self.resolved_),
            **label_keys(names),
            problem_type=self.targets.problem_type,
        )
        model.notes += unused_head_notes(source.name)
        if isinstance(self.targets, Number):
            model.set_scale(self.targets.state["deviation"], self.targets.state["mean"])
        return model

    def load_model(self, source: ModelConfig) -> VisionModel:
        from tasks.backbones.vision_sources import load_vision_model

        model = load_vision_model(source, self.preprocessing_)
        check_outputs(model.outputs, self.targets.names, source)
        if isinstance(self.targets, Number):
            model.keep_last_layer_precise()
        return model

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        save_processor(self.processor_, folder)

    # ---- from a row to a prediction

    @property
    def augments(self) -> bool:
        return is_active(self.resolved_)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        augmentation = self.augmentation_ if rng is not None else None
        decoded = self.rows.pixels(row, None if augmentation is None else augmentation.enough)
        image = torch.from_numpy(decoded).permute(2, 0, 1)  # uint8 [C, H, W]
        if rng is not None and augmentation is not None:
            pixels = augmentation(image.contiguous(), rng)
        else:
            pixels = self.preprocessing_.normalize(self.preprocessing_.fit(image))
        return self.with_target({"inputs": {INPUT: pixels}}, row)

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch = self.with_targets({}, samples)
        if "inputs" not in samples[0]:
            return batch
        images = torch.stack([sample["inputs"][INPUT] for sample in samples])  # [B, 3, H, W]
        if rng is not None and "targets" in batch:
            images, mixed = mix(images, self.resolved_, rng)
            if mixed is not None:
                batch["mix"] = {
                    "targets": batch["targets"][mixed.partners],
                    "share": torch.tensor(mixed.share),
                }
        batch["inputs"] = {INPUT: images}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        losses = super().loss(outputs, batch)
        if "mix" not in batch:
            return losses
        # Every row is a partner exactly once, so the count is the same as without mixing.
        share = batch["mix"]["share"]
        partner_loss = self.targets.loss(outputs, batch["mix"]["targets"])
        return {"loss": losses["loss"] * share + partner_loss * (1 - share)}

    def summarize(self, stats: Stats) -> dict[str, float]:
        results = super().summarize(stats)
        if isinstance(self.targets, SingleLabel) and len(self.targets.names) > TOP:
            scores, targets = stats["scores"].numpy(), stats["target"].numpy()
            results["top5_accuracy"] = metrics.top_accuracy(scores, targets, TOP)
        return results

    def _build_embedder(self, source: ModelConfig) -> TransferModel:
        from tasks.backbones.vision_sources import build_vision_model

        self._settle_source(source)
        self.augmentation_ = None
        return build_vision_model(self.source_, ["none"], num_labels=1)

    def _settle_source(self, source: ModelConfig) -> None:
        from tasks.backbones.vision_sources import find_source

        config = self.resolved_
        self.source_ = find_source(source, config.image_size, config.center_crop, config.channels)
        self.preprocessing_ = self.source_.preprocessing
        self.settle(channel_keys(self.preprocessing_))
        self.processor_ = dict(self.source_.processor) if self.source_.processor else None

    def _set_augmentation(self) -> None:
        active = self.augments
        self.augmentation_ = Augmentation(self.resolved_, self.preprocessing_) if active else None

    def _describe_input(self) -> str:
        height, width = self.preprocessing_.size
        edge, interpolation = self.preprocessing_.edge, self.preprocessing_.interpolation
        crop = f"center crop after resizing the shorter side to {edge}"
        fit = "stretched" if edge is None else crop
        channels = self.preprocessing_.channels
        count = f" of {channels} channel{'s' if channels > 1 else ''}" if channels != RGB else ""
        return f"input: {height} x {width} pixels{count}, {fit}, {interpolation}"
