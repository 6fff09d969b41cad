import numpy as np
import pytest

from gbif_platform.evaluation.comparison import Comparison, ComparisonError, compare
from gbif_platform.evaluation.scores import Scores
from gbif_platform_tests.evaluation.made import scores_of

ROWS, CLASSES = 600, 5
COUNTRY = np.array(["DK", "SE", "NO"])[np.arange(ROWS) % 3]
LABEL = np.arange(ROWS) // 3 % CLASSES
NAME = np.array([f"species {i}" for i in LABEL])


def model(wrong: np.ndarray) -> Scores:
    """Right but for the rows of this bool mask."""
    return scores_of(LABEL, 3 * np.eye(CLASSES)[np.where(wrong, (LABEL + 1) % CLASSES, LABEL)])


def some(share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(ROWS) < share


def judged(candidate: Scores, champion: Scores, **more: object) -> Comparison:
    return compare(candidate, champion, NAME, protected={"country_code": COUNTRY}, resamples=200, **more)  # type: ignore[arg-type]


def test_the_same_model_and_a_better_one_are_promoted() -> None:
    champion = model(some(0.2, 1))
    for candidate in (champion, model(some(0.2, 1) & some(0.5, 2))):
        found = judged(candidate, champion)
        assert found.promote
        assert "Not worse than the champion overall and by country_code" in found.reason
    assert found.table["difference"][0].as_py() > 0


def test_a_worse_model_is_refused_in_words() -> None:
    found = judged(model(some(0.4, 1)), model(some(0.2, 2)))
    assert not found.promote
    assert "Worse than the champion: macro accuracy overall −" in found.reason
    assert "the interval lies below 0" in found.reason


def test_a_model_that_wins_overall_but_loses_in_a_protected_slice_is_refused() -> None:
    base = some(0.3, 1)
    candidate = model(np.where(COUNTRY == "NO", base | some(0.3, 3), base & some(0.2, 4)))
    found = judged(candidate, model(base))
    overall = found.table.to_pylist()[0]
    assert overall["difference"] > 0
    assert not found.promote
    assert "country_code = NO" in found.reason
    assert "DK" not in found.reason
    assert compare(candidate, model(base), NAME, resamples=200).promote, "without protection it is better"


def test_values_with_few_rows_do_not_decide() -> None:
    """Twelve rows of one country all lost: too few to say where twenty are asked for."""
    base = some(0.1, 1)
    place = np.where(np.arange(ROWS) < 12, "FO", "DK")
    elsewhere = (np.arange(ROWS) >= 100) & (np.arange(ROWS) < 120)
    candidate, champion = model(base | (place == "FO")), model((base | elsewhere) & (place != "FO"))
    for least, promoted in ((20, True), (5, False)):
        found = compare(candidate, champion, NAME, protected={"country_code": place}, slice_min=least, resamples=200)
        assert found.promote is promoted


def test_the_table_has_all_figures_with_intervals() -> None:
    found = judged(model(some(0.2, 1)), model(some(0.3, 2)))
    rows = found.table.to_pylist()
    assert [(row["slice"], row["value"]) for row in rows[:3]] == [("all", "all")] * 3
    assert [row["metric"] for row in rows[:3]] == ["macro_accuracy", "top1", "log_loss"]
    assert {row["value"] for row in rows[3:]} == {"DK", "SE", "NO"}
    assert len(rows) == 12
    without = judged(model(some(0.2, 1)), model(some(0.3, 2)), log_loss=False).table.to_pylist()
    assert without == [row for row in rows if row["metric"] != "log_loss"]
    for row in rows:
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["difference"] == pytest.approx(row["candidate"] - row["champion"])
    assert rows[0]["rows"] == ROWS
    assert rows[1]["candidate"] == pytest.approx((~some(0.2, 1)).mean(), abs=1e-6)


def test_a_margin_asks_that_a_loss_is_ruled_out() -> None:
    """An even model: with margin 0 nothing speaks against it; a small margin needs more rows to be sure of."""
    candidate, champion = model(some(0.3, 1)), model(some(0.3, 2))
    assert compare(candidate, champion, NAME, margin=0, resamples=200).promote
    assert compare(candidate, champion, NAME, margin=0.2, resamples=200).promote
    refused = compare(candidate, champion, NAME, margin=0.005, resamples=200)
    assert not refused.promote
    assert "reaches below −0.5 points" in refused.reason


def test_a_label_that_the_champion_does_not_know_is_its_mistake() -> None:
    """The champion has four outputs; what is of the fifth species it must get wrong."""
    known = np.where(LABEL < 4, LABEL, -1)
    champion = scores_of(known, 3 * np.eye(4)[np.maximum(known, 0)])
    found = compare(model(np.zeros(ROWS, bool)), champion, NAME, resamples=100)
    assert found.promote
    row = found.table.to_pylist()[0]
    assert (row["candidate"], row["champion"]) == (1, pytest.approx(0.8))


def test_pictures_of_one_occurrence_are_one_piece_of_evidence() -> None:
    """Twelve wrong pictures of one occurrence do not make a model worse; of twelve occurrences they do."""
    candidate, champion = model(np.arange(ROWS) < 12), model(np.zeros(ROWS, bool))
    assert compare(candidate, champion, NAME, group=np.maximum(np.arange(ROWS), 11), resamples=300).promote
    assert not compare(candidate, champion, NAME, resamples=300).promote


@pytest.mark.parametrize("groups", [1, 9])
@pytest.mark.parametrize("margin", [0.0, 0.01])
def test_too_few_groups_decide_nothing(groups: int, margin: float) -> None:
    """A better model is not promoted by the pictures of a handful of outings either."""
    found = compare(
        model(some(0.1, 1)), model(some(0.4, 2)), NAME, group=np.arange(ROWS) % groups, margin=margin, resamples=100
    )
    assert not found.promote
    assert f"Too few groups to decide: the pictures are of {groups}" in found.reason
    row = found.table.to_pylist()[0]
    assert row["difference"] > 0
    assert (row["low"], row["high"], row["worse"]) == (None, None, False)


def test_a_protected_value_of_a_few_groups_decides_nothing() -> None:
    """All its pictures are of two outings, where the candidate fails: a hundred pictures, two pieces of evidence."""
    outing = COUNTRY == "NO"
    group = np.where(outing, np.arange(ROWS) // 3 % 2, np.arange(ROWS))
    base = some(0.3, 1)
    candidate, champion = model(base | outing), model(base)
    table = {"country_code": COUNTRY}
    found = compare(candidate, champion, NAME, group=group, protected=table, margin=0.5, resamples=100)
    assert found.promote
    rows = [row for row in found.table.to_pylist() if row["value"] == "NO"]
    assert [(row["low"], row["high"]) for row in rows] == [(None, None)] * 3
    assert not compare(candidate, champion, NAME, protected=table, margin=0.5, resamples=100).promote


def test_rows_that_do_not_belong_together_are_told() -> None:
    champion = model(some(0.2, 1))
    with pytest.raises(ComparisonError, match="no rows"):
        compare(champion.take(np.zeros(0, int)), champion.take(np.zeros(0, int)), NAME[:0])
    with pytest.raises(ComparisonError, match="champion has another length"):
        compare(champion, champion.take(np.arange(5)), NAME)
    with pytest.raises(ComparisonError, match="country_code has another length"):
        compare(champion, champion, NAME, protected={"country_code": ["DK"]})
