"""What a person sees in the terminal: progress while a run works, and tables of what it left."""

import os
import time
from types import TracebackType

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from gbif_platform.platform import Platform

DONE = ("done", "up to date")


class RunDisplay:
    """Progress of a run's stages: live bars in a terminal, a line now and then elsewhere.

    An instance is a `gbif_platform.platform.Progress`, to be used as a context manager.
    """

    def __init__(self, console: Console, every: float = 10.0) -> None:
        self.live, self.every = console.is_terminal, every
        # Dagster sends the process's output to its logs while a step runs: the bars keep a way to the terminal
        self.console = _own_console(console) if self.live else console
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._bars = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description:<28}", table_column=Column(no_wrap=True, min_width=28)),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]:>16}", table_column=Column(no_wrap=True, min_width=16)),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self.console,
        )

    def __enter__(self) -> "RunDisplay":
        if self.live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None, note: str = "") -> None:
        """Show where a stage stands."""
        count = f"{done:,}" + (f"/{total:,}" if total and note not in DONE else "")
        if self.live:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=None, count="", note="")
            ended = {"total": 1, "completed": 1} if note in DONE else {"total": total, "completed": done}
            self._bars.update(self._tasks[stage], count=count, note=note, **ended)
            return
        now = time.monotonic()
        if note in DONE or stage not in self._said or now - self._said[stage] > self.every:
            self._said[stage] = now
            self.console.print(f"{stage:<28} {count:>16}  {note or 'started'}", highlight=False, soft_wrap=True)


def _own_console(console: Console) -> Console:
    """A console on the same terminal that a later redirection of standard output does not reach."""
    return Console(file=os.fdopen(os.dup(console.file.fileno()), "w"), force_terminal=True)


def frame_table(frame: pl.DataFrame, title: str | None = None) -> Table:
    """A frame as a table for people: numbers right-aligned, no type line."""
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False)
    for name, kind in frame.schema.items():
        table.add_column(name, justify="right" if kind.is_numeric() else "left", overflow="fold")
    for row in frame.iter_rows():
        table.add_row(
            *("" if value is None else f"{value:,}" if isinstance(value, int) else str(value) for value in row)
        )
    return table


def summary(console: Console, platform: Platform, dataset: str, snapshot: str) -> None:
    """What a snapshot holds: rows and seconds for each stage, what was refused and why, and how good the models are."""
    key = [dataset, snapshot]
    lake = platform.lake
    stages = lake.frame(
        'SELECT stage, rows_in AS "rows in", rows_out AS "rows out", rows_refused AS refused, rows_left AS '
        '"over quota", round(seconds, 1) AS seconds FROM stages WHERE dataset = ? AND snapshot = ? ORDER BY written_at',
        key,
    )
    refused = lake.frame(
        "SELECT stage, reason, count(*) AS rows FROM quarantine WHERE dataset = ? AND snapshot = ? "
        "GROUP BY stage, reason ORDER BY stage, rows DESC, reason",
        key,
    )
    if stages.is_empty():
        return
    console.print()
    console.print(frame_table(stages, f"{dataset}, snapshot {snapshot}"))
    if len(refused):
        console.print()
        console.print(frame_table(refused, "Refused, by reason"))
    if len(scores := model_scores(platform, dataset, snapshot)):
        console.print()
        console.print(frame_table(scores, "Models on the test subset (baseline: the commonest label)"))
    from gbif_platform.steps.trained_model import beside

    models = lake.frame("SELECT model, bundle FROM models WHERE dataset = ? AND snapshot = ? ORDER BY model", key)
    for model, bundle in models.rows():
        report = f"{beside(bundle, 'reports')}/report.html"
        if platform.objects.exists(report):
            console.print(f"Report on {model}: {platform.objects.url_of(report)}", soft_wrap=True, highlight=False)


def model_scores(platform: Platform, dataset: str, snapshot: str) -> pl.DataFrame:
    """One row a model: test top-1 with its interval, top-5, macro accuracy, the baseline's top-1; is it champion."""
    key = [dataset, snapshot]
    rows = platform.lake.frame(
        "SELECT model, metric, value, low, high FROM evaluation_metrics "
        "WHERE dataset = ? AND snapshot = ? AND subset = 'test' AND slice = 'all'",
        key,
    )
    if rows.is_empty():
        return rows
    wide = rows.pivot("metric", index="model", values="value").sort("model")
    bounds = rows.filter(pl.col("metric") == "top1").select(
        "model", pl.format("{} – {}", _percent("low"), _percent("high")).alias("95 % interval")
    )
    decided = platform.lake.frame(
        "SELECT model, CASE WHEN promoted THEN 'yes' ELSE 'no' END AS champion FROM promotions "
        "WHERE dataset = ? AND snapshot = ?",
        key,
    )
    shown = {"top-1": "top1", "top-5": "top5", "macro accuracy": "macro_accuracy", "baseline": "baseline_top1"}
    percents = wide.select("model", *(_percent(name).alias(title) for title, name in shown.items()))
    found = percents.join(bounds, on="model").join(decided, on="model", how="left", maintain_order="left")
    return found.select("model", "top-1", "95 % interval", "top-5", "macro accuracy", "baseline", "champion")


def _percent(name: str) -> pl.Expr:
    return pl.format("{} %", (pl.col(name) * 100).round(1))


def print_frame(console: Console, frame: pl.DataFrame, kind: str) -> None:
    """Print rows as `table`, `csv` or `json` (one array of objects)."""
    if kind == "csv":
        flat = frame.with_columns(
            pl.col(name).cast(pl.List(pl.String)).list.join("|")
            for name, type_ in frame.schema.items()
            if isinstance(type_, pl.List)
        )
        console.file.write(flat.write_csv())
    elif kind == "json":
        console.file.write(frame.write_json() + "\n")
    else:
        console.print(frame_table(frame))
