"""Draw small JPEGs: small_pictures.py COUNT FOLDER. Next to nothing to decode, so that all else shows."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True)
    for number in range(int(sys.argv[1])):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:05}.jpg", quality=80)


if __name__ == "__main__":
    main()
