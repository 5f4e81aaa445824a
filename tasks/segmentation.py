"""Semantic segmentation: a class for every pixel of a picture.

A row: {"image": "train/images/1.jpg", "mask": "train/masks/1.png"}; either may also be bytes,
{"bytes", "path"} or a PIL image. A mask may be given as the objects of a COCO row instead.

Shapes: B rows, H, W pixels, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from finetune.checkpoint import write_json
from finetune.config import ModelConfig
from finetune.errors import DataError
from finetune.task import Batch, Prediction, Rng, Row, Sample, Stats, Task, TransferModel
from tasks import segmentation_losses as losses
from tasks import tiles
from tasks.annotations.coco import find_coco, read_coco
from tasks.annotations.mask_folders import read_legend, read_mask_folder
from tasks.augmentation import is_active, settle_augmentation
from tasks.columns import find_column
from tasks.images import MAX_PIXELS, digest_image, find_fault, looks_like_image, path_of, read_image
from tasks.joint_augmentation import (
    IGNORE,
    JOINT_PRESETS,
    JointAugmentation,
    JointAugmentationConfig,
    Scene,
    crop,
    resize_image,
    resize_mask,
)
from tasks.mask_coding import Code, Encoding, Labels, MaskCoding
from tasks.preprocessing import INPUT, Preprocessing, to_tensor
from tasks.segmentation_masks import MaskReader
from tasks.segmentation_results import decide, draw_prediction, segments, to_pipeline

if TYPE_CHECKING:  # timm and transformers take seconds to import, which no config needs
    from tasks.segmentation_networks import SegmentationModel
    from tasks.vision_sources import VisionSource

IMAGE_NAMES = ("image", "img", "picture", "photo", "pixel_values", "path", "file_name", "filename")
Size = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]


class SegmentationConfig(JointAugmentationConfig):
    """What is read from a row and what is made of it."""

    name: str = "segmentation"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: found."""
    mask: str | None = None
    """Column of the mask, which may be a picture, a .npy or COCO's objects; null: found."""
    labels: Labels | None = None
    """Names of the classes by value, or {name: value}, a value being a number or a colour
    "#ff0000"; null: found in the masks.
    """
    ignore: list[Code] | None = None
    """Values of pixels that count for nothing; null: 255, where it is not one of two classes."""
    encoding: Encoding = "auto"
    """How masks say their classes; auto: found by looking."""
    decoder: str = "unet"
    """Over an encoder of timm: unet, fpn, deeplabv3plus, upernet or segformer."""
    image_size: Size | None = None
    """Pixels of the input, square or [height, width], to which a picture is squeezed; null: what
    the network was trained with.
    """
    tile: PositiveInt | None = None
    """Side in pixels of the tiles in which a picture of any size is seen, not resized; null: the
    picture is seen as one.
    """
    overlap: NonNegativeInt | None = None
    """Pixels by which tiles overlap; null: a quarter of a tile."""
    loss: str | dict[str, PositiveFloat] = "cross_entropy + dice"
    """cross_entropy, dice, focal, lovasz or a sum of them: cross_entropy + 0.5 dice."""
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """Weights of the classes in cross_entropy and focal; balanced: by the root of their rarity."""
    max_pixels: PositiveInt = MAX_PIXELS
    """A picture with more is refused, for it may be made to fill the memory."""


