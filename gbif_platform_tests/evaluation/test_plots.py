import io
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from gbif_platform.evaluation.plots import (
    MOST_CLASSES,
    bucket_bars,
    confusion_matrix,
    coverage_curve,
    reliability_diagram,
    shown_confusion,
    slice_bars,
    training_curves,
)
from gbif_platform_tests.evaluation.reports import report_data


def confusion(classes: int, rows: int = 2000) -> np.ndarray:
    random = np.random.default_rng(1)
    true = random.integers(0, classes, rows)
    predicted = np.where(random.random(rows) < 0.6, true, random.integers(0, classes, rows))
    pairs, counts = np.unique(np.column_stack([true, predicted]), axis=0, return_counts=True)
    return np.column_stack([pairs, counts])


def assert_readable(png: bytes) -> None:
    assert len(png) < 100_000
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    assert 200 <= image.width <= 1600
    assert 150 <= image.height <= 1600
    assert len(image.convert("RGB").getcolors(10_000) or []) > 5, "nothing is drawn"


@pytest.mark.parametrize("classes", [1, 3, 30, 300])
def test_the_confusion_matrix_is_readable_with_any_number_of_labels(classes: int) -> None:
    labels = [f"Genus speciesepithet var. {i}" for i in range(classes)]
    assert_readable(confusion_matrix(confusion(classes), labels))


def test_few_labels_are_all_shown_in_their_order() -> None:
    matrix, names = shown_confusion(confusion(4), list("abcd"))
    assert names == ["a", "b", "c", "d"]
    assert matrix.sum() == 2000


def test_many_labels_are_cut_to_the_worst_and_no_row_is_lost() -> None:
    counts = confusion(300, 20_000)
    matrix, names = shown_confusion(counts, [str(i) for i in range(300)])
    assert len(names) == MOST_CLASSES
    assert names[-1] == "all others"
    assert matrix.sum() == 20_000
    wrong = counts[counts[:, 0] != counts[:, 1]]
    errors = np.zeros(300)
    for true, predicted, rows in wrong:
        errors[true] += rows
        errors[predicted] += rows
    assert errors[int(names[0])] == errors.max()


def test_names_that_look_like_formulas_are_drawn() -> None:
    assert_readable(confusion_matrix(confusion(3), ["$\\frac$", "a_b^c", "日本 frog"]))


def test_no_predictions_at_all_still_give_a_picture() -> None:
    assert confusion_matrix(np.zeros((0, 3), dtype=np.int64), ["a", "b"])


def test_training_curves_with_and_without_validation() -> None:
    history = [
        {"epoch": e, "train_loss": 1 / (e + 1), "val_loss": 1.1 / (e + 1), "val_top1": 0.5, "val_macro": 0.4}
        for e in range(5)
    ]
    assert_readable(training_curves(history, baseline=0.2))
    assert_readable(training_curves([{"epoch": 0, "train_loss": 1.0}]))


@pytest.mark.parametrize("classes", [10, 300])
def test_the_plots_of_an_asset_are_small_and_readable(classes: int) -> None:
    data = report_data(classes, pictures=0)
    assert_readable(reliability_diagram(data.reliability))
    assert_readable(coverage_curve(data.coverage))
    assert_readable(bucket_bars(data.classes))
    assert_readable(slice_bars(data.slices))


def test_many_slices_are_cut_to_the_worst() -> None:
    rows = [
        {"slice": "dataset_key", "value": f"$key_{i}", "rows": 30, "top1": i / 300, "top1_low": None, "top1_high": None,
         "worst": i == 0} for i in range(300)
    ]  # fmt: skip
    assert_readable(slice_bars(pa.Table.from_pylist(rows)))


def test_tables_without_rows_give_a_picture_that_says_so() -> None:
    data = report_data(10, pictures=0)
    for plot, table in (
        (reliability_diagram, data.reliability),
        (coverage_curve, data.coverage),
        (bucket_bars, data.classes),
        (slice_bars, data.slices),
    ):
        assert Image.open(io.BytesIO(plot(pl.DataFrame(table)[:0]))).width > 200


def test_importing_plots_and_metrics_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, gbif_platform.evaluation.plots, gbif_platform.evaluation.metrics;"
        "print([m for m in ('torch', 'matplotlib', 'mlflow', 'dagster') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
