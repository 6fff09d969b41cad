"""`gbif-platform dataset …`: make, list and check dataset files."""

import re
import sys
from pathlib import Path

import click

from gbif_platform.commands.shared import console, shipped_datasets, tell, with_platform
from gbif_platform.dataset import NAME, dataset_files, read_dataset, read_named
from gbif_platform.errors import PlatformError, first_line
from gbif_platform.platform import Platform


@click.group()
def dataset() -> None:
    """Dataset files: make, list, check."""


@dataset.command("new")
@click.argument("name")
@click.option("--archive", type=click.Path(path_type=Path), help="A Darwin Core Archive from GBIF, on this machine.")
@click.option("--doi", help="A GBIF download: DOI, DOI URL, portal URL or key.")
@click.option("--taxon", "taxa", multiple=True, help="Scientific name; repeatable. A GBIF download is requested.")
@click.option("--country", "countries", multiple=True, help="ISO code, with --taxon; repeatable.")
@click.option("--search", is_flag=True, help="With --taxon: search GBIF instead; small and without an account.")
@click.option(
    "--urls",
    type=click.Path(path_type=Path),
    help="A list of URLs: txt, csv, tsv, parquet, json, jsonl, or a folder of them.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A folder of pictures, each in the folder of its label.",
)
@click.option("--url-column", help="With --urls: column of the URLs; default: url, image_url, identifier …")
@click.option("--label-column", help="With --urls: column of the labels; default: label, species, class … or none.")
@click.option("--label", help="GBIF or Darwin Core term to learn; default: species, of a list its label column.")
@with_platform
def dataset_new(
    platform: Platform,
    name: str,
    archive: Path | None,
    doi: str | None,
    taxa: tuple[str, ...],
    countries: tuple[str, ...],
    search: bool,
    urls: Path | None,
    images: Path | None,
    url_column: str | None,
    label_column: str | None,
    label: str | None,
) -> None:
    """Write a dataset file to start from, with its choices explained."""
    from gbif_platform.dataset_template import folder_start, list_start, new_dataset, source_text

    file = platform.settings.datasets / f"{name}.yaml"
    if not re.fullmatch(NAME, name):
        raise PlatformError(f"{name!r} cannot name a dataset", "a letter, then letters, digits and _, all lower case")
    if name in shipped_datasets():
        raise PlatformError(f"{name} is a dataset that comes with the platform", "choose another name")
    if (urls or images) and (archive or doi or taxa or countries or search or (urls and images)):
        raise PlatformError("name one source", "--urls FILE goes with --url-column, --label-column and --label only")
    if images:
        start = folder_start(images)
        new_dataset(file, start.source, label or start.label, licences=start.licences)
    elif urls:
        start = list_start(urls, url_column, label_column or label)
        new_dataset(file, start.source, start.label, licences=start.licences, labelled=start.labelled)
    elif url_column or label_column:
        raise PlatformError("--url-column and --label-column go with --urls", "add --urls FILE")
    else:
        new_dataset(file, source_text(archive, doi, taxa, countries, search), label or "species")
    console.print(f"wrote {file}\nnext: gbif-platform run {name}", soft_wrap=True)


@dataset.command("list")
@with_platform
def dataset_list(platform: Platform) -> None:
    """Every dataset, with its snapshots and models."""
    import polars as pl

    from gbif_platform.storage import tables
    from gbif_platform.terminal import frame_table

    rows = []
    for name, file in sorted((dataset_files(platform.settings.datasets) | shipped_datasets()).items()):
        snapshots = len(tables.snapshots(platform.lake, name))
        try:
            found = read_named(name, file)
            rows.append((name, found.label, snapshots, ", ".join(found.models), str(file)))
        except PlatformError as error:
            mistake = first_line(error.cause).replace(f"{file}:", "line ")
            rows.append((name, "", snapshots, f"broken: {mistake}", str(file)))
    console.print(
        frame_table(pl.DataFrame(rows, schema=["dataset", "label", "snapshots", "models", "file"], orient="row"))
    )


@dataset.command("check")
@click.argument("names", nargs=-1)
@with_platform
def dataset_check(platform: Platform, names: tuple[str, ...]) -> None:
    """Read dataset files and report every mistake with file and line. NAMES: datasets or files; none = all."""
    files = dataset_files(platform.settings.datasets) | shipped_datasets()
    wrong = 0
    for name in names or sorted(files):
        try:
            found = read_named(name, files[name]) if name in files else read_dataset(Path(name))
            console.print(f"{name}: {'; '.join(['sound', *found.filters.doubts])}", highlight=False, soft_wrap=True)
        except PlatformError as error:
            wrong += 1
            tell(error)
    sys.exit(1 if wrong else 0)
