"""Step `balanced_samples`: what it says of words in the dataset file that nothing answers to."""

from pathlib import Path

from gbif_platform.dataset import parse_dataset
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot
from gbif_platform.steps.balanced_samples import balanced_samples
from gbif_platform.steps.media_urls import media_urls
from gbif_platform.steps.occurrences import occurrences
from gbif_platform.steps.run import Run

FILE = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: insects
  source: {{gbif_download: {{doi: {doi}, endpoint: "{endpoint}"}}}}
  label: species
  filters: {{licences: any, exclude_issue: [SOMETHING_NEW]}}
  sampling: {{policy: balanced, per_label: 3, downsample: {{blnk: 0.1}}}}
"""


def test_a_label_that_is_not_there_and_an_unknown_issue_are_warned_of(tmp_path: Path) -> None:
    with Sandbox() as sandbox:
        download = sandbox.publish(SandboxDataset(size=12, troubles=0))
        dataset = parse_dataset(FILE.format(doi=download.doi, endpoint=sandbox.url), tmp_path / "insects.yaml")
        run = Run(Platform(Settings(home=tmp_path)), dataset, download.doi)
        add_snapshot(run.platform, dataset, download.doi)
        occurrences(run)
        media_urls(run)
        report = balanced_samples(run)
    (failed,) = (check for check in report.checks if not check.passed)
    assert (failed.name, failed.only_warn) == ("words_known", True)
    assert failed.description == (
        "filters.exclude_issue: 'SOMETHING_NEW' is no issue of GBIF that is known here; "
        "sampling.downsample: 'blnk' is no label of the snapshot"
    )
    (row,) = (row for row in report.tables["sample_report"].iter_rows(named=True) if row["label"] == "blnk")
    assert (row["available"], row["reason"]) == (0, "none in the snapshot")
