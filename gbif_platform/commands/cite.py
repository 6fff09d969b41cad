"""`gbif-platform cite`: whom to credit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gbif_platform.commands.shared import console, find_run, with_platform
from gbif_platform.platform import Platform

if TYPE_CHECKING:
    from gbif_platform.steps.run import Run


@click.command()
@click.argument("name", metavar="DATASET")
@click.option("--snapshot", "key", help="A snapshot's key; default: the one added last.")
@click.option("--to", "folder", type=click.Path(path_type=Path), help="Folder; default: exports/ under home.")
@click.option("--source-url", help="Where you publish the dataset; goes into the derived-dataset file.")
@click.option("--register", "registers", is_flag=True, help="Register it at GBIF, for ever; needs --source-url.")
@with_platform
def cite(
    platform: Platform, name: str, key: str | None, folder: Path | None, source_url: str | None, registers: bool
) -> None:
    """Write citation, attribution of each picture and the derived-dataset file.

    With --register GBIF gives the derived dataset a DOI (account: $GBIF_USER, $GBIF_PWD); once for each final dataset.
    """
    from gbif_platform.settings import fingerprint
    from gbif_platform.steps.credit import PUBLISHED_LATER, credit, write_credit
    from gbif_platform.terminal import frame_table

    run = find_run(platform, name, key, "gbif-platform cite")
    found = credit(run, source_url or PUBLISHED_LATER)
    if registers:
        _register(run, found.derived)
        found = credit(run)
    folder = folder or platform.settings.home / "exports" / name / f"credit-{fingerprint(run.snapshot)}"
    files = write_credit(found, folder)
    console.print("\n".join(found.citations or ["no DOI to cite"]), soft_wrap=True)
    console.print(f"licence of the whole: {found.licence}\n", soft_wrap=True)
    console.print(frame_table(found.counts, f"{len(found.manifest):,} pictures; records kept, by GBIF dataset"))
    console.print("\n".join(["", *map(str, files)]), soft_wrap=True, highlight=False)


def _register(run: "Run", body: dict[str, Any]) -> None:
    from gbif_platform.gbif.blocking import run_blocking
    from gbif_platform.sources.gbif_source import client
    from gbif_platform.steps.credit import register

    async def registered() -> str:
        async with client(run.platform, run.dataset) as gbif:
            return await register(gbif, run, body)

    console.print(f"registered at GBIF: https://doi.org/{run_blocking(registered())}", soft_wrap=True)
