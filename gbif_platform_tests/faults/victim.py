"""A platform home whose commands run in processes of their own, to be killed at a chosen moment."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import dagster as dg
import polars as pl

from gbif_platform.images.shards import ShardProblem, verify_shard
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform_tests.commands import DATASET

POLL_SECONDS = 0.003
START_SECONDS = 120
SLOW_FETCH = {  # small shards and few requests at once, so that a kill falls between and into commits
    "GBIF_PLATFORM_ALLOW_PRIVATE_HOSTS": "1",
    "GBIF_PLATFORM_SHARD_IMAGES": "8",
    "GBIF_PLATFORM_FETCH_CONCURRENCY": "4",
    "GBIF_PLATFORM_FETCH_RETRIES": "1",
}
LEDGER = "SELECT url_id, status, reason, source_sha256, sha256 FROM images ORDER BY ALL"
TABLES = ("occurrences", "media_urls", "balanced_samples", "sample_report", "splits", "quarantine")


class Victim:
    """A home with one dataset, `insects`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.platform = Platform(Settings(home=folder))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GBIF_PLATFORM_", "DAGSTER"))},
            **SLOW_FETCH,
            "GBIF_PLATFORM_HOME": str(folder),
        }

    def write_dataset(self, doi: str, endpoint: str, models: str = "") -> None:
        """Write the dataset file."""
        source = f'{{gbif_download: {{doi: {doi}, endpoint: "{endpoint}"}}}}'
        file = self.folder / "datasets" / "insects.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = DATASET.format(name="insects", source=source, label="species", filters="{licences: any}")
        file.write_text(text + models, encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command."""
        command = [sys.executable, "-m", "gbif_platform.cli", *arguments]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, *arguments: str) -> str:
        """Run a command to its end, which has to be a good one; returns what it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        return output

    def kill_when(
        self, moment: Callable[[], bool], *arguments: str, later: float = 0.0, number: int = signal.SIGKILL
    ) -> str:
        """Start a command and kill it when the moment has come, or `later` seconds after; returns what it printed."""
        process = self.start(*arguments)
        deadline = time.monotonic() + START_SECONDS
        while not moment() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        time.sleep(later)
        process.send_signal(number)
        output, _ = process.communicate()
        ended_as_killed = process.returncode == -signal.SIGKILL if number == signal.SIGKILL else process.returncode != 0
        assert ended_as_killed, f"the run ended by itself before it was killed:\n{output}"
        return output

    def work(self, pattern: str) -> bool:
        """Whether the work folder holds such a file."""
        return any(self.folder.joinpath("work").glob(pattern))

    def frame(self, sql: str) -> pl.DataFrame:
        """Rows of the lake."""
        return self.platform.lake.frame(sql)

    def fetched(self) -> int:
        """How many URLs the ledger knows."""
        return len(self.frame("SELECT url_id FROM images"))

    def stored_shards(self) -> int:
        """How many shards the object store holds."""
        return len(list(self.folder.glob("objects/images/*/*.tar")))

    def tables(self) -> dict[str, pl.DataFrame]:
        """Every row that must not depend on what happened on the way, in one order."""
        return {name: self.frame(f"SELECT * FROM {name} ORDER BY ALL") for name in TABLES} | {
            "images": self.frame(LEDGER)
        }

    def shard_problems(self) -> list[ShardProblem]:
        """What is wrong with any shard of the store.

        A shard that was stored just before its rows would have been is whole, and no row points to it.
        """
        rows = self.frame("SELECT * FROM images WHERE status = 'ok'")
        shards = {key for key in self.platform.objects.list("images") if key.endswith(".tar")} | set(rows["shard"])
        problems = []
        for shard in sorted(shards):
            indexed = rows.filter(pl.col("shard") == shard).to_dicts()
            found = verify_shard(self.platform.objects, shard, indexed)
            problems += [one for one in found if indexed or one.problem != "not_in_index"]
        return problems

    def dagster_leftovers(self) -> list[str]:
        """Runs that Dagster thinks are going on, and pool slots that are held or waited for."""
        with dg.DagsterInstance.from_config(str(self.folder / "dagster")) as instance:
            unfinished = [f"{run.run_id} {run.status.value}" for run in instance.get_runs() if not run.is_finished]
            storage = instance.event_log_storage
            pools = storage.get_concurrency_infos(list(storage.get_concurrency_keys()))
            return unfinished + [
                f"slot of {name}" for name, pool in pools.items() if pool.claimed_slots or pool.pending_steps
            ]

    def mlflow_runs(self) -> list[str]:
        """Status of every MLflow run."""
        with closing(sqlite3.connect(self.folder / "mlflow" / "mlflow.db")) as connection:
            return [row[0] for row in connection.execute("SELECT status FROM runs")]

    def weights(self) -> str:
        """SHA-256 of the weights in the model's bundle."""
        (bundle,) = self.frame("SELECT bundle FROM models")["bundle"]
        description: dict[str, str] = json.loads(self.platform.objects.get(f"{bundle}/bundle.json"))
        return description["weights_sha256"]
