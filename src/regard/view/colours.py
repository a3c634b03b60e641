"""One hue from paper to ink, in equal steps of perceived lightness, for light and for dark pages.

The scale is a line in OKLCH (Björn Ottosson, "A perceptual color space for image processing", 2020):
equal differences of weight look equally large, also in grey print and to colour-blind readers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

LEVELS = 64
"""How many shades the scale has; a weight of exactly zero has none, and shows the ground."""


@dataclass(frozen=True)
class Theme:
    """The colours of a page: its paper and ink, and the shades of the scale, as `#rrggbb`."""

    roles: Mapping[str, str]
    shades: tuple[str, ...]

    def colour(self, role: str | int) -> str:
        """The colour of a role, or of the shade with this number."""
        return self.shades[role] if isinstance(role, int) else self.roles[role]


def oklch(lightness: float, chroma: float, hue: float) -> str:
    """The sRGB colour `#rrggbb` of a point in OKLCH (lightness 0..1, hue in degrees), clipped to sRGB."""
    a = chroma * math.cos(math.radians(hue))
    b = chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(min(1.0, max(0.0, value)))):02x}" for value in linear)


def _gamma(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


def _scale(first: float, last: float, chroma: float, least: float, hue: float) -> tuple[str, ...]:
    shades = []
    for level in range(LEVELS):
        share = level / (LEVELS - 1)
        lightness = first + (last - first) * share
        # Most colour in the middle, where sRGB has room for it.
        colour = least + (chroma - least) * math.sin(math.pi * 0.8 * share)
        shades.append(oklch(lightness, colour, hue))
    return tuple(shades)


LIGHT = Theme(
    roles={
        "paper": "#ffffff",
        "ground": "#f6f6f7",
        "ink": "#1b2230",
        "muted": "#5b6472",
        "line": "#d9dde3",
        "missing": "#e8b4a0",
        "good": "#17795e",
        "bad": "#b3261e",
    },
    shades=_scale(0.968, 0.31, 0.135, 0.012, 256),
)
DARK = Theme(
    roles={
        "paper": "#14171c",
        "ground": "#1b1e23",
        "ink": "#e8eaee",
        "muted": "#a3abb8",
        "line": "#363c46",
        "missing": "#7a4433",
        "good": "#66cfae",
        "bad": "#ff9a8f",
    },
    shades=_scale(0.29, 0.94, 0.115, 0.045, 250),
)
SERIES = {
    "light": ("#2f5fb3", "#b4501e", "#17795e", "#8a3f8f", "#8a6d00", "#c02f55", "#4b5563", "#00788c"),
    "dark": ("#8db4f5", "#f0a070", "#66cfae", "#d79bdc", "#dcc05a", "#f58ca6", "#b6bec9", "#62cbdc"),
}
"""Colours that tell lines of a chart apart; each reads on its theme's paper."""
