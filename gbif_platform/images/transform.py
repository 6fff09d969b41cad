"""One picture: bytes from a stranger in, a small plain picture of known form out, or a typed refusal.

Every stored picture is 8-bit sRGB with three channels, upright, one frame, without metadata. The words for resizing are
img2dataset's and mean the same (https://github.com/rom1504/img2dataset, `resizer.py`).
"""

import threading
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import Literal, get_args

from PIL import Image, ImageCms, UnidentifiedImageError

from gbif_platform.errors import PlatformError
from gbif_platform.images.sniff import ends_early, reason_for, unsupported_jpeg

Resize = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
Format = Literal["jpeg", "png", "webp"]

# What may be decoded at all. Pillow knows more, some by running other programs (EPS).
FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF"]
MAX_PIXELS = 100_000_000
MAX_ASPECT = 50.0
# libjpeg walks the whole picture once per scan; real progressive files have about ten.
MAX_SCANS = 100
MAX_PROFILE_BYTES = 4 * 2**20
MAX_FRAMES_COUNTED = 100
MAX_WALKED_BYTES = 4 * 2**20
# Pictures above this are decoded one at a time, so that a few giants do not fill the memory together.
GIANT_PIXELS = 20_000_000
_giants = threading.Lock()

ORIENTATION_TAG = 0x0112
UPRIGHT: dict[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = {UPRIGHT[5], UPRIGHT[6], UPRIGHT[7], UPRIGHT[8]}

# Pillow's own limits and complaints about metadata: limits are checked here, broken metadata is expected.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class ImageRefused(Exception):
    """The bytes are not taken as a picture. `reason` is one of `images.reasons`, `detail` is for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class TransformError(PlatformError, ValueError):
    """A value of a transform is out of its range; a ValueError, so that a dataset file's reader can name the line."""


@dataclass(frozen=True)
class Transform:
    """What is made of a picture before it is stored.

    Args:
        size: pixels; what it measures depends on `resize`.
        resize: `keep_ratio` makes the smaller side `size`, `keep_ratio_largest` the larger one; `border` makes the
            larger side `size` and pads to a white square; `center_crop` makes the smaller side `size` and cuts the
            square in the middle; `no` keeps every pixel.
        only_if_bigger: leave a picture as it is (also uncropped and unpadded) unless that side is larger than `size`.
        format: how the result is stored.
        quality: 1 to 100 for jpeg and webp.

    Raises:
        TransformError: a value outside its range.
    """

    size: int | None = 256
    resize: Resize = "keep_ratio"
    only_if_bigger: bool = True
    format: Format = "jpeg"
    quality: int = 92

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("resize", self.resize, get_args(Resize)),
            ("format", self.format, get_args(Format)),
        ):
            if value not in allowed:
                raise TransformError(f"images.{name}: {value!r} is not known", f"use one of {', '.join(allowed)}")
        if self.resize != "no" and (self.size is None or not 1 <= self.size <= 8192):
            raise TransformError(f"images.size: {self.size!r} is not from 1 to 8192 pixels", "or set images.resize: no")
        if not 1 <= self.quality <= 100:
            raise TransformError(f"images.quality: {self.quality!r} is not from 1 to 100")

    @property
    def key(self) -> str:
        """Short canonical name, for the ledger and the names of shards: `keep_ratio-256-jpeg-92`."""
        parts: list[str] = [self.resize]
        if self.resize != "no":
            parts.append(str(self.size))
            if not self.only_if_bigger:
                parts.append("always")
        parts.append(self.format)
        if self.format != "png":
            parts.append(str(self.quality))
        return "-".join(parts)

    @property
    def suffix(self) -> str:
        """The ending of a stored file, with its dot."""
        return {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}[self.format]


@dataclass(frozen=True)
class Picture:
    """A picture ready to be stored.

    Attributes:
        data: encoded as the transform says.
        width, height: of `data`, in pixels.
        source_width, source_height: of the original, upright, in pixels.
        source_format: Pillow's name in small letters, such as `jpeg`, `mpo`, `png`.
        frames: how many the original holds; the first is taken. Large animations are counted up to a limit only.
    """

    data: bytes
    width: int
    height: int
    source_width: int
    source_height: int
    source_format: str
    frames: int


def transform_image(
    data: bytes, transform: Transform, *, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT
) -> Picture:
    """Decode, make plain and upright, resize, encode.

    Sizes are checked in the header, before any pixel is decoded. Pillow's own limit of 178 956 970 pixels holds too.

    Raises:
        ImageRefused: for every input that does not become a picture, whatever it is.
    """
    try:
        return _transform(data, transform, max_pixels, max_aspect)
    except ImageRefused:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageRefused(*reason_for(data)) from error
    except MemoryError as error:
        raise ImageRefused("out_of_memory", f"{len(data)} bytes") from error
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, KeyError, …
        raise ImageRefused(*_decode_failure(data, error)) from error


