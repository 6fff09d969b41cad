import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from gbif_platform.errors import PlatformError
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.training import data
from gbif_platform.training.data import BatchLoader, SampleError, Samples, ShardReader
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


@pytest.mark.parametrize("sampler", ["natural", "balanced", "sqrt"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_processes_train_on_equal_shares_of_one_order(toy: Toy, sampler: str, world_size: int) -> None:
    alone = loader(toy, sampler=sampler, batch_size=3 * world_size)
    ranks = [loader(toy, sampler=sampler, batch_size=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for one in (alone, *ranks):
        one.set_epoch(4)
    order = np.concatenate(alone.batches())
    shares = [np.concatenate(rank.batches()) for rank in ranks]
    assert np.array_equal(np.stack(shares, 1).flatten()[: len(order)], order)
    assert len({len(rank) for rank in ranks}) == 1
    sizes = [[len(batch) for batch in rank.batches()] for rank in ranks]
    assert sizes == [sizes[0]] * world_size
    assert max(sizes[0]) <= 3


def test_a_picture_is_varied_alike_in_whichever_process_it_is(toy: Toy) -> None:
    """So that a run on two devices sees the pictures that a run on one does."""
    alone = next(iter(loader(toy, batch_size=50)))
    ranks = [next(iter(loader(toy, batch_size=25, rank=rank, world_size=2))) for rank in range(2)]
    assert torch.equal(torch.stack([rank.image for rank in ranks], 1).flatten(0, 1), alone.image)


def test_a_picture_that_comes_twice_in_an_epoch_is_varied_anew(toy: Toy) -> None:
    few = np.flatnonzero(toy.training.label == 0)[:1]
    many = np.flatnonzero(toy.training.label == 1)
    keep = np.sort(np.concatenate([few, many]))
    samples = Samples(
        toy.training.media_id.take(keep),
        toy.training.label[keep],
        toy.training.shard.take(keep),
        toy.training.offset[keep],
        toy.training.size[keep],
    )
    batch = next(iter(BatchLoader(samples, toy.store, PREPROCESS, 99, seed=1, augment=True, sampler="balanced")))
    repeated = batch.image[batch.label == 0]
    assert len(repeated) > 4
    assert not any(torch.equal(repeated[0], other) for other in repeated[1:])


@pytest.mark.parametrize(("batch_size", "world_size"), [(16, 2), (5, 3), (1, 4), (16, 60)])
def test_validation_reads_each_picture_in_one_process(toy: Toy, batch_size: int, world_size: int) -> None:
    ranks = [
        BatchLoader(toy.training, toy.store, PREPROCESS, batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    seen = [[batch.tolist() for batch in rank.batches()] for rank in ranks]
    assert sorted(index for rank in seen for batch in rank for index in batch) == list(range(50))
    assert {len(rank) for rank in seen} == {len(ranks[0])}
    read = list(ranks[-1])
    assert [batch.index.tolist() for batch in read] == seen[-1]
    assert all(batch.image.shape == (len(batch.index), 3, 32, 32) for batch in read)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_goes_on_from_the_state_of_the_first(toy: Toy, rank: int) -> None:
    settings = {"batch_size": 4, "sampler": "sqrt", "world_size": 2}
    whole = loader(toy, rank=rank, **settings)
    whole.set_epoch(3)
    expected = list(whole)
    first = loader(toy, rank=0, **settings)
    first.set_epoch(3)
    reading = iter(first)
    for _ in range(3):
        next(reading)
    resumed = loader(toy, rank=rank, **settings)
    resumed.load_state_dict(first.state_dict())
    resumed.set_epoch(3)
    rest = list(resumed)
    assert len(rest) == len(expected) - 3
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.index, b.index) for a, b in zip(rest, expected[3:], strict=True)
    )


def test_pictures_may_have_several_labels(tmp_path: Path) -> None:
    store, table = toy_table(tmp_path, 6)
    several = [["checked"], ["checked", "horizontal"], [], ["vertical"], ["checked"], ["horizontal"]]
    frame = pl.DataFrame(table).with_columns(labels=pl.Series(several))
    samples = Samples.from_table(frame, PATTERNS)
    assert samples.counts(3).tolist() == [2, 1, 3]
    assert samples.digest() != Samples.from_table(table, PATTERNS).digest()
    expected = {
        name: [float(label in labels) for label in PATTERNS]
        for name, labels in zip(frame["media_id"], several, strict=True)
    }
    (batch,) = BatchLoader(samples, store, PREPROCESS, 6, seed=2)
    target = batch.to(torch.device("cpu")).target
    assert target is not None
    assert target.dtype == torch.float32
    for index, row in zip(batch.index.tolist(), target.tolist(), strict=True):
        assert row == expected[samples.media_id[index].as_py()]
    assert next(iter(BatchLoader(Samples.from_table(table, PATTERNS), store, PREPROCESS, 6))).target is None


def test_unknown_ones_of_several_labels_are_named(tmp_path: Path) -> None:
    _, table = toy_table(tmp_path, 2)
    for labels, complaint in (([["dotted"], []], "dotted"), ([None, []], "no labels"), ([[None], []], "empty")):
        frame = pl.DataFrame(table).with_columns(labels=pl.Series(labels, dtype=pl.List(pl.String)))
        with pytest.raises(SampleError, match=complaint):
            Samples.from_table(frame, PATTERNS)


@pytest.mark.parametrize("augment", [True, False])
def test_decoding_by_device_gives_the_same_pictures(toy: Toy, augment: bool) -> None:
    """On a CPU here; on CUDA it is nvJPEG. The toy's pictures are too small for a reduced decode."""
    usual = list(loader(toy, augment=augment))
    other = list(loader(toy, augment=augment, decode_device=torch.device("cpu")))
    assert all(torch.equal(a.image, b.image) for a, b in zip(usual, other, strict=True))


def test_a_device_names_a_broken_picture_too(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path.as_uri())
    members = {"a.jpg": encoded("RGB", "JPEG"), "b.jpg": b"<html>"}
    index = write_shard(store, "s.tar", members)
    rows = [
        {"media_id": name[0], "label": "x", "shard": "s.tar", "offset": offset, "size": size}
        for name, (offset, size) in index.items()
    ]
    samples = Samples.from_table(pl.DataFrame(rows), ["x"])
    with pytest.raises(SampleError, match="medium b in shard"):
        list(BatchLoader(samples, store, PREPROCESS, 4, decode_device=torch.device("cpu")))
