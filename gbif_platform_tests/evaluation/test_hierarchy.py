import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score

from gbif_platform.evaluation.answers import Answers
from gbif_platform.evaluation.hierarchy import Hierarchy, HierarchyError, in_order, rolled_up, rollup_table
from gbif_platform.evaluation.scores import score
from gbif_platform_tests.evaluation.made import half, log_probabilities, scores_of

# Four species: two of one genus, one more of the family, and a goldfish, which has no class in the checklist.
LINEAGE: dict[str, list[str | None]] = {
    "genus": ["Rana", "Rana", "Lithobates", "Carassius"],
    "family": ["Ranidae", "Ranidae", "Ranidae", "Cyprinidae"],
    "class": ["Amphibia", "Amphibia", "Amphibia", None],
}


def test_ranks_have_the_sums_of_their_labels() -> None:
    hierarchy = Hierarchy.from_names(LINEAGE, 4)
    share = np.array([[0.3, 0.25, 0.1, 0.35]])
    scores = scores_of(np.array([1]), np.log(share), hierarchy)
    assert scores.predicted.tolist() == [3]
    genus = scores.ranks["genus"]
    assert hierarchy.names[0][genus.best[0]] == "Rana"
    assert genus.probability[0] == pytest.approx(0.55, abs=1e-3)
    assert np.exp(genus.true_log_probability[0]) == pytest.approx(0.55, abs=1e-3)
    assert scores.ranks["family"].right.all()
    assert np.exp(scores.ranks["class"].true_log_probability[0]) == pytest.approx(0.65, abs=1e-3)


def test_a_label_without_a_taxon_stands_for_itself_at_that_rank() -> None:
    hierarchy = Hierarchy.from_names(LINEAGE, 4)
    assert hierarchy.names[2] == ("Amphibia",)
    assert hierarchy.sizes.tolist() == [3, 2, 2]
    scores = scores_of(np.array([3, 0]), np.array([[0, 0, 0, 5.0], [0, 0, 0, 5.0]]), hierarchy)
    assert scores.ranks["class"].right.tolist() == [True, False]


def test_ranks_where_no_label_has_a_taxon_are_left_out() -> None:
    assert Hierarchy.from_names({"genus": ["a", "b"], "order": [None, ""]}, 2).ranks == ("genus",)
    assert Hierarchy.none(3).taxon.shape == (0, 3)
    with pytest.raises(HierarchyError, match="rank genus names 1 labels of 2"):
        Hierarchy.from_names({"genus": ["a"]}, 2)


def test_ranks_come_finest_first() -> None:
    given = {"kingdom": ["a"], "species": ["b"], "genus": ["c"]}
    assert list(in_order(given)) == ["genus", "kingdom"]


def test_severity_is_the_height_of_the_lowest_common_taxon() -> None:
    hierarchy = Hierarchy.from_names(LINEAGE, 4)
    true, predicted = np.array([0, 0, 0, 0]), np.array([0, 1, 2, 3])
    assert hierarchy.severity(true, predicted).tolist() == [0, 1, 2, 4]
    assert Hierarchy.none(4).severity(true, predicted).tolist() == [0, 1, 1, 1]


@st.composite
def lineages(draw: st.DrawFn) -> tuple[dict[str, list[str | None]], int]:
    """Any names at any rank, nulls among them, also ones that no taxonomy would have."""
    classes = draw(st.integers(1, 9))
    names = st.lists(st.sampled_from(["a", "b", "c", "", None]), min_size=classes, max_size=classes)
    return {rank: draw(names) for rank in ("genus", "family", "order")}, classes


@settings(max_examples=60, deadline=None)
@given(lineages(), st.integers(0, 1000))
def test_any_lineage_gives_probabilities(case: tuple[dict[str, list[str | None]], int], seed: int) -> None:
    lineage, classes = case
    hierarchy = Hierarchy.from_names(lineage, classes)
    random = np.random.default_rng(seed)
    logits, label = random.normal(0, 2, (6, classes)), random.integers(0, classes, 6)
    scores = scores_of(label, logits, hierarchy)
    share = np.exp(log_probabilities(logits))
    for taxon, size, rank in zip(hierarchy.taxon, hierarchy.sizes, scores.ranks.values(), strict=True):
        mass = np.zeros((6, size))
        for place in range(classes):
            mass[:, taxon[place]] += share[:, place]
        assert mass.sum(axis=1) == pytest.approx(1)
        np.testing.assert_allclose(rank.probability, mass.max(axis=1), rtol=1e-5)
        np.testing.assert_allclose(np.exp(rank.true_log_probability), mass[np.arange(6), taxon[label]], rtol=1e-5)
        assert rank.right.mean() == pytest.approx(accuracy_score(taxon[label], rank.best))
    table = rollup_table(scores, 0.6)
    assert sum(table["rows"].to_pylist()) == 6


def test_of_sigmoid_outputs_a_taxon_has_its_surest_label() -> None:
    hierarchy = Hierarchy.from_names(LINEAGE, 4)
    scores = score(
        Answers.of_array(np.array([[2.0, 1.0, -1.0, 1.5]])), np.array([1]), output="sigmoid", hierarchy=hierarchy
    )
    assert scores.ranks["genus"].probability[0] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3)


def test_the_answer_is_given_at_the_lowest_sure_rank() -> None:
    share = np.array(
        [
            [0.90, 0.04, 0.03, 0.03],  # sure of the species
            [0.45, 0.45, 0.05, 0.05],  # of the genus
            [0.40, 0.20, 0.30, 0.10],  # of the family
            [0.25, 0.12, 0.13, 0.50],  # of nothing
        ]
    )
    scores = scores_of(np.array([0, 3, 1, 3]), np.log(share), Hierarchy.from_names(LINEAGE, 4))
    depth, right = rolled_up(scores, 0.8)
    assert depth.tolist() == [0, 1, 2, 4]
    assert right.tolist() == [True, False, True, False]
    table = rollup_table(scores, 0.8).to_pydict()
    assert table["rank"] == ["label", "genus", "family", "class", "none"]
    assert table["rows"] == [1, 1, 1, 0, 1]
    assert table["accuracy"] == [1.0, 0.0, 1.0, None, None]


def test_an_easier_confidence_gives_finer_answers() -> None:
    random = np.random.default_rng(2)
    logits = half(random.normal(0, 2, (300, 4)))
    scores = scores_of(random.integers(0, 4, 300), logits, Hierarchy.from_names(LINEAGE, 4))
    depths = [rolled_up(scores, confidence)[0] for confidence in (0.5, 0.7, 0.9)]
    assert (depths[0] <= depths[1]).all()
    assert (depths[1] <= depths[2]).all()
