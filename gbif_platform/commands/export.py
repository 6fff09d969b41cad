"""`gbif-platform export`: a dataset's pictures as other programs read them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gbif_platform.commands.shared import console, errors, find_run, with_platform
from gbif_platform.errors import PlatformError
from gbif_platform.platform import Platform

if TYPE_CHECKING:
    from gbif_platform.exports.export import ExportReport

IN_SHARDS = ("webdataset", "parquet", "huggingface")
FORMATS = ("imagefolder", "tf-data", "coco-camera-traps", *IN_SHARDS)


@click.command()
@click.argument("name", metavar="DATASET")
@click.option("--format", "kind", type=click.Choice(FORMATS), required=True, help="Which program is to read it.")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), required=True, help="A new folder, or an earlier export."
)
@click.option("--snapshot", "key", help="A snapshot's key; default: the one added last.")
@click.option("--subset", "subsets", multiple=True, help="This subset alone; repeatable.")
@click.option("--shard-images", type=click.IntRange(1), help="Most pictures in a new shard.  [default: 10000]")
@click.option("--shard-mb", type=click.IntRange(1), help="Most megabytes of pictures in a new shard.  [default: 512]")
@click.option("--link/--copy", default=True, show_default=True, help="A picture that is there twice: one file, or two.")
@click.option("--verify", is_flag=True, help="Read every file that is there, and write damaged ones again.")
@with_platform
def export(
    platform: Platform,
    name: str,
    kind: str,
    folder: Path,
    key: str | None,
    subsets: tuple[str, ...],
    shard_images: int | None,
    shard_mb: int | None,
    link: bool,
    verify: bool,
) -> None:
    """Write a dataset's final pictures into a folder, with catalogue, attribution, licences, citation and card.

    Into an earlier export of the dataset only what is new is written; what is gone or moved disappears.
    """
    from gbif_platform.exports.shards import MOST_MB, MOST_PICTURES, ShardSize
    from gbif_platform.steps.export import export as write
    from gbif_platform.terminal import RunDisplay

    if (shard_images or shard_mb) and kind not in IN_SHARDS:
        raise PlatformError(f"{kind} has no shards", f"leave --shard-images and --shard-mb to {', '.join(IN_SHARDS)}")
    run = find_run(platform, name, key, "gbif-platform export")
    size = ShardSize(shard_images or MOST_PICTURES, shard_mb or MOST_MB)
    with RunDisplay(errors) as display:
        platform.progress = display
        report = write(run, kind, folder, subsets=subsets, shard_size=size, link=link, verify=verify)
    console.print(told(report), soft_wrap=True, highlight=False)


def told(report: "ExportReport") -> str:
    """A report in a line or two."""
    said = f"{report.folder}: {report.pictures:,} pictures as {report.format}"
    if report.up_to_date:
        said += "; up to date, nothing was written"
    else:
        said += f"; files written: {report.written:,}, kept: {report.kept:,}, removed: {report.removed:,}"
    if report.damaged:
        said += f"\n{report.damaged:,} files were missing or damaged; they are written again"
    if report.unstored:
        said += f"\n{report.unstored:,} pictures are not stored any more and left out: run the dataset again"
    return said