class Segmentation(Task):
    """Class every pixel with any encoder of timm, or a segmentation network of transformers."""

    name = "segmentation"
    Config = SegmentationConfig
    config: SegmentationConfig

    coding_: MaskCoding
    weights_: Tensor | None
    preprocessing_: Preprocessing
    processor_: dict[str, Any] | None
    source_: VisionSource
    augmentation_: JointAugmentation | None

    # ---- what is known before a network is loaded

    def read(self, path: Path, format: str) -> Mapping[str, Sequence[Row]] | None:
        if format in ("auto", "mask-folder", "voc") and (found := read_mask_folder(path)):
            if self.config.labels is None and (legend := read_legend(path)):
                self.config = self.config.model_copy(update={"labels": legend})
            return found
        if format == "coco" or (format == "auto" and find_coco(path)):
            return read_coco(path)
        if format in ("mask-folder", "voc"):
            raise DataError(
                f"{path}: holds no pictures with masks; a folder images/ beside a folder masks/,"
                " each whole or by split, or JPEGImages/ beside SegmentationClass/"
            )
        return None

    def choose_columns(self, columns: Mapping[str, Sequence[Any]]) -> list[str]:
        seen = [name for name, values in columns.items() if any(map(looks_like_image, values))]
        known = {n: columns[n] for n in columns if n in seen and n != "file"} or dict(columns)
        asked = columns if self.config.image else known
        image, note = find_column(self.config.image, "image", asked, IMAGE_NAMES, seen[:1])
        rest = {name: values for name, values in columns.items() if name not in (image, "file")}
        asked = columns if self.config.mask else rest
        candidates = [name for name in seen if name not in (image, "file")]
        mask, other = find_column(self.config.mask, "mask", asked, MaskReader.NAMES, candidates)
        self.config = self.config.model_copy(update={"image": image, "mask": mask})
        return [text for text in (note, other) if text]

    def validate(self, row: Row) -> Iterator[str]:
        column, value = self.config.image or "image", self._cell(row)
        if fault := find_fault(value, self.config.max_pixels):
            named = f" {path_of(value)!r}" if path_of(value) and not row.get("file") else ""
            yield f"{column}{named} {fault}"
        elif self._masks.column in row:
            yield from self._masks.faults(row, value, getattr(self, "coding_", None))

    def validate_rows(self, rows: Sequence[Row]) -> list[list[str]]:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda row: list(self.validate(row)), rows))

    def input_columns(self) -> list[str]:
        return [self.config.image or "image"]

    def identity(self, row: Row) -> Any:
        return digest_image(self._cell(row))

    def row_of(self, value: Any) -> Row:
        return {self.input_columns()[0]: value}

    def truth(self, row: Row) -> Any:
        return self._masks.digest(row)

    @property
    def metric(self) -> tuple[str, Literal["max", "min"]]:
        return "mean_iou", "max"

    # ---- learning labels, loading what encodes

    def setup(self, train: Any, source: ModelConfig, *, frozen: bool) -> list[str]:
        from tasks.vision_sources import find_source

        terms = losses.parse_loss(self.config.loss)
        self.coding_, facts = self._masks.learn(train, self.config)
        self.weights_, weighing = self._masks.weigh(self.coding_, facts, self.config.class_weights)
        self.source_ = find_source(source, None, None)
        self.preprocessing_ = self.source_.preprocessing.squeezed(self._size())
        self.processor_ = None
        if self.source_.processor:
            self.processor_ = {**self.source_.processor, "do_reduce_labels": False}
        keys, note = settle_augmentation(self.config, frozen=frozen, presets=JOINT_PRESETS)
        self.config = self.config.model_copy(update=keys)
        self._set_augmentation()
        notes = [self.source_.note, self.coding_.describe(), weighing, self._describe_input(), note]
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
        from tasks.segmentation_networks import build

        size = self.preprocessing_.size
        return self._tiled(build(self.source_, self.config.decoder, self.coding_.names, size))

    def load_model(self, folder: Path | str) -> SegmentationModel:
        from tasks.segmentation_networks import load_folder

        return self._tiled(load_folder(Path(folder), self.preprocessing_.size))

    def save(self, model: TransferModel, folder: Path) -> None:
        model.save(folder)
        if self.processor_ is not None:
            write_json(folder / "preprocessor_config.json", self.processor_)

    def compare(self, split: str, rows: Sequence[Row]) -> list[str]:
        return self._masks.lacking(split, rows, self.coding_)

    # ---- one row through the house

    def parts(self, rows: Sequence[Row]) -> Sequence[Sequence[Row]] | None:
        if self.config.tile is None:
            return None
        side = self.preprocessing_.size
        sizes = (read_image(self._cell(row), self.config.max_pixels).size for row in rows)
        return [
            [{"window": window} for window in tiles.windows((height, width), side, self._overlap)]
            for width, height in sizes
        ]

    @property
    def augments(self) -> bool:
        return is_active(self.config, JOINT_PRESETS)

    def encode(self, row: Row, rng: Rng | None = None) -> Sample:
        scene, window = self._scene(row), row.get("window")
        size, whole = scene.size, scene.mask
        is_whole = self.config.tile is not None and window is None
        if window is not None:
            left, top, right, bottom = window
            region = (
                top,
                left,
                *self.preprocessing_.size,
            )  # beyond a border of the picture: filled
            mask = None if whole is None else crop(whole[None], region, (IGNORE,))[0]
            scene = Scene(crop(scene.image, region, self._fill), mask)
            whole = None if mask is None else mask
        if is_whole:
            pass
        elif rng is not None and self.augmentation_ is not None:
            scene, whole = self.augmentation_(scene, rng), None
        else:
            held = self.preprocessing_
            mask = None if scene.mask is None else resize_mask(scene.mask, held.size)
            scene = Scene(resize_image(scene.image, held.size, held.mode), mask)
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
            batch["targets"] = join(masks)  # type: ignore[operator]
            batch["whole"] = [sample["target"]["whole"] for sample in samples]
            batch["count"] = {
                term: sum(losses.count_items(term, mask[None], self.weights_) for mask in masks)
                for term in losses.parse_loss(self.config.loss)
            }
        if "inputs" in samples[0]:
            images = [sample["inputs"][INPUT] for sample in samples]
            batch["inputs"] = {INPUT: join(images)}  # type: ignore[operator]
        return batch

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        terms = losses.parse_loss(self.config.loss)
        if not isinstance(outputs, Tensor):
            pairs = zip(outputs, batch["targets"], strict=True)
            found = [self._losses(logits[None], mask[None], terms) for logits, mask in pairs]
            return {term: torch.stack([one[term] for one in found]).sum() for term in terms}
        return self._losses(outputs, batch["targets"], terms)

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
        image = read_image(self._cell(row), self.config.max_pixels)
        return draw_prediction(image, prediction, self.coding_.names, folder, name)

    def show(self, sample: Sample) -> str:
        pixels = sample["inputs"][INPUT]
        return f"float32 {list(pixels.shape)}, {pixels.min():.2f} to {pixels.max():.2f}"

    # ---- parts

    @property
    def _masks(self) -> MaskReader:
        return MaskReader(self.config.mask or "mask", self.config.image or "image")

    @property
    def _overlap(self) -> int:
        held = self.config
        return (held.tile or 0) // 4 if held.overlap is None else held.overlap

    @property
    def _fill(self) -> tuple[int, ...]:
        """The mean colour, which the network takes for nothing."""
        return tuple(round(min(max(mean, 0.0), 1.0) * 255) for mean in self.preprocessing_.mean)

    def _cell(self, row: Row) -> Any:
        return row.get(self.input_columns()[0])

    def _scene(self, row: Row) -> Scene:
        try:
            image = to_tensor(read_image(self._cell(row), self.config.max_pixels))
            height, width = image.shape[-2:]
            return Scene(image, self._masks.classes(row, (height, width), self.coding_))
        except DataError as error:
            raise DataError(f"{path_of(self._cell(row)) or 'image'} {error}") from error

    def _size(self) -> tuple[int, int] | None:
        size = self.config.tile or self.config.image_size
        if isinstance(size, list):
            return size[0], size[1]
        return None if size is None else (size, size)

    def _set_augmentation(self) -> None:
        held, self.augmentation_ = self.preprocessing_, None
        if self.augments:
            self.augmentation_ = JointAugmentation(self.config, held.size, self._fill, held.mode)

    def _tiled(self, model: SegmentationModel) -> SegmentationModel:
        model.tile, model.overlap = self.preprocessing_.size, self._overlap
        return model

    def _losses(
        self, logits: Tensor, masks: Tensor, terms: Mapping[str, float]
    ) -> dict[str, Tensor]:
        weights = None if self.weights_ is None else self.weights_.to(logits)
        return {
            term: losses.LOSSES[term](logits, masks, weights) * factor
            for term, factor in terms.items()
        }

    def _describe_input(self) -> str:
        height, width = self.preprocessing_.size
        if self.config.tile is not None:
            return f"input: tiles of {height} x {width} pixels that overlap by {self._overlap}"
        return f"input: {height} x {width} pixels, squeezed, {self.preprocessing_.mode}"
