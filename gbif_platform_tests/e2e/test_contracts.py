"""What the platform does where its predecessors failed: one test a row of the contract, in the order of its table.

The contract is ../shared/facts/gbif.md, F.1; the first line of each test is what the predecessors did.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from gbif_platform.curation.sampling import balanced_sample
from gbif_platform.curation.spec import Filters, Sampling, Taxonomy
from gbif_platform.dataset import read_dataset
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sandbox.archive import write_archive
from gbif_platform.sandbox.records import Occurrence
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.duplicate_images import duplicate_images
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Report, Run
from gbif_platform.steps.splits import splits
from gbif_platform.storage import tables
from gbif_platform.storage.tables import Outcome
from gbif_platform_tests.commands import NO_HOST, changed_archive
from gbif_platform_tests.gbif.archives import DC, DWC, GBIF, MULTIMEDIA, meta, pack, section

pytestmark = pytest.mark.e2e

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {source}
  label: {label}
  filters: {filters}
  images: {{size: 32}}
"""
CORE = [GBIF + "gbifID", GBIF + "datasetKey", DWC + "occurrenceID", DWC + "family", GBIF + "species"]
MEDIA = [GBIF + "gbifID", DC + "type", DC + "format", DC + "identifier"]
FAMILY, SPECIES = "Apidae", "Apis mellifera"
STEPS = (occurrences, media_urls, balanced_samples, downloaded_images, duplicate_images, splits)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def opened(
    home: Path,
    source: str,
    *,
    label: str = "species",
    filters: str = "{licences: any}",
    more: str = "",
    **settings: Any,
) -> Run:
    """A run over the first snapshot of what a dataset file names, in a home of its own."""
    home.mkdir(exist_ok=True)
    file = home / "insects.yaml"
    file.write_text(FILE.format(source=source, label=label, filters=filters) + more, encoding="utf-8")
    dataset = read_dataset(file)
    platform = Platform(Settings(home=home, allow_private_hosts=True, **settings))
    return Run(platform, dataset, add_snapshot(platform, dataset)[0])


def through(run: Run, last: Callable[[Run], Report]) -> Report:
    """The steps from the first to this one; its report."""
    for step in STEPS:
        report = step(run)
        if step is last:
            return report
    raise AssertionError(last)


def at_sandbox(sandbox: Sandbox, reference: str = "10.15468/dl.sand01") -> str:
    return f'{{gbif_download: {{doi: "{reference}", endpoint: "{sandbox.url}"}}}}'


def archive_of(path: Path, owners: list[str], media: list[tuple[str, str, str, str]]) -> str:
    """A source: bees with these gbifIDs, and media of (gbifID, type, format, identifier)."""
    bees = [(owner, "d", f"urn:{owner}", FAMILY, SPECIES) for owner in owners]
    core, extension = section("core", "occurrence.txt", CORE), section("extension", "media.txt", MEDIA, MULTIMEDIA)
    texts = {
        name: "".join("\t".join(row) + "\n" for row in [terms, *rows])
        for name, terms, rows in (("occurrence.txt", CORE, bees), ("media.txt", MEDIA, media))
    }
    pack(path, {"meta.xml": meta(core, extension), **texts})
    return f"{{archive: {path}}}"


def still(owner: str, url: str) -> tuple[str, str, str, str]:
    return owner, "StillImage", "image/jpeg", url


def rows(run: Run, sql: str) -> list[dict[str, Any]]:
    return run.platform.lake.frame(sql).to_dicts()


def quarantined(run: Run, stage: str) -> Counter[str]:
    return Counter(row["reason"] for row in rows(run, f"SELECT reason FROM quarantine WHERE stage = '{stage}'"))


