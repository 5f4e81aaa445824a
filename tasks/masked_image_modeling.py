"""Masked image modeling: adapt a vision network to the images of a domain, without labels.

A row: {"image": "scans/0001.png"}

Shapes: B rows, C channels, H, W pixels, P, Q patches of an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import ConfigError, ModelError
from finetune.io.references import resolve_model
from finetune.model import Batch, TransferModel
from finetune.task import Task
from finetune.task_parts.samples import Prediction, Rng, Row, Sample, Stats
from tasks.backbones.vision_sources import VisionSource, create_timm, find_source
from tasks.image.augmentation import Augmentation
from tasks.image.image_config import settle_augmentation
from tasks.image.picture_rows import PictureRows
from tasks.image.preprocessing import Preprocessing, channel_keys, save_processor, to_timm
from tasks.pretraining.autoencoders import DECODER_FILE, AutoencoderModel
from tasks.pretraining.masked_image_config import WHOLE_IMAGE_PRESETS, MaskedImageModelingConfig
from tasks.pretraining.masked_image_views import MaskedImageViews
from tasks.pretraining.patch_masking import PatchMasking, choose_side, enlarge
from tasks.pretraining.pixel_models import (
    MASKED,
    READ,
    check_image_network,
    encoder_stride,
    load_masked_image_folder,
    load_masked_image_model,
)
from tasks.pretraining.word_masking import content_rng

TIMM_STRIDE = 32  # of the last feature map of most networks, in pixels


class MaskedImageModeling(Task):
    """Reconstruction of masked patches, with networks of transformers and timm."""

    name = "masked-image-modeling"
    Config = MaskedImageModelingConfig
    config: MaskedImageModelingConfig
    metric = ("rmse", "min")
    resolved_: MaskedImageModelingConfig

    preprocessing_: Preprocessing
    processor_: dict[str, Any] | None
    """Config of the image processor; None for a timm network."""
    source_: VisionSource
    augmentation_: Augmentation
    masking_: PatchMasking

    @property
    def rows(self) -> PictureRows:
        rows = PictureRows(self.resolved_)
        rows.is_trained = hasattr(self, "preprocessing_")
        return rows

    @property
    def views(self) -> MaskedImageViews:
        return MaskedImageViews(self)

    # ---- learned state, and the network

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        config = self.resolved_
        self.source_ = find_source(source, config.image_size, config.center_crop, config.channels)
        self.preprocessing_ = self.source_.preprocessing
        self.processor_ = dict(self.source_.processor) if self.source_.processor else None
        if config.code_size is not None and self.processor_ is not None:
            raise ConfigError(
                "task.code_size: the decoders of transformers read the last feature map; remove "
                "the key, or use a network of timm"
            )
        if not config.mask_ratio and self.processor_ is not None and not config.noise:
            raise ConfigError(
                "task.mask_ratio=0: a network of transformers is trained by its masks; raise it, "
                "or use a network of timm"
            )
        pixels = self.rows.settle_pixels(train)
        keys, note = settle_augmentation(config, frozen=frozen, presets=WHOLE_IMAGE_PRESETS)
        keys["mask_patch"] = self._mask_side(source)
        self.settle(channel_keys(self.preprocessing_) | pixels.keys | keys)
        self._set_up()
        return [*filter(None, (self.source_.note, *pixels.notes, note, self._describe_masks()))]

    def _mask_side(self, source: ModelConfig) -> int:
        """Return the side of masked patches. Networks of timm see masks as pixels of mean color."""
        patch, stride = 1, TIMM_STRIDE
        if self.processor_ is not None:
            network = check_image_network(source)
            patch, stride = network.patch_size, encoder_stride(network)
        return choose_side(self.preprocessing_.size, patch, stride, self.resolved_.mask_patch)

    def _describe_masks(self) -> str:
        config, (height, width) = self.resolved_, self.preprocessing_.size
        noise = f", with noise of {config.noise:g}" if config.noise else ""
        if not config.mask_ratio:
            return f"reconstruction: the whole image of {height} x {width} pixels{noise}"
        side = self.masking_.side
        return (
            f"masks: {config.mask_ratio:.0%} of {height // side} x {width // side} patches of "
            f"{side} x {side} pixels{noise}"
        )

    def state(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing_.state(), "processor": self.processor_}

    def restore(self, state: Mapping[str, Any], source: ModelConfig) -> None:
        self.preprocessing_ = Preprocessing.from_state(state["preprocessing"])
        self.processor_ = state["processor"]
        self._set_up()

    def _set_up(self) -> None:
        config = self.resolved_
        self.augmentation_ = Augmentation(config, self.preprocessing_)
        assert config.mask_patch is not None, "setup settles it"
        self.masking_ = PatchMasking(config.mask_patch, config.mask_ratio, config.noise)

    def build_model(self, source: ModelConfig) -> TransferModel:
        if self.processor_ is not None:
            return load_masked_image_model(source, self.preprocessing_.size)
        # A file of weights is matched with its classifier, which is then taken off.
        has_classifier = source.weights is not None
        encoder = create_timm(self.source_, int(has_classifier), classifies=False)
        if has_classifier:
            encoder.reset_classifier(0)
        encoder.pretrained_cfg.update(to_timm(self.preprocessing_))
        model = self._autoencoder(encoder, base=resolve_model(source.name))
        if model.load_decoder(Path(model.base)):
            model.notes.append("decoder: kept from the checkpoint")
        return model

    def load_model(self, source: ModelConfig) -> TransferModel:
        if self.processor_ is not None:
            return load_masked_image_folder(source, self.preprocessing_.size)
        encoder = timm.create_model(f"local-dir:{source.name}", pretrained=True, num_classes=0)
        model = self._autoencoder(encoder)
        if not model.load_decoder(Path(source.name)):
            raise ModelError(
                f"{Path(source.name) / DECODER_FILE}: missing, or of another network; copy the "
                "model here again from an intact source"
            )
        return model

    def _autoencoder(self, encoder: Any, base: str = "") -> AutoencoderModel:
        preprocessing = self.preprocessing_
        shape = preprocessing.size, preprocessing.channels
        return AutoencoderModel(encoder, *shape, self.resolved_.code_size, base)

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        save_processor(self.processor_, folder)

    # ---- from a row to a prediction

    @property
    def augments(self) -> bool:
        return True

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        decoded = self.rows.pixels(row, None if rng is None else self.augmentation_.enough)
        image = torch.from_numpy(decoded).permute(2, 0, 1)  # uint8 [C, H, W]
        if rng is not None:
            pixels = self.augmentation_(image.contiguous(), rng)
        else:
            pixels = self.preprocessing_.normalize(self.preprocessing_.fit(image))
            rng = content_rng(pixels.numpy())
        masked = self.masking_.draw((pixels.shape[1], pixels.shape[2]), rng)
        read = self.masking_.corrupt(pixels, masked, rng)
        return {"inputs": {READ: read, MASKED: masked}, "target": pixels}

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        inputs = {
            name: torch.stack([sample["inputs"][name] for sample in samples])
            for name in (READ, MASKED)
        }
        batch: Batch = {"inputs": inputs}
        if all("target" in sample for sample in samples):
            batch["targets"] = torch.stack([sample["target"] for sample in samples])
            values = self._measured(batch).sum() * self.preprocessing_.channels
            batch["count"] = {"loss": values.float()}
        return batch

    def _measured(self, batch: Batch) -> Tensor:
        """Return the pixels to reconstruct, bool [B, 1, H, W]: the masked ones, or all of them."""
        masked = enlarge(batch["inputs"][MASKED], self.masking_.side).unsqueeze(1)
        return masked if self.resolved_.mask_ratio else torch.ones_like(masked)

    def loss(self, outputs: Tensor, batch: Batch) -> dict[str, Tensor]:
        errors = (outputs - batch["targets"]) * self._measured(batch)
        values = errors.abs() if self.resolved_.pixel_loss == "l1" else errors.square()
        return {"loss": values.sum()}

    def measure(self, outputs: Tensor, batch: Batch) -> Stats:
        """Return sums over the reconstructed pixels, as values of 0 to 1."""
        measured, targets = self._measured(batch), batch["targets"]
        mean, std = (
            torch.tensor(values, device=targets.device)[:, None, None] / self._white
            for values in (self.preprocessing_.mean, self.preprocessing_.std)
        )
        errors = (outputs - targets) * std * measured
        pixels = (targets * std + mean) * measured  # [B, C, H, W]
        count = measured.sum((1, 2, 3))
        return {
            "absolute": errors.abs().sum((1, 2, 3)),
            "squared": errors.square().sum((1, 2, 3)),
            "values": count * targets.shape[1],
            "pixels": count,
            "sums": pixels.sum((2, 3)),  # [B, C]
            "squares": pixels.square().sum((2, 3)),
        }

    @property
    def _white(self) -> float:
        """Value of a white pixel before mean and standard deviation are applied, mostly 1."""
        return 255 * self.preprocessing_.scale

    def summarize(self, stats: Stats) -> dict[str, float]:
        """Return errors in pixel values of 0 to 1, and the explained share of their variance."""
        totals = {name: value.double().sum(0) for name, value in stats.items()}
        squared = float(totals["squared"])
        variation = float((totals["squares"] - totals["sums"].square() / totals["pixels"]).sum())
        values = float(totals["values"])
        return {
            "rmse": math.sqrt(squared / values),
            "mae": float(totals["absolute"]) / values,
            "r2": 1 - squared / variation if variation else 0.0,
        }

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        """Return the reconstruction of each image, a PNG in base64, and its error if it is known.

        Pixels that the network saw are those of the image where others were masked.
        """
        outputs = model(batch).float()
        errors: list[float | None] = [None] * len(outputs)
        if "targets" in batch:
            stats = self.measure(outputs, batch)
            errors = (stats["squared"] / stats["values"]).sqrt().tolist()
            outputs = torch.where(self._measured(batch), outputs, batch["targets"])
        pictures = map(self.views.encode_picture, outputs.cpu())
        return [
            {"rmse": error, "reconstruction": picture}
            for error, picture in zip(errors, pictures, strict=True)
        ]
