import json
from pathlib import Path

import numpy as np
import pytest

from gbif_platform.training.bundle import Bundle, BundleError, Provenance, load_bundle, save_bundle
from gbif_platform.training.config import ModelSpec
from gbif_platform.training.predict import predict
from gbif_platform.training.run import TrainResult
from gbif_platform_tests.training.conftest import TINY, Toy
from gbif_platform_tests.training.shards import PATTERNS

PROVENANCE = Provenance("toy", "2026-10", lake_version=7, doi="10.15468/dl.toy", licences={"CC0-1.0": 50})


@pytest.fixture
def bundle(trained: TrainResult, tmp_path: Path) -> Bundle:
    taxonomy = {"vertical": {"family": "Stripes"}}
    return save_bundle(tmp_path / "bundle", trained, ModelSpec(**TINY, epochs=3), PATTERNS, PROVENANCE, taxonomy)


def test_a_bundle_holds_what_serving_needs(bundle: Bundle, trained: TrainResult) -> None:
    assert {path.name for path in bundle.folder.iterdir()} == {"model.safetensors", "bundle.json"}
    assert load_bundle(bundle.folder) == bundle
    assert bundle.labels == PATTERNS
    assert bundle.class_counts == trained.class_counts
    assert bundle.provenance == PROVENANCE
    assert bundle.preprocess == trained.preprocess
    assert bundle.taxonomy["vertical"]["family"] == "Stripes"


def test_saving_again_replaces_the_bundle(bundle: Bundle, trained: TrainResult) -> None:
    (bundle.folder / "stray").touch()
    save_bundle(bundle.folder, trained, ModelSpec(**TINY), PATTERNS, PROVENANCE)
    assert {path.name for path in bundle.folder.iterdir()} == {"model.safetensors", "bundle.json"}
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    "damage", ["no folder", "not json", "format", "labels", "preprocess", "weights", "cut weights"]
)
def test_a_damaged_bundle_is_refused_in_words(bundle: Bundle, damage: str) -> None:
    path, weights = bundle.folder / "bundle.json", bundle.folder / "model.safetensors"
    description = json.loads(path.read_text())
    match damage:
        case "no folder":
            bundle.folder.rename(bundle.folder.with_name("elsewhere"))
        case "not json":
            path.write_text("{")
        case "format":
            path.write_text(json.dumps({**description, "format": "other/2"}))
        case "labels":
            path.write_text(json.dumps({**description, "labels": ["a"]}))
        case "preprocess":
            path.write_text(json.dumps({**description, "preprocess": {"size": 32}}))
        case "weights":
            weights.unlink()
        case "cut weights":
            weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BundleError) as error:
        load_bundle(bundle.folder)
    assert str(bundle.folder) in error.value.cause
    assert error.value.next_step


def test_predictions_are_one_row_a_medium(bundle: Bundle, toy: Toy) -> None:
    table = predict(bundle, toy.validation, toy.store, batch_size=7)
    assert table["media_id"].to_pylist() == toy.validation.media_id.to_pylist()
    assert table["label"].to_numpy().tolist() == toy.validation.label.tolist()
    probabilities = np.stack(table["top_probabilities"].to_numpy())
    top = np.stack(table["top_labels"].to_numpy())
    assert top.shape == (24, 3), "k is at most the number of labels"
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (np.diff(probabilities, axis=1) <= 0).all()
    own = np.log(
        [
            row[names.tolist().index(label)]
            for row, names, label in zip(probabilities, top, toy.validation.label, strict=True)
        ]
    )
    assert np.allclose(table["label_log_probability"].to_numpy(), own, atol=1e-4)


def test_predictions_do_not_depend_on_the_batches(bundle: Bundle, toy: Toy) -> None:
    one, many = (predict(bundle, toy.validation, toy.store, batch_size=size, k=2) for size in (24, 5))
    assert one["top_labels"] == many["top_labels"]
    assert np.allclose(one["label_log_probability"].to_numpy(), many["label_log_probability"].to_numpy(), atol=1e-4)


def test_predictions_agree_with_the_validation_of_the_best_epoch(
    bundle: Bundle, toy: Toy, trained: TrainResult
) -> None:
    table = predict(bundle, toy.validation, toy.store)
    best = np.stack(table["top_labels"].to_numpy())[:, 0]
    top1 = float((best == toy.validation.label).mean())
    # bfloat16 in training, float32 here: one picture may fall on the other side
    assert top1 == pytest.approx(trained.history[trained.best_epoch]["val_top1"], abs=1.01 / 24)


def test_no_samples_give_an_empty_table_of_the_same_columns(bundle: Bundle, toy: Toy) -> None:
    empty = predict(bundle, toy.nothing, toy.store)
    assert empty.schema == predict(bundle, toy.validation, toy.store).schema
    assert empty.num_rows == 0
