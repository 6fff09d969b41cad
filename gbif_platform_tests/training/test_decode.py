import io

import numpy as np
import pytest
import torch
from PIL import Image

from gbif_platform.training import decode
from gbif_platform.training.decode import BrokenPicture, decode_batch, decode_rgb, jpeg_size

PLACES = ("simplejpeg", "decode_jpeg", "decode_image")


def photo(height: int = 61, width: int = 90) -> Image.Image:
    """Smooth colours with some noise, as JPEG is made for."""
    random = np.random.default_rng(4)
    coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), dtype=np.uint8)).resize((width, height))
    return Image.fromarray(np.clip(np.asarray(coarse) + random.normal(0, 6, (height, width, 3)), 0, 255).astype("u1"))


def saved(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(photo(), exif=exif)


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(decode, name, None)


PICTURES = {
    "ordinary": saved(photo()),
    "progressive": saved(photo(), progressive=True),
    "full colours": saved(photo(), subsampling=0),
    "grey": saved(photo().convert("L")),
    "four colours": saved(photo().convert("CMYK")),
    "turned": turned(6),
    "png": saved(photo(), "PNG"),
}


@pytest.mark.parametrize("missing", [PLACES[:1], PLACES[:2], PLACES])
@pytest.mark.parametrize("name", PICTURES)
def test_every_decoder_gives_the_same_pixels(name: str, missing: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = PICTURES[name]
    expected = decode_rgb(data)
    without(monkeypatch, *missing)
    assert torch.equal(decode_rgb(data), expected)


@pytest.mark.parametrize("divisor", decode.DIVISORS)
@pytest.mark.parametrize("name", ["ordinary", "progressive", "full colours", "grey"])
def test_a_divided_decode_has_the_rounded_up_sides_and_needs_no_library(
    name: str, divisor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode_rgb(PICTURES[name], divisor)
    assert expected.shape == (3, -(-61 // divisor), -(-90 // divisor))
    without(monkeypatch, *PLACES)
    assert torch.equal(decode_rgb(PICTURES[name], divisor), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright_whichever_decodes(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    upright = (3, 61, 90) if orientation < 5 else (3, 90, 61)
    results = [decode_rgb(turned(orientation))]
    for name in PLACES:
        without(monkeypatch, name)
        results.append(decode_rgb(turned(orientation)))
    assert all(result.shape == upright for result in results)
    assert all((result.int() - results[0].int()).abs().max() <= 1 for result in results)


def test_only_ordinary_upright_jpegs_have_a_size_before_they_are_decoded() -> None:
    assert jpeg_size(PICTURES["ordinary"]) == (61, 90)
    assert jpeg_size(turned(6)) is None
    assert jpeg_size(PICTURES["png"]) is None
    assert jpeg_size(b"<html>") is None


def test_a_batch_is_what_its_pictures_are() -> None:
    images = decode_batch(list(PICTURES.values()), torch.device("cpu"))
    assert all(torch.equal(image, decode_rgb(data)) for image, data in zip(images, PICTURES.values(), strict=True))


def test_a_batch_says_which_picture_is_broken() -> None:
    with pytest.raises(BrokenPicture) as caught:
        decode_batch([PICTURES["ordinary"], PICTURES["ordinary"][:300]], torch.device("cpu"))
    assert caught.value.position == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_nvjpeg_decodes_a_batch() -> None:
    images = decode_batch(list(PICTURES.values()), torch.device("cuda"))
    for image, data in zip(images, PICTURES.values(), strict=True):
        assert image.is_cuda
        assert (image.cpu().int() - decode_rgb(data).int()).abs().float().mean() < 2
