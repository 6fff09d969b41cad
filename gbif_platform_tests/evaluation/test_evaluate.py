import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.evaluation.answers import Answers
from gbif_platform.evaluation.evaluate import Evaluation, EvaluationError, evaluate
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.scores import Scores, score
from gbif_platform_tests.evaluation.made import cases, noisy, scores_of

LINEAGE: dict[str, list[str | None]] = {"genus": ["a", "a", "b", "c"], "family": ["f", "f", "f", None]}


def names(scores: Scores) -> list[str]:
    return [f"species {i}" for i in range(scores.classes)]


def evaluated(label: np.ndarray, logits: np.ndarray, **more: Any) -> Evaluation:
    scores = scores_of(label, logits, more.pop("hierarchy", None))
    counts = more.pop("counts", np.arange(scores.classes, 0, -1) * 40)
    return evaluate(scores, names(scores), counts, **{"resamples": 60, **more})


@pytest.fixture(scope="module")
def whole() -> Evaluation:
    """Everything that may be handed over."""
    label, logits = noisy(300, 1)
    random = np.random.default_rng(3)
    return evaluated(
        label,
        logits,
        hierarchy=Hierarchy.from_names(LINEAGE, 4),
        group=[f"occurrence {i // 2}" for i in range(300)],
        slices={"country_code": random.choice(["DK", "SE"], 300)},
        centroid=np.argsort(-logits + random.normal(0, 1, logits.shape), axis=1).astype(np.int32),
        strangers=scores_of(np.full(50, -1), random.normal(0, 0.1, (50, 4))),
        temperature=1.3,
    )


def test_every_number_has_what_it_can_have(whole: Evaluation) -> None:
    found = {one.name: one for one in whole.summary}
    assert set(found) == {
        "top1", "top5", "macro_accuracy", "macro_top5", "macro_many", "macro_medium", "f1_macro", "lca_severity",
        "lca_distance", "genus_top1", "genus_log_loss", "family_top1", "family_log_loss", "log_loss", "brier", "ece",
        "mce", "aurc", "coverage_at_90", "coverage_at_95", "coverage_at_99",
    }  # fmt: skip
    for name, one in found.items():
        assert one.baseline is not None, name
        if name not in ("ece", "mce"):
            assert one.low is not None, name
            assert one.high is not None, name
            # The abstention intervals come from bins.
            assert one.low - 2e-3 <= one.value <= one.high + 2e-3, name
    with_centroid = {name for name, one in found.items() if one.centroid is not None}
    assert {"top1", "macro_accuracy", "f1_macro", "genus_top1", "lca_severity"} <= with_centroid
    assert not {"log_loss", "brier", "ece", "aurc"} & with_centroid
    assert found["family_top1"].value >= found["genus_top1"].value >= found["top1"].value
    assert "macro_few" not in found, "no label has so few training pictures"


def test_the_tables_say_the_same_as_the_summary(whole: Evaluation) -> None:
    numbers = whole.numbers
    ranks = whole.ranks.to_pylist()
    assert [row["rank"] for row in ranks] == ["label", "genus", "family"]
    assert [row["taxa"] for row in ranks] == [4, 3, 1]
    assert ranks[0]["top1"] == numbers["top1"]
    assert (ranks[1]["low"], ranks[1]["high"]) == (numbers["genus_top1_low"], numbers["genus_top1_high"])
    assert 0 < ranks[1]["severity_share"] < 1
    assert sum(whole.rollup["rows"].to_pylist()) == sum(whole.reliability["rows"].to_pylist()) == 300
    assert whole.coverage["accuracy"].to_pylist()[-1] == pytest.approx(numbers["top1"])
    assert whole.confusion[:, 2].sum() == whole.pictures == 300
    assert whole.groups == 150
    assert whole.open_set is not None
    assert numbers["open_set_auroc"] == whole.open_set["auroc"]
    assert numbers["temperature"] == 1.3
    assert [row["value"] for row in whole.slices.to_pylist()] == ["DK", "SE"]


