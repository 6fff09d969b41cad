"""What a model answers to pictures: every logit and embedding in the object store, and how they are read."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from gbif_platform.settings import fingerprint
from gbif_platform.steps.run import Run
from gbif_platform.steps.trained_model import beside, open_bundle
from gbif_platform.training.config import EvaluationSpec

if TYPE_CHECKING:
    from gbif_platform.evaluation.hierarchy import Hierarchy
    from gbif_platform.evaluation.scores import Scores

LOGITS, EMBEDDINGS, NEAREST, ASKED = "logits.npy", "embeddings.npy", "nearest.npy", "asked.json"
CENTROID_PICTURES = 50
"""Training pictures of a label whose embeddings make up its centroid; by media id, which is a hash."""
MADE_SLICES = {
    "year": ("event_date",),
    "season": ("event_date", "decimal_latitude"),
    "daylight": ("event_date", "decimal_latitude", "decimal_longitude"),
    "observer": ("recorded_by",),
}
"""Slices that are no column, and the columns that they are made from."""


@dataclass(frozen=True)
class Model:
    """What is needed of a bundle to read its answers; no torch.

    Attributes:
        key: of the bundle in the object store.
        labels: C names.
        counts: int64 (C,), training pictures.
        spec: how it was trained.
        hierarchy: over the labels.
    """

    key: str
    labels: list[str]
    counts: np.ndarray
    spec: dict[str, Any]
    hierarchy: "Hierarchy"

    @classmethod
    def of(cls, run: Run, key: str) -> "Model":
        """The model of a bundle."""
        from gbif_platform.evaluation.hierarchy import RANKS, Hierarchy, in_order

        described = json.loads(run.platform.objects.get(f"{key}/bundle.json"))
        labels, taxonomy = described["labels"], described["taxonomy"]
        lineage = {rank: [taxonomy.get(label, {}).get(rank) for label in labels] for rank in RANKS}
        return cls(
            key,
            labels,
            np.array(described["class_counts"], dtype=np.int64),
            described["spec"],
            Hierarchy.from_names(in_order(lineage), len(labels)),
        )

    @property
    def output(self) -> str:
        """softmax or sigmoid."""
        return str(self.spec.get("output", "softmax"))

    def adjustment(self, tau: float) -> np.ndarray:
        """What is added to the logits, float64 (C,): 0 = labels as frequent as in training, 1 = all equally."""
        from gbif_platform.training.priors import answer_adjustment

        return answer_adjustment(self.counts.tolist(), self.spec, 0.0 if self.output == "sigmoid" else tau)

    def numbers(self, labels: pl.Series) -> np.ndarray:
        """int64 (N,): the output of each label, −1 for one that the model does not know."""
        index = {name: place for place, name in enumerate(self.labels)}
        return labels.replace_strict(index, default=-1, return_dtype=pl.Int64).to_numpy()

    def scores(
        self,
        run: Run,
        answers: str,
        labels: pl.Series,
        *,
        tau: float,
        temperature: float,
        rows: pl.Series | None = None,
        k: int = 10,
    ) -> "Scores":
        """The answers kept under `answers` to pictures with these labels, under a prior and a temperature.

        Args:
            rows: of the answers, one a label; None = all.
        """
        from gbif_platform.evaluation.answers import Answers
        from gbif_platform.evaluation.scores import score

        kept = Answers.of_object(run.platform.objects, f"{answers}/{LOGITS}")
        return score(
            kept if rows is None else kept.select(rows.to_numpy()),
            self.numbers(labels),
            output=self.output,
            temperature=temperature,
            adjustment=self.adjustment(tau),
            hierarchy=self.hierarchy,
            k=k,
        )

    def temperature(self, run: Run, answers: str, pictures: pl.DataFrame, tau: float) -> float:
        """The temperature that suits these pictures (answer_row, url_id, label, labels), for a prior."""
        from gbif_platform.evaluation.answers import Answers
        from gbif_platform.evaluation.calibration import fit_sigmoid_temperature, fit_temperature

        kept, adjustment = Answers.of_object(run.platform.objects, f"{answers}/{LOGITS}"), self.adjustment(tau)
        if self.output == "sigmoid":
            rows, target = self.targets(pictures)
            return fit_sigmoid_temperature(kept.select(rows), target, adjustment=adjustment)
        own = kept.select(pictures["answer_row"].to_numpy())
        return fit_temperature(own, self.numbers(pictures["label"]), adjustment=adjustment)

    def targets(self, pictures: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """All that is true of each picture, once, however many of the rows (answer_row, url_id, label, labels) it has.

        Returns:
            int64 (n,), its row among the answers, and bool (n, C). Pictures of no label of the model's are left out.
        """
        known = pictures.filter(pl.col("label").is_in(self.labels))
        one_each = known.unique("url_id", keep="first", maintain_order=True)
        pairs = one_each.with_row_index("place").explode("labels").filter(pl.col("labels").is_in(self.labels))
        target = np.zeros((len(one_each), len(self.labels)), dtype=bool)
        target[pairs["place"].to_numpy(), self.numbers(pairs["labels"])] = True
        return one_each["answer_row"].cast(pl.Int64).to_numpy(), target


def answer(run: Run, stage: str, bundle_key: str, pictures: pl.DataFrame, train: pl.DataFrame | None = None) -> str:
    """Ask a model for its answers to pictures, unless they are kept already.

    Args:
        stage: for the progress.
        pictures: media_id, label, shard, offset, size; by media id.
        train: the same of training pictures, where the nearest centroids are wanted too.

    Returns:
        The key under which the answers lie in the object store: `logits.npy` and `embeddings.npy`, float16, rows as the
        pictures; `nearest.npy`, int32 (N, k), the labels of the nearest centroids.
    """
    from gbif_platform.training.predict import predict

    objects = run.platform.objects
    asked = {"pictures": fingerprint(*pictures["media_id"].to_list()), "centroids": train is not None}
    key = f"{beside(bundle_key, 'answers')}/{asked['pictures']}"
    if objects.exists(f"{key}/{ASKED}") and json.loads(objects.get(f"{key}/{ASKED}")) == asked:
        return key
    bundle, tell = open_bundle(run, "", bundle_key), run.progress(stage)
    work = run.platform.work_folder("answers", fingerprint(key))

    def told(done: int, total: int) -> None:
        tell(done, total, "pictures answered")

    shards = run.platform.shards
    predicted = predict(bundle, _samples(pictures), shards, work / "asked", progress=told)
    objects.put(f"{key}/{LOGITS}", predicted.logits)
    objects.put(f"{key}/{EMBEDDINGS}", predicted.embeddings)
    if train is not None:
        from gbif_platform.evaluation.answers import Answers
        from gbif_platform.evaluation.baselines import centroid_answers

        shown = train.sort("media_id").group_by("label", maintain_order=True).head(CENTROID_PICTURES).sort("media_id")
        learnt = predict(bundle, _samples(shown), shards, work / "train", progress=told)
        nearest, _ = centroid_answers(
            Answers.open(learnt.embeddings),
            Model.of(run, bundle_key).numbers(shown["label"]),
            Answers.open(predicted.embeddings),
            classes=len(bundle.labels),
        )
        objects.put(f"{key}/{NEAREST}", _npy(nearest))
    objects.put(f"{key}/{ASKED}", json.dumps(asked).encode())  # last: what is described is whole
    shutil.rmtree(work, ignore_errors=True)
    return key


def several_labels(
    run: Run, answers: str, known: Model, pictures: pl.DataFrame, *, temperature: float, training_pictures: int
) -> dict[str, tuple[float, float | None]]:
    """What is worth knowing of a sigmoid model besides: metric → value and that of the training's label frequencies.

    Args:
        pictures: answer_row, url_id, label, labels; one of them at least with a label of the model's.
        temperature: that the model answers with.
        training_pictures: that the model's label counts are of.
    """
    from gbif_platform.evaluation.answers import Answers
    from gbif_platform.evaluation.multilabel import multilabel_values

    rows, target = known.targets(pictures)
    found = multilabel_values(
        Answers.of_object(run.platform.objects, f"{answers}/{LOGITS}").select(rows),
        target,
        temperature=temperature,
        adjustment=known.adjustment(0.0),
        prior=known.counts / training_pictures,
    )
    return {
        "macro_average_precision": (found.macro_average_precision, None),
        "binary_log_loss": (found.binary_log_loss, found.baseline_log_loss),
    }


def nearest(run: Run, answers: str) -> np.ndarray:
    """The labels of the nearest centroids, int32 (N, k)."""
    kept: np.ndarray = np.load(BytesIO(run.platform.objects.get(f"{answers}/{NEAREST}")), allow_pickle=False)
    return kept


def _samples(pictures: pl.DataFrame) -> Any:
    from gbif_platform.training.data import Samples

    one_each = pictures.select("media_id", "label", "shard", "offset", "size")
    return Samples.from_table(one_each.to_arrow(), pictures["label"].unique().sort().to_list())


def _npy(array: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def known_slices(run: Run) -> set[str]:
    """All names that a slice can have; those of the default too where no record of the lake has the term."""
    with run.reader() as con:
        columns = {*run.rows(con, "media_urls").columns, *run.rows(con, "occurrences").columns}
    return columns | {*MADE_SLICES, *EvaluationSpec().slices}


def slice_values(run: Run, pictures: pl.DataFrame, names: Sequence[str]) -> Mapping[str, pl.Series | Any]:
    """What each picture has under the names of slices; a name that is known of nothing is left out.

    Args:
        pictures: media_id.
        names: columns of occurrences or media, or year, season, daylight, observer.
    """
    from gbif_platform.evaluation import slices

    rows = pictures.select("media_id").with_row_index("place")  # noqa: F841  read by name
    wanted = {*names, "event_date", "decimal_latitude", "decimal_longitude", "recorded_by"}
    with run.reader() as con:
        media, occurrences = run.rows(con, "media_urls"), run.rows(con, "occurrences")
        sources = dict.fromkeys(media.columns, "m") | dict.fromkeys(occurrences.columns, "o")
        columns = [f'{sources[name]}."{name}"' for name in sorted(wanted & sources.keys())]
        described = con.sql(
            f"SELECT place, {', '.join([*columns, 'NULL AS none'])} FROM rows JOIN media AS m USING (media_id) "
            "JOIN occurrences AS o USING (gbif_id) ORDER BY place"
        ).pl()
        observers: set[str] = set()
        if "observer" in names and "recorded_by" in occurrences.columns:
            splits = run.rows(con, "splits", "media_id, subset")  # noqa: F841
            seen = con.sql(
                "SELECT DISTINCT recorded_by FROM splits JOIN media USING (media_id) JOIN occurrences USING (gbif_id) "
                "WHERE subset = 'train' AND recorded_by IS NOT NULL"
            ).fetchall()
            observers = {name for (name,) in seen}
    found: dict[str, Any] = {}
    for name in names:
        needs = MADE_SLICES.get(name, (name,))
        if any(column not in described.columns for column in needs):
            continue
        values = [described[column] for column in needs]
        of_rows: Any
        if name == "observer":
            of_rows = slices.observer(values[0], observers)
        else:
            of_rows = getattr(slices, name)(*values) if name in MADE_SLICES else values[0]
        if set(of_rows) - {None, slices.UNKNOWN}:
            found[name] = of_rows
    return found
