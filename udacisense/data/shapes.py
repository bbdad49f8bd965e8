"""An image set that the product draws itself: ten shapes, for a first run without any download.

Figures measured on it are about drawn shapes and say nothing about photos.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from udacisense.base.files import atomic_path
from udacisense.errors import InputError

Color = tuple[int, int, int]
Point = tuple[float, float]

_SUPERSAMPLING = 4  # drawn this much larger and reduced, so that edges are smooth
_SPLITS = ("train", "test")


def _polygon(corners: int, *, inner: float = 1.0) -> list[Point]:
    """Corners of a regular polygon on the unit circle; ``inner`` < 1 puts a star's notches between them."""
    count = corners if inner == 1.0 else 2 * corners
    radii = [1.0 if inner == 1.0 or i % 2 == 0 else inner for i in range(count)]
    return [
        (r * math.sin(2 * math.pi * i / count), -r * math.cos(2 * math.pi * i / count)) for i, r in enumerate(radii)
    ]


def _circle(radius: float = 1.0, centre: Point = (0.0, 0.0)) -> list[Point]:
    return [(centre[0] + radius * x, centre[1] + radius * y) for x, y in _polygon(48)]


def _cross() -> list[Point]:
    a, b = 0.34, 1.0
    return [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]


def _heart() -> list[Point]:
    angles = [2 * math.pi * i / 64 for i in range(64)]
    return [
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in angles
    ]


# A shape is what is filled, and then what is cut out of it, both within the unit circle or about.
SHAPES: dict[str, tuple[Callable[[], list[Point]], Callable[[], list[Point]] | None]] = {
    "arrow": (
        lambda: [(0.0, -1.0), (0.8, -0.1), (0.3, -0.1), (0.3, 0.95), (-0.3, 0.95), (-0.3, -0.1), (-0.8, -0.1)],
        None,
    ),
    "circle": (_circle, None),
    "crescent": (_circle, lambda: _circle(0.85, (0.45, 0.0))),
    "cross": (_cross, None),
    "diamond": (lambda: [(0.0, -1.0), (0.55, 0.0), (0.0, 1.0), (-0.55, 0.0)], None),
    "heart": (_heart, None),
    "ring": (_circle, lambda: _circle(0.58)),
    "square": (lambda: [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)], None),
    "star": (lambda: _polygon(5, inner=0.42), None),
    "triangle": (lambda: _polygon(3), None),
}


def draw_dataset(folder: Path, *, train_per_class: int, test_per_class: int, seed: int, size_px: int = 32) -> None:
    """Draw a data set ``{train,test}/<class>/*.png``, which appears whole or not at all.

    Colours, position, size, rotation, background, a distracting line and noise are drawn by chance; the same
    arguments give the same bytes.

    Args:
        folder: where to write; it must be absent or empty.
        train_per_class: training images of each of the ten shapes, at least 2.
        test_per_class: test images of each, at least 1.
        seed: 0 or more; the two splits draw from different streams of it.
        size_px: edge of the square images, at least 16.

    Raises:
        InputError: a number is out of range, or the folder holds something.
    """
    if train_per_class < 2 or test_per_class < 1 or seed < 0 or not 16 <= size_px <= 4096:
        raise InputError(
            f"Cannot draw {train_per_class} training and {test_per_class} test images a class of {size_px} px with"
            f" seed {seed}; allowed are at least 2, at least 1, 16 to 4096, and at least 0."
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is already there and not an empty folder; give a new one to draw into.")
    with atomic_path(folder) as partial:
        for split, count in zip(_SPLITS, (train_per_class, test_per_class), strict=True):
            for name in SHAPES:
                (partial / split / name).mkdir(parents=True)
                for i in range(count):
                    # A stream of its own for every image: a larger set begins with the smaller one.
                    rng = random.Random(f"{seed}/{split}/{name}/{i}")  # noqa: S311 - pictures, not secrets
                    draw_shape(name, rng, size_px=size_px).save(partial / split / name / f"{i:05d}.png")


def draw_shape(name: str, rng: random.Random, *, size_px: int) -> Image.Image:
    """Draw one picture of a row of :data:`SHAPES`: RGB, ``size_px`` square."""
    edge = size_px * _SUPERSAMPLING
    background, colour = _contrasting_colours(rng)
    image = _gradient(edge, background, rng)
    brush = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 1)):
        ends = [(rng.uniform(0, edge), rng.uniform(0, edge)) for _ in range(2)]
        brush.line(ends, fill=_nearby(colour, rng, spread=90), width=rng.randint(2, edge // 24))

    outline, hole = SHAPES[name]
    radius = edge * rng.uniform(0.28, 0.44)
    room = 0.8 * (edge / 2 - radius)
    centre = (edge / 2 + rng.uniform(-room, room), edge / 2 + rng.uniform(-room, room))
    turn = rng.uniform(-0.35, 0.35)  # radians; a square turned further would pass for a diamond
    squeeze = rng.uniform(0.9, 1.0)
    mask = Image.new("L", (edge, edge), 0)
    pen = ImageDraw.Draw(mask)
    for points, value in ((outline(), 255), (hole() if hole else [], 0)):
        if points:
            pen.polygon(
                [_place(p, radius=radius, centre=centre, turn=turn, squeeze=squeeze) for p in points], fill=value
            )
    image.paste(Image.new("RGB", (edge, edge), colour), mask=mask)

    small = image.resize((size_px, size_px), Image.Resampling.BOX)
    small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 0.6) * size_px / 32))
    return _add_noise(small, rng)


def _place(point: Point, *, radius: float, centre: Point, turn: float, squeeze: float) -> Point:
    x, y = point[0] * squeeze, point[1]
    x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
    return centre[0] + radius * x, centre[1] + radius * y


def _contrasting_colours(rng: random.Random) -> tuple[Color, Color]:
    """Background and shape, told apart by their brightness (ITU-R BT.601) even without colour."""
    while True:
        first, second = ((rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(2))
        if abs(_brightness(first) - _brightness(second)) > 80:
            return first, second


def _brightness(colour: Color) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _nearby(colour: Color, rng: random.Random, *, spread: int) -> Color:
    red, green, blue = (min(255, max(0, value + rng.randint(-spread, spread))) for value in colour)
    return red, green, blue


def _gradient(edge: int, colour: Color, rng: random.Random) -> Image.Image:
    """A background that runs from ``colour`` to a similar one in a direction by chance."""
    ramp = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize((edge, edge))
    return Image.composite(
        Image.new("RGB", (edge, edge), _nearby(colour, rng, spread=40)), Image.new("RGB", (edge, edge), colour), ramp
    )


def _add_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    generator = np.random.default_rng(rng.getrandbits(64))
    pixels = np.asarray(image, dtype=np.float32)
    noisy = pixels + generator.normal(0.0, rng.uniform(2.0, 10.0), pixels.shape).astype(np.float32)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))
