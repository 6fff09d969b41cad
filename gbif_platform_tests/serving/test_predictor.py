from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, softmax

from gbif_platform.images.transform import Transform
from gbif_platform.serving.answer_files import answer_rows, side_by_side
from gbif_platform.serving.pictures import FilePictures, Problem, transform_of
from gbif_platform.serving.predictor import Answered, AnswerError, Reading, answer, gbif_key, taxon_at
from gbif_platform.training.bundle import Bundle, with_calibration
from gbif_platform.training.predict import Inference
from gbif_platform_tests.serving.conftest import SPECIES, scene
from gbif_platform_tests.training.bundles import rewritten

LOGITS = arrays(np.float32, (4, 3), elements=st.floats(-50, 50, width=32))


@given(LOGITS)
def test_temperature_and_prior_are_those_of_the_bundle_unless_said(bundle: Bundle, logits: np.ndarray) -> None:
    plain = Reading(bundle).probabilities(logits)
    assert np.allclose(plain, softmax(logits, axis=1), atol=1e-5)
    balanced = Reading(bundle, tau=1.0).probabilities(logits)
    assert np.allclose(balanced, softmax(logits - np.log([100, 50, 33]), axis=1), atol=1e-5)


@given(LOGITS)
def test_a_rank_sums_the_probabilities_of_its_labels(bundle: Bundle, logits: np.ndarray) -> None:
    shares, genera = Reading(bundle).probabilities(logits), Reading(bundle, rank="genus")
    assert genera.names == ["Bufo", "Rana"]
    summed = np.stack([shares[:, 0], shares[:, 1] + shares[:, 2]], axis=1)
    assert np.allclose(genera.probabilities(logits), summed, atol=1e-5)


def test_a_calibrated_bundle_is_read_as_calibrated(bundle: Bundle, tmp_path: Path) -> None:
    calibrated = with_calibration(rewritten(bundle, tmp_path / "copy").folder, 2.0, 1.0)
    logits = np.array([[3.0, -1.0, 0.5]], np.float32)
    expected = softmax(logits / 2 - np.log([100, 50, 33]), axis=1)
    assert np.allclose(Reading(calibrated).probabilities(logits), expected, atol=1e-6)
    assert np.allclose(Reading(calibrated, tau=0.0).probabilities(logits), softmax(logits / 2, axis=1), atol=1e-6)


def test_a_sigmoid_model_answers_for_each_label_alone(bundle: Bundle, tmp_path: Path) -> None:
    sigmoid = rewritten(bundle, tmp_path / "sigmoid", output="sigmoid")
    logits = np.array([[800.0, -800.0, 0.3]], np.float32)
    assert np.allclose(Reading(sigmoid).probabilities(logits), expit(logits), atol=1e-6)
    shifted = rewritten(sigmoid, tmp_path / "shifted", spec={**bundle.spec, "loss": "balanced_softmax"})
    moderate = np.array([[1.0, -2.0, 0.3]], np.float32)
    undone = expit(moderate + np.log([1, 0.5, 0.33]))
    assert np.allclose(Reading(shifted).probabilities(moderate), undone, atol=1e-6), "as its loss saw them"
    with pytest.raises(AnswerError, match="sigmoid"):
        Reading(sigmoid, rank="genus")


def test_an_unknown_rank_is_an_error_that_names_the_known(bundle: Bundle) -> None:
    with pytest.raises(AnswerError, match="species, genus, family"):
        Reading(bundle, rank="order")


def test_equal_answers_come_in_the_order_of_the_labels(bundle: Bundle) -> None:
    top, score = Reading(bundle).best(np.zeros((1, 3), np.float32), 2)
    assert top.tolist() == [[0, 1]]
    assert np.allclose(score, 1 / 3)


def test_keys_are_of_the_taxon_that_the_label_names() -> None:
    lineage = {"species": "Rana arvalis", "genus": "Rana", "species_key": 7, "taxon_key": "9"}
    assert gbif_key("Rana arvalis", lineage) == "7"
    assert gbif_key("Rana", lineage) is None, "a species' key would be wrong for a genus"
    assert gbif_key("Rana arvalis Nilsson, 1842", lineage) == "9"
    assert gbif_key("fox", {}) is None
    assert taxon_at("family", "Rana arvalis", lineage) == ("Rana", None), "the next finer rank that it has"
    assert taxon_at("family", "fox", {}) == ("fox", None)


def test_pictures_are_answered_in_order_and_the_bad_ones_told(
    bundle: Bundle, write: Callable[..., Path], tmp_path: Path
) -> None:
    files = [(f"{i}.png", write(f"{i}.png", scene(60 + i, 50))) for i in range(7)]
    files.insert(3, ("gone.png", tmp_path / "gone.png"))
    files.append(("empty.png", write("empty.png", scene())))
    files[-1][1].write_bytes(b"")
    inference, told = Inference(bundle), []
    found = answer(
        inference, FilePictures(files, transform_of(bundle)), Reading(bundle), batch_size=2, threads=2,
        progress=lambda done, total, rate: told.append((done, total)),
    )  # fmt: skip
    assert {place: problem.reason for place, problem in found.problems.items()} == {
        3: "no_such_file",
        8: "empty_body",
    }
    assert found.names == [name for name, _ in files]
    assert told[-1] == (8, 9)
    assert found.rate > 0
    for place, (name, path) in enumerate(files):
        if place not in found.problems:
            alone = answer(inference, FilePictures([(name, path)], transform_of(bundle)), Reading(bundle))
            assert alone.top[0].tolist() == found.top[place].tolist(), name
            assert np.allclose(alone.score[0], found.score[place], atol=1e-4)


def test_an_outside_picture_that_nothing_readable_is_among_gives_no_answers(bundle: Bundle, tmp_path: Path) -> None:
    pictures = FilePictures([("gone.png", tmp_path / "gone.png")], Transform())
    found = answer(Inference(bundle), pictures, Reading(bundle), k=1)
    assert found.top.tolist() == [[-1]]
    assert len(answer_rows(found, Reading(bundle))) == 1


def test_rows_hold_answers_keys_and_problems(bundle: Bundle) -> None:
    answers = Answered(
        ["a.jpg", "b.jpg", "c.jpg"],
        np.array([[2, 0], [-1, -1], [1, 2]], np.int32),
        np.array([[0.75, 0.25], [np.nan, np.nan], [0.5, 0.125]], np.float32),
        {1: Problem("b.jpg", "empty_body", "0 bytes")},
        1.0,
    )
    rows = answer_rows(answers, Reading(bundle), 0.2, [Problem("list.csv:3", "no_such_file")])
    assert rows["path"].to_list() == ["a.jpg", "b.jpg", "c.jpg", "list.csv:3"]
    assert rows["labels"].to_list() == [["Rana temporaria", "Bufo bufo"], [], ["Rana arvalis"], []]
    assert rows["scores"].to_list() == [[0.75, 0.25], [], [0.5], []]
    assert rows["taxon_keys"].to_list()[0] == ["2426814", "5217160"]
    assert rows["label"].to_list() == ["Rana temporaria", None, "Rana arvalis", None]
    assert rows["problem"].to_list() == [None, "empty_body", None, "no_such_file"]
    wide = side_by_side(rows, 2)
    assert wide.columns == [
        "path", "label_1", "score_1", "taxon_key_1", "label_2", "score_2", "taxon_key_2", "problem", "detail",
    ]  # fmt: skip
    assert wide["label_2"].to_list() == ["Bufo bufo", None, None, None]
    assert set(wide["label_1"].drop_nulls()) <= set(SPECIES)
