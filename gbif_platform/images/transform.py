"""One picture: bytes from a stranger in, a small plain picture of known form out, or a typed refusal.

Every stored picture is 8-bit sRGB with three channels, upright, one frame, without metadata. The words for resizing are
img2dataset's and mean the same (https://github.com/rom1504/img2dataset, `resizer.py`).
"""

import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from PIL import Image, UnidentifiedImageError

from gbif_platform.errors import PlatformError
from gbif_platform.images import jpeg
from gbif_platform.images.plain import UnknownPixels, plain, srgb
from gbif_platform.images.sniff import ends_early, reason_for, unsupported_jpeg

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

Resize = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]
Format = Literal["jpeg", "png", "webp"]

# What may be decoded at all. Pillow knows more, some by running other programs (EPS).
FORMATS = ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "AVIF"]
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WHITE = 255
MAX_PIXELS = 100_000_000
MAX_ASPECT = 50.0
# libjpeg walks the whole picture once per scan; real progressive files have about ten.
MAX_SCANS = 100
MAX_FRAMES_COUNTED = 100
MAX_WALKED_BYTES = 4 * 2**20
# Pictures above this are decoded one at a time, so that a few giants do not fill the memory together.
GIANT_PIXELS = 20_000_000
_giants = threading.Lock()

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


