"""Picture to model input: one object shared by training, evaluation and serving, stored in the bundle."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

CROP_SCALE = (0.35, 1.0)  # share of the picture's area; the usual 0.08 loses small animals
CROP_RATIO = (3 / 4, 4 / 3)
COLOUR = 0.2  # brightness, contrast and saturation vary by this share
CROP_TRIES = 10


@dataclass(frozen=True)
class Preprocess:
    """How a decoded picture becomes the model's input.

    Attributes:
        size: side of the square input, pixels.
        mean, std: per channel (RGB), for values in 0..1.
        interpolation: `bilinear` or `bicubic`, always with antialias.
        crop_share: the centre crop's share of the shorter side at evaluation (timm's `crop_pct`), 0..1.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_share: float = 1.0

    def evaluate(self, image: torch.Tensor) -> torch.Tensor:
        """Shorter side to size / crop_share, centre crop: uint8 (3, H, W) → uint8 (3, size, size)."""
        height, width = image.shape[-2:]
        scale = self.size / self.crop_share / min(height, width)
        shape = [max(self.size, round(height * scale)), max(self.size, round(width * scale))]
        if shape != [height, width]:
            image = functional.resize(image, shape, self._mode, antialias=True)
        return functional.center_crop(image, [self.size, self.size])

    def augment(self, image: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Random crop, mirror and colours: uint8 (3, H, W) → uint8 (3, size, size), a pure function of `random`."""
        top, left, height, width = random_crop(image.shape[-2], image.shape[-1], random)
        image = functional.resized_crop(
            image, top, left, height, width, [self.size, self.size], self._mode, antialias=True
        )
        if random.random() < 0.5:
            image = functional.horizontal_flip(image)
        low, high = 1 - COLOUR, 1 + COLOUR
        image = functional.adjust_brightness(image, random.uniform(low, high))
        image = functional.adjust_contrast(image, random.uniform(low, high))
        return functional.adjust_saturation(image, random.uniform(low, high))

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """On the batch's device: uint8 (N, 3, size, size) → float32 of the same shape, channels last in memory."""
        mean = torch.tensor(self.mean, device=batch.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=batch.device).view(1, 3, 1, 1) * 255
        return ((batch.float() - mean) / std).contiguous(memory_format=torch.channels_last)

    def to_json(self) -> dict[str, Any]:
        """Plain values for bundle.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocess":
        """The inverse of `to_json`. Raises TypeError or ValueError on other keys or lengths."""
        mean, std = ([float(value) for value in values[name]] for name in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3:
            raise ValueError("mean and std need three values each")
        return cls(**{**values, "mean": tuple(mean), "std": tuple(std)})

    @property
    def _mode(self) -> InterpolationMode:
        return InterpolationMode(self.interpolation)


def random_crop(height: int, width: int, random: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of an Inception-style random crop; the whole picture where none fits."""
    for _ in range(CROP_TRIES):
        area = height * width * random.uniform(*CROP_SCALE)
        ratio = math.exp(random.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_width, crop_height = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if crop_width <= width and crop_height <= height:
            top = int(random.integers(0, height - crop_height + 1))
            left = int(random.integers(0, width - crop_width + 1))
            return top, left, crop_height, crop_width
    return 0, 0, height, width
