"""What is painted on wings and wing cases: each function makes one pattern, slightly different in each picture.

Places are body coordinates on the right side, written as SVG writes points: "x,y,… x,y,…".
"""

from random import Random

import numpy as np

from gbif_platform.sandbox.bodies import Brush, Marking, Palette, ellipse, rows


def eyespots(places: str) -> Marking:
    """Rings around a dark pupil with a glint, at x,y,radius."""

    def marking(brush: Brush, palette: Palette, rng: Random) -> None:
        grow = rng.uniform(0.9, 1.1)
        rings = ((1.0, palette.dark), (0.84, palette.mark), (0.62, palette.accent), (0.44, palette.dark))
        for x, y, radius in rows(places).tolist():
            size = radius * grow
            for share, colour in rings:
                brush.disc(x, y, size * share, colour)
            brush.disc(x - size * 0.14, y - size * 0.14, size * 0.13, (250, 250, 245))

    return marking


def spots(places: str) -> Marking:
    """Plain dots with a thin dark rim, at x,y,radius."""

    def marking(brush: Brush, palette: Palette, rng: Random) -> None:
        for x, y, radius in rows(places).tolist():
            size = radius * rng.uniform(0.85, 1.15)
            brush.disc(x, y, size + 0.014, palette.dark)
            brush.disc(x, y, size, palette.mark)

    return marking


def bands(places: str) -> Marking:
    """Curved bands around the body's middle, at distance,width."""

    def marking(brush: Brush, palette: Palette, rng: Random) -> None:
        shift = rng.uniform(-0.02, 0.02)
        angle = np.linspace(-1.5, 1.5, 28)
        for distance, width in rows(places).tolist():
            reach = distance + shift + 0.012 * np.cos(angle * 9)
            arc = np.stack([reach * np.cos(angle), reach * 0.95 * np.sin(angle)], axis=1)
            brush.line(arc, width + 0.03, palette.dark)
            brush.line(arc, width, palette.mark)

    return marking


def stripes(places: str) -> Marking:
    """Straight tapering stripes, at x,y,x,y,width: from, to, and the width at the start."""

    def marking(brush: Brush, palette: Palette, rng: Random) -> None:
        for x0, y0, x1, y1, width in rows(places).tolist():
            start, end = np.array([x0, y0]), np.array([x1, y1])
            across = np.array([y0 - y1, x1 - x0])
            across *= width * rng.uniform(0.85, 1.15) / (2 * float(np.hypot(*across)))
            taper = across * 0.35
            brush.fill(np.stack([start + across, end + taper, end - taper, start - across]), palette.mark)

    return marking


def panes(places: str) -> Marking:
    """Diamond window panes with a small core, at x,y,half width."""

    def marking(brush: Brush, palette: Palette, rng: Random) -> None:
        for x, y, half in rows(places).tolist():
            size = half * rng.uniform(0.92, 1.05)
            brush.fill(ellipse(x, y, size, size * 1.15, 4), palette.mark)
            brush.fill(ellipse(x, y, size * 0.45, size * 0.5, 4), palette.accent)

    return marking


def zigzags(places: str) -> Marking:
    """Transverse zigzag bands, at y,width."""

    def marking(brush: Brush, palette: Palette, rng: Random) -> None:
        x = np.linspace(-0.02, 0.85, 9)
        for y, width in rows(places).tolist():
            line = np.stack([x, y + 0.055 * (-1.0) ** np.arange(9) + rng.uniform(-0.01, 0.01)], axis=1)
            brush.line(line, width, palette.mark)

    return marking
