"""The command line, run in this process on a home of its own, and the dataset files that tests give it."""

import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click.testing
import pytest

from gbif_platform.cli import main
from gbif_platform.platform import Platform
from gbif_platform.sandbox import SandboxDataset
from gbif_platform.sandbox.archive import write_archive
from gbif_platform.settings import Settings

DATASET = """\
type: gbif_platform.components.ImageDataset
attributes:
  name: {name}
  source: {source}
  label: {label}
  filters: {filters}
  images: {{size: 64}}
"""
STAGES = [
    "occurrences",
    "media_urls",
    "taxa",
    "balanced_samples",
    "predicted_catalogue",
    "downloaded_images",
    "duplicate_images",
    "splits",
    "catalogue",
]
"""The stages that write rows of a first snapshot of a dataset without models, in their order."""
NO_HOST = "http://127.0.0.1:9"
"""Where nothing listens: of archives whose pictures no test asks for."""


class Home:
    """A platform home; calling it runs the command line there: `home("run", "frogs")`."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        for name in [name for name in os.environ if name.startswith("GBIF_PLATFORM_")]:
            patch.delenv(name)
        patch.setenv("GBIF_PLATFORM_HOME", str(folder))
        patch.setenv("GBIF_PLATFORM_ALLOW_PRIVATE_HOSTS", "1")
        patch.setenv("DAGSTER_HOME", str(folder / "dagster"))  # the command sets it; the patch puts it back
        self._platform: Platform | None = None

    def __call__(self, *arguments: str | Path) -> click.testing.Result:
        """Run a command; `stdout` and `stderr` are apart, an error that leaves it is in `exception`."""
        return click.testing.CliRunner().invoke(main, [str(argument) for argument in arguments])

    @property
    def platform(self) -> Platform:
        """The same home, seen beside the command line."""
        self._platform = self._platform or Platform(Settings(home=self.folder))
        return self._platform

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of the lake."""
        return self.platform.lake.frame(sql).to_dicts()

    def stages(self) -> dict[tuple[str, str], str]:
        """Version of each stage of each dataset in the lake."""
        rows = self.rows("SELECT dataset, stage, version FROM stages")
        return {(row["dataset"], row["stage"]): row["version"] for row in rows}

    def dataset(
        self, name: str, source: str | Path, *, label: str = "species", filters: str = "{licences: any}", more: str = ""
    ) -> Path:
        """Write a dataset file; a path as source is an archive."""
        named = f"{{archive: {source}}}" if isinstance(source, Path) else source
        file = self.folder / "datasets" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(DATASET.format(name=name, source=named, label=label, filters=filters) + more, encoding="utf-8")
        return file


def small_archive(file: Path) -> Path:
    """A sound archive of 12 occurrences and a medium or so each, whose pictures are nowhere."""
    write_archive(SandboxDataset(size=12, troubles=0), file, NO_HOST)
    return file


def changed_archive(
    archive: Path,
    file: Path,
    change: Mapping[str, Callable[[str], str]] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """A copy of an archive, with members changed or left out."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            if name not in without:
                text = source.read(name).decode()
                target.writestr(name, (change or {}).get(name, str)(text))
    return file


def without_multimedia(descriptor: str) -> str:
    """meta.xml without its multimedia extension."""
    return re.sub(r'(?s)<extension [^>]*Multimedia".*?</extension>', "", descriptor)
