"""Picture to model input: one object shared by training, evaluation and serving, stored in the bundle."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import interpolate

from gbif_platform.training.decode import DIVISORS, decode_rgb, jpeg_size

CROP_SCALE = (0.35, 1.0)  # share of the picture's area; the usual 0.08 loses small animals
CROP_RATIO = (3 / 4, 4 / 3)
COLOUR = 0.2  # brightness, contrast and saturation vary by this share
CROP_TRIES = 10
CHANCES = 2 * CROP_TRIES + 6
"""Uniform numbers that one augmentation takes: area and ratio of each try, top, left, mirror, three for the colours."""
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes the model's input.

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

    def read(self, data: bytes, chance: np.ndarray | None = None, colour: float = COLOUR) -> torch.Tensor:
        """An encoded picture as uint8 (3, size, size), as `evaluate` or, with `chance`, as `augment` makes it.

        Training, evaluation and serving all read with this. A JPEG of several times the pixels needed is decoded at
        1/2, 1/4 or 1/8 of its sides, never below what its crop is resized to: quicker, and on average half a grey level
        (photographs of 1024 px at 224) from a full decode.

        Raises:
            BrokenPicture: the bytes are no picture.
        """
        whole = jpeg_size(data)
        if whole is None:
            image = decode_rgb(data)
            return self.evaluate(image) if chance is None else self.augment(image, chance, colour)
        if chance is None:
            return self.evaluate(decode_rgb(data, _divisor(whole, self._resized(*whole))), whole)
        crop = random_crop(*whole, chance)
        divisor = _divisor(crop[2:], (self.size, self.size))
        return self._varied(decode_rgb(data, divisor), _divided(crop, divisor), chance, colour)

    def evaluate(self, image: torch.Tensor, whole: tuple[int, int] | None = None) -> torch.Tensor:
        """Shorter side to size / crop_share, centre crop: uint8 (3, H, W) → uint8 (3, size, size).

        `whole` is (height, width) of the picture where `image` is a reduced decode of it.
        """
        height, width = image.shape[-2:]
        shape = self._resized(*(whole or (height, width)))
        if shape != (height, width):
            image = self._resize(image, shape)
        top, left = (round((side - self.size) / 2) for side in shape)
        part = image[:, top : top + self.size, left : left + self.size]
        return part if part.is_cuda else torch.from_numpy(np.ascontiguousarray(part.numpy()))

    def augment(self, image: torch.Tensor, chance: np.ndarray, colour: float = COLOUR) -> torch.Tensor:
        """Random crop, mirror and colours: uint8 (3, H, W) → uint8 (3, size, size).

        Args:
            image: RGB.
            chance: float64 (CHANCES,), uniform in 0..1; the same ones give the same result.
            colour: share by which brightness, contrast and saturation vary at most; 0 = as they are.
        """
        return self._varied(image, random_crop(image.shape[-2], image.shape[-1], chance), chance, colour)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """On the batch's device: uint8 (N, 3, size, size) → float32 of the same shape, channels last in memory."""
        scale = [1 / (255 * std) for std in self.std]
        offset = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        result = torch.empty(batch.shape, device=batch.device, memory_format=torch.channels_last)
        if batch.device.type != "cpu":
            torch.mul(batch, batch.new_tensor(scale, dtype=torch.float32).view(3, 1, 1), out=result)
            return result.add_(result.new_tensor(offset).view(3, 1, 1))
        # By numpy and channel by channel: it stays in the cache, and takes no core from the threads that decode.
        channel = np.empty(batch.shape[2:], np.float32)
        for picture, target in zip(batch.numpy(), result.numpy(), strict=True):
            for number in range(3):
                np.multiply(picture[number], np.float32(scale[number]), out=channel)
                np.add(channel, np.float32(offset[number]), out=target[number])
        return result

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

    def _resize(self, image: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        if not image.is_cuda:
            return interpolate(image[None], shape, mode=self.interpolation, antialias=True)[0]
        resized = interpolate(image[None].float(), shape, mode=self.interpolation, antialias=True)
        return resized[0].round_().clamp_(0, 255).to(torch.uint8)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        scale = self.size / self.crop_share / min(height, width)
        return max(self.size, round(height * scale)), max(self.size, round(width * scale))

    def _varied(
        self, image: torch.Tensor, crop: tuple[int, int, int, int], chance: np.ndarray, colour: float
    ) -> torch.Tensor:
        image = self._resize(_cropped(image, *crop), (self.size, self.size))
        if chance[-4] < 0.5:
            image = image.flip(-1)
        return vary_colours(image, *(1 + colour * (2 * chance[-3:] - 1))) if colour else image


def random_crop(height: int, width: int, chance: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of an Inception-style random crop; the whole picture where no try fits."""
    low, high = CROP_SCALE
    for attempt in range(CROP_TRIES):
        area = height * width * (low + (high - low) * chance[2 * attempt])
        ratio = CROP_RATIO[0] * (CROP_RATIO[1] / CROP_RATIO[0]) ** chance[2 * attempt + 1]
        crop_width, crop_height = max(1, round(math.sqrt(area * ratio))), max(1, round(math.sqrt(area / ratio)))
        if crop_width <= width and crop_height <= height:
            top = int(chance[-6] * (height - crop_height + 1))
            left = int(chance[-5] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    return 0, 0, height, width


def _cropped(image: torch.Tensor, top: int, left: int, height: int, width: int) -> torch.Tensor:
    """Contiguous, channels last. On a CPU by numpy, as PyTorch's copy of a part is one for a team of threads."""
    part = image[:, top : top + height, left : left + width]
    if part.is_cuda:
        return part
    return torch.from_numpy(np.ascontiguousarray(part.permute(1, 2, 0).numpy())).permute(2, 0, 1)


def vary_colours(image: torch.Tensor, brightness: float, contrast: float, saturation: float) -> torch.Tensor:
    """uint8 (3, H, W) → the same, by three factors around 1 as in torchvision, but in one pass and clipped once.

    On a CPU by numpy: PyTorch would start a team of threads for each operation of each decoding thread.
    """
    pixels: Any = image.float() if image.is_cuda else image.numpy().astype(np.float32)
    grey = LUMA[0] * pixels[0] + LUMA[1] * pixels[1] + LUMA[2] * pixels[2]
    factor = brightness * contrast
    base = factor * (1 - saturation) * grey + (1 - contrast) * brightness * float(grey.mean())
    pixels *= factor * saturation
    pixels += base + 0.5
    pixels = pixels.clip(0, 255)
    return pixels.to(torch.uint8) if image.is_cuda else torch.from_numpy(pixels.astype(np.uint8))


def _divisor(found: tuple[int, ...], needed: tuple[int, int]) -> int:
    """The largest that leaves what is needed of both sides."""
    most = min(found[0] / needed[0], found[1] / needed[1])
    return next((divisor for divisor in DIVISORS if divisor <= most), 1)


def _divided(crop: tuple[int, int, int, int], divisor: int) -> tuple[int, int, int, int]:
    top, left, height, width = crop
    bottom, right = round((top + height) / divisor), round((left + width) / divisor)
    top, left = round(top / divisor), round(left / divisor)
    return top, left, bottom - top, right - left
