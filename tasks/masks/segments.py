"""From logits to masks: the class of each pixel, segments in the shape of the pipeline, pictures.

Shapes: H, W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from finetune.task_parts import Picture, Prediction
from tasks.image.joint_augmentation import IGNORE
from tasks.image.palette import palette

_AT_ONCE = 1 << 24
"""Values of logits that are enlarged at once, so that 150 classes of a large picture fit."""
_LINE = 16  # pixels of a line of the legend


def decide(logits: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The likeliest class of each pixel of an image of `size`, uint8 [H, W], and its probability.

    Logits [K, h, w] are enlarged bilinearly, some classes at a time.
    """
    height, width = int(size[0]), int(size[1])
    step = max(1, _AT_ONCE // (height * width))
    best = classes = total = None
    for start in range(0, len(logits), step):
        some = logits[None, start : start + step]
        if some.shape[-2:] != (height, width):
            some = functional.interpolate(
                some, (height, width), mode="bilinear", align_corners=False
            )
        values, places = some[0].max(0)
        sums = (some[0] - values).exp().sum(0)
        if best is None or classes is None or total is None:
            best, classes, total = values, places, sums
        else:
            top = torch.maximum(best, values)
            total = total * (best - top).exp() + sums * (values - top).exp()
            classes = torch.where(values > best, places + start, classes)
            best = top
    assert classes is not None and total is not None, "there is a class"
    return classes.to(torch.uint8), 1 / total


def segments(classes: Tensor, shares: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Each class of a picture [H, W] with its mask as COCO's run lengths, JSON-able.

    The score is the mean probability of the class where it is predicted.
    """
    from faster_coco_eval.core import mask

    found = []
    pixels, confident = classes.cpu().numpy(), shares.detach().cpu().numpy()
    for number in np.unique(pixels).tolist():
        own = pixels == number
        packed = mask.encode(np.asfortranarray(own.astype(np.uint8)))
        lengths = {"size": list(own.shape), "counts": packed["counts"].decode()}
        score = round(float(confident[own].mean()), 6)
        found.append({"label": names[number], "score": score, "mask": lengths})
    return found


def unpack(lengths: dict[str, Any]) -> NDArray[np.bool_]:
    """Where a mask of run lengths is set, [H, W]."""
    from faster_coco_eval.core import mask

    packed = {"size": lengths["size"], "counts": lengths["counts"].encode()}
    return mask.decode(packed).astype(bool)  # type: ignore[no-any-return]


def segments_to_pipeline(prediction: Prediction) -> list[dict[str, Any]]:
    """As the image-segmentation pipeline gives it: label, score, and the mask as a picture in
    mode L, 255 where the class is.
    """
    return [
        {
            "label": item["label"],
            "score": item["score"],
            "mask": Image.fromarray(unpack(item["mask"]).astype(np.uint8) * 255),
        }
        for item in prediction["segments"]
    ]


def draw_prediction(
    image: Image.Image, prediction: Prediction, names: Sequence[str], folder: Path, name: str
) -> list[Path]:
    """Write the mask with a palette, its legend, and the picture with the mask over it."""
    colors = palette(len(names))
    classes = np.zeros((image.height, image.width), np.uint8)
    for item in prediction["segments"]:
        classes[unpack(item["mask"])] = names.index(item["label"])
    mask = _in_colors(classes, colors)
    paths = [folder / f"{name}-mask.png", folder / f"{name}-overlay.png"]
    mask.save(paths[0])
    shown = _veiled(image, mask)
    labels = [item["label"] for item in prediction["segments"]]
    _with_legend(shown, {label: colors[names.index(label)] for label in labels}).save(paths[1])
    lines = (
        f"{number}\t#{red:02x}{green:02x}{blue:02x}\t{label}\n"
        for number, (label, (red, green, blue)) in enumerate(zip(names, colors, strict=True))
    )
    (folder / "legend.tsv").write_text("value\tcolor\tclass\n" + "".join(lines), encoding="utf-8")
    return paths


def mask_picture(pixels: Tensor, mask: Tensor, names: Sequence[str]) -> Picture:
    """A picture uint8 [3, H, W] under its mask [H, W], what is ignored in white; the classes."""
    classes: NDArray[np.uint8] = mask.numpy()
    colors = [*palette(len(names)), *[(255, 255, 255)] * (IGNORE + 1 - len(names))]
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    present = [names[number] for number in np.unique(classes) if number != IGNORE]
    shown = _veiled(image, _in_colors(classes, colors))
    return Picture(", ".join(present) or "all ignored", np.asarray(shown))


def _in_colors(classes: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> Image.Image:
    mask = Image.fromarray(classes)
    mask.putpalette([value for color in colors for value in color])
    return mask


def _veiled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A picture with a mask over all that is not of the first class."""
    veil = Image.fromarray(np.where(np.asarray(mask) == 0, 0, 140).astype(np.uint8))
    return Image.composite(mask.convert("RGB"), image, veil)


def _with_legend(picture: Image.Image, colors: dict[str, tuple[int, int, int]]) -> Image.Image:
    sheet = Image.new("RGB", (picture.width, picture.height + _LINE * len(colors)), "white")
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for place, (label, color) in enumerate(colors.items()):
        top = picture.height + place * _LINE
        draw.rectangle((3, top + 3, 13, top + 13), fill=color, outline="black")
        draw.text((18, top + 2), label, fill="black")
    return sheet
