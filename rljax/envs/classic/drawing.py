"""A small canvas in world units for the drawings of the classic tasks. Host only; needs Pillow."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]

PAPER: Colour = (250, 250, 248)
LIGHT: Colour = (218, 220, 222)
GREY: Colour = (122, 128, 134)
DARK: Colour = (47, 56, 66)
GROUND: Colour = (226, 229, 222)
WARM: Colour = (214, 118, 62)
ACCENT: Colour = (62, 118, 168)
GOAL: Colour = (74, 150, 96)


class Canvas:
    """Draws in world units (x right, y up) and gives a frame uint8 [height, width, 3].

    `centre` is the world point in the middle of the frame, `scale` the pixels per world unit.
    """

    def __init__(self, centre: Point, scale: float, width: int = 360, height: int = 240):
        # Drawn three times as large and scaled down: Pillow itself does not smooth edges.
        self._factor = 3
        self._size = (width, height)
        self._centre = centre
        self._scale = scale * self._factor
        self._image = Image.new("RGB", (width * self._factor, height * self._factor), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, start: Point, end: Point, colour: Colour, width: float) -> None:
        """A segment with round ends; `width` in world units."""
        length = math.dist(start, end) or 1.0
        dx, dy = ((e - s) / length * width / 2 for s, e in zip(start, end))
        # A polygon, because Pillow rounds the corners of a wide line to whole pixels and it looks frayed.
        corners = [(x + sign * -dy, y + sign * dx) for (x, y), sign in zip((start, end, end, start), (1, 1, -1, -1))]
        self.polygon(corners, colour)
        for point in (start, end):
            self.circle(point, width / 2, colour)

    def curve(self, points: Sequence[Point], colour: Colour, width: float) -> None:
        """A smooth line through `points`; `width` in world units."""
        pixels = [self._pixel(point) for point in points]
        self._draw.line(pixels, colour, max(1, round(width * self._scale)), joint="curve")

    def circle(self, centre: Point, radius: float, colour: Colour, outline: float = 0.0) -> None:
        """A disc; with an `outline` (its width, in world units) only the ring."""
        x, y = self._pixel(centre)
        r = radius * self._scale
        box = (x - r, y - r, x + r, y + r)
        if outline:
            self._draw.ellipse(box, outline=colour, width=max(1, round(outline * self._scale)))
        else:
            self._draw.ellipse(box, fill=colour)

    def rectangle(self, centre: Point, width: float, height: float, colour: Colour) -> None:
        """An upright rectangle with slightly rounded corners."""
        (x, y), dx, dy = self._pixel(centre), width / 2 * self._scale, height / 2 * self._scale
        self._draw.rounded_rectangle((x - dx, y - dy, x + dx, y + dy), radius=min(dx, dy) / 4, fill=colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([self._pixel(point) for point in points], fill=colour)

    def frame(self) -> np.ndarray:
        """uint8 [height, width, 3]."""
        return np.asarray(self._image.resize(self._size, Image.Resampling.LANCZOS))

    def _pixel(self, point: Point) -> Point:
        width, height = self._image.size
        x, y = point[0] - self._centre[0], point[1] - self._centre[1]
        return width / 2 + x * self._scale, height / 2 - y * self._scale