def test_rows_for_the_lake(whole: Evaluation) -> None:
    rows = whole.rows(dataset="toy", snapshot="s1", model="baseline", run_id="r1", subset="test")
    assert {tuple(row) for row in rows} == {
        ("dataset", "snapshot", "model", "run_id", "subset", "slice", "metric", "value")
    }
    assert all(isinstance(row["value"], float) and np.isfinite(row["value"]) for row in rows)
    keys = [(row["slice"], row["metric"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert {
        ("all", "top1"), ("all", "top1_low"), ("all", "baseline_macro_accuracy"), ("all", "centroid_top1"),
        ("all", "labels_evaluated"), ("label=species 3", "recall"), ("country_code=DK", "top1_high"),
    } <= set(keys)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(cases(), st.integers(0, 100))
def test_the_order_of_the_rows_does_not_matter(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    label, logits = case
    group = np.array([f"occurrence {i % 12}" for i in range(len(label))])
    colour = np.array(["red", "blue"])[np.arange(len(label)) % 2]
    order = np.random.default_rng(seed).permutation(len(label))
    ours = evaluated(label, logits, group=group, slices={"colour": colour}, slice_min=1)
    shuffled = evaluated(label[order], logits[order], group=group[order], slices={"colour": colour[order]}, slice_min=1)
    assert shuffled.classes == ours.classes
    assert shuffled.numbers.keys() == ours.numbers.keys()
    for name, value in ours.numbers.items():
        assert shuffled.numbers[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    for ours_row, other_row in zip(ours.slices.to_pylist(), shuffled.slices.to_pylist(), strict=True):
        numbers = {name: value for name, value in ours_row.items() if isinstance(value, float)}
        assert {name: other_row[name] for name in numbers} == pytest.approx(numbers, rel=1e-5, abs=1e-6)
        assert {name: other_row[name] for name in ours_row.keys() - numbers} == {
            name: ours_row[name] for name in ours_row.keys() - numbers
        }


@settings(max_examples=40, deadline=None)
@given(cases())
def test_nothing_is_nan(case: tuple[np.ndarray, np.ndarray]) -> None:
    found = evaluated(*case, group=np.zeros(len(case[0])), slices={"all alike": ["x"] * len(case[0])}, slice_min=1)
    assert all(np.isfinite(value) for value in found.numbers.values())
    for one in found.summary:
        if one.low is not None and one.high is not None:
            assert one.low <= one.high
    for table in (found.slices, found.classes, found.reliability, found.coverage, found.ranks, found.rollup):
        for column in table.columns:
            assert not any(isinstance(value, float) and np.isnan(value) for value in column.to_pylist())


def test_labels_without_test_data_are_listed() -> None:
    label, logits = noisy(50, 1)
    found = evaluated(np.minimum(label, 2), logits)
    assert found.unevaluated == ["species 3"]
    assert found.numbers["labels_evaluated"] == 3
    assert found.numbers["labels"] == 4


def test_a_good_model_is_told_from_the_majority_class() -> None:
    label, logits = noisy(200, 1)
    assert evaluated(label, logits).beats_baseline
    assert not evaluated(label, np.tile([3.0, 2, 1, 0], (200, 1))).beats_baseline


def test_few_groups_say_nothing_for_sure() -> None:
    """All right, but in pictures of nine occurrences: no interval, so nothing beats the baseline."""
    label, logits = noisy(90, 1, accuracy=1.0)
    colour = np.where(np.arange(90) < 40, "red", "blue")
    found = evaluated(label, logits, group=np.arange(90) % 9, slices={"colour": colour})
    assert found.numbers["top1"] == 1
    assert not [name for name in found.numbers if name.endswith(("_low", "_high"))]
    assert not found.beats_baseline
    assert evaluated(label, logits, group=np.arange(90) % 10).beats_baseline
    json.dumps([vars(one) for one in found.summary], allow_nan=False)
    assert {(row["top1"], row["top1_low"], row["top1_high"]) for row in found.slices.to_pylist()} == {(1, None, None)}


def test_a_value_of_a_slice_with_few_groups_has_no_interval() -> None:
    label, logits = noisy(80, 1)
    colour = np.where(np.arange(80) < 40, "red", "blue")
    group = np.where(np.arange(80) < 40, np.arange(80), 99)
    rows = evaluated(label, logits, group=group, slices={"colour": colour}).slices.to_pylist()
    assert [(row["value"], row["groups"], row["top1_low"] is None) for row in rows] == [
        ("blue", 1, True),
        ("red", 40, False),
    ]


def test_sigmoid_outputs_are_not_taken_for_parts_of_one_whole() -> None:
    """Half the figures of a softmax would be of the true label alone: what a model says of the others cost nothing."""
    label, logits = noisy(200, 1)
    scores = score(Answers.of_array(logits), label, output="sigmoid", hierarchy=Hierarchy.from_names(LINEAGE, 4))
    found = evaluate(scores, names(scores), np.full(4, 50), output="sigmoid", slices={"all": ["x"] * 200}, resamples=60)
    assert not {name for name in found.numbers if name.endswith(("log_loss", "brier", "ece", "mce"))}
    assert {"top1", "top1_low", "aurc", "coverage_at_95", "genus_top1", "baseline_top1"} <= set(found.numbers)
    assert found.reliability.num_rows == 0
    for table in (found.slices, found.ranks):
        assert table["log_loss"].null_count == table.num_rows > 0


def test_what_cannot_be_evaluated_is_told() -> None:
    label, logits = noisy(10, 1)
    with pytest.raises(EvaluationError, match="no predictions"):
        evaluated(label[:0], logits[:0])
    with pytest.raises(EvaluationError, match="row 3 has none"):
        evaluated(np.where(np.arange(10) == 3, -1, label), logits)
    with pytest.raises(EvaluationError, match="3 counts for 4 outputs"):
        evaluated(label, logits, counts=np.ones(3))
    with pytest.raises(EvaluationError, match="slice year has another length"):
        evaluated(label, logits, slices={"year": ["2024"]})
    with pytest.raises(EvaluationError, match="group has another length"):
        evaluated(label, logits, group=np.zeros(3))


def test_a_hundred_thousand_rows_take_seconds() -> None:
    random = np.random.default_rng(1)
    label = (300 * random.random(100_000) ** 3).astype(np.int64)
    answer = np.where(random.random(100_000) < 0.7, label, random.integers(0, 300, 100_000))
    logits = np.full((100_000, 300), -6, np.float16)
    logits[np.arange(100_000), answer] = 0
    scores = scores_of(label, logits)
    group, country = random.integers(0, 60_000, 100_000), random.choice(["DK", "SE", "NO"], 100_000)
    began = time.process_time()
    evaluate(scores, names(scores), np.bincount(label, minlength=300), group=group, slices={"country_code": country})
    assert time.process_time() - began < 25


def test_importing_the_evaluation_loads_nothing_heavy() -> None:
    code = (
        "import sys, gbif_platform.evaluation.evaluate, gbif_platform.evaluation.comparison,"
        "gbif_platform.evaluation.multilabel;"
        "print([m for m in ('torch', 'numba', 'matplotlib', 'mlflow', 'dagster', 'sklearn') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
