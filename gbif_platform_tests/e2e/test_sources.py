"""Data named in each way that GBIF allows, from the command line to the lake."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from gbif_platform.dataset import read_dataset
from gbif_platform.definitions import build_defs
from gbif_platform.gbif.checklists import COL_XR
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform_tests.commands import Home

pytestmark = pytest.mark.e2e

RECORDS = SandboxDataset(size=60)
SPLIT = "  split: {subsets: {train: 0.6, validation: 0.2, test: 0.2}}\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path, monkeypatch)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        sandbox.prepare_polls = sandbox.run_polls = 0
        monkeypatch.setenv("GBIF_USER", "frog")
        monkeypatch.setenv("GBIF_PWD", "secret")
        yield sandbox


def media_of(home: Home, dataset: str) -> pl.DataFrame:
    """What matters of a dataset's media, in an order of its own."""
    return home.platform.lake.frame(
        "SELECT media_id, url_id, url, m.license, creator, species, occurrence_license "
        "FROM media_urls m JOIN occurrences USING (dataset, snapshot, gbif_id) WHERE dataset = ? ORDER BY media_id",
        [dataset],
    )


def test_a_search_and_a_download_of_one_question_give_the_same_media(
    home: Home, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.publish(RECORDS)
    question = f'query: {{mediaType: StillImage, country: [DK, PT]}}, endpoint: "{sandbox.url}"'
    home.dataset("asked", f"{{gbif_download: {{{question}}}}}")
    asked = home("run", "asked", "--select", "media_urls")
    assert asked.exit_code == 0, asked.stderr
    monkeypatch.delenv("GBIF_PWD")  # a search needs no account
    home.dataset("searched", f"{{gbif_search: {{{question}}}}}")
    searched = home("run", "searched", "--select", "media_urls")
    assert searched.exit_code == 0, searched.stderr
    download, search = media_of(home, "asked"), media_of(home, "searched")
    assert len(download) > 10
    assert search.equals(download)
    row = home.rows("SELECT * FROM snapshots WHERE dataset = 'searched'")[0]
    assert row["snapshot"].startswith("search-20")
    assert row["total_records"] == len(home.rows("SELECT * FROM occurrences WHERE dataset = 'searched'"))

    calls = sandbox.counts()["/v1/occurrence/search"]
    again = home("run", "searched", "--select", "media_urls")
    assert again.exit_code == 0
    assert sandbox.counts()["/v1/occurrence/search"] == calls, "a re-run asks nothing"
    home.dataset("searched", f"{{gbif_search: {{{question}}}}}", label="genus")
    assert home("run", "searched", "--select", "media_urls").exit_code == 0
    assert len(home.rows("SELECT * FROM snapshots WHERE dataset = 'searched'")) == 1, "another label, the same question"


def test_names_that_do_not_match_are_listed_for_review(home: Home, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    names = "[Demoptera argus, Loopbackia maculatta, Nobody atall]"
    home.dataset("named", f'{{gbif_search: {{names: {names}, endpoint: "{sandbox.url}"}}}}')
    result = home("run", "named", "--select", "occurrences")
    assert result.exit_code == 0, result.stderr
    review = {row["name"]: row for row in home.rows("SELECT * FROM name_matches WHERE dataset = 'named'")}
    assert review["Demoptera argus"]["accepted"], "a synonym, taken as its accepted taxon"
    assert review["Demoptera argus"]["accepted_name"].startswith("Demoptera ocellata")
    assert not review["Loopbackia maculatta"]["accepted"]
    assert review["Loopbackia maculatta"]["match_type"] == "FUZZY"
    assert not review["Nobody atall"]["accepted"]
    species = {row["species"] for row in home.rows("SELECT DISTINCT species FROM occurrences")}
    assert species == {"Demoptera ocellata"}


def test_a_search_that_is_too_large_advises_a_download(home: Home, sandbox: Sandbox) -> None:
    sandbox.publish(SandboxDataset(size=700, troubles=0))
    home.dataset(
        "large", f'{{gbif_search: {{query: {{mediaType: StillImage}}, max_calls: 2, endpoint: "{sandbox.url}"}}}}'
    )
    result = home("run", "large", "--select", "occurrences")
    assert result.exit_code == 1
    assert "calls" in result.stderr
    assert "gbif_download" in result.stderr


def test_a_request_is_made_once_and_its_answer_kept_with_its_credit(home: Home, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    home.dataset("asked", f'{{gbif_download: {{query: {{country: DK}}, endpoint: "{sandbox.url}"}}}}')
    for _ in range(2):
        result = home("run", "asked", "--select", "occurrences")
        assert result.exit_code == 0, result.stderr
    assert sandbox.counts()["POST /v1/occurrence/download/request"] == 1
    (row,) = home.rows("SELECT * FROM snapshots")
    assert row["snapshot"] == row["doi"]
    assert row["doi"].startswith("10.15468/dl.")
    assert row["citation"].startswith("GBIF.org (")
    assert row["erase_after"] is not None
    assert json.loads(row["metadata"])["request"]["predicate"]["key"] == "COUNTRY"
    assert home.rows("SELECT sum(records) AS n FROM download_datasets") == [{"n": row["total_records"]}]
    listed = home("snapshot", "list", "asked")
    assert row["doi"] in listed.stdout
    written = b"".join(file.read_bytes() for file in home.folder.rglob("*") if file.is_file())
    assert b"secret" not in written, "the password is nowhere under the home folder"


def test_a_checklist_named_in_the_query_is_that_of_the_whole_request(home: Home, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    question = f'query: {{checklistKey: {COL_XR}, country: DK}}, endpoint: "{sandbox.url}"'
    home.dataset("asked", f"{{gbif_download: {{{question}}}}}")
    result = home("snapshot", "add", "asked")
    assert result.exit_code == 0, result.stderr
    (asked,) = [received for received in sandbox.requests if received.method == "POST"]
    assert json.loads(asked.body)["checklistKey"] == COL_XR, "else GBIF's taxon columns would be the backbone's"


def test_a_predicate_that_gbif_refuses_shows_its_words(home: Home, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    predicate = "{type: equals, key: CONTINENT, value: atlantis}"
    home.dataset("refused", f'{{gbif_download: {{predicate: {predicate}, endpoint: "{sandbox.url}"}}}}')
    result = home("run", "refused")
    assert result.exit_code == 1
    assert "atlantis" in result.stderr
    assert home.rows("SELECT * FROM snapshots") == []
    assert home.rows("SELECT status FROM download_requests") == [{"status": "REFUSED"}]


def test_a_wrong_password_is_told_without_it(home: Home, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.publish(RECORDS)
    monkeypatch.setenv("GBIF_PWD", "not the password")
    home.dataset("asked", f'{{gbif_download: {{query: {{country: DK}}, endpoint: "{sandbox.url}"}}}}')
    result = home("run", "asked")
    assert result.exit_code == 1
    assert "GBIF_PWD" in result.stderr
    assert "not the password" not in result.stderr


def test_an_erased_download_is_replayed_as_a_new_snapshot(home: Home, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    home.dataset("asked", f'{{gbif_download: {{query: {{country: DK}}, endpoint: "{sandbox.url}"}}}}')
    assert home("snapshot", "add", "asked").exit_code == 0
    (old,) = home.rows("SELECT snapshot FROM snapshots")
    sandbox.set_status(old["snapshot"], "FILE_ERASED")
    erased = home("run", "asked", "--snapshot", old["snapshot"], "--select", "occurrences")
    assert erased.exit_code == 1
    assert "gbif-platform snapshot replay" in erased.stderr
    sandbox.reuse = False
    replayed = home("snapshot", "replay", "asked", old["snapshot"])
    assert replayed.exit_code == 0, replayed.stderr
    keys = [row["snapshot"] for row in home.rows("SELECT snapshot FROM snapshots ORDER BY added_at")]
    assert keys[0] == old["snapshot"]
    assert len(keys) == 2
    assert home("run", "asked", "--snapshot", keys[1], "--select", "occurrences").exit_code == 0


def test_two_snapshots_are_compared_and_a_dataset_is_registered(home: Home, sandbox: Sandbox) -> None:
    old = sandbox.publish(SandboxDataset(size=60, troubles=0))
    new = sandbox.publish(SandboxDataset(size=60, grow=0.1, remove=0.1, relabel=0.1, troubles=0))
    home.dataset("insects", f'{{gbif_download: {{endpoint: "{sandbox.url}"}}}}', more=SPLIT)
    for download in (old, new):
        assert home("snapshot", "add", "insects", download.key).exit_code == 0
        result = home("run", "insects", "--snapshot", download.doi, "--select", "snapshot_changes,splits")
        assert result.exit_code == 0, result.stderr
    fetched = sum(count for path, count in sandbox.counts().items() if path.startswith("/media/"))
    urls = home.rows("SELECT count(DISTINCT url_id) AS n FROM balanced_samples")[0]["n"]
    assert fetched == urls, "each picture once, relabelled or not"
    compared = home("snapshot", "diff", "insects", old.doi, new.doi)
    assert compared.exit_code == 0, compared.stderr
    for change in ("added", "removed", "relabelled", "unchanged"):
        assert change in compared.stdout
    changes = {row["change"] for row in home.rows("SELECT DISTINCT change FROM snapshot_changes")}
    assert {"added", "removed", "relabelled"} <= changes
    unknown = home("snapshot", "diff", "insects", "10.15468/dl.none", new.doi)
    assert unknown.exit_code == 1
    assert old.doi in unknown.stderr

    refused = home("cite", "insects", "--register")
    assert refused.exit_code == 1
    assert "--source-url" in refused.stderr
    registered = home("cite", "insects", "--register", "--source-url", "https://example.org/insects")
    assert registered.exit_code == 0, registered.stderr
    (row,) = home.rows("SELECT * FROM derived_datasets")
    assert row["doi"] in registered.stdout
    body = json.loads(row["body"])
    kept = home.rows(
        "SELECT count(DISTINCT gbif_id) AS n FROM splits JOIN media_urls USING (dataset, snapshot, media_id) "
        f"WHERE snapshot = '{new.doi}'"
    )
    assert sum(body["relatedDatasets"].values()) == kept[0]["n"], "of the final rows, not of the download"
    assert home("cite", "insects", "--register", "--source-url", "https://example.org/insects").exit_code == 0
    assert sandbox.counts()["POST /v1/derivedDataset"] == 1, "registered once"


def test_the_schedule_asks_again_and_the_tick_makes_it_one_request(home: Home, sandbox: Sandbox) -> None:
    sandbox.publish(RECORDS)
    sandbox.reuse = False
    file = home.dataset(
        "asked",
        f'{{gbif_download: {{query: {{country: DK}}, endpoint: "{sandbox.url}"}}}}',
        more='  refresh: {cron: "0 4 1 * *", timezone: Europe/Copenhagen}\n',
    )
    platform = Platform(Settings(home=home.folder))
    definitions = build_defs(platform, [read_dataset(file)])
    schedule = definitions.resolve_schedule_def("asked_schedule")
    assert schedule.execution_timezone == "Europe/Copenhagen"
    with dg.DagsterInstance.ephemeral() as instance:
        tick = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=datetime(2026, 12, 1, 4, tzinfo=UTC)
        )
        request = schedule(tick)
        assert isinstance(request, dg.RunRequest)
        for _ in range(2):
            job = definitions.resolve_job_def("asked_refresh_job")
            assert job.execute_in_process(instance=instance, tags=dict(request.tags)).success
    assert sandbox.counts()["POST /v1/occurrence/download/request"] == 1
    (asked,) = [received for received in sandbox.requests if received.method == "POST"]
    assert "2026-12-01T04:00" in str(asked.body), "the request bears its tick"
