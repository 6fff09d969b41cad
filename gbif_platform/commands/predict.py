"""`gbif-platform predict`: what a model says of pictures from anywhere."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from gbif_platform.commands.shared import console, errors, find_run
from gbif_platform.errors import PlatformError, first_line
from gbif_platform.platform import Platform
from gbif_platform.settings import load_settings

if TYPE_CHECKING:
    import polars as pl

    from gbif_platform.serving.pictures import Pictures, Problem
    from gbif_platform.serving.predictor import Answered, Reading
    from gbif_platform.training.bundle import Bundle

TOLD = 20  # problems; the file has all


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--dataset", "name", help="Instead of IMAGES: the pictures of this dataset.")
@click.option("--snapshot", "key", help="With --dataset: a snapshot's key; default: the one added last.")
@click.option("--subset", help="With --dataset: this subset alone, such as test.")
@click.option("--to", "file", type=click.Path(path_type=Path), help="FILE.csv, .parquet or .jsonl; default: a table.")
@click.option("--top-k", "k", type=click.IntRange(1), default=5, show_default=True, help="Answers for each picture.")
@click.option(
    "--tau", type=click.FloatRange(0, 2), help="Prior: 0 = as frequent as in training, 1 = all equally likely."
)
@click.option("--rank", help="Answer at this rank, such as genus, by summed probabilities.")
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.0, help="Leave out answers below it.")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Pictures at a time.")
@click.option("--threads", type=click.IntRange(1), help="That read and decode.  [default: one per core]")
@click.option("--device", help="cpu, cuda, cuda:1 …  [default: the first GPU, else cpu]")
@click.option("--strict", is_flag=True, help="Exit with 1 where a picture could not be read.")
def predict(
    model: str,
    images: tuple[Path, ...],
    name: str | None,
    key: str | None,
    subset: str | None,
    file: Path | None,
    k: int,
    tau: float | None,
    rank: str | None,
    min_score: float,
    batch_size: int,
    threads: int | None,
    device: str | None,
    strict: bool,
) -> None:
    """Say what is on pictures: one row a picture, its best labels with scores and GBIF keys.

    MODEL is a bundle's folder, DATASET/MODEL (or DATASET/MODEL@SNAPSHOT), or models:/NAME@ALIAS of MLflow. IMAGES are
    files, folders with all below them, and tables (CSV, TSV, Parquet) with a column path or file_name.
    """
    from gbif_platform.serving.answer_files import answer_rows, check_ending, write_answers
    from gbif_platform.serving.models import find_model
    from gbif_platform.serving.predictor import Reading

    if bool(images) == bool(name):
        raise PlatformError("name pictures or a dataset", "gbif-platform predict MODEL IMAGES… or --dataset NAME")
    if (key or subset) and not name:
        raise PlatformError("--snapshot and --subset are a dataset's", "add --dataset NAME")
    if file:
        check_ending(file)
    platform = Platform(load_settings())
    bundle = find_model(platform, model)
    reading = Reading(bundle, tau=tau, rank=rank)
    options = (tau, rank, file and file.absolute())
    asked = _Asked(platform, bundle, reading, options, k, batch_size, threads, device)
    answers, problems = asked.of_dataset(name, key, subset) if name else asked.of_files(images)
    rows = answer_rows(answers, reading, min_score, problems)
    if file:
        write_answers(rows, file, k)
    else:
        console.print(_table(rows))
    asked.forget()
    problems = [*answers.problems.values(), *problems]
    _tell(answers, problems, asked.device, file)
    if strict and problems:
        sys.exit(1)


class _Asked:
    """How pictures are answered, whichever they are."""

    def __init__(
        self,
        platform: Platform,
        bundle: "Bundle",
        reading: "Reading",
        options: tuple[object, ...],
        k: int,
        batch_size: int,
        threads: int | None,
        device: str | None,
    ) -> None:
        from gbif_platform.training.predict import Inference

        try:
            self._inference = Inference(bundle, device)
        except (RuntimeError, AssertionError) as error:
            if device is None:
                raise
            said = f"device {device!r} cannot be used: {first_line(str(error))}"
            raise PlatformError(said, "leave out --device") from error
        self._platform, self._bundle, self._reading = platform, bundle, reading
        self._k, self._batch_size, self._threads = k, batch_size, threads
        self.device = str(self._inference.device)
        self._options = (*options, k, batch_size, self.device)
        self._kept: Path | None = None

    def of_dataset(self, name: str, key: str | None, subset: str | None) -> "tuple[Answered, list[Problem]]":
        from gbif_platform.serving.pictures import stored_pictures

        run = find_run(self._platform, name, key, "gbif-platform predict")
        with closing(stored_pictures(run, subset)) as pictures:
            return self._answer(pictures), []

    def of_files(self, images: Sequence[Path]) -> "tuple[Answered, list[Problem]]":
        from gbif_platform.serving.pictures import FilePictures, find_files, transform_of

        found = find_files(images)
        if found.aside:
            errors.print(f"{found.aside:,} files in the folders are no pictures by their names", highlight=False)
        return self._answer(FilePictures(found.files, transform_of(self._bundle))), found.problems

    def _answer(self, pictures: "Pictures") -> "Answered":
        from gbif_platform.serving.predictor import answer, call_digest
        from gbif_platform.terminal import RunDisplay

        digest = call_digest(self._bundle, pictures, *self._options)
        self._kept = self._platform.settings.home / "work" / "predict" / digest[:32]
        with RunDisplay(errors) as display:
            return answer(
                self._inference,
                pictures,
                self._reading,
                k=self._k,
                batch_size=self._batch_size,
                threads=self._threads,
                progress=lambda done, total, rate: display("predict", done, total, f"{rate:,.0f} pictures/s"),
                folder=self._kept,
            )

    def forget(self) -> None:
        """Remove what was kept of the answers; they are safe elsewhere."""
        if self._kept is not None:
            shutil.rmtree(self._kept, ignore_errors=True)


def _table(rows: "pl.DataFrame") -> object:
    import polars as pl

    from gbif_platform.terminal import frame_table

    said = [
        ", ".join(f"{label} {score:.1%}" for label, score in zip(labels, scores, strict=True))
        for labels, scores in rows.select("labels", "scores").iter_rows()
    ]
    shown = {"path": rows["path"].to_list(), "answers": said, "problem": rows["problem"].fill_null("").to_list()}
    return frame_table(pl.DataFrame({name: [escape(text) for text in texts] for name, texts in shown.items()}))


def _tell(answers: "Answered", problems: "list[Problem]", device: str, file: Path | None) -> None:
    """The last lines: what was not read and why, and how fast it went."""
    for problem in problems[:TOLD]:
        errors.print(
            f"not read: {problem.name}: {problem.reason} {problem.detail}".rstrip(), markup=False, soft_wrap=True
        )
    if len(problems) > TOLD:
        errors.print(f"… and {len(problems) - TOLD:,} more", highlight=False)
    read = len(answers.names) - len(answers.problems)
    where = f" → {file}" if file else ""
    earlier = f" (the first {answers.earlier:,} from an earlier call)" if answers.earlier else ""
    said = f"{read:,} pictures{earlier}, {answers.rate:,.1f} a second on {device}; not read: {len(problems):,}{where}"
    errors.print(said, highlight=False, markup=False, soft_wrap=True)