class Limits(NamedTuple):
    """What is not decoded: more pixels, or a side longer than `aspect` times the other."""

    pixels: int
    aspect: float


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
        renditions: ask hosts that offer the picture in several sizes for the smallest that is large enough, and for
            the original only where that fails; False = always the original, which is a version of its own.
        keep_original: store the bytes as the host served them as well; they come from the original then, whatever
            `renditions` says.

    Raises:
        TransformError: a value outside its range.
    """

    size: int | None = 256
    resize: Resize = "keep_ratio"
    only_if_bigger: bool = True
    format: Format = "jpeg"
    quality: int = 92
    renditions: bool = True
    keep_original: bool = False

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
        if self.resize != "no" and not self.renditions:
            parts.append("originals")
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


def warm_up() -> None:
    """Load what is compiled: half a second in each process, some more when it is compiled once on a machine.

    The first picture does it where nobody did before.
    """
    # numba and numpy, which a reader of dataset files need not wait for.
    import simplejpeg  # type: ignore[import-untyped]  # noqa: F401

    import gbif_platform.images.area  # noqa: F401


def transform_image(
    data: bytes, transform: Transform, *, max_pixels: int = MAX_PIXELS, max_aspect: float = MAX_ASPECT
) -> Picture:
    """Decode, make plain and upright, resize, encode.

    Sizes are checked in the header, before any pixel is decoded. Pillow's own limit of 178 956 970 pixels holds too for
    what it decodes: all but ordinary JPEGs.

    Raises:
        ImageRefused: for every input that does not become a picture, whatever it is.
    """
    warm_up()  # outside the try: where it fails, no picture is to blame
    try:
        return _transform(data, transform, Limits(max_pixels, max_aspect))
    except ImageRefused:
        raise
    except Image.DecompressionBombError as error:
        raise ImageRefused("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageRefused(*reason_for(data)) from error
    except UnknownPixels as error:
        raise ImageRefused("unsupported_format", str(error)) from error
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


def _transform(data: bytes, transform: Transform, limits: Limits) -> Picture:
    if not data:
        raise ImageRefused("empty_body", "0 bytes")
    picture: Picture | None = None
    if header := jpeg.read_header(data):
        picture = _ordinary_jpeg(data, header, transform, limits)
    elif data.startswith(PNG_SIGNATURE):
        picture = _ordinary_png(data, transform, limits)
    return picture or _any_picture(data, transform, limits)


def _ordinary_jpeg(data: bytes, header: jpeg.Header, transform: Transform, limits: Limits) -> Picture | None:
    """The same as `_any_picture`, sooner; None where the decoder has something to say about the file."""
    width, height = header.width, header.height
    _check_sides(width, height, limits)
    if not header.one_scan:
        _check_scans(data)
    scaled = _scaled_size(width, height, transform, limits)
    # Decoded at 1/2, 1/4 or 1/8, with at least twice the target left for the exact resizing.
    divided_by = jpeg.divisor(header, (scaled[0] * 2, scaled[1] * 2)) if scaled else 1
    with _memory_for(width * height // divided_by**2):
        pixels = jpeg.decode(data, header, divided_by)
        if pixels is None:
            return None
        pixels = _resized_pixels(pixels, scaled, (height / divided_by, width / divided_by))
    turn = UPRIGHT.get(header.orientation)
    result = _finished(_colours(pixels, header.profile), turn, scaled is not None, transform)
    return _picture(result, transform, _upright(width, height, turn), "jpeg", 1)


def _ordinary_png(data: bytes, transform: Transform, limits: Limits) -> Picture | None:
    """The same as `_any_picture`, sooner; None where the file is anything but ordinary, or not whole."""
    # Brings what is compiled, which a reader of dataset files does not need.
    from gbif_platform.images import png

    content = png.read(data)
    if content is None:
        return None
    width, height = content.width, content.height
    _check_sides(width, height, limits)
    scaled = _scaled_size(width, height, transform, limits)
    pixels = png.decode(content)
    if pixels is None:
        return None
    pixels = _resized_pixels(pixels, scaled, (height, width))
    result = _finished(_colours(pixels, None), None, scaled is not None, transform)
    return _picture(result, transform, (width, height), "png", 1)


def _any_picture(data: bytes, transform: Transform, limits: Limits) -> Picture:
    import numpy as np

    with Image.open(BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        _check_sides(width, height, limits)
        if image.format in ("JPEG", "MPO"):
            _check_scans(data)
        scaled = _scaled_size(width, height, transform, limits)
        if scaled:
            image.draft(None, (scaled[0] * 2, scaled[1] * 2))
        with _memory_for(image.width * image.height):
            image.load()
            resized = _resized(plain(image), scaled)
        turn = UPRIGHT.get(_orientation(image))
        pixels = np.asarray(srgb(resized, image.info.get("icc_profile")))
        result = _finished(pixels, turn, scaled is not None, transform)
        # Counting moves the file to other frames, so it comes last.
        frames = _frames(image, data)
        return _picture(result, transform, _upright(width, height, turn), (image.format or "").lower(), frames)


def _memory_for(pixels: int) -> AbstractContextManager[Any]:
    return _giants if pixels > GIANT_PIXELS else nullcontext()


def _check_sides(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise ImageRefused("too_many_pixels", f"{width} x {height}, at most {limits.pixels} pixels are decoded")
    if max(width, height) > limits.aspect * min(width, height):
        raise ImageRefused("extreme_aspect", f"{width} x {height}")


def _check_scans(data: bytes) -> None:
    if jpeg.has_more_scans(data, MAX_SCANS):
        raise ImageRefused("too_many_scans", f"more than {MAX_SCANS} scans")


def _scaled_size(width: int, height: int, transform: Transform, limits: Limits) -> tuple[int, int] | None:
    """The size after resizing and before padding or cropping; None = pixels stay as they are."""
    if transform.resize == "no" or transform.size is None:
        return None
    side = min(width, height) if transform.resize in ("keep_ratio", "center_crop") else max(width, height)
    if transform.only_if_bigger and side <= transform.size:
        return None
    scale = transform.size / side
    scaled = max(1, round(width * scale)), max(1, round(height * scale))
    if scaled[0] * scaled[1] > limits.pixels:
        raise ImageRefused("too_many_pixels", f"{width} x {height} would become {scaled[0]} x {scaled[1]}")
    return scaled


def _resized(image: Image.Image, scaled: tuple[int, int] | None) -> Image.Image:
    if scaled is None:
        return image
    if image.mode in ("L", "RGB") and scaled[0] <= image.width and scaled[1] <= image.height:
        import numpy as np

        from gbif_platform.images.area import area_mean

        return Image.fromarray(area_mean(np.asarray(image), scaled[1], scaled[0]))
    return image.resize(scaled, Image.Resampling.BOX if scaled[0] < image.width else Image.Resampling.LANCZOS)


def _resized_pixels(pixels: "Pixels", scaled: tuple[int, int] | None, extent: tuple[float, float]) -> "Pixels":
    """The same of grey or colour; `extent` as of `area_mean`."""
    import numpy as np

    from gbif_platform.images.area import area_mean

    if scaled is None:
        return pixels
    if scaled[0] <= pixels.shape[1] and scaled[1] <= pixels.shape[0]:
        return area_mean(pixels, scaled[1], scaled[0], extent)
    return np.asarray(_resized(Image.fromarray(pixels), scaled))


def _colours(pixels: "Pixels", profile: bytes | None) -> "Pixels":
    """[h, w] or [h, w, 3] to [h, w, 3], sRGB."""
    import numpy as np

    return np.asarray(srgb(Image.fromarray(pixels), profile)) if profile or pixels.ndim == 2 else pixels


def _upright(width: int, height: int, turn: Image.Transpose | None) -> tuple[int, int]:
    return (height, width) if turn in SIDEWAYS else (width, height)


def _finished(pixels: "Pixels", turn: Image.Transpose | None, resized: bool, transform: Transform) -> "Pixels":
    """Upright, and padded or cropped to a square where it was resized for one."""
    import numpy as np

    if turn is not None:
        pixels = np.asarray(Image.fromarray(pixels).transpose(turn))
    return _squared(pixels, transform) if resized else pixels


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; broken metadata counts as upright."""
    try:
        return int(image.getexif().get(jpeg.ORIENTATION_TAG, 1))
    except Exception:  # metadata parsers raise anything, and a picture without metadata is a picture
        return 1


def _squared(pixels: "Pixels", transform: Transform) -> "Pixels":
    import numpy as np

    if transform.size is None or transform.resize not in ("border", "center_crop"):
        return pixels
    size, (height, width) = transform.size, pixels.shape[:2]
    if transform.resize == "center_crop":
        left, top = (width - size) // 2, (height - size) // 2
        return pixels[top : top + size, left : left + size]
    left, top = (size - width) // 2, (size - height) // 2
    square = np.full((size, size, 3), WHITE, np.uint8)
    square[top : top + height, left : left + width] = pixels
    return square


def _picture(
    pixels: "Pixels", transform: Transform, source: tuple[int, int], source_format: str, frames: int
) -> Picture:
    height, width = pixels.shape[:2]
    return Picture(_encoded(pixels, transform), width, height, *source, source_format, frames)


def _encoded(pixels: "Pixels", transform: Transform) -> bytes:
    # Pillow's encoder for JPEG too: simplejpeg's takes the fast DCT below quality 96, which costs 0.1 to 0.2 dB.
    buffer = BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, transform.format.upper(), quality=transform.quality)
    except (OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        raise ImageRefused("not_encodable", f"{width} x {height} as {transform.format}: {error}") from error
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
