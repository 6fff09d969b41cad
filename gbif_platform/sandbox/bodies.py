"""How the sandbox's invented insects look: outlines, markings and poses, drawn in the colours of one picture.

Body coordinates: the head points to -y, the right side is +x, and half a wing span (or half a beetle's length) is 1.
"""

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from gbif_platform.sandbox.randomness import seeded

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

SUPERSAMPLING = 2
CANVAS_RADIUS = 1.25  # body units from the centre of the canvas to its edge: tails, horns and antennae fit in


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB in 0..255 of a colour whose three parts are in 0..1 (hue wraps around)."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return round(red * 255), round(green * 255), round(blue * 255)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour that is `share` (0..1) of the way from the first to the second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def rows(text: str) -> Points:
    """Numbers written as SVG writes points, "x,y x,y …": one row for each group, shape (groups, numbers)."""
    return np.array([[float(number) for number in group.split(",")] for group in text.split()])


def smooth(corners: str, steps: int = 6) -> Points:
    """A closed Catmull-Rom curve through the corners ("x,y x,y …"), as `corners * steps` points."""
    knots = rows(corners)
    before, after, beyond = np.roll(knots, 1, axis=0), np.roll(knots, -1, axis=0), np.roll(knots, -2, axis=0)
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (points[:, None, :] for points in (before, knots, after, beyond))
    curve = 0.5 * (2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3)
    return np.asarray(curve.reshape(-1, 2))


def ellipse(x: float, y: float, half_width: float, half_height: float, points: int = 28) -> Points:
    """The outline of an upright ellipse."""
    angle = np.arange(points) * (2 * math.pi / points)
    return np.stack([x + half_width * np.cos(angle), y + half_height * np.sin(angle)], axis=1)


def scalloped(outline: Points, teeth: int, depth: float) -> Points:
    """The outline with a wavy outer edge: points far from the body move in and out."""
    distance = np.hypot(outline[:, 0], outline[:, 1])
    along = np.arange(len(outline)) * (2 * math.pi * teeth / len(outline))
    outer = np.clip((distance - 0.45) / 0.3, 0, 1)
    return np.asarray(outline * (1 + depth * outer * np.cos(along))[:, None])


@dataclass(frozen=True)
class Palette:
    """The colours of one picture's animal. Drawn alike for every species, so that colour says nothing about it."""

    base: Colour
    dark: Colour
    mark: Colour
    accent: Colour

    @classmethod
    def drawn(cls, rng: Random) -> "Palette":
        """Random colours that go together; the markings are lighter or darker than the ground, never alike."""
        hue = rng.random()
        pale_ground = rng.random() < 0.4
        if pale_ground:
            base = hsv(hue, rng.uniform(0.25, 0.6), rng.uniform(0.82, 0.98))
            mark = hsv(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.5, 0.9), rng.uniform(0.12, 0.3))
        else:
            base = hsv(hue, rng.uniform(0.55, 0.9), rng.uniform(0.42, 0.7))
            mark = hsv(hue + rng.choice((0.04, 0.12, 0.5)), rng.uniform(0.1, 0.5), rng.uniform(0.92, 1.0))
        dark = hsv(hue + rng.uniform(-0.05, 0.05), rng.uniform(0.4, 0.7), rng.uniform(0.1, 0.22))
        accent = hsv(hue + rng.uniform(0.35, 0.65), rng.uniform(0.5, 0.85), rng.uniform(0.8, 1.0))
        return cls(base, dark, mark, accent)


@dataclass(frozen=True)
class Pose:
    """Where and how the animal sits on its canvas: `matrix` (2, 2) in pixels per body unit and `centre` in pixels."""

    matrix: Points
    centre: float

    @classmethod
    def turned(cls, pixels_per_unit: float, rotation: float, lean: float, centre: float) -> "Pose":
        """Rotated by `rotation` radians after a sideways shear by `lean` (the camera seldom looks straight down)."""
        cosine, sine = math.cos(rotation), math.sin(rotation)
        shear = np.array([[1.0, lean], [0.0, 1.0]])
        return cls(pixels_per_unit * np.array([[cosine, -sine], [sine, cosine]]) @ shear, centre)

    def place(self, points: Points) -> list[tuple[float, float]]:
        """Pixel positions of body coordinates; rounded, so that the last bit of a sine cannot move a pixel."""
        placed = np.round(points @ self.matrix.T + self.centre, 2)
        return [(x, y) for x, y in placed.tolist()]

    def length(self, units: float) -> int:
        """A length in whole pixels, at least one."""
        return max(1, round(units * math.sqrt(abs(float(np.linalg.det(self.matrix))))))


