import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from gbif_platform.training.decode import decode_rgb
from gbif_platform.training.preprocess import CHANCES, Preprocess, random_crop, vary_colours
from gbif_platform.training.sampling import chances
from gbif_platform_tests.training.golden import GOLDEN, NORMALISED, PREPROCESS, PREPROCESS_VALUES, golden_chance

PLAIN = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)
sides = st.integers(1, 200)
chance = chances(1, 2, np.arange(40), CHANCES)


def noise(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, height, width), dtype=np.uint8))


@settings(max_examples=30, deadline=None)
@given(sides, sides, st.integers(0, 1000))
def test_any_picture_becomes_the_square(height: int, width: int, seed: int) -> None:
    image = noise(height, width)
    for result in (PLAIN.evaluate(image), PLAIN.augment(image, np.random.default_rng(seed).random(CHANCES))):
        assert result.shape == (3, 32, 32)
        assert result.dtype == torch.uint8


@given(sides, sides, st.integers(0, 1000))
def test_a_random_crop_lies_in_the_picture(height: int, width: int, seed: int) -> None:
    top, left, crop_height, crop_width = random_crop(height, width, np.random.default_rng(seed).random(CHANCES))
    assert crop_height > 0
    assert crop_width > 0
    assert 0 <= top <= height - crop_height
    assert 0 <= left <= width - crop_width


def test_evaluation_equals_pil_and_torchvision() -> None:
    """The reference of every later copy of this preprocessing: PIL's bicubic resize, centre crop, mean and std."""
    image = noise(40, 60)
    resized = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((55, 37), Image.Resampling.BICUBIC)
    reference = v2.Compose(
        [
            v2.PILToTensor(),
            v2.CenterCrop(32),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(PLAIN.mean), list(PLAIN.std)),
        ]
    )(resized)
    ours = PLAIN.normalise(PLAIN.evaluate(image)[None])[0]
    difference = (ours - reference).abs()
    assert difference.max() < 1.01 / 255 / 0.224  # one grey level, by rounding, in few pixels
    assert difference.mean() < 2e-4


def test_it_survives_json() -> None:
    import json

    assert Preprocess.from_json(json.loads(json.dumps(PLAIN.to_json()))) == PLAIN
    with pytest.raises((TypeError, ValueError)):
        Preprocess.from_json({**PLAIN.to_json(), "mean": [1.0]})


def jpeg(height: int, width: int) -> bytes:
    random = np.random.default_rng(5)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


@pytest.mark.parametrize("name", GOLDEN)
def test_training_evaluation_and_serving_see_what_they_always_saw(name: str) -> None:
    """Against tensors that are committed. Decoders may differ by a grey level; a changed resize differs by more."""
    golden = GOLDEN[name]
    for seen, expected in (
        (PREPROCESS.read(golden.encoded), golden.evaluated),
        (PREPROCESS.read(golden.encoded, golden_chance()), golden.augmented),
    ):
        difference = (seen.int() - expected.int()).abs().float()
        assert difference.max() <= 2
        assert difference.mean() <= 0.1


def test_normalised_values_are_what_they_always_were() -> None:
    ours = PREPROCESS.normalise(torch.tensor(PREPROCESS_VALUES, dtype=torch.uint8).view(1, 3, 1, 3))
    assert torch.allclose(ours.flatten(), torch.tensor(NORMALISED), atol=1e-6)
    assert PREPROCESS.normalise(noise(32, 32)[None]).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(301, 202), (133, 400), (1000, 700)])
def test_a_reduced_decode_stays_near_a_full_one(shape: tuple[int, int]) -> None:
    """Apart by the fraction of a pixel by which a crop of a reduced picture is another one."""
    data, preprocess = jpeg(*shape), Preprocess(64, PLAIN.mean, PLAIN.std)
    full = decode_rgb(data)
    assert (preprocess.read(data).int() - preprocess.evaluate(full).int()).abs().float().mean() < 2
    apart = [
        (preprocess.read(data, one, 0.0).int() - preprocess.augment(full, one, 0.0).int()).abs().float().mean()
        for one in chance
    ]
    assert max(apart) < 4


def test_reading_does_not_depend_on_the_decoder_where_nothing_is_reduced() -> None:
    data = jpeg(40, 60)
    assert torch.equal(PLAIN.read(data), PLAIN.evaluate(decode_rgb(data)))
    assert torch.equal(PLAIN.read(data, chance[0]), PLAIN.augment(decode_rgb(data), chance[0]))


def test_half_of_the_pictures_are_mirrored_and_colours_vary_both_ways() -> None:
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 16:] = 128
    many = chances(3, 0, np.arange(400), CHANCES)
    seen = [PLAIN.augment(image, one) for one in many]
    mirrored = sum(bool(one[0, :, :16].float().mean() > one[0, :, 16:].float().mean()) for one in seen)
    assert 150 < mirrored < 250
    brightest = torch.stack([one.max() for one in seen]).float()
    assert brightest.min() < 115
    assert brightest.max() > 141
    plain = [PLAIN.augment(image, one, 0.0) for one in many]
    assert all(127 < int(one.max()) < 141 for one in plain)  # the resize overshoots at the edge


@given(st.floats(0.8, 1.2), st.floats(0.8, 1.2), st.floats(0.8, 1.2))
def test_colours_vary_as_in_torchvision(brightness: float, contrast: float, saturation: float) -> None:
    image = noise(24, 30) // 3 + 60  # far from the ends, where clipping once is clipping three times
    theirs = v2.functional.adjust_brightness(image.float() / 255, brightness)
    theirs = v2.functional.adjust_saturation(v2.functional.adjust_contrast(theirs, contrast), saturation)
    ours = vary_colours(image, brightness, contrast, saturation)
    assert (ours.float() - theirs * 255).abs().max() < 0.75
    assert torch.equal(vary_colours(image, 1, 1, 1), image)


BORROWED_MACHINE = """
import sys

REFUSED = {"dagster", "duckdb", "polars", "pydantic", "mlflow", "obstore", "simplejpeg", "torchcodec", "psutil", "rich"}


class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in REFUSED else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from gbif_platform.training.data import BatchLoader
from gbif_platform_tests.training.golden import GOLDEN, PREPROCESS, golden_chance

for golden in GOLDEN.values():
    assert (PREPROCESS.read(golden.encoded).int() - golden.evaluated.int()).abs().max() <= 2
    assert (PREPROCESS.read(golden.encoded, golden_chance()).int() - golden.augmented.int()).abs().max() <= 2
assert not REFUSED & set(sys.modules)
"""


def test_it_is_the_same_where_only_torch_and_torchvision_are_installed() -> None:
    subprocess.run([sys.executable, "-c", BORROWED_MACHINE], check=True, timeout=600)
