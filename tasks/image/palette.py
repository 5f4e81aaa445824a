"""Distinguishable colors for classes."""

from __future__ import annotations

import colorsys


def palette(count: int) -> list[tuple[int, int, int]]:
    """Return a distinct color for each class; the first, usually the background, is black."""
    colors = [(0, 0, 0)]
    for number in range(1, count):
        hue = number * 0.61803398875 % 1  # golden ratio: consecutive hues are far apart
        lightness, saturation = (0.5, 0.62, 0.4)[number % 3], (0.9, 0.75)[number // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors
