"""What near duplicates across a split do to its figures: monkeys10, 981 photographs of 10 labels, a published split.

Three models learn alike from random weights: on the published training part; on that part less the duplicates of
validation pictures; and on a split of the same sizes that keeps groups of duplicates together. Each is asked for the
validation pictures that have a duplicate in training, and for the others. Figures are means over seeds; intervals are
Wilson's, 95 %, over the pictures asked (over those of all seeds for the grouped split, which is drawn anew each time).
No peer: the question is about the data.
"""

import argparse
import csv
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt
from pathlib import Path

import numpy as np
import polars as pl
from harness import report

from gbif_platform.curation.near_duplicates import duplicate_groups, duplicate_pairs
from gbif_platform.images.perceptual import grey_square, perceptual_hashes
from gbif_platform.images.shards import ShardWriter
from gbif_platform.images.transform import Transform, transform_image
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.training.bundle import Provenance, save_bundle
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.data import Samples
from gbif_platform.training.predict import predict
from gbif_platform.training.run import train

MONKEYS = Path(__file__).resolve().parents[2] / "shared" / "data" / "photos" / "dev" / "monkeys10"
BITS = 4
STORED = Transform(size=128)
PUBLISHED, CLEANED, GROUPED = "published split", "… its duplicates removed from training", "grouped split"
WITH, WITHOUT, ALL = "with a duplicate in training", "without", "all"
KEYS = {PUBLISHED: "published", CLEANED: "cleaned", GROUPED: "grouped", WITH: "_leaked", WITHOUT: "_clean", ALL: ""}
PLACE = ("media_id", "label", "shard", "offset", "size")