def pool(sizes: dict[str, int], licences: dict[str, str] | None = None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Media and occurrences of labels, one medium an occurrence; a larger pool holds the smaller ones."""
    names = [(label, f"{label} {place}") for label, size in sizes.items() for place in range(size)]
    ids = [sha256(name.encode()).hexdigest()[:32] for _, name in names]
    media = pl.DataFrame(
        {
            "media_id": ids,
            "url_id": ids,
            "url": [f"{NO_HOST}/{media_id}.jpg" for media_id in ids],
            "gbif_id": ids,
            "license": [(licences or {}).get(label, "CC-BY-4.0") for label, _ in names],
            "sample_key": pl.Series([int(media_id[:16], 16) for media_id in ids], dtype=pl.UInt64),
        }
    )
    return media, pl.DataFrame({"gbif_id": ids, "dataset_key": "d", "species": [label for label, _ in names]})


def draw(data: tuple[pl.DataFrame, pl.DataFrame], **policy: Any) -> Outcome:
    con = duckdb.connect()
    media, owners = (con.from_arrow(table.to_arrow()) for table in data)
    with tempfile.TemporaryDirectory() as work:
        outcome = balanced_sample(
            con,
            media,
            owners,
            label="species",
            filters=Filters(),
            sampling=Sampling(policy="balanced", **policy),
            taxonomy=Taxonomy(),
            work=Path(work),
        )
        read = {name: pl.read_parquet(rows) if isinstance(rows, Path) else rows for name, rows in outcome.rows.items()}
    return replace(outcome, rows=read)


def made(outcome: Outcome, table: str) -> pl.DataFrame:
    frame = outcome.rows[table]
    assert isinstance(frame, pl.DataFrame)
    return frame


def taken(outcome: Outcome) -> dict[str, int]:
    return dict(made(outcome, "balanced_samples").group_by("label").len().iter_rows())


def members(outcome: Outcome) -> set[str]:
    return set(made(outcome, "balanced_samples")["media_id"])


THREE = {"a": 1000, "b": 100, "c": 40}


def test_three_classes_balanced_are_exactly_equal() -> None:
    """Predecessors: 35-52 / 34-49 / 29-40 of 1000 / 100 / 40."""
    assert taken(draw(pool(THREE))) == {"a": 40, "b": 40, "c": 40}


def test_an_empty_class_leaves_the_others_full_and_is_reported() -> None:
    """Predecessors: balanced to the smallest class, 0 items in all."""
    short = draw(pool(THREE | {"d": 3}), min_per_label=4)
    assert taken(short) == {"a": 40, "b": 40, "c": 40}
    assert made(short, "sample_report").row(3) == ("d", "d", 3, 40, 0, "fewer than min_per_label = 4")
    outcome = draw(pool(THREE, {"c": "unknown"}))
    assert taken(outcome) == {"a": 100, "b": 100}
    report = {row["stratum"]: row for row in made(outcome, "sample_report").iter_rows(named=True)}
    assert list(report) == ["a", "b", "c"], "a label whose media are all refused has its row in the report"
    assert (report["c"]["available"], report["c"]["taken"]) == (0, 0)
    assert report["c"]["reason"] != "as wanted"


def manifest(home: Path, archive: Path) -> bytes:
    """A sample of an archive as CSV, in the order in which the lake holds it; each home makes it anew."""
    run = opened(home, f"{{archive: {archive}}}", more="  sampling: {policy: balanced, per_label: 20}\n")
    through(run, balanced_samples)
    sample = run.platform.lake.frame("SELECT snapshot, media_id, url_id, label FROM balanced_samples")
    return sample.write_csv().encode()


CHILD = f"""\
import sys
from pathlib import Path
from {__name__} import manifest
sys.stdout.buffer.write(manifest(*map(Path, sys.argv[1:])))
"""


def test_the_same_seed_gives_the_same_manifest_in_another_process(tmp_path: Path) -> None:
    """Predecessors: another sample each time."""
    archive = tmp_path / "insects.zip"
    write_archive(SandboxDataset(size=400), archive, NO_HOST)
    here = manifest(tmp_path / "here", archive)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GBIF_PLATFORM_")}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "there"), str(archive)],
        cwd=Path(__file__).parents[2],
        env=environment | {"PYTHONHASHSEED": "4711"},
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
    )
    assert child.stdout == here
    assert here.count(b"\n") > 100


def test_a_quota_of_200_is_a_superset_of_50() -> None:
    """Predecessors: unrelated samples."""
    data = pool(THREE | {"b": 300})
    small, large = draw(data, per_label=50), draw(data, per_label=200)
    assert members(small) < members(large)
    assert (taken(small), taken(large)) == ({"a": 50, "b": 50, "c": 40}, {"a": 200, "b": 200, "c": 40})


def test_ten_percent_more_data_keep_94_percent_of_the_sample() -> None:
    """Predecessors: 61 % kept, as an unrelated draw does here.

    Of a label larger than its quota an unbiased sample keeps 10/11, of one that is taken whole all; here both kinds
    give half of the sample, so that 95.5 % are to be expected, and 59 % of an unrelated draw.
    """
    sizes = {f"common {n}": 500 for n in range(20)} | {f"rare {n}": 50 for n in range(40)}
    grown = pool({label: size * 11 // 10 for label, size in sizes.items()})
    before = members(draw(pool(sizes), per_label=100))
    kept = len(before & members(draw(grown, per_label=100))) / len(before)
    redrawn = len(before & members(draw(grown, per_label=100, seed=18))) / len(before)
    assert kept >= 0.94
    assert redrawn < 0.65, "what keeping means here"
    before = members(draw(pool(THREE)))
    after = members(draw(pool({label: size * 11 // 10 for label, size in THREE.items()})))
    assert len(before & after) / len(before) >= 0.94, "balanced to the smallest label, which grows too"


def test_of_mixed_media_only_images_are_taken(tmp_path: Path) -> None:
    """Predecessors: audio in the set."""
    media = [
        ("1", "Sound", "audio/mpeg", f"{NO_HOST}/1.mp3"),
        still("1", f"{NO_HOST}/1.jpg"),
        ("1", "MovingImage", "video/mp4", f"{NO_HOST}/1.mp4"),
        ("1", "", "audio/mpeg", f"{NO_HOST}/2.mp3"),
    ]
    run = opened(tmp_path / "home", archive_of(tmp_path / "bees.zip", ["1"], media))
    assert through(run, balanced_samples).numbers["rows"] == 1
    (row,) = rows(run, "SELECT url, label FROM balanced_samples JOIN media_urls USING (media_id)")
    assert row == {"url": f"{NO_HOST}/1.jpg", "label": SPECIES}
    assert quarantined(run, "media_urls") == {"not_still_image": 3}


def test_an_occurrence_without_an_image_is_skipped_and_counted(tmp_path: Path) -> None:
    """Predecessors: IndexError."""
    media = [still("2", f"{NO_HOST}/2.jpg"), ("3", "Sound", "audio/mpeg", f"{NO_HOST}/3.mp3")]
    run = opened(tmp_path / "home", archive_of(tmp_path / "bees.zip", ["1", "2", "3"], media))
    assert occurrences(run).numbers["rows"] == 3
    report = media_urls(run)
    balanced_samples(run)
    assert [row["gbif_id"] for row in rows(run, "SELECT gbif_id FROM media_urls")] == ["2"]
    assert all(check.passed for check in report.checks if check.name == "rows_reconcile")
    assert report.numbers.get("occurrences_without_picture") == 2


def test_the_label_family_of_a_dataset_file_is_the_family_name(tmp_path: Path) -> None:
    """Predecessors: the label "None"."""
    archive = tmp_path / "insects.zip"
    write_archive(SandboxDataset(size=24, troubles=0), archive, NO_HOST)
    run = opened(tmp_path / "home", f"{{archive: {archive}}}", label="family")
    through(run, balanced_samples)
    labels = rows(run, "SELECT gbif_id, label FROM balanced_samples JOIN media_urls USING (media_id)")
    families = {str(record.gbif_id): record.terms["family"] for record in SandboxDataset(size=24).occurrences()}
    assert len(labels) > 20
    assert all(row["label"] == families[row["gbif_id"]] for row in labels)
    assert all(family.endswith("idae") for family in families.values())


def test_each_way_to_name_a_download_names_one_snapshot(tmp_path: Path, sandbox: Sandbox) -> None:
    """Predecessors: the DOI alone."""
    download = sandbox.publish(SandboxDataset(size=8, troubles=0))
    references = [
        download.doi,
        f"https://doi.org/{download.doi}",
        download.key,
        f"https://www.gbif.org/occurrence/download/{download.key}",
    ]
    for place, reference in enumerate(references):  # each as the first one, in a home of its own
        run = opened(tmp_path / str(place), at_sandbox(sandbox, reference))
        named = [add_snapshot(run.platform, run.dataset, other) for other in references]
        assert named == [(download.doi, False)] * 4
        assert tables.snapshots(run.platform.lake, "insects")["snapshot"].to_list() == [download.doi]


class OneQuote(SandboxDataset):
    """Three records of four have a value with one quote in it."""

    values = ('Pond, 5" deep', '"Old pond', 'Pond 5"')

    def occurrences(self) -> Iterator[Occurrence]:
        for place, occurrence in enumerate(super().occurrences()):
            locality = ("Pond", *self.values)[place % 4]
            yield replace(occurrence, terms=occurrence.terms | {"locality": locality, "occurrenceRemarks": ""})


def as_large_downloads_are(text: str) -> str:
    """The lines without the quotes that enclose a value in small downloads."""
    for value in OneQuote.values:
        enclosed = '"' + value.replace('"', '""') + '"'
        text = text.replace(f"\t{enclosed}\t", f"\t{value}\t")
    return text


@pytest.mark.parametrize("written", [str, as_large_downloads_are], ids=["enclosed", "bare"])
def test_a_value_with_one_quote_loses_no_row(tmp_path: Path, sandbox: Sandbox, written: Callable[[str], str]) -> None:
    """Predecessors: rows lost."""
    dataset = OneQuote(size=40, troubles=0)
    download = sandbox.publish(dataset)
    changed_archive(download.archive, tmp_path / "changed.zip", {"occurrence.txt": written}).replace(download.archive)
    run = opened(tmp_path / "home", at_sandbox(sandbox))
    report = through(run, media_urls)
    (snapshot,) = rows(run, "SELECT total_records FROM snapshots")
    localities = Counter(row["locality"] for row in rows(run, "SELECT locality FROM occurrences"))
    assert localities == dict.fromkeys(["Pond", *OneQuote.values], 10)
    assert localities.total() == snapshot["total_records"]
    assert report.numbers["rows"] == len(list(dataset.media()))


def test_photos_of_one_occurrence_are_in_one_subset(tmp_path: Path, sandbox: Sandbox) -> None:
    """Predecessors: may straddle train and validation."""
    sandbox.publish(SandboxDataset(size=60, troubles=0))
    run = opened(tmp_path, at_sandbox(sandbox), more="  split: {subsets: {train: 0.5, validation: 0.5}}\n")
    report = through(run, splits)
    assert [check.passed for check in report.checks if check.name == "no_leakage"] == [True]
    sides = rows(
        run,
        "SELECT gbif_id, count(*) AS photos, count(DISTINCT subset) AS subsets "
        "FROM splits JOIN media_urls USING (media_id) GROUP BY gbif_id",
    )
    assert sum(row["photos"] > 1 for row in sides) >= 8
    assert all(row["subsets"] == 1 for row in sides)
    assert min(report.numbers["rows_train"], report.numbers["rows_validation"]) > 10


def test_http_and_https_twins_are_one_picture_and_one_fetch(tmp_path: Path, sandbox: Sandbox) -> None:
    """Predecessors: two images."""
    published = SandboxDataset(size=8, troubles=0)
    sandbox.publish(published)
    own, shared = [medium.path for medium in published.media()][:2]
    http, https = sandbox.url, sandbox.url.replace("http:", "https:")
    bees = [still("1", http + own), still("1", https + own), still("1", http + shared), still("2", http + shared)]
    source = archive_of(tmp_path / "bees.zip", ["1", "2"], bees)
    run = opened(tmp_path / "home", source, filters="{licences: any, duplicates: keep_all}")
    assert through(run, downloaded_images).numbers["rows"] == 3
    assert quarantined(run, "media_urls") == {"duplicate_media": 1}
    assert {path: count for path, count in sandbox.counts().items() if "/media/" in path} == {own: 1, shared: 1}
    assert [row["status"] for row in rows(run, "SELECT status FROM images")] == ["ok", "ok"]

    source = archive_of(tmp_path / "twins.zip", ["1", "2"], [still("1", http + own), still("2", https + own)])
    across = opened(tmp_path / "across", source)
    assert through(across, balanced_samples).numbers["rows"] == 1
    assert quarantined(across, "balanced_samples") == {"duplicate_url": 1}


def test_after_429_the_platform_waits_as_told_and_succeeds(tmp_path: Path, sandbox: Sandbox) -> None:
    """Predecessors: an exception."""
    published = SandboxDataset(size=4, troubles=0)
    sandbox.publish(published)
    wait_s = 2  # more than either waits by itself before its second try
    sandbox.fail_next("/v1/occurrence/download/*", status=429, retry_after=wait_s)
    start = time.monotonic()
    run = opened(tmp_path, at_sandbox(sandbox))
    assert time.monotonic() - start >= wait_s
    through(run, balanced_samples)
    busy = next(published.media()).path
    sandbox.fail_next(busy, status=429, retry_after=wait_s)
    start = time.monotonic()
    downloaded_images(run)
    assert time.monotonic() - start >= wait_s
    (row,) = rows(run, f"SELECT status, attempts FROM images WHERE url = '{sandbox.url}{busy}'")
    assert row == {"status": "ok", "attempts": 2}
    assert quarantined(run, "downloaded_images") == {}


def test_a_dropped_connection_is_tried_again_and_then_recorded(tmp_path: Path, sandbox: Sandbox) -> None:
    """Predecessors: hang for ever."""
    published = SandboxDataset(size=6, troubles=0)
    sandbox.publish(published)
    sandbox.drop_next("/v1/occurrence/download/*")
    run = opened(tmp_path, at_sandbox(sandbox), fetch_retries=1)
    through(run, balanced_samples)
    once, half, never = [sandbox.url + medium.path for medium in published.media()][:3]
    # aiohttp itself asks again, once, where a connection that it kept is gone: a drop of the sandbox may pass unseen.
    sandbox.drop_next(once.removeprefix(sandbox.url))
    sandbox.drop_next(half.removeprefix(sandbox.url), after_headers=True)
    sandbox.drop_next(never.removeprefix(sandbox.url), times=1000)
    start = time.monotonic()
    report = downloaded_images(run)
    assert time.monotonic() - start < 20
    found = {row.pop("url"): row for row in rows(run, "SELECT url, status, reason, attempts, retry_at FROM images")}
    assert found[once]["status"] == "ok"
    assert (found[half]["status"], found[half]["attempts"]) == ("ok", 2)
    assert (found[never]["status"], found[never]["reason"]) == ("failed", "connection_reset")
    assert found[never]["attempts"] == 3  # two at its URL, one at GBIF's image cache
    assert found[never]["retry_at"] is not None
    assert quarantined(run, "downloaded_images") == {"connection_reset": 1}
    assert report.numbers["rows"] == len(found) - 1


def test_an_archive_cut_at_60_percent_is_resumed_from_there_and_verified(tmp_path: Path, sandbox: Sandbox) -> None:
    """Predecessors: InvalidArchive at the next run."""
    download = sandbox.publish(SandboxDataset(size=60, troubles=0))
    whole = download.archive.read_bytes()
    sandbox.truncate_next("*.zip", fraction=0.6)
    run = opened(tmp_path, at_sandbox(sandbox))
    assert occurrences(run).numbers["rows"] == 60
    asked = [request.headers.get("Range") for request in sandbox.requests if request.path.startswith("/static/")]
    assert asked == [None, f"bytes={int(len(whole) * 0.6)}-"]
    (snapshot,) = rows(run, "SELECT archive, sha256 FROM snapshots")
    kept = run.platform.objects.path_of(snapshot["archive"])
    assert kept is not None
    assert kept.read_bytes() == whole
    assert snapshot["sha256"] == sha256(whole).hexdigest()
