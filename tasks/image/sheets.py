"""Contact sheets: images side by side under titles, many of them on a sheet; colors of classes."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

LINE = 14  # pixels of a line of text
GAP = 6  # pixels between images
SHEET_SIDE = 224  # pixels of the longer side of an image on a sheet
IMAGES_ON_SHEET = 16


def shrink(image: Image.Image) -> tuple[Image.Image, float]:
    """Resize an image for a sheet; also return the factor."""
    factor = SHEET_SIDE / max(image.size)
    size = [max(1, round(side * factor)) for side in image.size]
    return image.convert("RGB").resize((size[0], size[1])), factor


def side_by_side(panels: Sequence[tuple[str, Image.Image]], caption: str = "") -> Image.Image:
    """Paste images of one size side by side, each under its title, all under the caption."""
    width, height = panels[0][1].size
    top = LINE * (2 if caption else 1)
    joined = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height + top), "white")
    draw = ImageDraw.Draw(joined)
    if caption:
        while len(caption) > 1 and draw.textlength(caption) > joined.width:
            caption = f"…{caption[2:]}"  # the end of a path tells more than its beginning
        draw.text((2, 0), caption, fill="black")
    for index, (title, panel) in enumerate(panels):
        left = index * (width + GAP)
        draw.text((left + 2, top - LINE), title, fill="black")
        joined.paste(panel, (left, top))
    return joined


def make_sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Paste images on a sheet that is about twice as high as it has columns."""
    columns = max(1, round(math.sqrt(len(pictures) / 2)))
    width, height = (max(picture.size[axis] for picture in pictures) + GAP for axis in (0, 1))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        sheet.paste(picture, (GAP + column * width, GAP + row * height))
    return sheet


def palette(count: int) -> list[tuple[int, int, int]]:
    """Return a distinct color for each class; the first, usually the background, is black."""
    colors = [(0, 0, 0)]
    for number in range(1, count):
        hue = number * 0.61803398875 % 1  # golden ratio: consecutive hues are far apart
        lightness, saturation = (0.5, 0.62, 0.4)[number % 3], (0.9, 0.75)[number // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors
