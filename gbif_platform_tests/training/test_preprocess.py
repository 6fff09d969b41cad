import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from gbif_platform.training.preprocess import Preprocess, random_crop

PLAIN = Preprocess(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)
sides = st.integers(1, 200)


def noise(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, height, width), dtype=np.uint8))


@settings(max_examples=30, deadline=None)
@given(sides, sides, st.integers(0, 1000))
def test_any_picture_becomes_the_square(height: int, width: int, seed: int) -> None:
    image = noise(height, width)
    for result in (PLAIN.evaluate(image), PLAIN.augment(image, np.random.default_rng(seed))):
        assert result.shape == (3, 32, 32)
        assert result.dtype == torch.uint8


@given(sides, sides, st.integers(0, 1000))
def test_a_random_crop_lies_in_the_picture(height: int, width: int, seed: int) -> None:
    top, left, crop_height, crop_width = random_crop(height, width, np.random.default_rng(seed))
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
