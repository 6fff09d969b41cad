"""What every command needs: the platform, a dataset by name, and how known errors are told."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from gbif_platform.dataset import Dataset, dataset_files, read_named
from gbif_platform.errors import PlatformError, explained, first_line
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings, load_settings

if TYPE_CHECKING:
    from gbif_platform.steps.run import Run

SHIPPED = Path(__file__).parents[1] / "defs" / "datasets"
WIDE = 160
"""Columns where the output is no terminal, so that tables are not folded into a log."""
console = Console(width=None if sys.stdout.isatty() else WIDE)
errors = Console(stderr=True)


class Group(click.Group):
    """Commands whose known errors are told in two lines, with exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            said = f"{type(error).__name__}: {first_line(str(error))}"
            tell(explained(error) or PlatformError(said, "gbif-platform --debug … shows the traceback"))
            sys.exit(1)


def tell(error: PlatformError) -> None:
    """Print cause and next step on standard error."""
    errors.print(f"[bold red]error:[/] {_escaped(error.cause)}", highlight=False, soft_wrap=True)
    if error.next_step:
        errors.print(f"[bold]next:[/]  {_escaped(error.next_step)}", highlight=False, soft_wrap=True)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def find_dataset(settings: Settings, name: str) -> Dataset:
    """A dataset of the home folder, or one that ships.

    Raises:
        PlatformError: there is none of that name; lists those that there are.
    """
    files = dataset_files(settings.datasets) | shipped_datasets()
    if name not in files:
        raise PlatformError(
            f"there is no dataset {name!r}; there are: {', '.join(sorted(files))}",
            f"gbif-platform dataset new {name} --archive FILE (or --doi DOI)",
        )
    return read_named(name, files[name])


def find_run(platform: Platform, name: str, key: str | None, author: str) -> "Run":
    """What the lake holds of a dataset's snapshot: the one of that key, else the one added last.

    Raises:
        PlatformError: there is no such dataset or snapshot; lists those that there are.
    """
    from gbif_platform.steps.run import Run
    from gbif_platform.storage import tables

    dataset = find_dataset(platform.settings, name)
    known = tables.snapshots(platform.lake, name)["snapshot"].to_list()
    if not known:
        raise PlatformError(f"dataset {name} has no snapshot yet", f"gbif-platform run {name}")
    if key and key not in known:
        raise PlatformError(
            f"dataset {name} has no snapshot {key!r}; there are: {', '.join(known)}",
            f"gbif-platform snapshot list {name}",
        )
    return Run(platform, dataset, key or known[-1], author)


def shipped_datasets() -> dict[str, Path]:
    """Files of the datasets that come with the package, by name."""
    return {file.parent.name: file for file in sorted(SHIPPED.glob("*/defs.yaml"))}


def with_platform(command: Callable[..., Any]) -> Callable[..., Any]:
    """Hand a command an initialised platform as its first argument."""

    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        from gbif_platform.orchestration.instance import prepare_home

        platform = Platform(load_settings())
        prepare_home(platform.settings)
        return command(platform, *args, **kwargs)

    return run


def initialise(platform: Platform) -> None:
    """Make lake, object store, dataset folder and Dagster's storage, by one process before several use them."""
    import dagster as dg

    platform.settings.datasets.mkdir(parents=True, exist_ok=True)
    platform.lake.version()
    _ = platform.objects
    with dg.DagsterInstance.get() as instance:
        instance.get_runs(limit=1)
