import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax

from gbif_platform.evaluation import answers as answers_module
from gbif_platform.evaluation.answers import Answers, AnswersError
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.scores import Scores, prior_adjustment, score
from gbif_platform_tests.evaluation.made import cases, half, scores_of


def check(scores: Scores, label: np.ndarray, log_p: np.ndarray, ordering: np.ndarray) -> None:
    """Against the plain formulas; `ordering` (N, C) decides the places, as float64."""
    rows = np.arange(len(label))
    truth = np.zeros_like(log_p)
    truth[rows, label] = 1
    order = np.argsort(-ordering, axis=1, kind="stable")
    k = scores.top.shape[1]
    np.testing.assert_array_equal(scores.top, order[:, :k])
    np.testing.assert_allclose(scores.top_probability, np.exp(np.take_along_axis(log_p, order[:, :k], 1)), rtol=1e-5)
    np.testing.assert_array_equal(scores.position, (order == label[:, None]).argmax(axis=1))
    np.testing.assert_allclose(scores.label_log_probability, log_p[rows, label], atol=1e-6)
    np.testing.assert_allclose(scores.brier, ((np.exp(log_p) - truth) ** 2).sum(axis=1), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 12), st.booleans())
def test_softmax_is_what_the_formulas_say(
    case: tuple[np.ndarray, np.ndarray], temperature: float, k: int, shifted: bool
) -> None:
    label, logits = case
    stored = half(logits) if shifted else logits.astype(np.float16).astype(np.float64)
    scores = score(Answers.of_array(stored), label, temperature=temperature, k=k, threads=1)
    assert scores.top.shape[1] == min(k, logits.shape[1])
    check(scores, label, log_softmax(stored / temperature, axis=1), stored)


def test_prior_and_temperature_together() -> None:
    random = np.random.default_rng(3)
    logits, label = half(random.normal(0, 3, (200, 40))), random.integers(0, 40, 200)
    counts = random.integers(0, 1000, 40)
    adjustment = prior_adjustment(counts, 1.0)
    assert adjustment is not None
    adjusted = logits / 1.7 + adjustment
    scores = score(Answers.of_array(logits), label, temperature=1.7, adjustment=adjustment)
    check(scores, label, log_softmax(adjusted, axis=1), adjusted)


def test_tau_1_makes_all_labels_equally_likely_before_the_picture_is_seen() -> None:
    """A model that answers the training's frequencies to everything knows nothing: balanced, it says 1/C."""
    counts = np.array([999, 99, 9])
    logits = np.tile(np.log((counts + 1) / (counts + 1).sum()), (2, 1))
    scores = score(Answers.of_array(half(logits)), np.zeros(2, int), adjustment=prior_adjustment(counts, 1.0))
    np.testing.assert_allclose(scores.top_probability, 1 / 3, atol=1e-3)
    assert prior_adjustment(counts, 0) is None


def test_sigmoid_is_each_label_for_itself() -> None:
    random = np.random.default_rng(4)
    logits, label = random.normal(0, 3, (100, 9)).astype(np.float16), random.integers(0, 9, 100)
    logits[0] = -60000
    scores = score(Answers.of_array(logits), label, output="sigmoid", temperature=2.0, k=3)
    raw = logits.astype(np.float64) / 2
    check(scores, label, np.minimum(raw, 0) - np.log1p(np.exp(-np.abs(raw))), raw)
    assert scores.loss[0] == pytest.approx(-np.log(1e-15))
    assert expit(raw[1]).max() == pytest.approx(scores.top_probability[1, 0])


def test_threads_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    logits, label = half(random.normal(0, 3, (500, 30))), random.integers(-1, 30, 500)
    whole = score(Answers.of_array(logits), label, threads=1)
    monkeypatch.setattr(answers_module, "BLOCK_BYTES", 600)
    parts = score(Answers.of_array(logits), label, threads=4)
    order = random.permutation(500)
    mixed = score(Answers.of_array(logits).select(order), label[order], threads=3)
    for name in ("top", "top_probability", "position", "label_log_probability", "brier"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
        np.testing.assert_array_equal(getattr(mixed, name), getattr(whole.take(order), name))


def test_a_row_without_a_label_is_answered_and_wrong() -> None:
    scores = scores_of(np.array([-1, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert scores.right.tolist() == [False, True]
    assert np.isnan(scores.label_log_probability).tolist() == [True, False]
    assert scores.loss[0] == pytest.approx(-np.log(1e-15))
    assert scores.support.tolist() == [1, 0]


def test_impossible_classes_are_answers_too() -> None:
    """float16 may hold minus infinity: no probability, but still a place."""
    scores = scores_of(np.array([2]), np.array([[0.0, -np.inf, -np.inf]]), k=3)
    assert scores.top.tolist() == [[0, 1, 2]]
    assert scores.top_probability.tolist() == [[1, 0, 0]]
    assert scores.loss[0] == pytest.approx(-np.log(1e-15))


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf])
def test_a_diverged_model_is_told(bad: float) -> None:
    logits = np.zeros((5, 3), np.float16)
    logits[3, 1] = bad
    for output in ("softmax", "sigmoid"):
        with pytest.raises(AnswersError, match="row 3 of answers is not finite"):
            score(Answers.of_array(logits), np.zeros(5, int), output=output)


def test_parts_that_do_not_fit_are_told() -> None:
    answers = Answers.of_array(np.zeros((4, 3)))
    label = np.zeros(4, int)
    for message, arguments in (
        ("4 rows, but there are 3 labels", {"label": label[:3]}),
        (r"outside 0\.\.2", {"label": label + 3}),
        (r"outside 0\.\.2", {"label": label - 2}),
        ("ranks are of 2 labels", {"label": label, "hierarchy": Hierarchy.none(2)}),
        ("temperature 0 ", {"label": label, "temperature": 0}),
        ("adjustment", {"label": label, "adjustment": np.zeros(2)}),
        ("adjustment", {"label": label, "adjustment": np.array([0, np.nan, 0])}),
        ("adjustment", {"label": label, "adjustment": np.array([0, 1e4, 0])}),
    ):
        with pytest.raises(AnswersError, match=message):
            score(answers, **arguments)


def test_no_rows_give_no_scores() -> None:
    assert len(score(Answers.of_array(np.zeros((4, 3))).select(np.zeros(4, bool)), np.zeros(0, int))) == 0
