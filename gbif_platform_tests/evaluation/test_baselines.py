import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.neighbors import NearestCentroid

from gbif_platform.evaluation import answers as answers_module
from gbif_platform.evaluation.answers import Answers, AnswersError
from gbif_platform.evaluation.baselines import centroid_answers, prior_scores, ranked_scores
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.metrics import accuracy_values, log_loss
from gbif_platform.evaluation.scores import score


def test_the_prior_is_the_trainings_most_frequent_label() -> None:
    label = np.array([0, 1, 1, 1, 2, 2, 3, 4, 5, 6])
    counts = np.array([1, 2, 50, 50, 3, 4, 5])
    scores = prior_scores(label, counts)
    values = accuracy_values(scores, counts)
    assert values["top1"] == 0.2, "label 2, the first of the two with 50"
    assert values["top5"] == pytest.approx(0.6), "labels 2, 3, 6, 5, 4"
    assert values["macro_accuracy"] == pytest.approx(1 / 7)
    frequency = np.tile((counts + 1) / 122, (10, 1))
    assert log_loss(scores) == pytest.approx(sklearn_log_loss(label, frequency, labels=range(7)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(0, 1000))
def test_the_prior_is_scored_like_a_model_that_answers_it(classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Powers of two: no two genera have equal sums, which rounding to float16 would part.
    counts, label = 2 ** random.permutation(classes) - 1, random.integers(0, classes, 8)
    hierarchy = Hierarchy.from_names({"genus": [f"g{i // 2}" if i % 3 else None for i in range(classes)]}, classes)
    ours = prior_scores(label, counts, hierarchy)
    logits = np.log(counts + 1)
    model = score(Answers.of_array(np.tile(logits - logits.max(), (8, 1))), label, hierarchy=hierarchy)
    np.testing.assert_allclose(ours.label_log_probability, model.label_log_probability, atol=5e-3)
    np.testing.assert_allclose(ours.brier, model.brier, atol=5e-3)
    np.testing.assert_array_equal(ours.top, model.top)
    np.testing.assert_array_equal(ours.position, model.position)
    for rank in hierarchy.ranks:
        np.testing.assert_allclose(ours.ranks[rank].probability, model.ranks[rank].probability, atol=5e-3)
        np.testing.assert_array_equal(ours.ranks[rank].right, model.ranks[rank].right)


def clouds(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centre = np.random.default_rng(0).normal(0, 1, (6, 16))
    label = random.integers(0, 5, rows)  # label 5 has no row
    return (centre[label] + random.normal(0, 0.8, (rows, 16))).astype(np.float16), label


def test_the_nearest_centroid_is_scikit_learns_on_normalised_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "BLOCK_BYTES", 1000)
    train, own = clouds(400, 1)
    test, label = clouds(300, 2)
    top, nearness = centroid_answers(train, own, Answers.of_array(test), classes=6, k=10)
    mean = train.astype(np.float64).mean(axis=0)

    def unit(values: np.ndarray) -> np.ndarray:
        centred = values.astype(np.float64) - mean
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    expected = NearestCentroid().fit(unit(train), own).predict(unit(test))
    np.testing.assert_array_equal(top[:, 0], expected)
    assert (top[:, 0] == label).mean() > 0.9
    assert top.shape == nearness.shape == (300, 5), "a label without training rows is never answered"
    assert (np.diff(nearness, axis=1) <= 0).all()
    assert nearness.min() >= -4
    assert nearness.max() <= 1e-5


def test_centroids_of_alike_rows_do_not_divide_by_zero() -> None:
    top, nearness = centroid_answers(np.ones((4, 3)), np.array([0, 0, 1, 1]), np.ones((2, 3)), classes=2)
    assert top.tolist() == [[0, 1], [0, 1]]
    assert np.isfinite(nearness).all()


def test_embeddings_that_do_not_fit_are_told() -> None:
    good, label = np.ones((4, 3)), np.zeros(4, int)
    with pytest.raises(AnswersError, match="do not fit"):
        centroid_answers(good, label, np.ones((2, 4)), classes=1)
    with pytest.raises(AnswersError, match="do not fit"):
        centroid_answers(good[:0], label[:0], good, classes=1)
    with pytest.raises(AnswersError, match="not finite"):
        centroid_answers(good, label, np.full((2, 3), np.inf), classes=1)


def test_answers_without_probabilities_have_accuracies() -> None:
    hierarchy = Hierarchy.from_names({"genus": ["a", "a", "b"]}, 3)
    values = accuracy_values(ranked_scores(np.array([0, 1]), np.array([[1, 0], [1, 2]]), hierarchy), np.ones(3))
    assert (values["top1"], values["top5"], values["genus_top1"], values["lca_severity"]) == (0.5, 1, 1, 1)
