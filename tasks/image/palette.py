"""Colors that are told apart, one for each class."""

from __future__ import annotations

import colorsys


def palette(count: int) -> list[tuple[int, int, int]]:
    """Colours that differ for so many classes; the first, most often the background, is black."""
    found = [(0, 0, 0)]
    for number in range(1, count):
        hue = number * 0.61803398875 % 1  # the golden ratio keeps neighbours apart
        light, strong = (0.5, 0.62, 0.4)[number % 3], (0.9, 0.75)[number // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(hue, light, strong)
        found.append((round(red * 255), round(green * 255), round(blue * 255)))
    return found