class Brush:
    """Paints shapes given in body coordinates on one canvas; `mirror` stretches x, -1 for the left side."""

    def __init__(self, canvas: Image.Image, pose: Pose, mirror: float = 1.0) -> None:
        self._draw = ImageDraw.Draw(canvas)
        self._pose = pose
        self._mirror = np.array([mirror, 1.0])

    def fill(self, outline: Points, colour: Colour | int) -> None:
        """A filled polygon."""
        self._draw.polygon(self._pose.place(outline * self._mirror), fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour | int) -> None:
        """A filled circle, as the pose sees it."""
        self.fill(ellipse(x, y, radius, radius, 20), colour)

    def line(self, points: Points, width: float, colour: Colour | int) -> None:
        """An open line of the given width in body units."""
        self._draw.line(
            self._pose.place(points * self._mirror), fill=colour, width=self._pose.length(width), joint="curve"
        )


Marking = Callable[[Brush, "Palette", Random], None]


@dataclass(frozen=True)
class Wings:
    """A butterfly: outlines of the right fore and hind wing, what is painted on them, and the antennae's clubs."""

    fore: Points
    hind: Points
    mark_fore: Marking
    mark_hind: Marking
    club: float = 0.035


@dataclass(frozen=True)
class Shell:
    """A beetle: its elytra's half width and half length, what is painted on them, antennae and an optional horn."""

    half_width: float
    half_length: float
    markings: Marking
    antennae: float
    club: float = 0.0
    horn: float = 0.0


Plan = Wings | Shell


def paint(plan: Plan, radius: float, rng: Random) -> tuple[Image.Image, Image.Image]:
    """One animal in a random pose and colours.

    Args:
        plan: the species' body plan.
        radius: pixels of one body unit in the result.
        rng: the picture's own random numbers.

    Returns:
        Its colours (RGB) and its coverage (L), square and of one size, centred.
    """
    side = max(8, round(2 * CANVAS_RADIUS * radius)) * SUPERSAMPLING
    sheet = Sheet(side, Pose.turned(radius * SUPERSAMPLING, rng.gauss(0, 0.35), rng.uniform(-0.12, 0.12), side / 2))
    palette = Palette.drawn(rng)
    if isinstance(plan, Wings):
        _paint_butterfly(plan, sheet, palette, rng)
    else:
        _paint_beetle(plan, sheet, palette, rng)
    return sheet.flattened()


class Sheet:
    """The two layers of one animal, each with its own coverage: markings may overrun the outline they belong to."""

    def __init__(self, side: int, pose: Pose) -> None:
        self.pose = pose
        self.lower, self.upper = Image.new("RGB", (side, side)), Image.new("RGB", (side, side))
        self.lower_cut, self.upper_cut = Image.new("L", (side, side)), Image.new("L", (side, side))

    def flattened(self) -> tuple[Image.Image, Image.Image]:
        """Colours and coverage at the picture's resolution."""
        colours, coverage, cut = (layer.reduce(SUPERSAMPLING) for layer in (self.lower, self.lower_cut, self.upper_cut))
        colours.paste(self.upper.reduce(SUPERSAMPLING), mask=cut)
        return colours, ImageChops.lighter(coverage, cut)


def _paint_butterfly(wings: Wings, sheet: Sheet, palette: Palette, rng: Random) -> None:
    # Each side opens by itself, which reads as a tilt towards or away from the camera.
    openings = (rng.uniform(0.72, 1.0), -rng.uniform(0.72, 1.0))
    lift = rng.uniform(-0.14, 0.1)
    cosine, sine = math.cos(lift), math.sin(lift)
    fore = wings.fore @ np.array([[cosine, sine], [-sine, cosine]])
    for canvas, cut, outline, marking in (
        (sheet.lower, sheet.lower_cut, wings.hind, wings.mark_hind),
        (sheet.upper, sheet.upper_cut, fore, wings.mark_fore),
    ):
        marks = rng.getrandbits(32)  # both sides wear the same markings
        for opening in openings:
            Brush(cut, sheet.pose, opening).fill(outline, 255)
            brush = Brush(canvas, sheet.pose, opening)
            _shade_wing(brush, outline, palette)
            marking(brush, palette, seeded(marks))
    _paint_butterfly_body(Brush(sheet.upper, sheet.pose), wings.club, palette)
    _paint_butterfly_body(Brush(sheet.upper_cut, sheet.pose), wings.club, None)


