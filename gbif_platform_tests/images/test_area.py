"""The area mean against its definition in float64."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gbif_platform.images.area import area_mean


def exact(pixels: NDArray[np.uint8], height: int, width: int, extent: tuple[float, float]) -> NDArray[np.float64]:
    down, across = (
        shares(source, end, target)
        for source, end, target in ((pixels.shape[0], extent[0], height), (pixels.shape[1], extent[1], width))
    )
    lines = np.tensordot(down, pixels.astype(np.float64), axes=1)
    return np.moveaxis(np.tensordot(across, lines, axes=(1, 1)), 0, 1)


def shares(source: int, end: float, target: int) -> NDArray[np.float64]:
    """[target, source]: how much of each source pixel lies in each part, over the part's length."""
    edges = np.arange(target + 1) * (end / target)
    first = np.arange(source)
    overlap = np.minimum(first + 1, edges[1:, None]) - np.maximum(first, edges[:-1, None])
    return np.clip(overlap, 0, None) / (end / target)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_pixel_is_the_mean_of_its_area(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    height, width = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    extent = rows - data.draw(st.floats(0, 0.875)), columns - data.draw(st.floats(0, 0.875))
    shape = (rows, columns, *data.draw(st.sampled_from([(), (3,)])))
    dice = np.random.default_rng(data.draw(st.integers(0, 99)))
    pixels = dice.integers(0, 256, shape, np.uint8)
    result = area_mean(pixels, height, width, extent)
    assert result.shape == (height, width, *shape[2:])
    assert np.abs(result - exact(pixels, height, width, extent)).max() < 0.51


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("size", [(600, 800), (1001, 77), (256, 341), (3000, 256)])
def test_one_colour_stays_as_it_is(value: int, size: tuple[int, int]) -> None:
    assert (area_mean(np.full((*size, 3), value, np.uint8), 256, 77) == value).all()


def test_the_same_size_changes_nothing_and_the_input_is_left_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    pixels.flags.writeable = False
    assert (area_mean(pixels, 40, 50) == pixels).all()
    turned = pixels.swapaxes(0, 1)
    assert (area_mean(turned, 25, 20) == area_mean(turned.copy(), 25, 20)).all()


@pytest.mark.parametrize(
    ("shape", "height", "width", "extent"),
    [
        ((8, 8, 3), 9, 4, None),
        ((8, 8, 3), 4, 9, None),
        ((8, 8, 3), 0, 4, None),
        ((8, 8, 4), 4, 4, None),
        ((8, 8, 3), 4, 4, (7.0, 8.0)),
        ((8, 8, 3), 4, 4, (8.0, 8.5)),
    ],
)
def test_what_is_no_area_mean_is_refused(
    shape: tuple[int, ...], height: int, width: int, extent: tuple[float, float] | None
) -> None:
    with pytest.raises(ValueError, match=r"\d x \d|end at"):
        area_mean(np.zeros(shape, np.uint8), height, width, extent)


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [np.random.default_rng(n).integers(0, 256, (300 + n, 400, 3), np.uint8) for n in range(4)]
    alone = [area_mean(picture, 100, 133) for picture in pictures]
    differ: list[int] = []

    def again(n: int) -> None:
        differ.extend(n for _ in range(50) if not (area_mean(pictures[n], 100, 133) == alone[n]).all())

    threads = [threading.Thread(target=again, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not differ


def test_what_is_compiled_is_kept_where_the_user_says(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", "import gbif_platform.images.area"], check=True, env=environment, timeout=120)
    assert [file.suffix for file in sorted(tmp_path.rglob("area*.nb?"))] == [".nbc", ".nbi"]
