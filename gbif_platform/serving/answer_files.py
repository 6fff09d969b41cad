"""Answers as rows: one a picture, in order, also of those that could not be read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from gbif_platform.errors import PlatformError
from gbif_platform.training.files import write_atomically

if TYPE_CHECKING:
    from gbif_platform.serving.pictures import Problem
    from gbif_platform.serving.predictor import Answered, Reading

ENDINGS = (".csv", ".parquet", ".jsonl")


def check_ending(path: Path) -> None:
    """Refuse a file that `write_answers` could not write, before hours of work. Raises PlatformError."""
    if path.suffix.lower() not in ENDINGS:
        raise PlatformError(f"{path} is no {', '.join(ENDINGS)} file", "choose one of these endings")


def answer_rows(
    answers: "Answered", reading: "Reading", min_score: float = 0.0, never_found: Sequence["Problem"] = ()
) -> pl.DataFrame:
    """One row a picture: path, label, score, taxon_key, labels, scores, taxon_keys, problem, detail.

    Label, score and key are the first of the lists, which are best first; answers below `min_score` are left out.
    `problem` says why there is no answer at all; last come the rows that named no picture.
    """
    names, keys = pl.Series(reading.names, dtype=pl.String), pl.Series(reading.keys, dtype=pl.String)
    count, k = answers.top.shape
    kept = (answers.top >= 0) & (np.nan_to_num(answers.score) >= min_score)
    top = answers.top.ravel()[kept.ravel()].astype(np.uint32)
    long = pl.DataFrame(
        {
            "row": np.repeat(np.arange(count), k)[kept.ravel()],
            "labels": names.gather(top),
            "scores": answers.score.ravel()[kept.ravel()],
            "taxon_keys": keys.gather(top),
        }
    )
    lists = long.group_by("row", maintain_order=True).agg("labels", "scores", "taxon_keys")
    problems = answers.problems | dict(enumerate(never_found, count))
    told = pl.DataFrame(
        [(row, problem.reason, problem.detail) for row, problem in problems.items()],
        schema={"row": pl.Int64, "problem": pl.String, "detail": pl.String},
        orient="row",
    )
    paths = pl.Series([*answers.names, *(problem.name for problem in never_found)], dtype=pl.String)
    rows = pl.DataFrame({"row": np.arange(len(paths)), "path": paths})
    rows = rows.join(lists, on="row", how="left", maintain_order="left")
    rows = rows.join(told, on="row", how="left", maintain_order="left")
    first = {"label": "labels", "score": "scores", "taxon_key": "taxon_keys"}
    return rows.select(
        "path",
        *(pl.col(many).list.first().alias(one) for one, many in first.items()),
        *(pl.col(many).fill_null([]) for many in first.values()),
        "problem",
        "detail",
    )


def side_by_side(rows: pl.DataFrame, k: int) -> pl.DataFrame:
    """The same with a column for each answer: path, label_1, score_1, taxon_key_1, label_2, …, problem, detail."""
    places = {"label": "labels", "score": "scores", "taxon_key": "taxon_keys"}
    columns = [
        pl.col(many).list.get(place, null_on_oob=True).alias(f"{one}_{place + 1}")
        for place in range(k)
        for one, many in places.items()
    ]
    return rows.select("path", *columns, "problem", "detail")


def write_answers(rows: pl.DataFrame, path: Path, k: int) -> None:
    """Write rows as `.csv` (side by side), `.parquet` or `.jsonl`, whole or not at all."""
    check_ending(path)
    writers: dict[str, Callable[[Path], None]] = {
        ".csv": lambda temporary: side_by_side(rows, k).write_csv(temporary),
        ".parquet": lambda temporary: rows.write_parquet(temporary),
        ".jsonl": lambda temporary: rows.write_ndjson(temporary),
    }
    write_atomically(path, writers[path.suffix.lower()])
