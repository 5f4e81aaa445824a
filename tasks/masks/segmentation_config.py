"""Config keys of semantic segmentation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from finetune.config.formats import DataFormat
from finetune.errors import nearest
from tasks.cells.label_values import check_label_names
from tasks.image.image_config import JointAugmentationConfig
from tasks.image.image_reading import MAX_PIXELS
from tasks.image_formats.export_formats import EXPORT_MASKS
from tasks.image_formats.part_masks import PART_MASKS
from tasks.image_formats.refused_sets import REFUSED_SETS
from tasks.image_formats.run_length_table import RUN_LENGTH_MASKS
from tasks.mask_sources.mask_folders import MASK_FORMATS
from tasks.metrics.metric_config import OwnMetricsConfig

Encoding = Literal["auto", "index", "one-based", "binary", "color", "instance"]
Code = int | str | list[int]
"""A value, or a color as "#ff0000" or [255, 0, 0]."""
Labels = list[str] | dict[str, Code]
LOSS_TERMS = ("cross_entropy", "dice", "focal", "lovasz")
WEIGHTED_TERMS = ("cross_entropy", "focal")
DECODERS = {
    "unet": "Unet",
    "fpn": "FPN",
    "deeplabv3plus": "DeepLabV3Plus",
    "upernet": "UPerNet",
    "segformer": "Segformer",
}
"""{name: class of segmentation_models_pytorch}."""
_TERM = re.compile(r"^(?:(\d+(?:\.\d+)?)\s*\*?\s*)?([a-z_]+)$")
Side = Annotated[int, Field(ge=8)]
ImageSize = Side | Annotated[list[Side], Field(min_length=2, max_length=2)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | str) else value


class SegmentationConfig(JointAugmentationConfig, OwnMetricsConfig):
    """Keys of semantic segmentation."""

    prediction_keys: ClassVar[frozenset[str]] = frozenset({"image", "pixel_range"})
    measured: ClassVar[tuple[str, ...]] = ("mean_iou", "mean_dice", "pixel_accuracy")
    metric_names: ClassVar[tuple[str, ...]] = (*measured, "iou/<class>", "dice/<class>")
    formats: ClassVar[tuple[DataFormat, ...]] = (
        *REFUSED_SETS,
        PART_MASKS,
        *MASK_FORMATS,
        RUN_LENGTH_MASKS,
        *EXPORT_MASKS,
    )

    name: str = "segmentation"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: detected."""
    mask: str | None = None
    """Column of the mask: an image, a .npy file, an array or COCO objects; null: detected."""
    labels: Labels | None = None
    """Names of the classes in order of their values, or {name: value} with numbers or colors such
    as "#ff0000". For COCO: the categories that are classes, in order; all others are background.
    null: detected from the masks, or read from classes.txt, labelmap.txt, class_dict.csv or
    legend.tsv.
    """
    ignore: Annotated[list[Code], BeforeValidator(_as_list)] | None = None
    """Mask values, or COCO categories, whose pixels loss and metrics ignore, and which are not
    classes; null: 255, unless it is one of only two classes.
    """
    encoding: Encoding = "auto"
    """Encoding of the classes in masks. index: values from 0; one-based: values from 1, where 0 is
    ignored; binary: 0 and one other value; color: colors, also of palette images; instance: 0 and a
    number or color for each object, all of which are one class; auto: detected.
    """
    decoder: str | None = None
    """Decoder on a timm encoder: unet, fpn, deeplabv3plus, upernet or segformer; null: unet."""
    channels: PositiveInt | None = None
    """Channels of the input, for networks of timm. 1: gray; 3: RGB; others: the bands of .npy and
    TIFF files. null: as the network was trained, mostly 3.
    """
    image_size: ImageSize | None = None
    """Size of the input in pixels, square or [height, width], to which images are stretched; null:
    as the network was trained, or less where the training images are smaller.
    """
    tile: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels of the tiles into which images of any size are cut, without resizing; null:
    whole images.
    """
    overlap: NonNegativeInt | None = None
    """Overlap of tiles in pixels; null: a quarter of a tile."""
    loss: str | dict[str, PositiveFloat] = "cross_entropy + dice"
    """cross_entropy, dice, focal, lovasz, or a weighted sum such as cross_entropy + 0.5 dice."""
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """Weights of the classes in cross_entropy and focal; balanced: inversely proportional to the
    square root of their share of the pixels.
    """
    max_pixels: PositiveInt = MAX_PIXELS
    """Maximum number of pixels of an image; larger ones are rejected, as they may be decompression
    bombs that exhaust the memory.
    """

    @property
    def may_have_labels(self) -> bool:
        return False

    @property
    def loss_terms(self) -> dict[str, float]:
        """The terms of the loss with their factors."""
        return parse_loss(self.loss)

    def key_faults(self) -> Iterator[str]:
        yield from super().key_faults()
        terms = self.loss_terms
        if self.class_weights is not None and not set(WEIGHTED_TERMS) & set(terms):
            yield (
                f"task.class_weights: not used by {' or '.join(terms)}; remove the weights, or add "
                f"{' or '.join(WEIGHTED_TERMS)} to task.loss"
            )

    @field_validator("loss")
    @classmethod
    def _is_a_sum(cls, loss: str | dict[str, float]) -> str | dict[str, float]:
        parse_loss(loss)
        return loss

    @field_validator("decoder")
    @classmethod
    def _is_known(cls, decoder: str | None) -> str | None:
        if decoder is not None and decoder not in DECODERS:
            raise ValueError(f"unknown decoder; {nearest(decoder, DECODERS)}")
        return decoder

    @field_validator("labels")
    @classmethod
    def _are_distinct(cls, labels: Labels | None) -> Labels | None:
        if labels is not None:
            check_label_names(list(labels))
        return labels

    @field_validator("tile")
    @classmethod
    def _is_the_input(cls, tile: int | None, info: ValidationInfo) -> int | None:
        if tile is not None and info.data.get("image_size") is not None:
            raise ValueError("conflicts with image_size, as tiles set the input size; remove one")
        return tile

    @field_validator("overlap")
    @classmethod
    def _advances(cls, overlap: int | None, info: ValidationInfo) -> int | None:
        tile = info.data.get("tile")
        if overlap is not None and tile is None:
            raise ValueError("has no effect without tiles; set task.tile, or remove it")
        if overlap is not None and tile is not None and overlap >= tile:
            raise ValueError(f"must be smaller than the tile: at most {tile - 1}")
        return overlap

    @property
    def tile_overlap(self) -> int:
        """Overlap of tiles in pixels."""
        return (self.tile or 0) // 4 if self.overlap is None else self.overlap

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Configured size (H, W) of the input; None: that of the network."""
        size = self.tile or self.image_size
        if isinstance(size, list):
            return size[0], size[1]
        return None if size is None else (size, size)


def parse_loss(text: str | Mapping[str, float]) -> dict[str, float]:
    """Parse task.loss, as in "cross_entropy + 0.5 dice", to {term: factor}. Raises ValueError."""
    terms: dict[str, float] = {}
    if isinstance(text, Mapping):
        terms = dict(text)
    else:
        for part in text.split("+"):
            matched = _TERM.match(part.strip())
            if matched is None:
                raise ValueError(
                    f"cannot parse {part.strip()!r}; write a sum such as cross_entropy + 0.5 dice"
                )
            terms[matched[2]] = float(matched[1] or 1)
    for term in terms:
        if term not in LOSS_TERMS:
            raise ValueError(f"unknown loss {term!r}; {nearest(term, LOSS_TERMS)}")
    if not terms or any(factor <= 0 for factor in terms.values()):
        raise ValueError("give at least one term, each with a factor above 0")
    return terms