def stored_pictures(objects: ObjectStore) -> pl.DataFrame:
    """The pictures in a shard: media_id, label, published, shard, offset, size, and what tells them apart."""
    with (MONKEYS / "labels.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    rows, squares = [], []
    with ShardWriter(objects, STORED.key) as writer:
        for number, row in enumerate(listed):
            stored = transform_image((MONKEYS / row["file"]).read_bytes(), STORED).data
            media_id = f"m{number:04d}"
            offset, size = writer.add(media_id, stored, STORED.suffix)
            squares.append(grey_square(stored))
            rows.append(
                {
                    "media_id": media_id,
                    "label": row["scientificName"],
                    "published": row["source_split"],
                    "offset": offset,
                    "size": size,
                    "source_sha256": row["sha256"],
                    "sha256": sha256(stored).hexdigest(),
                }
            )
        shard = writer.close()
    hashes = pl.Series("phash", perceptual_hashes(squares).phash)
    return pl.DataFrame(rows).with_columns(hashes, shard=pl.lit(shard))


def grouped_split(pictures: pl.DataFrame, seed: int) -> pl.Series:
    """As many test pictures of each label as the published validation has, whole groups in a drawn order."""
    wanted = Counter(pictures.filter(pl.col("published") == "validation")["label"])
    groups = pictures.group_by("group_id", maintain_order=True).agg(pl.len(), pl.col("label").first())
    test = set()
    for number in np.random.default_rng(seed).permutation(len(groups)):
        group_id, members, label = groups.row(int(number))
        if members <= wanted[label]:
            wanted[label] -= members
            test.add(group_id)
    return pictures["group_id"].is_in(list(test))


@dataclass
class Score:
    """Right answers of all asked, over several trainings."""

    right: int = 0
    asked: int = 0
    seeds: int = 0

    def add(self, answers: Iterable[bool]) -> None:
        """The answers of one training."""
        answers = list(answers)
        self.right, self.asked, self.seeds = self.right + sum(answers), self.asked + len(answers), self.seeds + 1

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.asked

    def interval(self, independent: bool) -> tuple[float, float]:
        """Wilson's 95 % interval; the same pictures asked again under another seed are no further pictures."""
        count = self.asked if independent else self.asked / self.seeds
        z, share = 1.96, self.accuracy
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z * sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
        return middle - half, middle + half


def answers(
    training: pl.DataFrame, asked: pl.DataFrame, labels: list[str], objects: ObjectStore, spec: ModelSpec, work: Path
) -> dict[str, bool]:
    """Whether a model trained on the one part names each picture of the other rightly, by media_id."""
    nothing = Samples.from_table(training.clear().select(PLACE).to_arrow(), labels)
    samples = [Samples.from_table(part.select(PLACE).to_arrow(), labels) for part in (training, asked)]
    result = train(spec, samples[0], nothing, labels, objects, work / "run")
    bundle = save_bundle(work / "bundle", result, spec, labels, Provenance("monkeys10", "published"))
    table = predict(bundle, samples[1], objects, k=1, threads=spec.threads)
    names, truth, top = (table[column].to_pylist() for column in ("media_id", "label", "top_labels"))
    return {name: true == best[0] for name, true, best in zip(names, truth, top, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of each training")
    given = parser.parse_args()
    if not (MONKEYS / "labels.csv").exists():
        sys.exit(f"error: real test data not found at {MONKEYS}")
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), given.seeds, given.epochs)


def run(folder: Path, seeds: int, epochs: int) -> None:
    """All trainings, and the table."""
    objects = ObjectStore(str(folder / "objects"))
    pictures = stored_pictures(objects)
    alike = duplicate_pairs(pictures.rename({"media_id": "url_id"}), BITS)
    groups = duplicate_groups(alike).rename({"url_id": "media_id"})
    pictures = pictures.join(groups, on="media_id", how="left", maintain_order="left")
    pictures = pictures.with_columns(pl.col("group_id").fill_null(pl.col("media_id")))
    training = pictures.filter(pl.col("published") == "training")
    validation = pictures.filter(pl.col("published") == "validation")
    leaked = set(validation.filter(pl.col("group_id").is_in(training["group_id"].to_list()))["media_id"])
    cleaned = training.filter(~pl.col("group_id").is_in(validation["group_id"].to_list()))
    labels = sorted(pictures["label"].unique())
    print(
        f"{len(training)} training, {len(validation)} validation, {len(leaked)} of these with a duplicate in training"
    )

    names, parts = (PUBLISHED, CLEANED, GROUPED), (WITH, WITHOUT, ALL)
    scores = {(name, part): Score() for name in names for part in parts}
    for seed in range(1, seeds + 1):
        in_test = grouped_split(pictures, seed)
        grouped = (pictures.filter(~in_test), pictures.filter(in_test))
        for name, (learnt, asked) in zip(names, ((training, validation), (cleaned, validation), grouped), strict=True):
            spec = ModelSpec(
                backbone="test_resnet", image_size=96, learning_rate=0.004, epochs=epochs, seed=seed, threads=1
            )
            right = answers(learnt, asked, labels, objects, spec, folder / f"{names.index(name)}-{seed}")
            scores[name, ALL].add(right.values())
            if name != GROUPED:
                scores[name, WITH].add(right[media_id] for media_id in right if media_id in leaked)
                scores[name, WITHOUT].add(right[media_id] for media_id in right if media_id not in leaked)
            print(f"seed {seed}  {name}: {scores[name, 'all'].accuracy:.3f} so far", flush=True)
    show(scores, len(cleaned), len(training), seeds, epochs)


def show(scores: dict[tuple[str, str], Score], cleaned: int, training: int, seeds: int, epochs: int) -> None:
    """The table and the last line."""
    rows, figures = [], {"benchmark": "leakage", "seeds": seeds, "epochs": epochs}
    for (name, part), score in scores.items():
        if not score.seeds:
            continue
        low, high = score.interval(independent=name == GROUPED)
        rows.append((name, part, score.asked // score.seeds, f"{score.accuracy:.1%}", f"{low:.1%} to {high:.1%}"))
        figures[KEYS[name] + KEYS[part]] = round(score.accuracy, 4)
    notes = [
        f"Training pictures: {training}; without duplicates of validation pictures {cleaned}. Means of {seeds} seeds."
    ]
    report("monkeys10, accuracy", ("trained on", "validation pictures", "n", "accuracy", "95 %"), rows, notes, figures)


if __name__ == "__main__":
    main()
