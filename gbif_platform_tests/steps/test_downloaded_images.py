"""Step `downloaded_images` against a host on this machine: what is asked for, and what is not asked for again."""

import shutil
import threading
from collections.abc import Iterator
from hashlib import md5, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from gbif_platform.dataset import Dataset, parse_dataset
from gbif_platform.images.run import ORIGINAL
from gbif_platform.images.shards import read_member
from gbif_platform.images.takedown import take_down
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.steps.downloaded_images import NothingArrived, downloaded_images
from gbif_platform.steps.fetch_plan import fetch_options, wanted
from gbif_platform.steps.run import Report, Run
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: {name}
  source: {source}
  label: species
  images: {images}
"""
ARCHIVE = "{archive: frogs.zip}"


def photo(number: int, side: int = 48) -> bytes:
    buffer = BytesIO()
    Image.effect_mandelbrot((side, side), (-2, -1.5, 1, 1.5), 20 + number).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


class Host:
    """Serves `pictures` by path, with ETags and `headers`; `asked` lists path and status of every request."""

    def __init__(self) -> None:
        self.pictures: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.asked: list[tuple[str, int]] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(handler) -> None:  # noqa: N805  `self` is the host
                data = self.pictures.get(handler.path)
                etag = f'"{md5(data or b"", usedforsecurity=False).hexdigest()}"'
                status = 404 if data is None else 304 if handler.headers["If-None-Match"] == etag else 200
                self.asked.append((handler.path, status))
                handler.send_response(status)
                for name, value in {"ETag": etag, **self.headers}.items():
                    handler.send_header(name, value)
                body = data if data and status == 200 else b""
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    host.pictures = {f"/{number}.jpg": photo(number) for number in range(6)}
    yield host
    host.close()


class World:
    """A platform with sampled media, `label` by `label`, that have never been asked for."""

    def __init__(self, home: Path, host: Host, **settings: Any) -> None:
        self.home, self.host = home, host
        self.reset(**settings)

    def reset(self, **settings: Any) -> None:
        """Other settings from now on."""
        usual: dict[str, Any] = {"allow_private_hosts": True, "fetch_retries": 0, "shard_images": 3}
        self.platform = Platform(Settings(home=self.home, **usual | settings))

    def run(self, name: str = "frogs", images: str = "{size: 32}", source: str = ARCHIVE, **more: Any) -> Run:
        text = FILE.format(name=name, images=images, source=source)
        dataset: Dataset = parse_dataset(text, self.home / f"{name}.yaml")
        return Run(self.platform, dataset, "first", **more)

    def sample(self, paths: list[str], name: str = "frogs") -> None:
        run = self.run(name)
        media = pl.DataFrame(
            {
                "media_id": [f"{name}{number}" for number in range(len(paths))],
                "gbif_id": [str(number) for number in range(len(paths))],
                "url": [self.host.url(path) for path in paths],
                "label": [f"species {number % 2}" for number in range(len(paths))],
            }
        ).with_columns(
            url_id=pl.col("url").map_elements(
                lambda url: md5(url.encode(), usedforsecurity=False).hexdigest(), return_dtype=pl.String
            ),
            stratum=pl.lit("all"),
        )
        occurrences = media.select("gbif_id", dataset_key=pl.format("publisher {}", pl.col("gbif_id").cast(int) % 2))
        frames = {
            "occurrences": occurrences,
            "media_urls": media.select("media_id", "url_id", "gbif_id", "url"),
            "balanced_samples": media.select("media_id", "url_id", "label", "stratum"),
        }
        outcome = Outcome(dict(frames), len(paths), len(paths))
        tables.write_stage(self.platform.lake, run.stage("balanced_samples"), repr(paths), outcome, run_id="test")

    def fetch(self, **more: Any) -> tuple[Report, list[tuple[str, int]]]:
        """Run the step; returns its report and what the host was asked for."""
        self.host.asked = []
        return downloaded_images(self.run(**more)), sorted(self.host.asked)

    def ledger(self, where: str = "true") -> list[dict[str, Any]]:
        return self.platform.lake.frame(f"SELECT * FROM images WHERE {where} ORDER BY url, transform").to_dicts()

    def stored(self, row: dict[str, Any]) -> bytes:
        return read_member(self.platform.objects, row["shard"], row["shard_offset"], row["shard_size"])

    def age(self, days: int) -> None:
        """Make everything in the ledger so much older."""
        with self.platform.lake.transaction("test", "age") as con:
            con.execute(
                f"UPDATE lake.images SET fetched_at = fetched_at - INTERVAL {days} DAY, "
                f"checked_at = checked_at - INTERVAL {days} DAY, retry_at = retry_at - INTERVAL {days} DAY"
            )


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose lake has its tables: to make them takes longer than a test."""
    home = tmp_path_factory.mktemp("empty")
    Platform(Settings(home=home)).lake.close()
    return home


