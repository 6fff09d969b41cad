"""Credit of a snapshot that went through the real steps, and its registration at the loopback GBIF."""

import asyncio
import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from gbif_platform.dataset import parse_dataset
from gbif_platform.gbif.citations import dataset_rows, derived_citation
from gbif_platform.gbif.client import GbifClient
from gbif_platform.gbif.credentials import Credentials
from gbif_platform.gbif.errors import NotAuthorised, Unreachable
from gbif_platform.gbif.retry import Patience
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.credit import PUBLISHED_LATER, NotRegistered, credit, credit_report, register, write_credit
from gbif_platform.steps.downloaded_images import downloaded_images
from gbif_platform.steps.duplicate_images import duplicate_images
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Run, UpstreamMissing
from gbif_platform.steps.splits import splits
from gbif_platform.storage.tables import put_rows

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {{gbif_download: {{doi: 10.15468/dl.sand01, endpoint: "{endpoint}"}}}}
  label: species
  filters: {{licences: open}}
  images: {{size: 32}}
"""
DOI = "10.15468/dl.sand01"
URL = "https://zenodo.org/records/4711"
ACCOUNT = Credentials("frog", "secret-word-4711")
POST = "/v1/derivedDataset"


class World:
    """A snapshot whose pictures are in subsets."""

    def __init__(self, home: Path, sandbox: Sandbox) -> None:
        self.home, self.sandbox = home, sandbox
        self.download = sandbox.publish(SandboxDataset(size=30, troubles=0))
        platform = Platform(Settings(home=home, allow_private_hosts=True, fetch_retries=0))
        self.lake = platform.lake
        self.run = Run(platform, parse_dataset(FILE.format(endpoint=sandbox.url), home / "insects.yaml"), DOI)
        add_snapshot(platform, self.run.dataset, DOI)
        for step in (occurrences, media_urls, balanced_samples, downloaded_images):
            step(self.run)

    def register(self, body: dict[str, Any], account: Credentials = ACCOUNT) -> str:
        async def run() -> str:
            patience = Patience(attempts=2, first_wait_s=0.01)
            async with GbifClient(self.sandbox.url, user_agent="test", credentials=account, patience=patience) as gbif:
                return await register(gbif, self.run, body)

        return asyncio.run(run())

    def posts(self) -> int:
        return self.sandbox.counts().get(f"POST {POST}", 0)

    def put_datasets(self) -> None:
        keys = {"dataset": "insects", "snapshot": DOI}
        put_rows(self.lake, "download_datasets", keys, dataset_rows(self.download.datasets()), author="test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Sandbox(users={ACCOUNT.user: ACCOUNT.password}) as sandbox:
        world = World(tmp_path_factory.mktemp("home"), sandbox)
        with pytest.raises(UpstreamMissing):
            credit(world.run)
        duplicate_images(world.run)
        splits(world.run)
        yield world


@pytest.fixture
def world(made: World) -> Iterator[World]:
    """The snapshot as nobody has registered it yet."""
    yield made
    for table in ("derived_datasets", "download_datasets"):
        with made.lake.transaction("test", "clear") as con:
            con.execute(f"DELETE FROM lake.{table}")


def test_counts_are_of_the_final_records_not_of_the_download(world: World) -> None:
    found = credit(world.run)
    final = world.lake.frame("""
        SELECT dataset_key, count(DISTINCT gbif_id) AS records FROM splits JOIN media_urls USING (media_id)
        JOIN occurrences USING (gbif_id) GROUP BY ALL""")
    assert dict(found.counts.iter_rows()) == dict(final.iter_rows()) == found.derived["relatedDatasets"]
    assert found.derived["originalDownloadDOI"] == DOI
    assert sum(found.derived["relatedDatasets"].values()) < world.download.records_by_publisher.total()


def test_the_licence_of_the_whole_is_of_the_pictures(world: World) -> None:
    found = credit(world.run)
    rows = world.lake.frame("SELECT license, count(*) FROM splits JOIN media_urls USING (media_id) GROUP BY ALL")
    assert dict(found.licences.select("license", "pictures").iter_rows()) == dict(rows.iter_rows())
    assert set(found.licence.split(" and ")) <= set(rows["license"]) - {"CC0-1.0"}


def test_everything_is_written(world: World, tmp_path: Path) -> None:
    world.put_datasets()
    found = credit(world.run, URL)
    files = {path.name: path.read_text() for path in write_credit(found, tmp_path / "credit")}
    assert files["citation.txt"].startswith("GBIF.org (")
    assert DOI in files["citation.txt"]
    lines = files["citations.txt"].splitlines()
    assert lines[0] == files["citation.txt"].strip()
    by_key = {said["datasetKey"]: said["datasetCitation"] for said in world.download.datasets()}
    assert lines[-len(found.counts) :] == [by_key[key] for key in found.counts["dataset_key"]]
    assert files["licence.txt"].splitlines()[0] == f"The whole: {found.licence}"
    assert len(list(csv.DictReader(files["attribution.csv"].splitlines()))) == len(found.manifest)
    assert files["related_datasets.csv"].splitlines() == [f"{key},{n}" for key, n in found.counts.iter_rows()]
    assert json.loads(files["derived_dataset.json"]) == found.derived
    assert found.derived["sourceUrl"] == URL


def test_without_gbifs_list_the_archive_names_the_datasets(world: World) -> None:
    lines = credit(world.run).dataset_citations
    assert len(lines) == len(world.download.datasets())
    assert all("accessed via GBIF.org" in line for line in lines)


def test_a_dataset_that_gbif_does_not_name_is_cited_by_its_page(world: World) -> None:
    world.put_datasets()
    key = credit(world.run).counts["dataset_key"][0]
    with world.lake.transaction("test", "forget one") as con:
        con.execute("DELETE FROM lake.download_datasets WHERE dataset_key = ?", [key])
    assert credit(world.run).dataset_citations[0] == f"https://www.gbif.org/dataset/{key}"


def test_the_report_is_the_credit_in_short(world: World) -> None:
    found, report = credit(world.run), credit_report(world.run)
    assert report.numbers == {"gbif_datasets": len(found.counts)}
    assert report.texts["citation"] == found.citation
    assert report.texts["licence_of_the_whole"] == found.licence
    assert json.loads(report.texts["derived_dataset"]) == found.derived
    assert report.tables["licences"].equals(found.licences.select("license", "pictures"))


# Registration ---------------------------------------------------------------------------------------------------------


def test_a_derived_dataset_is_registered_once_and_cited_from_then_on(world: World, tmp_path: Path) -> None:
    before = world.posts()
    body = credit(world.run, URL).derived
    doi = world.register(body)
    assert doi.startswith("10.15468/dd.")
    assert world.register(body) == doi
    assert world.posts() == before + 1
    found = credit(world.run)
    assert found.registration is not None
    assert found.derived == body
    cited = derived_citation(doi, datetime.now(UTC).date())
    assert found.citations == [cited, found.citation]
    written = {path.name: path.read_text() for path in write_credit(found, tmp_path)}
    assert written["citation.txt"].splitlines() == found.citations
    assert credit_report(world.run).texts["citation"] == cited
    row = world.lake.frame("SELECT * FROM derived_datasets").row(0, named=True)
    assert (row["dataset"], row["snapshot"], row["doi"], json.loads(row["body"])) == ("insects", DOI, doi, body)


def test_other_rows_are_another_derived_dataset(world: World) -> None:
    body = credit(world.run, URL).derived
    other = {**body, "relatedDatasets": dict.fromkeys(body["relatedDatasets"], 1)}
    assert world.register(body) != world.register(other)
    assert world.lake.frame("SELECT count(*) FROM derived_datasets").item() == 2


@pytest.mark.parametrize("url", ["", PUBLISHED_LATER, "zenodo.org/records/4711", "file:///tmp/x"])
def test_without_the_address_of_the_data_nothing_is_registered(world: World, url: str) -> None:
    before = world.posts()
    with pytest.raises(NotRegistered, match="sourceUrl"):
        world.register(credit(world.run, url).derived)
    assert world.posts() == before


def test_the_same_data_at_another_address_is_told_apart(world: World) -> None:
    body = credit(world.run, URL).derived
    doi = world.register(body)
    with pytest.raises(NotRegistered, match=doi):
        world.register({**body, "sourceUrl": "https://zenodo.org/records/2"})
    with pytest.raises(NotRegistered, match="no picture"):
        world.register({**body, "relatedDatasets": {}})


def test_a_registration_that_broke_off_is_not_repeated_blindly(world: World) -> None:
    before = world.posts()
    world.sandbox.drop_next(POST)
    with pytest.raises(Unreachable) as caught:
        world.register(credit(world.run, URL).derived)
    assert "gbif.org/derived-dataset" in caught.value.next_step
    assert world.posts() == before + 1
    assert world.lake.frame("SELECT * FROM derived_datasets").is_empty()


def test_a_wrong_password_registers_nothing_and_the_account_is_nowhere(world: World, tmp_path: Path) -> None:
    body = credit(world.run, URL).derived
    with pytest.raises(NotAuthorised) as caught:
        world.register(body, Credentials("frog", "wrong-" + ACCOUNT.password))
    world.register(body)
    said = [str(caught.value), repr(credit(world.run)), str(pl.DataFrame(world.lake.frame("FROM derived_datasets")))]
    files = [*write_credit(credit(world.run), tmp_path), *(path for path in world.home.rglob("*") if path.is_file())]
    for secret in (ACCOUNT.password, ACCOUNT.authorization.removeprefix("Basic "), "Authorization"):
        assert not [text for text in said if secret in text]
        assert not [path for path in files if secret.encode() in path.read_bytes()]
