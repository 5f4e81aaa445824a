"""The keys of semantic segmentation."""

from __future__ import annotations

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
from tasks.annotations.mask_folders import MASK_FORMATS
from tasks.image.image_reading import MAX_PIXELS
from tasks.image.joint_augmentation import JointAugmentationConfig
from tasks.masks.mask_coding import Code, Encoding, Labels

ImageSize = PositiveInt | Annotated[list[PositiveInt], Field(min_length=2, max_length=2)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int | str) else value


class SegmentationConfig(JointAugmentationConfig):
    """What is read from a row and what is made of it."""

    formats: ClassVar[tuple[DataFormat, ...]] = MASK_FORMATS

    name: str = "segmentation"
    image: str | None = None
    """Column of the image: a path, bytes, or what `datasets` stores; null: found."""
    mask: str | None = None
    """Column of the mask, which may be a picture, a .npy or COCO's objects; null: found."""
    labels: Labels | None = None
    """Names of the classes by value, or {name: value}, a value being a number or a colour
    "#ff0000"; of COCO the categories that are classes, in this order, all others being background;
    null: found in the masks, or in classes.txt, labelmap.txt, class_dict.csv or legend.tsv.
    """
    ignore: Annotated[list[Code], BeforeValidator(_as_list)] | None = None
    """Values, or COCO's categories, of pixels that count for nothing: they have no loss and no
    metric, and what they stand for is no class; null: 255, where it is not one of two classes.
    """
    encoding: Encoding = "auto"
    """How masks say their classes; color reads a palette as the colours that it shows; auto: found
    by looking.
    """
    decoder: str | None = None
    """Over an encoder of timm: unet, fpn, deeplabv3plus, upernet or segformer; null: unet."""
    image_size: ImageSize | None = None
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

    @field_validator("tile")
    @classmethod
    def _is_the_input(cls, tile: int | None, info: ValidationInfo) -> int | None:
        if tile is not None and info.data.get("image_size") is not None:
            raise ValueError("tiles are the input; leave image_size or tile out")
        return tile

    @field_validator("overlap")
    @classmethod
    def _advances(cls, overlap: int | None, info: ValidationInfo) -> int | None:
        tile = info.data.get("tile")
        if overlap is not None and tile is None:
            raise ValueError("is of tiles, and there are none; set task.tile, or leave it out")
        if overlap is not None and tile is not None and overlap >= tile:
            raise ValueError(f"tiles of {tile} pixels overlap by at most {tile - 1}")
        return overlap

    @property
    def tile_overlap(self) -> int:
        """Pixels by which tiles overlap."""
        return (self.tile or 0) // 4 if self.overlap is None else self.overlap

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(H, W) of the input that is asked for."""
        size = self.tile or self.image_size
        if isinstance(size, list):
            return size[0], size[1]
        return None if size is None else (size, size)
