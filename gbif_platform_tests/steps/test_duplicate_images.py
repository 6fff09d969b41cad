"""The step over a real lake and real shards: what is hashed, paired, left out and shown."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from gbif_platform.curation.near_duplicates import duplicate_groups
from gbif_platform.dataset import Dataset, parse_dataset
from gbif_platform.images import perceptual
from gbif_platform.images.shards import ShardWriter
from gbif_platform.images.transform import transform_image
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.steps import duplicate_images as step
from gbif_platform.steps.duplicate_images import NAME, PictureMissing, duplicate_images
from gbif_platform.steps.run import Run, UpstreamMissing
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: monkeys
  source: {gbif_download: {doi: 10.15468/dl.sand01}}
  label: species
  filters: {duplicate_images: POLICY}
  images: {size: 96}
"""


@dataclass(frozen=True)
class Medium:
    """A picture at a URL, as it would have arrived."""

    url_id: str
    label: str | None
    data: bytes


class World:
    """A home in which pictures have arrived."""

    def __init__(self, home: Path) -> None:
        self.home, self.platform = home, Platform(Settings(home=home))

    def run(self, policy: str = "keep_all", bits: int = 4) -> Run:
        dataset: Dataset = parse_dataset(FILE.replace("POLICY", policy), self.home / "monkeys.yaml")
        filters = dataset.filters.model_copy(update={"near_duplicate_bits": bits})
        return Run(self.platform, dataset.model_copy(update={"filters": filters}), "first")

    def arrive(self, media: Sequence[Medium]) -> None:
        """Write shard, ledger, media and sample; the place of a medium is its sample key."""
        run, transform = self.run(), self.run().dataset.images
        ledger: dict[str, dict[str, object]] = {}
        with ShardWriter(self.platform.objects, transform.key) as writer:
            for medium in media:
                if medium.url_id in ledger:
                    continue
                stored = transform_image(medium.data, transform).data
                offset, size = writer.add(medium.url_id, stored, transform.suffix)
                ledger[medium.url_id] = {
                    "url_id": medium.url_id,
                    "transform": transform.key,
                    "status": "ok",
                    "source_sha256": sha256(medium.data).hexdigest(),
                    "sha256": sha256(stored).hexdigest(),
                    "shard_offset": offset,
                    "shard_size": size,
                }
            shard = writer.close()
        tables.add_images(self.platform.lake, [row | {"shard": shard} for row in ledger.values()], run_id="test")
        names = [f"m{place:04d}" for place in range(len(media))]
        url_ids = [medium.url_id for medium in media]
        rows = pl.DataFrame({"media_id": names, "url_id": url_ids})
        labels = pl.Series("label", [medium.label for medium in media], dtype=pl.String)
        keys = pl.Series("sample_key", range(len(media)), dtype=pl.UInt64)
        urls = pl.Series("url", [f"https://host.example/{url_id}" for url_id in url_ids])
        frames = {"media_urls": rows.with_columns(urls, keys), "balanced_samples": rows.with_columns(labels)}
        version = sha256(repr(media).encode()).hexdigest()
        outcome = Outcome(dict(frames), len(media), len(media))
        tables.write_stage(self.platform.lake, run.stage("downloaded_images"), version, outcome, run_id="test")

    def frame(self, sql: str) -> pl.DataFrame:
        return self.platform.lake.frame(sql)

    def decisions(self) -> dict[str, str]:
        return dict(self.frame("SELECT media_id, decision FROM duplicate_images").iter_rows())


def photo(seed: int, quality: int = 92, side: int = 120) -> bytes:
    blobs = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(blobs).resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def blank(colour: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (100, 100), colour).save(buffer, "PNG")
    return buffer.getvalue()


