"""Paint a picture as PNG, with Matplotlib's text and the package's own fonts."""

from __future__ import annotations

import functools
import io
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regard.errors import require
from regard.view import fonts
from regard.view.colours import Theme
from regard.view.labels import readable
from regard.view.picture import Picture
from regard.view.svg import painted

SCALE = 2  # pixels of the file per pixel of the picture
# Whatever else the reader's matplotlibrc says, the picture is the same.
_SETTINGS: Any = {"text.hinting": "none", "text.antialiased": True, "path.sketch": None, "path.effects": []}


def png(picture: Picture, theme: Theme) -> bytes:
    """A PNG file in one theme's colours, twice the picture's size so that it is sharp in print."""
    require("matplotlib", "tasks")
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    ground = _ground(picture, theme)
    high, wide, _ = ground.shape
    families = _families()
    with rc_context(_SETTINGS):
        # At 72 points per inch a point is a pixel, so that sizes are the layout's own.
        figure = Figure(figsize=(wide / 72, high / 72), dpi=72)
        canvas = FigureCanvasAgg(figure)
        figure.figimage(ground)
        for text in picture.texts:
            figure.text(
                text.x * SCALE,
                high - text.y * SCALE,
                text.text,
                transform=None,
                fontsize=text.size * SCALE,
                fontfamily=families,
                fontstyle="normal",
                fontweight="normal",
                color=theme.colour(text.role),
                ha={"start": "left", "middle": "center", "end": "right"}[text.anchor],
                va="baseline",
                rotation=text.angle,
                rotation_mode="anchor",
                parse_math=False,
                usetex=False,
            )
        canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    about = PngInfo()
    about.add_itxt("Title", readable(picture.title))
    about.add_itxt("Description", picture.description)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()


def _ground(picture: Picture, theme: Theme) -> NDArray[np.uint8]:
    """Everything but the text. *Shape*: `(height * SCALE, width * SCALE, 3)`."""
    pixels = np.empty((picture.height * SCALE, picture.width * SCALE, 3), dtype=np.uint8)
    pixels[:] = _rgb(theme.colour("paper"))

    def fill(x: float, y: float, width: float, height: float, colour: str) -> None:
        left, top = math.floor(x * SCALE), math.floor(y * SCALE)
        pixels[top : top + round(height * SCALE), left : left + round(width * SCALE)] = _rgb(colour)

    for box in picture.boxes:
        colour = theme.colour(box.fill)
        fill(box.x, box.y, box.width, box.height, colour)
    cells = picture.cells
    rows, columns = cells.levels.shape
    colours = painted(cells.levels, theme)
    for row in range(cells.height - cells.gap):
        for column in range(cells.width - cells.gap):
            for part in range(SCALE * SCALE):
                top = (cells.y + row) * SCALE + part // SCALE
                left = (cells.x + column) * SCALE + part % SCALE
                down, right = cells.height * SCALE, cells.width * SCALE
                pixels[top : top + rows * down : down, left : left + columns * right : right] = colours
    return pixels


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@functools.cache
def _families() -> list[str]:
    """The families of the package's fonts, made known to Matplotlib."""
    from matplotlib.font_manager import fontManager

    for face in fonts.faces():
        if face.family != "DejaVu Sans":
            fontManager.addfont(face.path)
    return [face.family for face in fonts.faces()]