@pytest.fixture
def world(empty: Path, tmp_path: Path, host: Host) -> World:
    home = shutil.copytree(empty, tmp_path / "home")
    world = World(home, host)
    world.sample([f"/{number}.jpg" for number in range(6)])
    return world


def check(report: Report, name: str) -> tuple[bool, str]:
    (found,) = [one for one in report.checks if one.name == name]
    return found.passed, found.description


def test_everything_is_asked_for_once_and_accounted_for(world: World) -> None:
    del world.host.pictures["/4.jpg"]
    observed: list[dict[str, float]] = []
    report, asked = world.fetch(observe=observed.append)
    assert asked == [(f"/{number}.jpg", 404 if number == 4 else 200) for number in range(6)]
    assert report.numbers["rows"] == report.numbers["pictures"] == 5
    assert report.numbers["rows_quarantined"] == 1
    assert report.numbers["requested_now"] == 6
    assert report.numbers["images_per_second"] > 0
    assert report.numbers["bytes_received_now"] == report.numbers["source_bytes"] > report.numbers["stored_bytes"] > 0
    assert check(report, "shards_sound")[0]
    assert check(report, "rows_reconcile")[0]
    assert report.pictures["sample_grid"].startswith((b"\xff\xd8", b"\x89PNG"))
    port = world.host.server.server_port
    assert report.tables["hosts"].rows() == [
        (f"127.0.0.1:{port}", 6, 5, 1, 0, "http_404", report.numbers["source_bytes"])
    ]
    assert report.tables["datasets"].select("dataset_key", "media", "ok").rows() == [
        ("publisher 0", 3, 2),
        ("publisher 1", 3, 3),
    ]
    assert observed[-1]["done"] == 6
    assert observed[-1]["failed"] == 1

    again, asked = world.fetch()
    assert asked == []
    assert not again.written
    assert again.version == report.version
    assert "images_per_second" not in again.numbers


def test_a_failure_is_asked_for_again_when_it_is_due(world: World) -> None:
    gone = world.host.pictures.pop("/4.jpg")
    world.fetch()
    world.host.pictures["/4.jpg"] = gone
    world.age(29)
    assert world.fetch()[1] == []
    world.age(2)
    report, asked = world.fetch()
    assert asked == [("/4.jpg", 200)]
    assert report.numbers["rows"] == 6


def test_a_url_of_two_datasets_is_fetched_once(world: World) -> None:
    world.fetch()
    world.sample(["/5.jpg", "/3.jpg"], name="toads")
    report, asked = world.fetch(name="toads")
    assert asked == []
    assert report.numbers["rows"] == 2
    assert report.written


def test_nothing_at_all_is_said_with_its_reasons(world: World) -> None:
    world.host.pictures.clear()
    with pytest.raises(NothingArrived, match="none of 6 pictures arrived: 6 http_404"):
        world.fetch()


