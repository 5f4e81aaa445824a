"""Predicted masks: the class of each pixel, segments in the pipeline's format, drawings.

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

from finetune.task_parts.samples import Prediction
from finetune.task_parts.views import Picture
from tasks.image.joint_augmentation import IGNORE
from tasks.image.picture_rows import as_rgb
from tasks.image.sheets import palette, shrink, side_by_side

_LOGITS_AT_ONCE = 1 << 24
"""Number of logits that are upsampled at once, so that 150 classes of a large image fit."""
_NEAREST = Image.Resampling.NEAREST
_WRONG = (214, 96, 0)  # orange, which stays visible on gray
MISTAKES_SIDE = 320  # pixels of the longer side of an image with its mistakes
_LINE = 16  # pixels of a line of the legend


def most_likely_classes(logits: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the most likely class of each pixel, uint8 [H, W], and its probability.

    Logits [K, h, w] are upsampled bilinearly to `size`, a few classes at a time.
    """
    height, width = int(size[0]), int(size[1])
    step = max(1, _LOGITS_AT_ONCE // (height * width))
    best = classes = total = None
    for start in range(0, len(logits), step):
        some = logits[None, start : start + step]
        if some.shape[-2:] != (height, width):
            some = functional.interpolate(
                some, (height, width), mode="bilinear", align_corners=False
            )
        values, indices = some[0].max(0)
        sums = (some[0] - values).exp().sum(0)
        if best is None or classes is None or total is None:
            best, classes, total = values, indices, sums
        else:
            top = torch.maximum(best, values)
            total = total * (best - top).exp() + sums * (values - top).exp()
            classes = torch.where(values > best, indices + start, classes)
            best = top
    assert classes is not None and total is not None, "there is at least one class"
    return classes.to(torch.uint8), 1 / total


def to_segments(
    classes: Tensor, probabilities: Tensor, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return each class of an image [H, W] with its mask as COCO's RLE, JSON-able.

    The score is the mean probability of the class over the pixels for which it is predicted.
    """
    from faster_coco_eval.core import mask

    found = []
    pixels, scores = classes.cpu().numpy(), probabilities.detach().cpu().numpy()
    for index in np.unique(pixels).tolist():
        area = pixels == index
        packed = mask.encode(np.asfortranarray(area.astype(np.uint8)))
        rle = {"size": list(area.shape), "counts": packed["counts"].decode()}
        score = round(float(scores[area].mean()), 6)
        found.append({"label": names[index], "score": score, "mask": rle})
    return found


def decode_rle(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """Decode a mask from COCO's RLE, [H, W]."""
    from faster_coco_eval.core import mask

    packed = {"size": rle["size"], "counts": rle["counts"].encode()}
    return mask.decode(packed).astype(bool)  # type: ignore[no-any-return]


def segments_to_pipeline(prediction: Prediction) -> list[dict[str, Any]]:
    """Return the output of transformers' image-segmentation pipeline.

    A label, a score, and the mask as a PIL image in mode L, 255 for pixels of the class.
    """
    return [
        {
            "label": item["label"],
            "score": item["score"],
            "mask": Image.fromarray(decode_rle(item["mask"]).astype(np.uint8) * 255),
        }
        for item in prediction["segments"]
    ]


def draw_prediction(
    image: Image.Image, prediction: Prediction, names: Sequence[str], folder: Path, name: str
) -> list[Path]:
    """Write the mask as a palette image, its legend, and the image with the mask over it."""
    colors = palette(len(names))
    mask = _to_palette_image(_predicted_classes(image, prediction, names), colors)
    paths = [folder / f"{name}-mask.png", folder / f"{name}-overlay.png"]
    mask.save(paths[0])
    overlay = _overlay(image, mask)
    labels = [item["label"] for item in prediction["segments"]]
    _with_legend(overlay, {label: colors[names.index(label)] for label in labels}).save(paths[1])
    lines = (
        f"{number}\t{color}\t{label}\n"
        for number, (label, color) in enumerate(hex_colors(names).items())
    )
    (folder / "legend.tsv").write_text("value\tcolor\tclass\n" + "".join(lines), encoding="utf-8")
    return paths


def _predicted_classes(
    image: Image.Image, prediction: Prediction, names: Sequence[str]
) -> NDArray[np.uint8]:
    """Return the predicted class of each pixel of an image, [H, W]."""
    classes = np.zeros((image.height, image.width), np.uint8)
    for item in prediction["segments"]:
        classes[decode_rle(item["mask"])] = names.index(item["label"])
    return classes


def draw_triple(
    image: Image.Image,
    truth: NDArray[np.uint8],
    prediction: Prediction,
    names: Sequence[str],
    caption: str,
) -> Image.Image:
    """Draw an image beside its true mask [H, W] and the predicted one, in a small size.

    Pixels that are ignored in the true mask are white.
    """
    colors, panels = _mask_colors(names), [("image", shrink(image)[0])]
    predicted = _predicted_classes(image, prediction, names)
    for title, classes in (("true", truth), ("predicted", predicted)):
        mask = _to_palette_image(classes, colors).resize(panels[0][1].size, _NEAREST)
        panels.append((title, mask.convert("RGB")))
    return side_by_side(panels, caption)


def draw_mistakes(
    image: Image.Image, truth: NDArray[np.uint8], prediction: Prediction, names: Sequence[str]
) -> tuple[list[Picture], float]:
    """Draw an image, its true mask [H, W], the predicted one and the wrong pixels, of one size.

    The first class, usually the background, is not painted, ignored pixels are white.
    Also return the share of the pixels that are wrong. Where a pixel of the drawing covers several
    of the image, it is the more orange, the more of them are wrong.
    """
    colors, predicted = _mask_colors(names), _predicted_classes(image, prediction, names)
    small = image.convert("RGB")
    small.thumbnail((MISTAKES_SIDE, MISTAKES_SIDE))
    pictures = [Picture("image", np.asarray(small))]
    gray = small.convert("L").convert("RGB")
    for caption, classes in (("true", truth), ("predicted", predicted)):
        mask = _to_palette_image(classes, colors).resize(small.size, _NEAREST)
        pictures.append(Picture(caption, np.asarray(_overlay(gray, mask, opacity=190))))
    wrong = (truth != IGNORE) & (truth != predicted)
    share = Image.fromarray(wrong.astype(np.uint8) * 255).resize(small.size, Image.Resampling.BOX)
    faint = Image.blend(
        small.convert("L").convert("RGB"), Image.new("RGB", small.size, "white"), 0.5
    )
    painted = Image.composite(Image.new("RGB", small.size, _WRONG), faint, share)
    pictures.append(Picture("wrong pixels", np.asarray(painted)))
    return pictures, float(wrong.sum() / max((truth != IGNORE).sum(), 1))


def draw_legend(image: Image.Image, names: Sequence[str]) -> Image.Image:
    """Return an image with the colors of the classes below it."""
    return _with_legend(image, dict(zip(names, palette(len(names)), strict=True)))


def hex_colors(names: Sequence[str]) -> dict[str, str]:
    """Return the color of each class in drawings, {name: "#rrggbb"}."""
    colors = ("#{:02x}{:02x}{:02x}".format(*color) for color in palette(len(names)))
    return dict(zip(names, colors, strict=True))


def _mask_colors(names: Sequence[str]) -> list[tuple[int, int, int]]:
    """Return the color of each value of a mask: those of the classes, white for ignored pixels."""
    return [*palette(len(names)), *[(255, 255, 255)] * (IGNORE + 1 - len(names))]


def draw_mask(pixels: Tensor, mask: Tensor, names: Sequence[str]) -> Picture:
    """Draw a mask [H, W] over its image, uint8 [3, H, W]; the caption lists its classes.

    Ignored pixels are white.
    """
    classes: NDArray[np.uint8] = mask.numpy()
    colors = _mask_colors(names)
    image = Image.fromarray(as_rgb(pixels.permute(1, 2, 0).numpy()).copy())
    present = [names[index] for index in np.unique(classes) if index != IGNORE]
    overlay = _overlay(image, _to_palette_image(classes, colors))
    return Picture(", ".join(present) or "all ignored", np.asarray(overlay))


def _to_palette_image(
    classes: NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]
) -> Image.Image:
    mask = Image.fromarray(classes)
    mask.putpalette([value for color in colors for value in color])
    return mask


def _overlay(image: Image.Image, mask: Image.Image, opacity: int = 140) -> Image.Image:
    """Blend a mask over an image, except for the pixels of the first class; `opacity` is 0..255."""
    alpha = Image.fromarray(np.where(np.asarray(mask) == 0, 0, opacity).astype(np.uint8))
    return Image.composite(mask.convert("RGB"), image, alpha)


def _with_legend(image: Image.Image, colors: dict[str, tuple[int, int, int]]) -> Image.Image:
    sheet = Image.new("RGB", (image.width, image.height + _LINE * len(colors)), "white")
    sheet.paste(image)
    draw = ImageDraw.Draw(sheet)
    for index, (label, color) in enumerate(colors.items()):
        top = image.height + index * _LINE
        draw.rectangle((3, top + 3, 13, top + 13), fill=color, outline="black")
        draw.text((18, top + 2), label, fill="black")
    return sheet