def _shade_wing(brush: Brush, outline: Points, palette: Palette) -> None:
    """A dark edge, then steps from a deep to a bright ground towards the middle of the wing."""
    brush.fill(outline, palette.dark)
    middle = outline.mean(axis=0)
    for size, share in ((0.9, 0.35), (0.86, 0.22), (0.72, 0.1), (0.5, 0.0)):
        brush.fill(middle + (outline - middle) * size, mix(palette.base, palette.dark, share))
    root = np.array([[0.05, -0.05]])
    for tip in outline[8:-8:6]:
        vein = np.concatenate([root, tip[None, :] * 0.97])
        brush.line(vein, 0.008, mix(palette.base, palette.dark, 0.5))


def _paint_butterfly_body(brush: Brush, club: float, palette: Palette | None) -> None:
    """Abdomen, thorax, head and antennae; without a palette their coverage."""
    dark = palette.dark if palette else 255
    soft = mix(palette.dark, palette.base, 0.3) if palette else 255
    for side in (-1, 1):
        antenna = np.array([[0.02, -0.24], [0.07, -0.4], [0.15, -0.56], [0.24, -0.68]]) * (side, 1)
        brush.line(antenna, 0.02, dark)
        brush.disc(float(antenna[-1, 0]), float(antenna[-1, 1]), club, dark)
    brush.fill(ellipse(0, 0.24, 0.055, 0.32), dark)
    for ring in range(5):
        brush.fill(ellipse(0, 0.1 + ring * 0.085, 0.045, 0.022, 14), soft)
    brush.fill(ellipse(0, -0.08, 0.085, 0.17), dark)
    brush.fill(ellipse(-0.015, -0.1, 0.045, 0.11), soft)
    brush.disc(0, -0.27, 0.065, dark)


def _paint_beetle(shell: Shell, sheet: Sheet, palette: Palette, rng: Random) -> None:
    stride = rng.uniform(-0.08, 0.08)
    _paint_limbs(Brush(sheet.lower, sheet.pose), shell, stride, palette)
    _paint_limbs(Brush(sheet.lower_cut, sheet.pose), shell, stride, None)
    wing_case = ellipse(0, 0.2, shell.half_width, shell.half_length, 40)
    Brush(sheet.upper_cut, sheet.pose).fill(wing_case, 255)
    brush = Brush(sheet.upper, sheet.pose)
    brush.fill(wing_case, palette.dark)
    for size, share in ((0.94, 0.3), (0.85, 0.12), (0.65, 0.0)):
        brush.fill(wing_case * size + (0, 0.2 - 0.2 * size), mix(palette.base, palette.dark, share))
    marks = rng.getrandbits(32)
    for side in (-1, 1):
        shell.markings(Brush(sheet.upper, sheet.pose, side), palette, seeded(marks))
    brush.line(np.array([[0, 0.2 - shell.half_length], [0, 0.2 + shell.half_length]]), 0.022, palette.dark)
    gloss = smooth("-0.45,-0.45 -0.25,-0.6 -0.2,-0.2 -0.4,-0.1") * (shell.half_width, shell.half_length)
    brush.fill(gloss + np.array([0, 0.2]), mix(palette.base, (255, 255, 255), 0.55))


def _paint_limbs(brush: Brush, shell: Shell, stride: float, palette: Palette | None) -> None:
    """Legs, antennae, head, horn and pronotum; without a palette their coverage."""
    dark = palette.dark if palette else 255
    plate = mix(palette.dark, palette.base, 0.45) if palette else 255
    width, front = shell.half_width, 0.2 - shell.half_length
    for side in (-1, 1):
        for at, reach, swing in ((front + 0.12, 0.3, -0.26), (front + 0.34, 0.36, 0.02), (front + 0.56, 0.34, 0.3)):
            knee = (width + reach * 0.55, at + swing * 0.5 + stride * side)
            foot = (width + reach, at + swing + 0.1 + stride * side)
            brush.line(np.array([(width * 0.5, at), knee, foot]) * (side, 1), 0.038, dark)
        feeler = np.array([(0.06, -0.26), (0.16, -0.42), (0.27, -0.5), (0.42, -0.46)]) * shell.antennae
        feeler = (feeler + np.array([0, front - 0.02 + 0.26 * (shell.antennae - 1)])) * (side, 1)
        brush.line(feeler, 0.024, dark)
        if shell.club:
            brush.disc(float(feeler[-1, 0]), float(feeler[-1, 1]), shell.club, dark)
    if shell.horn:
        root, tip = front - 0.2, front - 0.24 - shell.horn
        prong = [(0.0, tip + 0.12), (0.16, tip), (0.09, tip + 0.2), (0.12, root)]
        brush.fill(np.array([*prong, *[(-x, y) for x, y in prong[:0:-1]]]), dark)
    brush.fill(ellipse(0, front - 0.19, width * 0.42, 0.13), dark)
    brush.fill(ellipse(0, front - 0.02, width * 0.8, 0.2), plate)
