"""How a plan is divided among workers: by host, so that manners hold for all workers together; kept on disk meanwhile.

A host belongs to one share. Only a host with more than two workers' part of the URLs is split, and each part then gets
its part of the requests that may be in flight to it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from gbif_platform.images.addresses import host_of
from gbif_platform.images.plan import Wanted

PART_ROWS = 50_000
SCHEMA = dict.fromkeys(Wanted._fields, pl.String)
NOTED = {"url_id": pl.String, "reason": pl.String}
REGROUPED = PART_ROWS // 10


class Share(NamedTuple):
    """What one worker fetches.

    Attributes:
        hosts: all of each, or every n-th URL of a host that n shares name.
        per_host: requests that may be in flight to one of them, from this worker.
    """

    hosts: tuple[str, ...]
    per_host: int


def shares(counts: Mapping[str, int], workers: int, per_host: int) -> list[Share]:
    """Divide hosts among workers; the same counts give the same shares.

    Args:
        counts: URLs by host.
        workers: there are at most so many shares.
        per_host: requests in flight to one host, all workers together.
    """
    total = sum(counts.values())
    parts = {host: min(count * workers // total, per_host) for host, count in counts.items() if count}
    split = {host: number for host, number in sorted(parts.items()) if number > 1}
    divided = [Share((host,), part) for host, number in split.items() for part in _parts(per_host, number)]
    whole = {host: counts[host] for host in parts.keys() - split.keys()}
    return divided + [Share(hosts, per_host) for hosts in _packed(whole, workers - len(divided))]


def _parts(whole: int, number: int) -> list[int]:
    """A number as a sum of nearly equal ones."""
    return [whole // number + (turn < whole % number) for turn in range(number)]


def _packed(counts: Mapping[str, int], bins: int) -> list[tuple[str, ...]]:
    """Largest first, each into the bin that has least (R. L. Graham, 1969); empty bins are left out."""
    packed: dict[int, list[str]] = defaultdict(list)
    loads = [(0, number) for number in range(bins)]
    heapify(loads)
    for host in sorted(counts, key=lambda host: (-counts[host], host)):
        load, number = heappop(loads)
        packed[number].append(host)
        heappush(loads, (load + counts[host], number))
    return [tuple(hosts) for _, hosts in sorted(packed.items())]


class Division:
    """A plan, divided; on disk, since it may be larger than memory. What is done is noted beside it.

    Args:
        folder: is made; removing it is the caller's.
        plan: read once.

    Raises:
        Exception: whatever `plan` raises.
    """

    def __init__(self, folder: Path, plan: Iterable[Wanted | Sequence[Any]], workers: int, per_host: int) -> None:
        self._folder = folder
        self._noted = 0
        counts: Counter[str] = Counter()
        for number, rows in enumerate(_batches(plan)):
            frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
            hosts = [host_of(url) for url in frame["url"]]
            counts.update(hosts)
            self._write(frame.with_columns(host=pl.Series(hosts, dtype=pl.String)), "undivided", number)
        self.shares = shares(counts, workers, per_host)
        self.counts = [0] * len(self.shares)
        """URLs of each share."""
        self._deal()

    def _deal(self) -> None:
        owners: dict[str, list[int]] = defaultdict(list)
        for number, share in enumerate(self.shares):
            for host in share.hosts:
                owners[host].append(number)
        turns: Counter[str] = Counter()

        def owner(host: str) -> int:
            turns[host] += 1
            return owners[host][turns[host] % len(owners[host])]

        for part, path in enumerate(self._parts("undivided")):
            frame = pl.read_parquet(path)
            frame = frame.with_columns(share=pl.Series([owner(host) for host in frame["host"]], dtype=pl.Int64))
            for (number,), rows in frame.partition_by("share", as_dict=True, maintain_order=True).items():
                self._write(rows.select(list(SCHEMA)), f"share-{number}", part)
                self.counts[number] += len(rows)
            path.unlink()

    def rest(self, number: int) -> Iterator[pl.DataFrame]:
        """What of a share is not done, in parts."""
        done = self._notes(number)
        for frame in self._regrouped(number):
            rest = frame.join(done, on="url_id", how="anti", maintain_order="left")
            if not rest.is_empty():
                yield rest

    def note(self, number: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """These rows of a share are done."""
        frame = pl.DataFrame([(row["url_id"], _failure(row)) for row in rows], schema=NOTED, orient="row")
        self._write(frame, f"done-{number}", self._noted)
        self._noted += 1

    def failed(self) -> Iterator[pl.DataFrame]:
        """What has failed, with its `reason`, in parts; refused is not failed."""
        for number in range(len(self.shares)):
            failed = self._notes(number).drop_nulls("reason")
            for frame in self._regrouped(number):
                yield frame.join(failed, on="url_id", maintain_order="left")

    def _regrouped(self, number: int) -> Iterator[pl.DataFrame]:
        """The rows of a share, in frames neither many nor large: of each part many shares have few rows."""
        frames: list[pl.DataFrame] = []
        for path in self._parts(f"share-{number}"):
            frames.append(pl.read_parquet(path))
            if sum(map(len, frames)) >= REGROUPED:
                yield pl.concat(frames)
                frames = []
        if frames:
            yield pl.concat(frames)

    def _notes(self, number: int) -> pl.DataFrame:
        return pl.concat([pl.DataFrame(schema=NOTED), *map(pl.read_parquet, self._parts(f"done-{number}"))])

    def _parts(self, name: str) -> list[Path]:
        return sorted((self._folder / name).glob("*.parquet"))

    def _write(self, frame: pl.DataFrame, name: str, part: int) -> None:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(folder / f"{part:08}.parquet")


def _failure(row: Mapping[str, Any]) -> str | None:
    return row["reason"] if row["status"] == "failed" else None


def _batches(plan: Iterable[Wanted | Sequence[Any]]) -> Iterator[list[Wanted]]:
    wanted = (Wanted(*row) for row in plan)
    while batch := list(islice(wanted, PART_ROWS)):
        yield batch