def _decode_failure(data: bytes, error: Exception) -> tuple[str, str]:
    message = f"{type(error).__name__}: {error}"
    if unsupported := unsupported_jpeg(data):
        return unsupported
    if "not available" in message:
        return "unsupported_format", message
    if "truncated" in message.lower() or ends_early(data):
        return "truncated_image", message
    return "corrupt_image", message


def _transform(data: bytes, transform: Transform, max_pixels: int, max_aspect: float) -> Picture:
    if not data:
        raise ImageRefused("empty_body", "0 bytes")
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        _check_header(data, image, max_pixels, max_aspect)
        scaled = _scaled_size(width, height, transform, max_pixels)
        if scaled:
            # JPEGs can be decoded at 1/2, 1/4 or 1/8: at least twice the target is kept for the exact resizing.
            image.draft(None, (scaled[0] * 2, scaled[1] * 2))
        with _giants if image.width * image.height > GIANT_PIXELS else nullcontext():
            image.load()
            plain = _plain(image)
            if scaled:
                shrinks = scaled[0] < plain.width
                plain = plain.resize(scaled, Image.Resampling.BOX if shrinks else Image.Resampling.LANCZOS)
        turn = UPRIGHT.get(_orientation(image))
        result = _srgb(plain, image.info.get("icc_profile"))
        if turn is not None:
            result = result.transpose(turn)
        if scaled:
            result = _squared(result, transform)
        encoded = _encoded(result, transform)
        source = (height, width) if turn in SIDEWAYS else (width, height)
        # Counting moves the file to other frames, so it comes last.
        return Picture(encoded, *result.size, *source, (image.format or "").lower(), _frames(image, data))


def _check_header(data: bytes, image: Image.Image, max_pixels: int, max_aspect: float) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageRefused("too_many_pixels", f"{width} x {height}, at most {max_pixels} pixels are decoded")
    if max(width, height) > max_aspect * min(width, height):
        raise ImageRefused("extreme_aspect", f"{width} x {height}")
    if image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ImageRefused("too_many_scans", f"{scans} scans")


def _scaled_size(width: int, height: int, transform: Transform, max_pixels: int) -> tuple[int, int] | None:
    """The size after resizing and before padding or cropping; None = pixels stay as they are."""
    if transform.resize == "no" or transform.size is None:
        return None
    side = min(width, height) if transform.resize in ("keep_ratio", "center_crop") else max(width, height)
    if transform.only_if_bigger and side <= transform.size:
        return None
    scale = transform.size / side
    scaled = max(1, round(width * scale)), max(1, round(height * scale))
    if scaled[0] * scaled[1] > max_pixels:
        raise ImageRefused("too_many_pixels", f"{width} x {height} would become {scaled[0]} x {scaled[1]}")
    return scaled


def _plain(image: Image.Image) -> Image.Image:
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
    raise ImageRefused("unsupported_format", f"pixels of mode {mode}")


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


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
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


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; broken metadata counts as upright."""
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except Exception:  # metadata parsers raise anything, and a picture without metadata is a picture
        return 1


def _squared(image: Image.Image, transform: Transform) -> Image.Image:
    if transform.size is None or transform.resize not in ("border", "center_crop"):
        return image
    left, top = (image.width - transform.size) // 2, (image.height - transform.size) // 2
    if transform.resize == "center_crop":
        return image.crop((left, top, left + transform.size, top + transform.size))
    square = Image.new("RGB", (transform.size, transform.size), "white")
    square.paste(image, (-left, -top))
    return square


def _encoded(image: Image.Image, transform: Transform) -> bytes:
    buffer = BytesIO()
    # Without this, Pillow would copy profile and comments of the original into the result.
    image.info = {}
    try:
        if transform.format == "png":
            image.save(buffer, "PNG")
        else:
            image.save(buffer, transform.format.upper(), quality=transform.quality)
    except (OSError, ValueError) as error:
        raise ImageRefused("not_encodable", f"{image.width} x {image.height} as {transform.format}: {error}") from error
    return buffer.getvalue()


def _frames(image: Image.Image, data: bytes) -> int:
    """Frames in the file. Hostile files hold millions, so those that must be walked are counted up to a limit."""
    try:
        if image.format == "GIF" and len(data) > MAX_WALKED_BYTES:
            return 2 if getattr(image, "is_animated", False) else 1
        if image.format == "TIFF":
            return _count_by_seeking(image)
        return min(int(getattr(image, "n_frames", 1)), 2**31 - 1)
    except Exception:  # the first frame is good, and that is the one taken
        return 1


def _count_by_seeking(image: Image.Image) -> int:
    for frame in range(1, MAX_FRAMES_COUNTED):
        try:
            image.seek(frame)
        except EOFError:
            return frame
    return MAX_FRAMES_COUNTED
