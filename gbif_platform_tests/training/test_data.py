import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gbif_platform.errors import PlatformError
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.training import data
from gbif_platform.training.data import BatchLoader, SampleError, Samples, ShardReader, epoch_order
from gbif_platform.training.decode import decode_rgb
from gbif_platform.training.preprocess import Preprocess
from gbif_platform_tests.training.conftest import Toy
from gbif_platform_tests.training.shards import PATTERNS, toy_table, write_shard

PREPROCESS = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def encoded(mode: str, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (20, 10)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("RGB", "WEBP"), ("RGB", "TIFF")],
)
def test_whatever_is_a_picture_becomes_rgb(mode: str, kind: str) -> None:
    image = decode_rgb(encoded(mode, kind))
    assert image.shape == (3, 10, 20)
    assert image.dtype == torch.uint8


@pytest.mark.parametrize("bad", [b"", b"<html>", encoded("RGB", "JPEG")[:200]])
def test_what_is_no_picture_raises(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_rgb(bad)


def test_samples_do_not_depend_on_the_order_of_a_query(toy: Toy, tmp_path: Path) -> None:
    _, table = toy_table(tmp_path, 20)
    samples = Samples.from_table(table, PATTERNS)
    shuffled = Samples.from_table(pl.DataFrame(table).sample(fraction=1, shuffle=True, seed=3), PATTERNS)
    assert shuffled.media_id.equals(samples.media_id)
    assert shuffled.digest() == samples.digest()
    assert samples.counts(3).sum() == 20


def test_unknown_labels_and_missing_values_are_named(tmp_path: Path) -> None:
    _, table = toy_table(tmp_path, 6)
    with pytest.raises(SampleError, match="vertical"):
        Samples.from_table(table, ["horizontal", "checked"])
    with pytest.raises(SampleError, match="no shard"):
        Samples.from_table(pl.DataFrame(table).with_columns(shard=pl.lit(None, pl.String)), PATTERNS)


@given(st.integers(0, 100), st.integers(0, 50), st.integers(1, 300))
def test_the_order_is_a_shuffle_and_a_pure_function(seed: int, epoch: int, count: int) -> None:
    order = epoch_order(seed, epoch, count)
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, epoch_order(seed, epoch, count))
    if count > 20:
        assert not np.array_equal(order, epoch_order(seed, epoch + 1, count))


def loader(toy: Toy, **settings: Any) -> BatchLoader:
    arguments: dict[str, Any] = {"batch_size": 16, "seed": 5, "augment": True, **settings}
    return BatchLoader(toy.training, toy.store, PREPROCESS, **arguments)


def test_batches_are_the_same_whatever_the_threads(toy: Toy) -> None:
    one, many = loader(toy, threads=1), loader(toy, threads=4)
    for epoch in (0, 3):
        one.set_epoch(epoch)
        many.set_epoch(epoch)
        for left, right in zip(one, many, strict=True):
            assert torch.equal(left.index, right.index)
            assert torch.equal(left.image, right.image)


def test_an_epoch_shows_each_picture_once_and_another_way_the_next_time(toy: Toy) -> None:
    batches = loader(toy)
    first = list(batches)
    assert sorted(torch.cat([batch.index for batch in first]).tolist()) == list(range(50))
    assert {len(batch.label) for batch in first} == {12, 13}
    batches.set_epoch(1)
    second = list(batches)
    images = [
        {int(i): image for batch in epoch for i, image in zip(batch.index, batch.image, strict=True)}
        for epoch in (first, second)
    ]
    assert not any(torch.equal(images[0][index], images[1][index]) for index in range(50))


def test_a_loaded_state_goes_on_within_the_epoch(toy: Toy) -> None:
    whole = loader(toy)
    whole.set_epoch(2)
    expected = [batch.index.tolist() for batch in whole]
    begun = loader(toy)
    begun.set_epoch(2)
    reading = iter(begun)
    next(reading)
    state = begun.state_dict()
    del reading
    resumed = loader(toy)
    resumed.load_state_dict(state)
    resumed.set_epoch(2)
    assert [batch.index.tolist() for batch in resumed] == expected[1:]
    resumed.set_epoch(3)
    assert len(list(resumed)) == len(expected)


def test_shards_past_the_open_files_are_read_too(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [batch.image for batch in loader(toy)]
    monkeypatch.setattr(data, "OPEN_SHARDS", 1)
    assert all(torch.equal(batch.image, image) for batch, image in zip(loader(toy), expected, strict=True))


class RangeOnly:
    """A store without local files, as S3 is."""

    def __init__(self, store: ObjectStore) -> None:
        self.get_range = store.get_range

    def path_of(self, key: str) -> None:
        return None


def test_a_store_without_files_is_read_by_ranges(toy: Toy) -> None:
    remote = BatchLoader(toy.training, RangeOnly(toy.store), PREPROCESS, 16, seed=5, augment=True)
    assert all(torch.equal(a.image, b.image) for a, b in zip(remote, loader(toy), strict=True))


@pytest.mark.parametrize("local", [True, False])
def test_a_missing_or_torn_shard_is_named(tmp_path: Path, local: bool) -> None:
    store = ObjectStore(tmp_path.as_uri())
    store.put("torn.tar", b"x" * 100)
    reader = ShardReader(store if local else RangeOnly(store))
    with pytest.raises(SampleError, match=r"missing\.tar"):
        reader.read("missing.tar", 0, 10)
    with pytest.raises(PlatformError, match=r"torn\.tar"):  # the store may notice first
        reader.read("torn.tar", 50, 100)


def test_bytes_that_are_no_picture_name_the_medium(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path.as_uri())
    offset, size = write_shard(store, "s.tar", {"m.jpg": b"<html>not found</html>"})["m.jpg"]
    table = pl.DataFrame({"media_id": ["m"], "label": ["a"], "shard": ["s.tar"], "offset": [offset], "size": [size]})
    with pytest.raises(SampleError, match=r"medium m in shard s\.tar"):
        list(BatchLoader(Samples.from_table(table, ["a"]), store, PREPROCESS, 4))
