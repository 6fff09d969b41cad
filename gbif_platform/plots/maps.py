"""Where the media of a sample come from, over the land of the world."""

from importlib.resources import files
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from gbif_platform.plots.figure import AFTER, GREY, WIDTH, brief, counted, figure, legend, nothing, png, share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

# land.png is 1440 × 720 pixels of a quarter degree, white is land. Drawn from Natural Earth's land at 1:50 million,
# version 4.1 (public domain, naturalearthdata.com), as redistributed by the npm package world-atlas 2.0.2 (ISC).
AVAILABLE = "#dcbf8e"
SEA, LAND = (0.957, 0.969, 0.980), (0.894, 0.894, 0.875)
SMALLEST = 10.0  # degrees of latitude that a map shows at least
ACROSS = 500  # pixels the map is wide, about
CELL = 4  # pixels of a cell of the density
FEW = 400  # places up to which each is drawn as a dot


class Window(NamedTuple):
    """What a map shows."""

    west: float  # degrees; the map may run over the antimeridian, then east > 180
    east: float
    south: float
    north: float
    stretch: float  # of a degree of latitude against one of longitude, so that shapes are true in the middle


Places = tuple[np.ndarray, np.ndarray]  # latitudes, longitudes


def sample_map(latitudes: np.ndarray, longitudes: np.ndarray, others: Places | None = None) -> bytes:
    """Density of the sample's media over the land, as a PNG; zoomed to the data where they lie in one region.

    Equirectangular; the colours are logarithmic in the media of a cell of about 4 pixels.

    Args:
        latitudes: degrees north, float (N,); nan or outside -90 … 90 counts as without coordinates.
        longitudes: degrees east, float (N,); nan or outside -180 … 180 counts as without coordinates.
        others: the same two of what was available, drawn flat behind the sample.
    """
    sample, behind = _valid(latitudes, longitudes), _valid(*others) if others else None
    media, without = len(latitudes), len(latitudes) - len(sample[0])
    shown = [places for places in (sample, behind) if places and len(places[0])]
    if not shown:
        return nothing(f"Map of the sample: {counted(media, 'medium', 'media')}, none with coordinates.")
    window = zoom(np.concatenate([places[0] for places in shown]), np.concatenate([places[1] for places in shown]))
    tall = (window.north - window.south) * window.stretch / (window.east - window.west)
    title = f"Map of the sample: {counted(len(sample[0]), 'medium', 'media')} with coordinates"
    words = f"{counted(without, 'medium', 'media')} ({share(without, media)}) without coordinates." if without else ""
    density = len(sample[0]) > FEW
    height = WIDTH * (0.84 if density else 0.92) * tall + 0.6 + 0.2 * bool(words) + 0.25 * bool(behind)
    drawn, axes = figure(height, title, words)
    shape = (max(1, round(ACROSS * tall)), ACROSS)
    extent = (window.west, window.east, window.south, window.north)
    axes.imshow(ground(window, shape), extent=extent, interpolation="bilinear", aspect=window.stretch)
    if behind:
        seen = np.ma.masked_equal(_density(behind, window, shape) > 0, False)
        axes.imshow(
            seen, extent=extent, interpolation="nearest", aspect=window.stretch, cmap=_flat(AVAILABLE), zorder=2
        )
    (_draw_density if density else _draw_dots)(axes, sample, window, shape)
    _degrees(axes, window)
    if behind:
        legend(axes, ["available"], [AVAILABLE])
    return png(drawn)


def _valid(latitudes: np.ndarray, longitudes: np.ndarray) -> Places:
    north, east = np.asarray(latitudes, dtype=np.float64), np.asarray(longitudes, dtype=np.float64)
    known = (np.abs(north) <= 90) & (np.abs(east) <= 180)  # nan is neither
    return north[known], east[known]


def zoom(north: np.ndarray, east: np.ndarray) -> Window:
    """The data with a margin; the whole world where it leaves no wide gap of longitude free."""
    west_edge, east_edge = _longitudes(east)
    width = max((east_edge - west_edge) * 1.12, 2 * SMALLEST)
    if width > 250:
        return Window(-180, 180, min(-58.0, max(-90.0, north.min() - 3)), max(84.0, min(90.0, north.max() + 3)), 1.0)
    middle, height = (north.min() + north.max()) / 2, max((north.max() - north.min()) * 1.12, SMALLEST)
    stretch = min(1 / np.cos(np.radians(middle)), 4.0)
    # neither a tower nor a ribbon
    width, height = max(width, height * stretch / 0.6), max(height, width * 0.35 / stretch)
    if width > 330:
        return Window(-180, 180, max(-90.0, middle - height / 2), min(90.0, middle + height / 2), 1.0)
    centre = (west_edge + east_edge) / 2
    south = max(-90.0, min(middle - height / 2, 90.0 - height))
    return Window(centre - width / 2, centre + width / 2, south, min(90.0, south + height), stretch)