MEDIA = [
    Medium("a1", "ape", photo(1)),
    Medium("a2", "ape", photo(1)),  # the same bytes
    Medium("b1", None, photo(2)),
    Medium("b2", "bat", photo(2, quality=60, side=200)),  # the same picture, smaller file
    Medium("b3", "cat", photo(2, quality=75)),  # … under another label
    Medium("c1", "cat", photo(3)),
    Medium("c1", "cat", photo(3)),  # one URL, two occurrences
    Medium("d1", "dog", photo(4)),
    Medium("e1", "dog", blank("white")),
    Medium("e2", "dog", blank("black")),
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.arrive(MEDIA)
    return world


def test_duplicates_are_found_and_shown(world: World) -> None:
    report = duplicate_images(world.run())
    expected = {
        "pictures_hashed_now": 8,  # nine URLs, two of them with one picture
        "rows": 10,
        "duplicate_groups": 3,
        "duplicate_media": 7,
        "largest_group": 3,
        "conflicting_groups": 1,
        "exact_pairs": 1,
        "near_pairs": 3,
        "media_left_out": 0,
        "pictures_without_hash": 2,
    }
    assert {name: report.numbers[name] for name in expected} == expected
    rows = world.frame("SELECT * FROM duplicate_images ORDER BY media_id")
    assert rows.select("media_id", "group_id", "kind", "labels_agree").rows() == [
        ("m0000", "a1", "bytes", True),
        ("m0001", "a1", "bytes", True),
        ("m0002", "b1", "near", False),
        ("m0003", "b1", "near", False),
        ("m0004", "b1", "near", False),
        ("m0005", "c1", "bytes", True),
        ("m0006", "c1", "bytes", True),
    ]
    pairs = world.frame("SELECT url_id, other_url_id, kind, label, other_label FROM duplicate_pairs ORDER BY ALL")
    assert ("a1", "a2", "bytes", "ape", "ape") in pairs.rows()
    assert report.tables["duplicate_pairs"]["url"].str.starts_with("https://host.example/").all()
    assert set(report.tables["conflicting_duplicates"]["label"]) == {None, "bat", "cat"}
    assert report.tables["pictures_without_hash"].select("reason", "pictures").rows() == [("flat", 2)]
    with Image.open(BytesIO(report.pictures["duplicate_pairs"])) as sheet:
        assert sheet.width > 4 * 128
    assert {check.name: check.passed for check in report.checks} == {"rows_reconcile": True, "labels_agree": False}
    assert [check.only_warn for check in report.checks if check.name == "labels_agree"] == [True]


def test_each_policy_decides_and_hashes_nothing_anew(world: World) -> None:
    left_out = {
        "keep_all": set(),
        "keep_first": {"m0001", "m0002", "m0004", "m0006"},
        "drop_all": {f"m{place:04d}" for place in range(7)},
        "keep_if_labels_agree": {"m0001", "m0002", "m0003", "m0004", "m0006"},
    }
    duplicate_images(world.run())
    for policy, expected in left_out.items():
        report = duplicate_images(world.run(policy))
        assert {medium for medium, decision in world.decisions().items() if decision == "left out"} == expected
        assert report.numbers["media_left_out"] == len(expected)
        assert report.numbers["pictures_hashed_now"] == 0
        assert (report.numbers["rows_in"], report.numbers["rows"]) == (10, 10)


def test_a_second_run_writes_nothing_and_new_pictures_alone_are_hashed(world: World) -> None:
    assert duplicate_images(world.run()).written
    before = world.platform.lake.version()
    assert not duplicate_images(world.run()).written
    assert world.platform.lake.version() == before
    world.arrive([*MEDIA, Medium("f1", "ape", photo(5))])
    report = duplicate_images(world.run())
    assert (report.written, report.numbers["pictures_hashed_now"]) == (True, 1)
    assert len(world.frame("SELECT * FROM image_hashes")) == 9


def test_fewer_bits_find_exact_copies_only(world: World) -> None:
    report = duplicate_images(world.run(bits=0))
    alike = world.frame("SELECT count(*) AS n FROM image_hashes WHERE phash IS NOT NULL GROUP BY phash")["n"]
    assert report.numbers["near_pairs"] == (alike * (alike - 1) // 2).sum()
    assert report.numbers["exact_pairs"] == 1


def test_a_kill_loses_a_chunk_at_most(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "CHUNK", 3)
    read, calls = step.read_member, []

    def failing(*place: object) -> bytes:
        calls.append(place)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return read(*place)  # type: ignore[arg-type]

    monkeypatch.setattr(step, "read_member", failing)
    with pytest.raises(KeyboardInterrupt):
        duplicate_images(world.run())
    assert len(world.frame("SELECT * FROM image_hashes")) == 6
    monkeypatch.setattr(step, "read_member", read)
    assert duplicate_images(world.run()).numbers["pictures_hashed_now"] == 2


def test_another_way_of_hashing_hashes_all_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    duplicate_images(world.run())
    monkeypatch.setattr(perceptual, "VERSION", "phash-next")
    report = duplicate_images(world.run())
    assert (report.written, report.numbers["pictures_hashed_now"]) == (True, 8)
    assert Counter(world.frame("SELECT version FROM image_hashes")["version"]) == {"phash-1": 8, "phash-next": 8}


def test_no_duplicates_at_all(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.arrive([Medium(f"u{seed}", "ape", photo(seed)) for seed in range(3)])
    report = duplicate_images(world.run("drop_all"))
    assert (report.numbers["duplicate_groups"], report.numbers["largest_group"], report.pictures) == (0, 0, {})
    assert all(check.passed for check in report.checks)


def test_what_is_missing_is_named(tmp_path: Path, world: World) -> None:
    empty = World(tmp_path / "empty")
    with pytest.raises(UpstreamMissing, match="downloaded_images"):
        duplicate_images(empty.run())
    for key in list(world.platform.objects.list("images")):
        world.platform.objects.delete(key)
    with pytest.raises(PictureMissing, match=r"shard images/.*\.tar"):
        duplicate_images(world.run())
    assert world.frame(f"SELECT * FROM stages WHERE stage = '{NAME}'").is_empty()


def test_every_published_duplicate_of_monkeys10_is_reported(tmp_path: Path, shared: Path) -> None:
    folder = shared / "photos" / "dev" / "monkeys10"
    if not (folder / "labels.csv").exists():
        pytest.skip(f"{folder} is not there")
    with (folder / "labels.csv").open(newline="") as file:
        rows = [row | {"url_id": f"u{number:04d}"} for number, row in enumerate(csv.DictReader(file))]
    world = World(tmp_path)
    world.arrive([Medium(row["url_id"], row["scientificName"], (folder / row["file"]).read_bytes()) for row in rows])
    report = duplicate_images(world.run("keep_first"))
    reported = world.frame("SELECT url_id, other_url_id, kind FROM duplicate_pairs")
    kinds = {(one, two): kind for one, two, kind in reported.iter_rows()}

    def published(column: str) -> list[tuple[str, str]]:
        """Pairs that `labels.csv` gives the same value."""
        return [(one["url_id"], two["url_id"]) for one, two in combinations(rows, 2) if one[column] == two[column]]

    identical = published("sha256")
    assert len({one for one, _ in identical}) - 1 == 67  # of three copies, two are first of a pair
    assert {pair for pair, kind in kinds.items() if kind == "bytes"} == set(identical)
    assert set(published("phash")) <= set(kinds)
    stored = world.frame("SELECT url_id, phash FROM images JOIN image_hashes USING (sha256) ORDER BY url_id").rows()
    near = [(one, two) for (one, its), (two, other) in combinations(stored, 2) if (its ^ other).bit_count() <= 4]
    assert set(kinds) == set(near)
    # the published split tears groups apart; with the group as key, what looks alike cannot be on two sides
    split = {row["url_id"]: row["source_split"] for row in rows}
    look = {row["url_id"]: row["phash"] for row in rows}
    assert len({look[one] for one, two in published("phash") if split[one] != split[two]}) == 44
    group = dict(duplicate_groups(reported).iter_rows())
    assert all(group[one] == group[two] for one, two in near)
    assert len({group[one] for one, two in near if split[one] != split[two]}) >= 44
    kept = world.frame("SELECT group_id FROM duplicate_images WHERE decision = 'kept'")["group_id"]
    assert len(kept) == kept.n_unique() == report.numbers["duplicate_groups"]
