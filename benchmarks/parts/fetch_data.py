"""Draw photo-like JPEGs: fetch_data.py COUNT FOLDER.

"Dead leaves" (discs of random size, place and colour, the near hiding the far) with 1/f texture, blur and sensor noise
have the statistics of photographs, on which the cost of entropy coding depends. Sizes and kinds of JPEG are mixed:
60 % 800 x 600, 30 % 1600 x 1200, 10 % 2048 x 1536, half of them portrait; 80 % 4:2:0, 10 % progressive, 5 % turned by
EXIF, 3 % grey; 2.2 % are PNG and 1.9 % WebP. `medium/` holds each once more, 500 px long, as a host's
smaller rendition. One seed, so one corpus.
"""

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageOps

SEED = 1
SIZES = ((800, 600),) * 6 + ((1600, 1200),) * 3 + ((2048, 1536),)
# Strength of the texture, for files of some 122, 403 and 938 kB.
TEXTURE = {800: 8.2, 1600: 7.2, 2048: 13.5}
NOISE = 2
SUBSAMPLINGS = ("4:2:0",) * 8 + ("4:2:2", "4:4:4")
ORIENTATION_TAG = 0x0112
TEXTURE_SIDE = 2048
PNG, WEBP = 0.022, 0.019
MEDIUM = 500

Texture = npt.NDArray[np.float32]


def texture(rng: np.random.Generator) -> Texture:
    """Noise with a 1/f spectrum, unit variance, [side, side]."""
    frequency = np.fft.rfftfreq(TEXTURE_SIDE)[None, :] ** 2 + np.fft.fftfreq(TEXTURE_SIDE)[:, None] ** 2
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.standard_normal((TEXTURE_SIDE, TEXTURE_SIDE)))
    pattern = np.fft.irfft2(noise / np.sqrt(frequency))
    return (pattern / pattern.std()).astype(np.float32)


def leaves(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Discs with sizes of a power law, far ones first."""
    image = Image.new("RGB", (width, height), tuple(rng.integers(40, 180, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(700):
        radius = width * 0.01 / (rng.random() + 0.04)
        x, y = rng.random() * width, rng.random() * height
        colour = tuple(rng.normal((110, 120, 80), 45).clip(0, 255).astype(int).tolist())
        draw.ellipse((x - radius, y - radius * 0.7, x + radius, y + radius * 0.7), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(width / 1000))


def picture(rng: np.random.Generator, textures: list[Texture], size: tuple[int, int]) -> Image.Image:
    """One picture of a size, landscape or portrait."""
    width, height = size if rng.random() < 0.5 else size[::-1]
    pixels = np.asarray(leaves(rng, width, height), np.float32)
    pattern = np.roll(textures[rng.integers(len(textures))], tuple(rng.integers(0, TEXTURE_SIDE, 2)), (0, 1))
    shade = pattern[:height, :width, None] * TEXTURE[max(size)]
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * NOISE
    return Image.fromarray((pixels + shade + noise).clip(0, 255).astype(np.uint8))


def main() -> None:
    count, folder = int(sys.argv[1]), Path(sys.argv[2])
    (folder / "medium").mkdir(parents=True)
    textures = [texture(np.random.default_rng([SEED, number])) for number in range(4)]
    for number in range(count):
        rng = np.random.default_rng([SEED, 100 + number])
        image = picture(rng, textures, SIZES[number % len(SIZES)])
        if rng.random() < 0.03:
            image = image.convert("L")
        save(image, folder, number, rng)


def save(image: Image.Image, folder: Path, number: int, rng: np.random.Generator) -> None:
    """As the original and, upright, as the rendition."""
    kind = rng.random()
    if kind < PNG:
        image.save(folder / f"{number:05}.png")
    elif kind < PNG + WEBP:
        image.save(folder / f"{number:05}.webp", quality=88)
    else:
        if rng.random() < 0.05:
            image.getexif()[ORIENTATION_TAG] = int(rng.integers(2, 9))
        image.save(
            folder / f"{number:05}.jpg",
            quality=int(rng.integers(86, 94)),
            subsampling=SUBSAMPLINGS[rng.integers(len(SUBSAMPLINGS))] if image.mode == "RGB" else -1,
            progressive=bool(rng.random() < 0.1),
            exif=image.getexif(),
        )
    medium = ImageOps.exif_transpose(image)
    medium.thumbnail((MEDIUM, MEDIUM), Image.Resampling.LANCZOS)
    medium.save(folder / "medium" / f"{number:05}.jpg", quality=90)


if __name__ == "__main__":
    main()