def _longitudes(east: np.ndarray) -> tuple[float, float]:
    """West and east edge of the data, across the antimeridian (east > 180) where the widest gap is elsewhere."""
    low, high = float(east.min()), float(east.max())
    degrees = np.flatnonzero(np.bincount(np.minimum(east + 180, 359.0).astype(int), minlength=360)) - 180
    gaps = np.diff(degrees)
    if not len(gaps) or gaps.max() <= low + 360 - high:
        return low, high
    after = degrees[gaps.argmax() + 1]
    return float(east[east >= after].min()), float(east[east < after].max()) + 360


def ground(window: Window, shape: tuple[int, int]) -> np.ndarray:
    """Sea and land of the window as colours, float (rows, columns, 3)."""
    from PIL import Image
    from scipy.ndimage import map_coordinates

    with Image.open(BytesIO(files("gbif_platform.plots").joinpath("land.png").read_bytes())) as picture:
        land = np.asarray(picture.convert("L"), dtype=np.float32) / 255
    rows, columns = shape
    north = window.north - (np.arange(rows) + 0.5) / rows * (window.north - window.south)
    east = window.west + (np.arange(columns) + 0.5) / columns * (window.east - window.west)
    here = np.meshgrid((90 - north) * 4 - 0.5, (east + 180) * 4 - 0.5, indexing="ij")
    # between the pixels' middles the coast runs where the land is a half
    level = map_coordinates(land, here, order=1, mode="grid-wrap")
    pixel = 4 * (window.east - window.west) / columns
    level = np.clip((level - 0.5) / min(1.0, 2 * pixel) + 0.5, 0, 1)[..., None]
    return level * LAND + (1 - level) * SEA


def _density(places: Places, window: Window, shape: tuple[int, int]) -> np.ndarray:
    """Media in each cell, int64 (rows, columns), north first."""
    rows, columns = max(1, round(shape[0] / CELL)), shape[1] // CELL
    north, east = places
    east = np.where(east < window.west, east + 360, east)
    row = ((window.north - north) / (window.north - window.south) * rows).astype(int).clip(0, rows - 1)
    column = ((east - window.west) / (window.east - window.west) * columns).astype(int).clip(0, columns - 1)
    return np.bincount(row * columns + column, minlength=rows * columns).reshape(rows, columns)


def _draw_dots(axes: "Axes", sample: Places, window: Window, _: tuple[int, int]) -> None:
    north, east = sample
    east = np.where(east < window.west, east + 360, east)
    size = 30 if len(east) <= 50 else 12
    axes.scatter(east, north, s=size, color=AFTER, edgecolors="white", linewidths=0.5, zorder=3)


def _draw_density(axes: "Axes", sample: Places, window: Window, shape: tuple[int, int]) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm
    from matplotlib.ticker import FuncFormatter, NullLocator

    extent = (window.west, window.east, window.south, window.north)
    density = _density(sample, window, shape)
    shades = LinearSegmentedColormap.from_list("sample", ["#8fc4a5", AFTER, "#0b2b1d"])
    image = axes.imshow(np.ma.masked_equal(density, 0), extent=extent, interpolation="nearest", zorder=3, cmap=shades,
                        aspect=window.stretch, norm=LogNorm(1, max(10, density.max())))  # fmt: skip
    scale = axes.figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.015)
    scale.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))
    scale.ax.yaxis.set_minor_locator(NullLocator())
    scale.ax.tick_params(labelsize=8, color=GREY)
    scale.outline.set_visible(False)
    scale.set_label("sampled media in a cell", fontsize=8)


def _degrees(axes: "Axes", window: Window) -> None:
    """Round degrees along two edges, with a faint graticule."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    def east(value: float, _: int) -> str:
        value = (value + 180) % 360 - 180
        return f"{abs(value):g}°{'E' if 0 < value < 180 else 'W' if -180 < value < 0 else ''}"

    def north(value: float, _: int) -> str:
        return f"{abs(value):g}°{'N' if value > 0 else 'S' if value < 0 else ''}"

    axes.set_xlim(window.west, window.east)
    axes.set_ylim(window.south, window.north)
    for axis, write in ((axes.xaxis, east), (axes.yaxis, north)):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 1.5, 2, 3, 5, 10]))
        axis.set_major_formatter(FuncFormatter(write))
    axes.grid(color="white", linewidth=0.6, zorder=1)
    axes.tick_params(length=0, labelsize=8, labelcolor=GREY)
    axes.spines[:].set_visible(False)


def _flat(colour: str) -> "Colormap":
    from matplotlib.colors import ListedColormap

    return ListedColormap([colour])
