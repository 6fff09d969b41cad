"""What is read out of kept answers, without any training."""

from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import expit
from sklearn.metrics import average_precision_score

from gbif_platform.dataset import Dataset
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.multilabel import binary_log_loss
from gbif_platform.platform import Platform
from gbif_platform.settings import Settings
from gbif_platform.steps.evaluation_metrics import new_to_ancestors
from gbif_platform.steps.model_answers import LOGITS, Model, several_labels
from gbif_platform.steps.run import Run

LABELS = ["blank", "giraffe", "zebra"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    source = {"source": {"image_folder": {"path": str(tmp_path)}}}
    return Run(Platform(Settings(home=tmp_path / "home")), Dataset.model_validate({"name": "plains"} | source), "s")


def test_a_picture_under_several_labels_counts_once(run: Run) -> None:
    """Every second picture stands under giraffe and zebra, and is two rows; one has a label that is not known too."""
    random = np.random.default_rng(1)
    sets = [["giraffe", "zebra"] if at % 2 else ["blank"] for at in range(40)]
    sets[1] = ["giraffe", "okapi", "zebra"]
    rows = [(f"url {at}", label, labels) for at, labels in enumerate(sets) for label in labels]
    pictures = pl.DataFrame(rows, schema=["url_id", "label", "labels"], orient="row").with_row_index("answer_row")
    target = np.array([[label in labels for label in LABELS] for labels in sets])
    of_picture = (random.normal(0, 2, target.shape) + 2 * target).astype(np.float16)
    place = [int(url.split()[1]) for url in pictures["url_id"]]
    buffer = BytesIO()
    np.save(buffer, of_picture[place])
    run.platform.objects.put(f"answers/{LOGITS}", buffer.getvalue())

    model = Model("bundle", LABELS, np.array([10, 30, 30]), {"output": "sigmoid"}, Hierarchy.none(3))
    found = several_labels(run, "answers", model, pictures, temperature=2.0, training_pictures=40)
    wide = of_picture.astype(np.float64)
    served = binary_log_loss(target, expit(wide / 2))
    frequencies = binary_log_loss(target, np.array([[10, 30, 30]]) / 40)
    assert found["binary_log_loss"] == pytest.approx((served, frequencies))
    assert found["macro_average_precision"][0] == pytest.approx(average_precision_score(target, wide))
    assert model.temperature(run, "answers", pictures, 0.0) == pytest.approx(
        model.temperature(run, "answers", pictures.unique("url_id").sample(fraction=1, shuffle=True), 0.0), rel=0.01
    )


def test_what_a_model_was_started_from_has_seen_is_left_out() -> None:
    outside = pl.DataFrame(
        {
            "media_id": [f"m{at}" for at in range(6)],
            "url_id": [f"u{at}" for at in range(6)],
            "group_id": [f"g{at}" for at in range(6)],
            "subset": ["test", "test", "abroad", "validation", "validation", "validation"],
        }
    )
    seen = pl.DataFrame(
        {
            "media_id": ["m0", "other", "m2", "m3", "m4"],
            "url_id": ["u0", "another", "u2", "u3", "u4"],
            "group_id": ["g0", "g1", "g2", "g3", "g4"],
            "subset": ["train", "validation", "train", "train", "validation"],
        }
    )
    # m1 by its group; m4 has chosen models before, as it does now.
    assert new_to_ancestors(outside, seen)["media_id"].to_list() == ["m4", "m5"]
    assert new_to_ancestors(outside, seen.clear())["media_id"].to_list() == outside["media_id"].to_list()
