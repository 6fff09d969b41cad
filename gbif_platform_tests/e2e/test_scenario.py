"""Real photographs with real troubles, row by row against the truth: an archive in, a model better than chance out."""

import csv
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from gbif_platform.curation.spec import Filters
from gbif_platform.dataset import parse_dataset
from gbif_platform.orchestration.instance import prepare_home
from gbif_platform.orchestration.runs import RunResult, execute
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.run import Run

pytestmark = pytest.mark.e2e

PORT = 8099  # the archive's URLs hold it
DATASET = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: scenario
  source: {{archive: {archive}}}
  label: species
  filters: {{licences: any}}
  sampling: {{policy: all}}
  images: {{size: 112}}
  split: {{subsets: {{train: 0.7, validation: 0.1, test: 0.2}}}}
  models:
    scratch: {{backbone: test_resnet, image_size: 96, epochs: 30, learning_rate: 0.004}}
"""
QUARANTINED = {  # fate: reason in the media_urls stage
    "unsupported scheme": "unsupported_scheme",
    "must be refused": "unsupported_scheme",
    "no scheme": "no_scheme",
    "relative URL": "relative_url",
    "no identifier": "no_identifier",
    "not a still image": "not_still_image",
    "orphan": "orphan",
}
FAILED = {  # fate: status and reason in the image ledger
    "HTTP 404": ("failed", "http_404"),
    "HTTP 410": ("failed", "http_410"),
    "HTTP 403": ("failed", "http_403"),
    "HTTP 500": ("failed", "http_500"),
    "redirect loop": ("failed", "redirect_loop"),
    "timeout": ("failed", "timeout"),
    "truncated transfer": ("failed", "truncated_transfer"),
    "connection reset": ("failed", "connection_reset"),
    "connection refused": ("failed", "connection_refused"),
    "host does not resolve": ("failed", "host_not_found"),
    "empty body": ("refused", "empty_body"),
    "HTML page, no picture": ("refused", "html_page"),
    "too many pixels": ("refused", "too_many_pixels"),
    "too many bytes": ("refused", "too_many_bytes"),
}


class Scenario:
    def __init__(self, home: Path, data: Path) -> None:
        self.truth = list(csv.DictReader((data / "truth.csv").open(encoding="utf-8")))
        self.traps = {
            row["gbifID"]: row for row in csv.DictReader((data / "occurrences_truth.csv").open(encoding="utf-8"))
        }
        self.platform = Platform(Settings(home=home, allow_private_hosts=True))
        prepare_home(self.platform.settings)
        self.dataset = parse_dataset(DATASET.format(archive=data / "archive.zip"), home / "scenario.yaml")
        self.snapshot, _ = add_snapshot(self.platform, self.dataset)
        start = time.monotonic()
        self.result = self.run("catalogue")
        self.seconds = time.monotonic() - start

    def run(self, *names: str) -> RunResult:
        return execute(self.platform, self.dataset, self.snapshot, names)

    def fates(self) -> dict[str, dict[str, str | None]]:
        """What became of each line of multimedia.txt; `12#2` is the second URL of line 12."""
        rows = self.platform.lake.frame("""
            SELECT m.row_ref, url_id, q.reason AS quarantined, status, images.reason, source_sha256
            FROM media_urls m LEFT JOIN images USING (url_id)
            LEFT JOIN quarantine q ON q.row_ref = media_id AND q.stage = 'balanced_samples'
            UNION ALL SELECT row_ref, NULL, reason, NULL, NULL, NULL FROM quarantine WHERE stage = 'media_urls'""")
        return {row["row_ref"].removeprefix("multimedia.txt:"): row for row in rows.iter_rows(named=True)}


@pytest.fixture(scope="module")
def scenario(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    data = shared / "scenario" / "dev"
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"port {PORT} is in use; the scenario's URLs need it")
    script = [sys.executable, str(shared / "make_scenario.py"), "serve", "--dir", str(data), "--time-scale", "0.2"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        try:
            yield Scenario(tmp_path_factory.mktemp("scenario"), data)
        finally:
            server.kill()


def test_it_ends_soon_and_without_a_failure(scenario: Scenario) -> None:
    assert scenario.result.failures == []
    assert scenario.seconds < 600, "dead and slow hosts do not hold it up"


def test_every_picture_arrives_byte_for_byte_and_everything_else_is_refused_by_name(scenario: Scenario) -> None:
    fates = scenario.fates()
    torn = {row["identifier"] for row in scenario.truth if row["note"].endswith("same URL, conflicting name")}
    assert torn
    wrong = []
    for row in scenario.truth:
        fate, got = row["fate"], fates[row["media_line"]]
        if got["quarantined"] == "absence":
            good = scenario.traps[row["gbifID"]]["trap"] == "absent"
        elif row["identifier"] in torn:  # one URL under two names: nobody knows which is right
            good = (got["quarantined"], got["status"]) == ("label_conflict", None)
        elif fate == "several pictures in one identifier":
            pieces = [got, *(fates[f"{row['media_line']}#{n}"] for n in range(2, len(row["paths"].split()) + 1))]
            good = got["source_sha256"] == row["sha256"] and {piece["status"] for piece in pieces} == {"ok"}
        elif fate == "picture":
            # a line that stands twice is quarantined once; its picture is there
            good = got["quarantined"] == "duplicate_media" or (
                got["status"] == "ok" and got["source_sha256"] == row["sha256"]
            )
        elif fate in QUARANTINED:
            good = got["quarantined"] == QUARANTINED[fate]
        elif fate in FAILED:
            good = (got["status"], got["reason"]) == FAILED[fate]
        elif fate.startswith("difficult: decode if"):
            good = got["status"] == "ok" or got["reason"] == "unsupported_format"
        elif fate.startswith("difficult: reject"):
            good = got["status"] == "refused"
        else:
            good = fate.startswith("difficult") and got["status"] == "ok"
        if not good:
            wrong.append((row["media_line"], fate, got))
    assert wrong == []
    assert len([line for line in fates if "#" not in line]) == len(scenario.truth)
    conflicts = scenario.platform.lake.frame("SELECT url, decision FROM label_conflicts")
    assert set(conflicts["url"]) == torn
    assert set(conflicts["decision"]) == {"left out"}


def test_absences_synonyms_and_subspecies_are_what_the_truth_says(scenario: Scenario) -> None:
    frame, traps = scenario.platform.lake.frame, scenario.traps
    absent = frame(
        "SELECT DISTINCT gbif_id FROM quarantine q JOIN media_urls ON q.row_ref = media_id WHERE reason = 'absence'"
    )["gbif_id"]
    with_media = set(frame("SELECT DISTINCT gbif_id FROM media_urls")["gbif_id"])
    assert set(absent) == {key for key, row in traps.items() if row["trap"] == "absent"} & with_media
    labels = frame("SELECT gbif_id, label FROM balanced_samples JOIN media_urls USING (media_id)")
    assert {(key, label or "") for key, label in labels.iter_rows()} == {
        (key, traps[key]["species"]) for key in labels["gbif_id"]
    }
    taxa = frame("SELECT * FROM taxa")
    of_genus = taxa.filter(pl.col("label").is_null())
    assert of_genus["taxon_rank"].unique().to_list() == ["GENUS"]
    named = {"genus only": 0, "synonym": 0, "subspecies": 0}
    for key in with_media:
        named[traps[key]["trap"]] = named.get(traps[key]["trap"], 0) + 1
    assert of_genus["occurrences"].sum() == named["genus only"]
    synonyms = taxa.filter(pl.col("decision").str.starts_with("synonym of"))
    assert synonyms["occurrences"].sum() >= named["synonym"] > 0
    subspecies = taxa.filter(pl.col("decision").str.starts_with("subspecies of"))
    assert subspecies["occurrences"].sum() >= named["subspecies"] - 1 > 0  # one name is both


def test_fossils_captives_and_places_are_left_out_where_the_file_says_so(scenario: Scenario) -> None:
    filters = Filters(licences="any", captive="leave_out", fossil="leave_out", coordinates="required")
    strict = scenario.dataset.model_copy(
        update={"filters": filters.model_copy(update={"zero_coordinates": "leave_out"})}
    )
    run = Run(scenario.platform, strict, scenario.snapshot)
    before = dict(scenario.platform.lake.frame("SELECT media_id, label FROM balanced_samples").iter_rows())
    try:
        balanced_samples(run)
        refused = scenario.platform.lake.frame("""
            SELECT reason, list(DISTINCT gbif_id) AS owners FROM quarantine q JOIN media_urls ON q.row_ref = media_id
            WHERE stage = 'balanced_samples' GROUP BY reason""")
        owners = {reason: {scenario.traps[key]["trap"] for key in keys} for reason, keys in refused.iter_rows()}
        for reason, trap in (
            ("absence", "absent"),
            ("fossil", "fossil"),
            ("captive", "captive"),
            ("zero_coordinates", "zero coordinates"),
        ):
            assert owners[reason] == {trap}
        # republished copies lost their coordinates too
        assert owners["no_coordinates"] <= {"no coordinates", ""}
        kept = scenario.platform.lake.frame("SELECT gbif_id FROM balanced_samples JOIN media_urls USING (media_id)")
        kept_traps = {scenario.traps[key]["trap"] for key in kept["gbif_id"]}
        assert not kept_traps & {"absent", "fossil", "captive", "zero coordinates", "no coordinates"}
        funnel = scenario.platform.lake.frame("SELECT media_in, lost, media_left FROM sample_funnel ORDER BY position")
        assert (funnel["media_in"] - funnel["lost"] == funnel["media_left"]).all()
        assert funnel["media_left"][-1] == len(kept)
    finally:
        balanced_samples(Run(scenario.platform, scenario.dataset, scenario.snapshot))
    after = dict(scenario.platform.lake.frame("SELECT media_id, label FROM balanced_samples").iter_rows())
    assert after == before


def test_the_catalogue_explains_what_is_not_there(scenario: Scenario) -> None:
    frame = scenario.platform.lake.frame
    missing = set(frame("SELECT media_id FROM predicted_catalogue ANTI JOIN catalogue USING (media_id)")["media_id"])
    differences = frame("SELECT media_id, change, reason FROM catalogue_differences WHERE change <> 'subset_changed'")
    assert set(differences["media_id"]) == missing
    assert differences["media_id"].n_unique() == len(differences)
    assert {"http_404", "html_page", "no_label"} <= set(differences["reason"])
    (row,) = frame("""
        SELECT caption_taxonomic FROM catalogue WHERE label = 'Alouatta palliata' LIMIT 1""").rows()
    assert row == ("Animalia Chordata Mammalia Primates Atelidae Alouatta palliata",)


def test_rows_in_are_rows_out_and_quarantined_at_every_stage(scenario: Scenario) -> None:
    stages = scenario.platform.lake.frame("SELECT * FROM stages")
    assert (stages["rows_in"] == stages["rows_out"] + stages["rows_refused"] + stages["rows_left"]).all()
    stage = {row["stage"]: row for row in stages.iter_rows(named=True)}
    several = [row["paths"].split() for row in scenario.truth if row["fate"] == "several pictures in one identifier"]
    split = sum(len(paths) - 1 for paths in several)
    assert (stage["occurrences"]["rows_in"], stage["media_urls"]["rows_in"]) == (870, len(scenario.truth) + split)


def test_no_group_straddles_and_unlabelled_pictures_are_in_no_subset(scenario: Scenario) -> None:
    straddling = scenario.platform.lake.frame("""
        SELECT gbif_id FROM splits JOIN media_urls USING (media_id)
        GROUP BY gbif_id HAVING count(DISTINCT subset) > 1""")
    assert straddling.is_empty()
    same_bytes = scenario.platform.lake.frame("""
        SELECT source_sha256 FROM splits JOIN balanced_samples USING (media_id) JOIN images USING (url_id)
        GROUP BY source_sha256 HAVING count(DISTINCT subset) > 1""")
    assert same_bytes.is_empty()
    labels = scenario.platform.lake.frame("SELECT label FROM splits JOIN balanced_samples USING (media_id)")["label"]
    assert labels.null_count() == 0
    assert labels.n_unique() == 11


def test_a_model_trained_from_scratch_is_better_than_the_majority_class(scenario: Scenario) -> None:
    assert scenario.run().failures == []
    rows = scenario.platform.lake.frame(
        "SELECT metric, value, low FROM evaluation_metrics WHERE subset = 'test' AND slice = 'all'"
    )
    test = dict(rows.select("metric", "value").iter_rows())
    assert rows.filter(rows["metric"] == "top1")["low"][0] > test["baseline_top1"]
    assert test["top1"] > 1.5 * test["baseline_top1"]
