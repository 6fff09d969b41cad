"""Bytes to pixels, in one place: the same pixels whichever decoder is installed.

simplejpeg decodes upright JPEGs (an eighth quicker than torchcodec, and at 1/2, 1/4 or 1/8 of the sides where that is
enough); where it is missing torchcodec, then torchvision, then Pillow. All rest on libjpeg-turbo and agree bit for bit.
"""

import io
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from gbif_platform.images.jpeg import read_header

try:
    from torchcodec.decoders import decode_jpeg
except (ImportError, OSError, RuntimeError):  # missing, or made for another torch
    decode_jpeg = None  # type: ignore[assignment]
try:
    from torchvision.io import ImageReadMode, decode_image
except ImportError:  # announced for a later torchvision
    decode_image = None
try:
    import simplejpeg  # type: ignore[import-untyped]
except ImportError:
    simplejpeg = None

# torchvision 0.29 announces that torchcodec will replace its decoder; it says so at every call.
warnings.filterwarnings("ignore", message="The image decoding and encoding", category=DeprecationWarning)

JPEG = b"\xff\xd8\xff"
DIVISORS = (8, 4, 2)  # libjpeg-turbo decodes at any eighth, but only these without loss of speed


class BrokenPicture(ValueError):
    """Bytes that no decoder can read.

    Attributes:
        position: of the picture in what `decode_batch` was given.
    """

    def __init__(self, message: str, position: int = 0) -> None:
        super().__init__(message)
        self.position = position


def decode_rgb(data: bytes, divisor: int = 1) -> torch.Tensor:
    """A JPEG, PNG, WebP, GIF or TIFF as uint8 (3, height, width), RGB, turned upright where EXIF says how.

    Args:
        data: the encoded picture.
        divisor: 1, or, where `jpeg_size` gives a size, one of `DIVISORS`: the sides are divided and rounded up.

    Raises:
        BrokenPicture: no decoder can read the bytes.
    """
    if not data:
        raise BrokenPicture("no bytes")
    image = _decode_with_simplejpeg(data, divisor)
    if image is None and divisor == 1:
        image = _decode_with_torchcodec(data)
        if image is None:
            image = _decode_with_torchvision(data)
    return image if image is not None else _decode_with_pillow(data, divisor)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of an ordinary upright JPEG; None for all that only a full decode tells."""
    header = read_header(data)
    return (header.height, header.width) if header is not None and header.orientation == 1 else None


def decode_batch(pictures: Sequence[bytes], device: torch.device) -> list[torch.Tensor]:
    """As `decode_rgb`, on the device; on CUDA the JPEGs in one call of nvJPEG, which may differ by a grey level or two.

    Where that call fails, and for what is no upright JPEG, each picture is decoded on the CPU.

    Raises:
        BrokenPicture: no decoder can read one of them.
    """
    decoded: dict[int, torch.Tensor] = {}
    if device.type == "cuda" and decode_jpeg is not None:
        upright = [number for number, data in enumerate(pictures) if jpeg_size(data)]
        try:
            images = decode_jpeg([pictures[number] for number in upright], mode="RGB", device=device)
            decoded = dict(zip(upright, images, strict=True))
        except RuntimeError:  # one picture fails all; the CPU tells which
            decoded = {}
    for number, data in enumerate(pictures):
        if number not in decoded:
            try:
                decoded[number] = decode_rgb(data).to(device)
            except BrokenPicture as error:
                raise BrokenPicture(str(error), number) from error
    return [decoded[number] for number in range(len(pictures))]


def _decode_with_torchcodec(data: bytes) -> torch.Tensor | None:
    if decode_jpeg is None or not data.startswith(JPEG):
        return None
    try:
        return decode_jpeg([data], mode="RGB")[0]
    except RuntimeError:
        return None


def _decode_with_torchvision(data: bytes) -> torch.Tensor | None:
    if decode_image is None:
        return None
    try:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return decode_image(encoded, mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except RuntimeError:
        return None


def _decode_with_simplejpeg(data: bytes, divisor: int) -> torch.Tensor | None:
    size = jpeg_size(data)
    if simplejpeg is None or size is None:
        return None
    height, width = (-(-side // divisor) for side in size)
    try:
        return _channels_first(simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width))
    except ValueError:
        return None


def _decode_with_pillow(data: bytes, divisor: int) -> torch.Tensor:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if divisor > 1:
                image.draft("RGB", (image.width // divisor, image.height // divisor))
            return _channels_first(np.array(ImageOps.exif_transpose(image).convert("RGB")))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BrokenPicture(str(error)) from error


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)
