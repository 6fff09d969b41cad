"""Samples: exact, seeded, nested in their quota, stable while data grow."""

import random

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.sampling import NothingToSample, UnknownLabel, balanced_sample
from gbif_platform.dataset import Filters, Sampling
from gbif_platform.storage.tables import Outcome


def lake_rows(labels: list[str | None], first: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
    """One medium an occurrence; identities depend on the place alone, so that a longer list holds a shorter one."""
    ids = range(first, first + len(labels))
    keys = [random.Random(n).getrandbits(64) for n in ids]
    media = pl.DataFrame(
        {
            "media_id": [f"{n:032x}" for n in ids],
            "url_id": [f"u{n}" for n in ids],
            "url": [f"http://a.org/{n}.jpg" for n in ids],
            "gbif_id": [str(n) for n in ids],
            "license": "CC-BY-4.0",
            "sample_key": pl.Series(keys, dtype=pl.UInt64),
        },
        schema_overrides={"license": pl.String},
    )
    occurrences = pl.DataFrame(
        {
            "gbif_id": [str(n) for n in ids],
            "dataset_key": "d",
            "species": labels,
            "basis_of_record": "HUMAN_OBSERVATION",
        },
        schema_overrides=dict.fromkeys(["dataset_key", "species", "basis_of_record"], pl.String),
    )
    return media, occurrences


def sample(labels: list[str | None], **policy: object) -> Outcome:
    media, occurrences = lake_rows(labels)
    return draw(media, occurrences, Sampling(**{"policy": "balanced", **policy}))


def draw(media: pl.DataFrame, occurrences: pl.DataFrame, sampling: Sampling, filters: Filters | None = None) -> Outcome:
    con = duckdb.connect()
    return balanced_sample(
        con,
        con.from_arrow(media.to_arrow()),
        con.from_arrow(occurrences.to_arrow()),
        label="species",
        filters=filters or Filters(),
        sampling=sampling,
    )


def taken(outcome: Outcome) -> dict[str, int]:
    return dict(outcome.rows["balanced_samples"].group_by("label").len().iter_rows())


def members(outcome: Outcome) -> set[str]:
    return set(outcome.rows["balanced_samples"]["media_id"])


THREE = ["a"] * 1000 + ["b"] * 100 + ["c"] * 40


def test_balanced_without_a_quota_takes_as_many_as_the_smallest_label_has() -> None:
    assert taken(sample(THREE)) == {"a": 40, "b": 40, "c": 40}


def test_quotas_are_exact_and_what_is_short_is_reported() -> None:
    outcome = sample(THREE, per_label=60, min_per_label=50)
    assert taken(outcome) == {"a": 60, "b": 60}
    report = {row["stratum"]: row for row in outcome.rows["sample_report"].iter_rows(named=True)}
    assert report["c"] == {
        "stratum": "c",
        "available": 40,
        "wanted": 60,
        "taken": 0,
        "reason": "fewer than min_per_label = 50",
    }
    assert report["a"]["reason"] == "as wanted"
    assert sample(THREE, per_label=60).rows["sample_report"].row(2) == ("c", 40, 60, 40, "all there are")


def test_a_larger_quota_is_a_superset() -> None:
    assert members(sample(THREE, per_label=20)) < members(sample(THREE, per_label=35))


def test_ten_percent_more_data_keep_most_of_the_sample() -> None:
    before, after = sample(["a"] * 5000, per_label=500), sample(["a"] * 5500, per_label=500)
    assert len(members(before) & members(after)) / 500 > 0.88  # the expected share is 10/11


def test_another_seed_draws_another_sample() -> None:
    one, two = members(sample(["a"] * 1000, per_label=100)), members(sample(["a"] * 1000, per_label=100, seed=18))
    assert len(one & two) < 30


def test_the_draw_is_fixed_for_ever() -> None:
    """A change of the hash would silently redraw every user's sample."""
    chosen = sorted(members(sample(["a"] * 50, per_label=3)))
    assert [int(one, 16) for one in chosen] == FIXED


FIXED = [7, 22, 46]


labels = st.lists(st.sampled_from(["a", "b", "c", " ", None]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(labels, st.integers(1, 12), st.integers(1, 5), st.randoms(use_true_random=False))
def test_every_row_is_accounted_for_in_any_order(
    data: list[str | None], quota: int, floor: int, shuffle: random.Random
) -> None:
    media, occurrences = lake_rows(data)
    order = list(range(len(data)))
    shuffle.shuffle(order)
    sampling = Sampling(policy="balanced", per_label=quota, min_per_label=floor)
    try:
        one = draw(media, occurrences, sampling)
    except (NothingToSample, UnknownLabel):
        counts = [data.count(label) for label in ("a", "b", "c")]
        assert max(counts) < floor or not any(counts)
        return
    other = draw(media[order], occurrences, sampling)
    assert members(one) == members(other)
    assert one.rows_in == len(data) == one.rows_out + len(one.refused) + one.rows_left
    for label in "abc":
        available = data.count(label)
        assert taken(one).get(label, 0) == (min(available, quota) if available >= floor else 0)


def test_refused_media_say_why() -> None:
    media, occurrences = lake_rows(["a", None, "a", "a"])
    media = media.with_columns(license=pl.Series(["CC0-1.0", "CC0-1.0", "CC-BY-NC-4.0", "unknown"]))
    occurrences = occurrences.with_columns(basis_of_record=pl.lit("FOSSIL_SPECIMEN"))
    outcome = draw(media, occurrences, Sampling(policy="balanced"))
    reasons = outcome.refused.sort("row_ref").select("reason", "detail").rows()
    assert reasons == [
        ("no_label", "no species"),
        ("licence_not_allowed", "CC-BY-NC-4.0"),
        ("licence_not_allowed", "unknown"),
    ]
    with pytest.raises(NothingToSample, match="1 basis_of_record_not_allowed"):
        draw(media, occurrences, Sampling(policy="balanced"), Filters(basis_of_record=["HUMAN_OBSERVATION"]))
    assert len(members(draw(media, occurrences, Sampling(policy="balanced"), Filters(licences="any")))) == 3


def test_policy_all_takes_what_has_no_label_too_and_says_so() -> None:
    outcome = draw(*lake_rows(["a", None]), Sampling(policy="all"))
    assert outcome.rows["balanced_samples"].select("label", "stratum").rows() == [("a", "a"), (None, "(no label)")]
    report = outcome.rows["sample_report"].filter(pl.col("stratum") == "(no label)")
    assert report["reason"].to_list() == ["fetched, but in no subset"]


def test_an_unknown_label_lists_those_that_exist() -> None:
    media, occurrences = lake_rows(["a"])
    con = duckdb.connect()
    with pytest.raises(UnknownLabel, match="gbif_id, dataset_key, species, basis_of_record"):
        balanced_sample(
            con, con.from_arrow(media.to_arrow()), con.from_arrow(occurrences.to_arrow()),
            label="speciesKey", filters=Filters(), sampling=Sampling(),
        )  # fmt: skip


def test_the_licence_of_the_occurrence_stands_in_only_where_asked_and_only_for_none_at_all() -> None:
    media, occurrences = lake_rows(["a"] * 3)
    media = media.with_columns(
        license=pl.Series(["unknown", "unknown", "CC-BY-NC-4.0"]),
        license_text=pl.Series([" ", "ask me", "CC BY-NC"]),
        occurrence_license=pl.lit("CC0-1.0"),
    )
    assert members(draw(media, occurrences, Sampling(), Filters(licence_fallback="occurrence"))) == {f"{0:032x}"}
    with pytest.raises(NothingToSample):
        draw(media, occurrences, Sampling())
