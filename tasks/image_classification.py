"""Image classification: one label, several labels or a number for a picture.

A row: {"image": "flowers/daisy/1.jpg", "label": "daisy"}; the image may also be bytes, {"bytes",
"path"} or a PIL image.

Shapes: B rows, H, W pixels, C classes (1 for a number).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.model import Batch, TransferModel
from finetune.task import About, Picture, Rng, Row, Sample, Stats
from tasks.backbones.pretrained import label_keys
from tasks.backbones.vector_heads import hidden_shape
from tasks.classification import classification_metrics as metrics
from tasks.classification import classifier_code as usage
from tasks.classification.label_config import TargetConfig
from tasks.classification.labelled import LabelledTask
from tasks.classification.targets import (
    Number,
    SingleLabel,
    label_remarks,
    learn_targets,
    restore_targets,
)
from tasks.image.augmentation import (
    Augmentation,
    AugmentationConfig,
    is_active,
    mix,
    settle_augmentation,
)
from tasks.image.image_reading import MAX_PIXELS
from tasks.image.picture_task import PictureTask
from tasks.image.preprocessing import INPUT, Preprocessing, as_seen, to_tensor, to_timm

if TYPE_CHECKING:  # timm and transformers take seconds to import, which no config needs
    from tasks.backbones.vision_models import VisionModel
    from tasks.backbones.vision_sources import VisionSource

TOP = 5


class ImageClassificationConfig(TargetConfig, AugmentationConfig):
    """What is read from a row and what is made of it."""

    name: str = "image-classification"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: found."""
    image_size: PositiveInt | None = None
    """Pixels of the square input; null: what the network was trained with."""
    center_crop: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a picture's shorter side that is read; 1: all of it, where what matters reaches the
    borders; null: what the network was trained with.
    """
    max_pixels: PositiveInt = MAX_PIXELS
    """A picture with more is refused, for it may be made to fill the memory."""


class ImageClassification(PictureTask, LabelledTask):
    """Classify or rate pictures with any network of timm, or of transformers."""

    name = "image-classification"
    export_axes = ("batch",)
    Config = ImageClassificationConfig
    config: ImageClassificationConfig

    preprocessing_: Preprocessing
    source_: VisionSource
    augmentation_: Augmentation | None

    # ---- what is known before a network is loaded

    def validate(self, row: Row) -> Iterator[str]:
        yield from self.image_faults(row)
        yield from self.label_faults(row)

    # ---- learning labels, loading what encodes

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        self.targets_ = learn_targets(self.config, train)
        self._settle_source(source)
        keys, note = settle_augmentation(self.config, frozen=frozen)
        self.config = self.config.model_copy(update=keys)
        self._set_augmentation()
        notes = label_remarks(self.config, self.targets_.names)
        return [*notes, *filter(None, (self.source_.note, self._describe_input(), note))]

    def state(self) -> dict[str, Any]:
        return {
            "targets": self.targets_.state,
            "preprocessing": self.preprocessing_.state(),
            "processor": self.processor_,
        }

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        self.targets_ = restore_targets(self.config, state["targets"])
        self.preprocessing_ = Preprocessing.from_state(state["preprocessing"])
        self.processor_ = state["processor"]
        self._set_augmentation()

    def build_model(self, source: ModelConfig) -> TransferModel:
        from tasks.backbones.vision_sources import build

        names = self.targets_.names
        model = build(
            self.source_,
            names,
            hidden_shape(self.config),
            **label_keys(names),
            problem_type=self.targets_.problem_type,
        )
        if isinstance(self.targets_, Number):
            model.set_scale(self.targets_.state["deviation"], self.targets_.state["mean"])
        return model

    def load_model(self, folder: Path | str) -> VisionModel:
        from tasks.backbones.vision_sources import load_folder

        return load_folder(self.saved(folder), self.preprocessing_)

    # ---- one row through the house

    @property
    def augments(self) -> bool:
        return is_active(self.config)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        picture = self.picture_of(row)
        if rng is not None and self.augmentation_ is not None:
            pixels = self.augmentation_(to_tensor(picture), rng)
        else:
            pixels = self.preprocessing_.normalize(self.preprocessing_.fit(as_seen(picture)))
        return self.with_target({"inputs": {INPUT: pixels}}, row)

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        batch = self.with_targets({}, samples)
        if "inputs" not in samples[0]:
            return batch
        images = torch.stack([sample["inputs"][INPUT] for sample in samples])  # [B, 3, H, W]
        if rng is not None and "targets" in batch:
            images, mixed = mix(images, self.config, rng)
            if mixed is not None:
                batch["mix"] = {
                    "targets": batch["targets"][mixed.partners],
                    "share": torch.tensor(mixed.share),
                }
        batch["inputs"] = {INPUT: images}
        return batch

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        own = super().loss(outputs, batch)
        if "mix" not in batch:
            return own
        # Every row is a partner once, so the count stays what it is without mixing.
        share = batch["mix"]["share"]
        others = self.targets_.loss(outputs, batch["mix"]["targets"])
        return {"loss": own["loss"] * share + others * (1 - share)}

    def summarize(self, stats: Stats) -> dict[str, float]:
        found = super().summarize(stats)
        if isinstance(self.targets_, SingleLabel) and len(self.targets_.names) > TOP:
            scores, targets = stats["scores"].numpy(), stats["target"].numpy()
            found["top5_accuracy"] = metrics.top_accuracy(scores, targets, TOP)
        return found

    def build_embedder(self, source: ModelConfig) -> TransferModel:
        from tasks.backbones.vision_sources import build

        self._settle_source(source)
        self.augmentation_ = None
        return build(self.source_, ["none"], num_labels=1)

    def about(self, model: TransferModel) -> About:
        kind = self.targets_.problem_type
        blanks = {
            "labels": self.targets_.names,
            "several": ", top_k=None" if kind == "multi_label_classification" else "",
            "activation": usage.ACTIVATIONS[kind],
            "preprocessing": self.processor_ or to_timm(self.preprocessing_),
        }
        if self.config.head_hidden:
            blanks["place"] = model.heads[0]
            blanks["scores"] = usage.scores(usage.ACTIVATIONS[kind], self.config.head_hidden)
            code = usage.HIDDEN_IMAGE if self.processor_ else usage.HIDDEN_TIMM_IMAGE
            return About(self.name, code=usage.fill(code, **blanks), base=self._base_on_hub(model))
        if self.processor_ is not None:
            code, adapted = usage.IMAGE, usage.ADAPTED_IMAGE
            return About(
                self.name, "transformers", usage.fill(code, **blanks), usage.fill(adapted, **blanks)
            )
        code, adapted = (
            usage.fill(code, **blanks) for code in (usage.TIMM_IMAGE, usage.ADAPTED_TIMM_IMAGE)
        )
        return About(self.name, "timm", code, adapted, base=self._base_on_hub(model))

    def pictures(self, batch: Batch) -> list[Picture]:
        said = [self.targets_.describe(target) for target in batch["targets"].tolist()]
        if "mix" in batch:
            own = round(100 * float(batch["mix"]["share"]))
            others = map(self.targets_.describe, batch["mix"]["targets"].tolist())
            said = [f"{a} {own}%, {b}" for a, b in zip(said, others, strict=True)]
        pixels = map(self.preprocessing_.restore, batch["inputs"][INPUT].cpu())
        shown = [picture.permute(1, 2, 0).numpy() for picture in pixels]
        return list(map(Picture, said, shown))

    # ---- parts

    def _settle_source(self, source: ModelConfig) -> None:
        from tasks.backbones.vision_sources import find_source

        self.source_ = find_source(source, self.config.image_size, self.config.center_crop)
        self.preprocessing_ = self.source_.preprocessing
        self.processor_ = dict(self.source_.processor) if self.source_.processor else None

    def _base_on_hub(self, model: TransferModel) -> str | None:
        """The hub id of an architecture of timm with its own weights."""
        source = self.source_.model if hasattr(self, "source_") else None
        if source is None or not source.name.startswith("timm/"):
            return None
        config: Any = model.network.pretrained_cfg
        return "" if source.weights else str(config.get("hf_hub_id") or "")

    def _set_augmentation(self) -> None:
        active = self.augments
        self.augmentation_ = Augmentation(self.config, self.preprocessing_) if active else None

    def _describe_input(self) -> str:
        held = self.preprocessing_
        height, width = held.size
        edge = "squeezed" if held.edge is None else f"central crop of {held.edge} pixels"
        return f"input: {height} x {width} pixels, {edge}, {held.interpolation}"
