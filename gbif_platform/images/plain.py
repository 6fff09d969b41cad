"""Pixels as every stored picture has them: 8 bits, no alpha, sRGB. Pillow's modes in, L, RGB or CMYK out, then RGB."""

from functools import lru_cache
from io import BytesIO

from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20


class UnknownPixels(ValueError):
    """Pixels of a kind that nothing here turns into colours."""


def plain(image: Image.Image) -> Image.Image:
    """The picture as L, RGB or CMYK with 8 bits: wider samples scaled, palette and alpha resolved on white."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _eight_bits(image)
    if mode in ("PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGB", layer.size, "white")
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    if mode in ("L", "RGB", "CMYK"):
        return image
    if mode == "1":
        return image.convert("L")
    if mode in ("P", "RGBX", "YCbCr", "HSV"):
        return image.convert("RGB")
    raise UnknownPixels(f"pixels of mode {mode}")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey with wide samples as L: 16-bit samples divided by 257, others stretched where no white is defined."""
    if image.mode.startswith("I;16"):
        image = image.convert("I")
        low, high = 0.0, 65535.0
    else:
        low, high = _black_and_white(image)
    scale = 255 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * scale + (0.5 - low * scale)).convert("L")


def _black_and_white(image: Image.Image) -> tuple[float, float]:
    """The values that become 0 and 255 in a picture of mode I (32-bit integers) or F (floats)."""
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]  # one band: two numbers
    for white in (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= white:
            return 0.0, white
    return low, high


def srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK to RGB, through the embedded ICC profile where it is usable and not sRGB already."""
    if profile and len(profile) <= MAX_PROFILE_BYTES:
        conversion = _conversion(profile, image.mode)
        if conversion is not None:
            return ImageCms.applyTransform(image, conversion) or image
    return image.convert("RGB")


@lru_cache(maxsize=64)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From an ICC profile to sRGB; None where it is damaged, of another colour space, or sRGB itself."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if source.profile.xcolor_space.strip() != {"L": "GRAY"}.get(mode, mode):
            return None
        if "sRGB" in (source.profile.profile_description or ""):
            return None
        # Threads share the conversion, so Little CMS must not keep its one-pixel cache in it.
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGB", flags=ImageCms.Flags.NOCACHE
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
