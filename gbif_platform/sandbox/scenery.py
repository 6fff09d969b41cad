"""Where the sandbox's animals sit and what the camera does: backgrounds, things in front, light, blur and noise."""

import math
from random import Random
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from gbif_platform.sandbox.bodies import Colour, hsv, mix, smooth

Size = tuple[int, int]

_LEAF = smooth("0,-1 0.28,-0.5 0.32,0.1 0.16,0.7 0,1 -0.16,0.7 -0.32,0.1 -0.28,-0.5", 4)


def background(size: Size, rng: Random) -> Image.Image:
    """A random foliage, flower, bark or paper backdrop, RGB of the given (width, height)."""
    painter = rng.choices((_foliage, _flower, _bark, _paper), weights=(5, 2, 2, 2))[0]
    return painter(size, rng)


def _ground_hue(rng: Random) -> float:
    """Greens most often, but also straw, earth and blue shade."""
    return rng.choice((rng.uniform(0.2, 0.42), rng.uniform(0.2, 0.42), rng.uniform(0.05, 0.16), rng.uniform(0.5, 0.7)))


def _cloud(cells: Size, size: Size, colours: tuple[Colour, Colour], rng: Random) -> Image.Image:
    """Smooth noise between two colours: a few random cells, enlarged."""
    columns, rows = cells
    shares = Image.frombytes("L", cells, rng.randbytes(columns * rows)).resize(size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", size, colours[0]), Image.new("RGB", size, colours[1]), shares)


def _small(size: Size) -> Size:
    """A third of the size: what is out of focus is drawn small and enlarged."""
    return max(8, size[0] // 3), max(8, size[1] // 3)


def _leaf(x: float, y: float, length: float, turn: float, width: float = 1.0) -> list[tuple[float, float]]:
    cosine, sine = math.cos(turn), math.sin(turn)
    points = (_LEAF * (width, 1.0)) @ np.array([[cosine, sine], [-sine, cosine]]) * length + (x, y)
    return [(px, py) for px, py in np.round(points, 2).tolist()]


def _foliage(size: Size, rng: Random) -> Image.Image:
    """Leaves out of focus, the nearer ones larger and brighter."""
    hue, small = _ground_hue(rng), _small(size)
    shade, light = (
        hsv(hue, rng.uniform(0.4, 0.7), rng.uniform(0.12, 0.4)),
        hsv(hue + 0.04, 0.45, rng.uniform(0.5, 0.85)),
    )
    picture = _cloud((4, 3), small, (shade, mix(shade, light, 0.6)), rng)
    draw, reach = ImageDraw.Draw(picture), max(small)
    for nth in range(14):
        x, y, turn = rng.uniform(0, small[0]), rng.uniform(0, small[1]), rng.uniform(0, math.tau)
        length, colour = reach * rng.uniform(0.12, 0.34), mix(shade, light, rng.uniform(0.1, 0.5) + nth / 28)
        draw.polygon(_leaf(x, y, length, turn), fill=colour)
        spine = (math.sin(turn) * length * 0.9, math.cos(turn) * length * 0.9)
        rib = [(round(x + spine[0], 2), round(y - spine[1], 2)), (round(x - spine[0], 2), round(y + spine[1], 2))]
        draw.line(rib, fill=mix(colour, light, 0.4), width=max(1, reach // 90))
    return picture.filter(ImageFilter.GaussianBlur(reach * rng.uniform(0.008, 0.025))).resize(
        size, Image.Resampling.BICUBIC
    )


def _flower(size: Size, rng: Random) -> Image.Image:
    """One big blossom under the animal, before a plain blurred ground."""
    small, hue = _small(size), rng.random()
    ground = hsv(_ground_hue(rng), 0.45, rng.uniform(0.2, 0.6))
    picture = _cloud((3, 3), small, (ground, mix(ground, (230, 230, 200), 0.3)), rng)
    draw, reach = ImageDraw.Draw(picture), min(small)
    x, y = small[0] * rng.uniform(0.3, 0.7), small[1] * rng.uniform(0.3, 0.7)
    petal, count, first = hsv(hue, rng.uniform(0.15, 0.6), rng.uniform(0.75, 1.0)), rng.randint(6, 11), rng.random()
    for ring, length in ((0, 0.42), (1, 0.3)):
        for nth in range(count):
            turn = (nth + first + ring / 2) * math.tau / count
            centre = (x + math.sin(turn) * reach * length, y - math.cos(turn) * reach * length)
            colour = mix(petal, hsv(hue - 0.04, 0.7, 0.6), rng.uniform(0.0, 0.3) + ring * 0.15)
            draw.polygon(_leaf(*centre, reach * length, turn, 0.9), fill=colour)
    heart = reach * 0.13
    draw.ellipse((round(x - heart), round(y - heart), round(x + heart), round(y + heart)), fill=hsv(0.12, 0.8, 0.75))
    return picture.filter(ImageFilter.GaussianBlur(reach * rng.uniform(0.008, 0.02))).resize(
        size, Image.Resampling.BICUBIC
    )


def _bark(size: Size, rng: Random) -> Image.Image:
    """Fine streaks in one direction."""
    hue = rng.choice((rng.uniform(0.04, 0.12), rng.uniform(0.04, 0.12), rng.random()))
    shade, light = hsv(hue, rng.uniform(0.2, 0.5), rng.uniform(0.15, 0.35)), hsv(hue, 0.25, rng.uniform(0.5, 0.8))
    cells = (rng.randint(24, 40), rng.randint(5, 8))
    streaks = _cloud(cells if rng.random() < 0.6 else cells[::-1], size, (shade, light), rng)
    return Image.blend(streaks, _cloud((5, 4), size, (shade, light), rng), 0.45)


def _paper(size: Size, rng: Random) -> Image.Image:
    """A collection's pale card, sometimes a dark or tinted one."""
    tint = hsv(rng.random(), rng.uniform(0.0, 0.18), rng.choice((0.95, 0.85, 0.7, 0.25)))
    return _cloud((2, 2), size, (tint, mix(tint, (90, 85, 80), rng.uniform(0.1, 0.35))), rng)


def place(
    scene: Image.Image, colours: Image.Image, coverage: Image.Image, centre: tuple[int, int], rng: Random
) -> None:
    """Set an animal on a scene, in place, with a soft shadow on the side away from the light."""
    left, top = centre[0] - colours.width // 2, centre[1] - colours.height // 2
    quarter = (max(1, colours.width // 4), max(1, colours.height // 4))
    blur = ImageFilter.GaussianBlur(quarter[0] * rng.uniform(0.02, 0.05))
    strength = rng.uniform(0.25, 0.6)
    shadow = (
        coverage.resize(quarter, Image.Resampling.BOX).filter(blur).point([round(v * strength) for v in range(256)])
    )
    offset = round(colours.width * 0.02), round(colours.width * rng.uniform(0.015, 0.05))
    scene.paste(
        (12, 14, 18), (left + offset[0], top + offset[1]), shadow.resize(colours.size, Image.Resampling.BILINEAR)
    )
    scene.paste(colours, (left, top), coverage)


def foreground(scene: Image.Image, rng: Random) -> None:
    """Sometimes a blade of grass or the edge of a leaf hides a part of the animal; drawn in place."""
    if rng.random() > 0.4:
        return
    width, height = scene.size
    reach, hue = min(width, height), rng.choice((rng.uniform(0.2, 0.4), rng.uniform(0.08, 0.15)))
    colour = hsv(hue, rng.uniform(0.4, 0.7), rng.uniform(0.3, 0.75))
    turn = rng.uniform(0, math.tau)
    away = rng.uniform(0.16, 0.4) * reach
    x, y = width / 2 + math.cos(turn) * away, height / 2 + math.sin(turn) * away
    veil = Image.new("L", (max(1, width // 2), max(1, height // 2)))
    slim = rng.uniform(0.06, 0.16)
    blade = _leaf(x / 2, y / 2, reach * rng.uniform(0.25, 0.4), turn + rng.gauss(0, 0.4), slim)
    ImageDraw.Draw(veil).polygon(blade, fill=255)
    veil = veil.filter(ImageFilter.BoxBlur(reach * rng.uniform(0.001, 0.004)))
    scene.paste(colour, mask=veil.resize(scene.size, Image.Resampling.BILINEAR))


def expose(scene: Image.Image, rng: Random) -> Image.Image:
    """What light and camera do: a gradient of light, white balance, exposure, defocus and sensor noise."""
    if rng.random() < 0.25:
        scene = scene.filter(ImageFilter.BoxBlur(min(scene.size) * rng.uniform(0.001, 0.005)))
    exposure = rng.uniform(0.85, 1.35)
    gains = [exposure * rng.uniform(0.88, 1.12) for _ in range(3)]
    scene = scene.point([min(255, round(value * gain)) for gain in gains for value in range(256)])
    corners = bytes(round(255 * rng.uniform(0.65, 1.0)) for _ in range(4))
    light = Image.frombytes("L", (2, 2), corners).resize(scene.size, Image.Resampling.BILINEAR)
    scene = ImageChops.multiply(scene, Image.merge("RGB", (light, light, light)))
    noise = _noise(scene.size, rng.uniform(1.0, 7.0), rng)
    return ImageChops.add(scene, Image.merge("RGB", (noise, noise, noise)), offset=-128)


_NORMAL_QUANTILES = [NormalDist().inv_cdf((value + 0.5) / 256) for value in range(256)]


def _noise(size: Size, deviation: float, rng: Random) -> Image.Image:
    """Grey noise around 128, normally distributed, from the picture's own random numbers."""
    uniform = Image.frombytes("L", size, rng.randbytes(size[0] * size[1]))
    return uniform.point([128 + round(deviation * quantile) for quantile in _NORMAL_QUANTILES])
