"""`gbif-platform compact` and `takedown`: what the store holds for nobody goes, and what somebody wants to be gone."""

from datetime import timedelta
from typing import TYPE_CHECKING

import click

from gbif_platform.commands.shared import console, with_platform
from gbif_platform.platform import Platform

if TYPE_CHECKING:
    import polars as pl

MOST_TOLD = 20
AUTHOR = "gbif-platform compact"
Account = list[tuple[str, int, str]]
"""What was done: (what, how many, note)."""


@click.command()
@click.option(
    "--share", default=0.7, show_default=True, type=click.FloatRange(0, 1),
    help="Rewrite shards of which less than this share of the bytes is still in the index.",
)  # fmt: skip
@click.option(
    "--grace-days", default=7.0, show_default=True, type=click.FloatRange(0),
    help="Delete a shard when nothing has named it for so long. Less than an hour: only while no run goes on.",
)  # fmt: skip
@click.option("--verify", is_flag=True, help="Read every shard first; the next run fetches again what is damaged.")
@click.option("--dry-run", is_flag=True, help="Only tell what there is to do.")
@with_platform
def compact(platform: Platform, share: float, grace_days: float, verify: bool, dry_run: bool) -> None:
    """Rewrite shards that are mostly dead, delete what nobody needs, and merge the lake's small files.

    A model reads its pictures by the lake version that it was trained on. Shards named there stay for as long as the
    model is in the lake, others for the grace period: it covers runs that are reading now, and old lake versions.
    A shard with a picture that was taken down is deleted at once, whoever names it; what else it held is in a new one.
    Answers and evaluations of models that no row names any more go too: their bundles stay, and can be asked again.

    Parts of uploads that were killed lie in a bucket unseen; give it a rule that ends incomplete multipart uploads.
    """
    from gbif_platform.images.compaction import survey, unneeded, wasteful
    from gbif_platform.terminal import frame_table

    problems = _verify(platform, dry_run) if verify else None
    if problems is not None and len(problems):
        console.print(frame_table(problems.head(MOST_TOLD), f"{len(problems):,} problems"), "")
    shards = survey(platform.lake, platform.objects)
    torn = set() if problems is None else set(problems.filter(problem="unreadable")["shard"])
    chosen = sorted(torn | set(wasteful(shards, share)))
    grace = timedelta(days=grace_days)
    account: Account = [("shards", len(shards), _megabytes(shards, shards["shard"].to_list()))]
    if dry_run:
        account += [("to rewrite", len(chosen), _megabytes(shards, chosen))]
    else:
        account += _rewrite(platform, chosen)
        shards = survey(platform.lake, platform.objects)
    gone = unneeded(platform.lake, shards, grace)
    account += [("deleted, as nothing names them" if not dry_run else "to delete", len(gone), _megabytes(shards, gone))]
    if not dry_run:
        _delete(platform, gone)
    account += _delete_answers(platform, grace, dry_run)
    account += _tidy(platform, grace, dry_run)
    _print(account)


def _verify(platform: Platform, dry_run: bool) -> "pl.DataFrame":
    from gbif_platform.images.compaction import verify_all
    from gbif_platform.terminal import RunDisplay

    with RunDisplay(console) as display:
        return verify_all(
            platform.lake,
            platform.objects,
            AUTHOR,
            lambda done, total: display("verified shards", done, total),
            dry_run=dry_run,
        )


def _rewrite(platform: Platform, chosen: list[str]) -> Account:
    from gbif_platform.images.compaction import remove_taken_down, rewrite
    from gbif_platform.terminal import RunDisplay

    with RunDisplay(console) as display:
        done = rewrite(
            platform.lake,
            platform.objects,
            chosen,
            shard_images=platform.settings.shard_images,
            author=AUTHOR,
            told=lambda now, total: display("rewritten shards", now, total),
        )
    condemned = remove_taken_down(platform.lake, platform.objects, AUTHOR)
    _forget(platform, condemned)
    return [
        ("rewritten", done.read, f"into {len(done.written):,} with {done.moved:,} pictures"),
        ("damaged pictures found on the way", done.damaged, "the next run fetches them again" if done.damaged else ""),
        ("deleted, with pictures taken down", len(condemned), ""),
    ]


def _delete(platform: Platform, shards: list[str]) -> None:
    for shard in shards:
        platform.objects.delete(shard)
    _forget(platform, shards)


def _delete_answers(platform: Platform, grace: timedelta, dry_run: bool) -> Account:
    from gbif_platform.steps.kept_answers import unneeded_answers

    gone = unneeded_answers(platform.lake, platform.objects, grace)
    if not dry_run:
        for entry in gone:
            platform.objects.delete(entry.key)
    what = "files of answers to delete" if dry_run else "files of answers deleted, as no row names them"
    return [(what, len(gone), f"{sum(entry.size for entry in gone) / 1e6:,.1f} MB")]


def _forget(platform: Platform, shards: list[str]) -> None:
    """Remove this machine's copies too."""
    from gbif_platform.storage.shard_cache import ShardCache

    if isinstance(cache := platform.shards, ShardCache):
        for shard in shards:
            cache.forget(shard)


def _tidy(platform: Platform, grace: timedelta, dry_run: bool) -> Account:
    from gbif_platform.images.shards import sweep_orphans
    from gbif_platform.storage.maintenance import delete_files, merge_files

    if dry_run:
        return [("lake files to delete", delete_files(platform.lake, AUTHOR, dry_run=True), "")]
    sweep_orphans()
    parts = platform.objects.sweep(max(grace, timedelta(days=1)))
    merged = merge_files(platform.lake, AUTHOR)
    return [
        ("parts of killed writers removed", parts, ""),
        ("lake files merged", merged["files_read"], f"into {merged['files_written']:,}"),
        ("lake files deleted", delete_files(platform.lake, AUTHOR), "replaced or left behind a week ago or more"),
    ]


def _megabytes(shards: "pl.DataFrame", chosen: list[str]) -> str:
    return f"{int(shards.filter(shards['shard'].is_in(chosen))['size'].sum()) / 1e6:,.1f} MB"


def _print(account: Account) -> None:
    import polars as pl

    from gbif_platform.terminal import frame_table

    console.print(frame_table(pl.DataFrame(account, schema=["what", "number", "note"], orient="row")))


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="URL_OR_ID...")
@click.option("--reason", required=True, help="Who asked for it, and why; it stays in the ledger.")
@with_platform
def takedown(platform: Platform, names: tuple[str, ...], reason: str) -> None:
    """Take pictures down: by URL, media_id or url_id, in every size they are stored in, for ever.

    Nothing reads them from now on, and no run asks for them again; the next compact deletes the bytes. Run the
    datasets again to leave them out of splits and catalogues; exports and models made before are yours to redo.
    """
    from gbif_platform.images.takedown import take_down

    count = take_down(platform.lake, names, reason, "gbif-platform takedown")
    console.print(f"{count} picture(s) taken down; next: gbif-platform compact")
