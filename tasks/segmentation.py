"""Semantic segmentation: a class for every pixel of a picture.

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png"}; either may also be bytes,
{"bytes", "path"} or a PIL image. A mask may be given as the objects of a COCO row instead.

Shapes: B rows, H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from finetune.config.schema import ModelConfig
from finetune.errors import DataError
from finetune.model import Batch, TransferModel
from finetune.task import About, Picture, Prediction, Rng, Row, Sample, Stats
from tasks.annotations.mask_folders import read_masks
from tasks.classification.label_columns import find_column
from tasks.image import tiles
from tasks.image.augmentation import is_active, settle_augmentation
from tasks.image.image_reading import looks_like_image, path_of, picture_size
from tasks.image.joint_augmentation import JOINT_PRESETS, JointAugmentation, Scene
from tasks.image.picture_task import PictureTask
from tasks.image.preprocessing import INPUT, Preprocessing, to_processor, to_tensor
from tasks.masks import mask_losses as losses
from tasks.masks.mask_coding import MaskCoding
from tasks.masks.mask_reader import MASK_NAMES, MaskReader, check_masks
from tasks.masks.segmentation_code import code_of
from tasks.masks.segmentation_config import SegmentationConfig
from tasks.masks.segments import decide, draw_prediction, mask_picture, segments, to_pipeline

if TYPE_CHECKING:  # timm and transformers take seconds to import, which no config needs
    from tasks.backbones.vision_sources import VisionSource
    from tasks.masks.segmentation_models import SegmentationModel


class Segmentation(PictureTask):
    """Class every pixel with any encoder of timm, or a segmentation network of transformers."""

    name = "segmentation"
    export_axes = ("batch",)
    Config = SegmentationConfig
    config: SegmentationConfig

    unused_: Sequence[str] = ()
    """What `read` left out."""
    coding_: MaskCoding
    weights_: Tensor | None
    preprocessing_: Preprocessing
    source_: VisionSource
    augmentation_: JointAugmentation

    # ---- what is known before a network is loaded

    def read(self, path: Path, format: str) -> Mapping[str, Sequence[Row]] | None:
        found = read_masks(path, format)
        if found is None:
            return None
        if self.config.labels is None and found.legend:
            self.config = self.config.model_copy(update={"labels": found.legend})
        self.unused_ = [*self.unused_, *found.notes]
        return found.splits

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        notes = self.choose_inputs(columns)
        taken = {*self.input_columns(), "file"}
        rest = {name: values for name, values in columns.items() if name not in taken}
        seen = [name for name, values in rest.items() if any(map(looks_like_image, values))]
        asked = columns if self.config.mask else rest
        mask, note = find_column(self.config.mask, "mask", asked, MASK_NAMES, seen)
        check_masks(mask, columns[mask])
        self.config = self.config.model_copy(update={"mask": mask})
        return [*dict.fromkeys(self.unused_), *notes, *([note] if note else [])]

    def validate(self, row: Row) -> Iterator[str]:
        faults = list(self.image_faults(row))
        yield from faults
        if not faults and self._masks.column in row:
            yield from self._masks.faults(row, self.image_of(row), getattr(self, "coding_", None))

    def truth(self, row: Row) -> Any:
        return self._masks.digest(row)

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return "mean_iou", "max"

    # ---- learning labels, loading what encodes

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        from tasks.backbones.vision_sources import find_source

        terms = losses.parse_loss(self.config.loss)
        losses.check_weights(terms, self.config.class_weights)
        self.coding_, facts = self._masks.learn(train)
        self.weights_, weighing = self._masks.weigh(self.coding_, facts, self.config.class_weights)
        self.source_ = find_source(source, None, None)
        self.preprocessing_ = self.source_.preprocessing.squeezed(self.config.input_size)
        self.processor_ = None
        if self.source_.processor:
            held = to_processor(self.source_.processor, self.preprocessing_)
            self.processor_ = {**held, "do_reduce_labels": False}
        keys, note = settle_augmentation(self.config, frozen=frozen, presets=JOINT_PRESETS)
        self.config = self.config.model_copy(update=keys)
        self._set_augmentation()
        notes = [self.source_.note, self.coding_.describe(), weighing, self._describe_input(), note]
        notes += self._masks.remarks("train", facts, self.coding_)
        return [text for text in (*notes, f"loss: {' + '.join(terms)}") if text]

    def state(self) -> dict[str, Any]:
        return {
            "coding": self.coding_.state(),
            "weights": None if self.weights_ is None else self.weights_.tolist(),
            "preprocessing": self.preprocessing_.state(),
            "processor": self.processor_,
        }

    def restore(self, state: Mapping[str, Any], folder: Path | str) -> None:
        self.coding_ = MaskCoding.from_state(state["coding"])
        self.weights_ = None if state["weights"] is None else torch.tensor(state["weights"])
        self.preprocessing_ = Preprocessing.from_state(state["preprocessing"])
        self.processor_ = state["processor"]
        self._set_augmentation()

    def build_model(self, source: ModelConfig) -> SegmentationModel:
        from tasks.masks.segmentation_sources import build

        size = self.preprocessing_.size
        return self._tiled(build(self.source_, self.config.decoder, self.coding_.names, size))

    def load_model(self, folder: Path | str) -> SegmentationModel:
        from tasks.masks.segmentation_sources import load_folder

        return self._tiled(load_folder(self.saved(folder), self.preprocessing_.size))

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        facts = (self._masks.facts(row) for row in rows)
        return self._masks.remarks(split, facts, self.coding_)

    # ---- one row through the house

    def parts(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]] | None:
        if self.config.tile is None:
            return None
        side = self.preprocessing_.size
        sizes = (picture_size(self.image_of(row)) for row in rows)
        return [
            [{"window": window} for window in tiles.windows(size, side, self.config.tile_overlap)]
            for size in sizes
        ]

    @property
    def augments(self) -> bool:
        return is_active(self.config, JOINT_PRESETS)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        scene, window = self._scene(row), row.get("window")
        size, whole = scene.size, scene.mask
        area = (window[1], window[0], *self.preprocessing_.size) if window else None
        is_whole = self.config.tile is not None and area is None
        if not is_whole and rng is not None:
            scene = self.augmentation_(scene, rng, area)
        elif not is_whole:
            scene = self.augmentation_.plain(scene, area)
        if area is not None or rng is not None:
            whole = None  # only what is seen as it is can be judged in its own size
        sample: Sample = {"inputs": {INPUT: self.preprocessing_.normalize(scene.image)}}
        sample |= {"size": size, "is_whole": is_whole}
        if scene.mask is not None:
            sample["target"] = {"mask": scene.mask, "whole": whole}
        return sample

    def collate(self, samples: Sequence[Sample], rng: Rng | None = None) -> Batch:
        # Whole pictures, which are seen through windows, have sizes of their own.
        join = list if samples[0]["is_whole"] else torch.stack
        batch: Batch = {"sizes": torch.tensor([sample["size"] for sample in samples])}
        if all("target" in sample for sample in samples):
            masks = [sample["target"]["mask"] for sample in samples]
            batch["targets"] = join(masks)
            batch["whole"] = [sample["target"]["whole"] for sample in samples]
            terms = losses.parse_loss(self.config.loss)
            batch["count"] = losses.count_terms(terms, masks, self.weights_)
        if "inputs" in samples[0]:
            images = [sample["inputs"][INPUT] for sample in samples]
            batch["inputs"] = {INPUT: join(images)}
        return batch

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        terms = losses.parse_loss(self.config.loss)
        return losses.sum_terms(terms, outputs, batch["targets"], self.weights_)

    def measure(self, outputs: Any, batch: Batch) -> Stats:
        found = []
        for logits, mask, whole in zip(outputs, batch["targets"], batch["whole"], strict=True):
            true = mask if whole is None else whole
            predicted, _ = decide(logits, true.shape)
            found.append(losses.areas(predicted, true, len(self.coding_.names)))
        return {"areas": torch.stack(found)}  # [B, K, 3]

    def summarize(self, stats: Stats) -> dict[str, float]:
        return losses.area_metrics(stats["areas"], self.coding_.names)

    def predict(self, model: TransferModel, batch: Batch) -> list[Prediction]:
        found = []
        for logits, size in zip(model(batch), batch["sizes"].tolist(), strict=True):
            classes, shares = decide(logits.float(), size)
            found.append({"segments": segments(classes, shares, self.coding_.names)})
        return found

    def present(self, prediction: Prediction) -> Any:
        return to_pipeline(prediction)

    def draw(self, row: Row, prediction: Prediction, folder: Path, name: str) -> list[Path]:
        image = self.picture_of(row)
        return draw_prediction(image, prediction, self.coding_.names, folder, name)

    def pictures(self, batch: Batch) -> list[Picture]:
        pixels = map(self.preprocessing_.restore, batch["inputs"][INPUT].cpu())
        pairs = zip(pixels, batch["targets"], strict=True)
        return [mask_picture(seen, mask.cpu(), self.coding_.names) for seen, mask in pairs]

    def about(self, model: TransferModel) -> About:
        library = "segmentation-models-pytorch" if self.processor_ is None else "transformers"
        if self.config.tile is not None:  # what joins tiles is here
            return About("image-segmentation", library)
        codes = code_of(self.coding_.names, self.preprocessing_, self.processor_)
        return About("image-segmentation", library, *codes)

    # ---- parts

    @property
    def _masks(self) -> MaskReader:
        return MaskReader(self.config)

    def _scene(self, row: Row) -> Scene:
        image = to_tensor(self.picture_of(row))
        height, width = image.shape[-2:]
        try:
            return Scene(image, self._masks.classes(row, (height, width), self.coding_))
        except DataError as error:
            raise DataError(f"{path_of(self.image_of(row)) or 'image'} {error}") from error

    def _set_augmentation(self) -> None:
        held = self.preprocessing_
        # What lies outside of a picture gets the mean colour, which the network takes for nothing.
        fill = tuple(round(min(max(mean, 0.0), 1.0) * 255) for mean in held.mean)
        self.augmentation_ = JointAugmentation(self.config, held.size, fill, held.mode)

    def _tiled(self, model: SegmentationModel) -> SegmentationModel:
        model.tile, model.overlap = self.preprocessing_.size, self.config.tile_overlap
        return model

    def _describe_input(self) -> str:
        height, width = self.preprocessing_.size
        if self.config.tile is not None:
            overlap = self.config.tile_overlap
            return f"input: tiles of {height} x {width} pixels that overlap by {overlap}"
        return f"input: {height} x {width} pixels, squeezed, {self.preprocessing_.mode}"