@pytest.mark.parametrize(
    ("strict", "reason", "named"),
    [
        ({"allow_private_hosts": False}, "forbidden_address", "GBIF_PLATFORM_ALLOW_PRIVATE_HOSTS=1"),
        ({"fetch_robots": "noai"}, "robots", "GBIF_PLATFORM_FETCH_ROBOTS"),
        ({"fetch_max_bytes": 100}, "too_many_bytes", "GBIF_PLATFORM_FETCH_MAX_BYTES"),
        ({"fetch_max_pixels": 100}, "too_many_pixels", "GBIF_PLATFORM_FETCH_MAX_PIXELS"),
    ],
)
def test_what_a_setting_refused_comes_once_it_allows_it(
    world: World, strict: dict[str, Any], reason: str, named: str
) -> None:
    world.host.headers = {"X-Robots-Tag": "noai"}
    world.reset(**{"fetch_robots": ""} | strict)
    with pytest.raises(NothingArrived, match=f"6 {reason}") as nothing:
        world.fetch()
    assert named in nothing.value.next_step
    assert nothing.value.next_step.endswith("gbif-platform run frogs --retry-failed")
    world.reset(fetch_robots="", retry_failed=True)
    assert world.fetch()[0].numbers["rows"] == 6


def test_what_can_never_come_is_not_asked_for_even_on_demand(world: World) -> None:
    world.fetch()
    for number, reason in enumerate(("invalid_url", "unsupported_scheme")):
        with world.platform.lake.transaction("test", reason) as con:
            con.execute(
                f"UPDATE lake.images SET status = 'refused', reason = '{reason}' WHERE ends_with(url, '/{number}.jpg')"
            )
    take_down(world.platform.lake, [world.ledger()[2]["url"]], "asked by its photographer", "test")
    world.reset(retry_failed=True)
    report, asked = world.fetch()
    assert (asked, report.numbers["rows"]) == ([], 3)
    take_down(world.platform.lake, [row["url"] for row in world.ledger()], "asked by its photographer", "test")
    with pytest.raises(NothingArrived, match="taken_down") as nothing:
        world.fetch()
    assert "--retry-failed" not in nothing.value.next_step


def test_old_pictures_are_asked_whether_they_have_changed(world: World) -> None:
    world.fetch()
    before = {row["url"]: row for row in world.ledger()}
    world.host.pictures["/2.jpg"] = photo(99)
    del world.host.pictures["/3.jpg"]
    world.age(8)
    assert world.fetch()[1] == []

    world.reset(refresh_days=7)
    report, asked = world.fetch()
    assert asked == [
        (f"/{number}.jpg", {2: 200, 3: 404}.get(number, 304)) for number in range(6)
    ]  # what is gone from its host is kept here
    assert (report.numbers["unchanged"], report.numbers["rows"]) == (4, 6)
    for row in world.ledger():
        old = before[row["url"]]
        assert row["checked_at"] > old["checked_at"]
        if row["url"].endswith("/2.jpg"):
            assert row["source_sha256"] == sha256(photo(99)).hexdigest()
            assert row["etag"] != old["etag"]
        else:
            same = {"checked_at": None, "fetched_at": None}
            assert row | same == old | same
        assert sha256(world.stored(row)).hexdigest() == row["sha256"]
    assert check(report, "shards_sound")[0]
    assert world.fetch()[1] == []


def test_originals_are_fetched_when_they_are_to_be_kept(world: World) -> None:
    world.fetch()
    keep = "{size: 32, keep_original: true}"
    _, asked = world.fetch(images=keep)
    assert asked == [(f"/{number}.jpg", 200) for number in range(6)]
    for row in world.ledger(f"transform = '{ORIGINAL}'"):
        number = int(row["url"][-5])
        assert world.stored(row) == photo(number)
    report, asked = world.fetch(images=keep)
    assert asked == []
    assert report.numbers["rows"] == 6
    assert len(world.ledger()) == 12


def damage(world: World, row: dict[str, Any]) -> None:
    """Flip a few bytes in the middle of a stored picture."""
    path = world.platform.objects.path_of(row["shard"])
    assert path is not None
    content = bytearray(path.read_bytes())
    middle = row["shard_offset"] + row["shard_size"] // 2
    content[middle : middle + 4] = bytes(byte ^ 0xFF for byte in content[middle : middle + 4])
    path.write_bytes(content)


