"""`gbif-platform cite`: whom to credit."""

from pathlib import Path

import click

from gbif_platform.commands.shared import console, find_dataset, with_platform
from gbif_platform.errors import PlatformError
from gbif_platform.platform import Platform


@click.command()
@click.argument("name", metavar="DATASET")
@click.option("--snapshot", "key", help="A snapshot's key; default: the one added last.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder; default: exports/ under home.")
@click.option("--source-url", help="Where you publish the dataset; goes into the derived-dataset file.")
@with_platform
def cite(platform: Platform, name: str, key: str | None, folder: Path | None, source_url: str | None) -> None:
    """Write citation, attribution of each picture and the derived-dataset file."""
    from gbif_platform.settings import fingerprint
    from gbif_platform.steps.credit import PUBLISHED_LATER, credit, write_credit
    from gbif_platform.steps.run import Run
    from gbif_platform.storage import tables
    from gbif_platform.terminal import frame_table

    dataset = find_dataset(platform.settings, name)
    known = tables.snapshots(platform.lake, name)["snapshot"].to_list()
    if not known:
        raise PlatformError(f"dataset {name} has no snapshot yet", f"gbif-platform run {name}")
    snapshot = key or known[-1]
    found = credit(Run(platform, dataset, snapshot, "gbif-platform cite"), source_url or PUBLISHED_LATER)
    folder = folder or platform.settings.home / "exports" / name / f"credit-{fingerprint(snapshot)}"
    files = write_credit(found, folder)
    console.print(f"{found.citation or 'no DOI to cite'}\n", soft_wrap=True)
    console.print(frame_table(found.counts, f"{len(found.manifest):,} pictures; records kept, by GBIF dataset"))
    console.print("\n".join(["", *map(str, files)]), soft_wrap=True, highlight=False)