@pytest.mark.parametrize("transform", ["keep_ratio-32-jpeg-92", ORIGINAL])
def test_a_damaged_picture_alone_is_fetched_again(world: World, transform: str) -> None:
    keep = "{size: 32, keep_original: true}"
    world.fetch(images=keep)
    victim = next(row for row in world.ledger(f"transform = '{transform}'") if row["url"].endswith("/2.jpg"))
    damage(world, victim)
    report, asked = world.fetch(images=keep)
    assert asked == [("/2.jpg", 200)]
    passed, says = check(report, "shards_sound")
    assert passed
    assert "1 damaged" in says
    assert report.numbers["damaged"] == 1
    for row in world.ledger():
        assert row["status"] == "ok"
        assert sha256(world.stored(row)).hexdigest() == row["sha256"]
    assert world.fetch(images=keep)[1] == []


def test_a_lost_shard_is_fetched_again(world: World) -> None:
    world.fetch()
    shard = world.ledger()[0]["shard"]
    lost = sorted(row["url"][-6:] for row in world.ledger(f"shard = '{shard}'"))
    world.platform.objects.delete(shard)
    report, asked = world.fetch()
    assert asked == [(path, 200) for path in lost]
    assert check(report, "shards_sound")[0]
    assert report.numbers["rows"] == 6


def test_failures_asked_for_again_are_so_once_even_when_something_is_damaged(world: World) -> None:
    del world.host.pictures["/4.jpg"]
    world.fetch()
    damage(world, world.ledger()[2])
    world.reset(retry_failed=True)
    assert world.fetch()[1] == [("/2.jpg", 200), ("/4.jpg", 404)]


def test_a_damaged_picture_that_cannot_be_had_again_is_no_picture(world: World) -> None:
    world.fetch()
    victim = world.ledger()[2]
    damage(world, victim)
    del world.host.pictures["/2.jpg"]
    report, _ = world.fetch()
    assert check(report, "shards_sound")[0]
    assert report.numbers["rows"] == 5
    (row,) = world.ledger("status <> 'ok'")
    assert (row["url"], row["reason"], row["shard"]) == (victim["url"], "http_404", None)


def test_what_is_taken_down_while_it_is_fetched_stays_down(world: World) -> None:
    world.fetch()
    row = world.ledger()[2]
    take_down(world.platform.lake, [row["url"]], "asked by its photographer", "test")
    tables.add_images(world.platform.lake, [row], run_id="another run")
    assert [one["url"] for one in world.ledger("status <> 'ok' AND transform <> 'any'")] == [row["url"]]
    assert world.fetch()[1] == []


def test_settings_become_options(world: World) -> None:
    world.reset(fetch_processes=3, fetch_robots="NoAI, noindex,", gbif_url="https://api.gbif.org/")
    ours, theirs = world.run(), world.run(name="toads", source="{gbif_search: {query: {taxonKey: 5}}}")
    assert fetch_options(ours, 1000).processes == 3
    assert fetch_options(ours, 10).processes == 1
    assert fetch_options(ours, 10).robots == {"noai", "noindex"}
    assert fetch_options(ours, 10).gbif_cache is None
    assert fetch_options(theirs, 10).gbif_cache == "https://api.gbif.org/v1/image/cache"
    world.reset(fetch_gbif_cache=False)
    assert fetch_options(world.run(name="toads", source="{gbif_search: {query: {taxonKey: 5}}}"), 10).gbif_cache is None


def test_only_occurrences_of_gbif_are_named_to_its_cache(world: World) -> None:
    world.sample(["/1.jpg"], name="toads")
    assert wanted(world.run("toads"))["gbif_id"].to_list() == [None]
    assert wanted(world.run("toads", source="{gbif_search: {query: {taxonKey: 5}}}"))["gbif_id"].to_list() == ["0"]
