"""Samples: exact, seeded, nested in their quota, stable while data grow, equal to a plain reference."""

import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gbif_platform.curation import duplicates, selection
from gbif_platform.curation.allocation import QuotaTooSmall, allocate
from gbif_platform.curation.candidates import parquet
from gbif_platform.curation.sampling import NothingToSample, balanced_sample
from gbif_platform.curation.selection import chosen, draw_order
from gbif_platform.curation.spec import Filters, Sampling, Taxonomy
from gbif_platform.curation.taxonomy import UnknownLabel
from gbif_platform.storage.tables import Rows


@dataclass(frozen=True)
class Drawn:
    """An outcome with its staged rows as frames."""

    rows: dict[str, pl.DataFrame]
    rows_in: int
    rows_out: int
    rows_left: int
    refused: pl.DataFrame


def lake_rows(labels: Sequence[str | None], first: int = 0) -> tuple[pl.DataFrame, pl.DataFrame]:
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


def sample(labels: Sequence[str | None], **policy: Any) -> Drawn:
    media, occurrences = lake_rows(labels)
    return draw(media, occurrences, Sampling(**{"policy": "balanced", **policy}))


def draw(
    media: pl.DataFrame,
    occurrences: pl.DataFrame,
    sampling: Sampling,
    filters: Filters | None = None,
    label: str = "species",
    asked: Mapping[str, Sequence[str]] | None = None,
) -> Drawn:
    with tempfile.TemporaryDirectory() as work, duckdb.connect(config={"threads": 2}) as con:
        outcome = balanced_sample(
            con,
            con.from_arrow(media.to_arrow()),
            con.from_arrow(occurrences.to_arrow()),
            label=label,
            filters=filters or Filters(),
            sampling=sampling,
            taxonomy=Taxonomy(),
            work=Path(work),
            asked=asked,
        )
        frames = {table: frame_of(rows) for table, rows in outcome.rows.items()}
        return Drawn(frames, outcome.rows_in, outcome.rows_out, outcome.rows_left, frame_of(outcome.refused))


def frame_of(rows: Rows) -> pl.DataFrame:
    return pl.read_parquet(rows) if isinstance(rows, Path) else rows


def taken(outcome: Drawn) -> dict[str, int]:
    return dict(outcome.rows["balanced_samples"].group_by("label").len().iter_rows())


def members(outcome: Drawn) -> set[str]:
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
        "label": "c",
        "available": 40,
        "wanted": 60,
        "taken": 0,
        "reason": "fewer than min_per_label = 50",
    }
    assert report["a"]["reason"] == "as wanted"
    assert sample(THREE, per_label=60).rows["sample_report"].row(2) == ("c", "c", 40, 60, 40, "all there are")


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


@settings(max_examples=20, deadline=None)
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
    with pytest.raises(NothingToSample, match="2 basis_of_record_not_allowed"):
        draw(media, occurrences, Sampling(policy="balanced"), Filters(basis_of_record=["HUMAN_OBSERVATION"]))
    assert len(members(draw(media, occurrences, Sampling(policy="balanced"), Filters(licences="any")))) == 3


def test_policy_all_takes_what_has_no_label_too_and_says_so() -> None:
    outcome = draw(*lake_rows(["a", None]), Sampling(policy="all"))
    assert outcome.rows["balanced_samples"].select("label", "stratum").rows() == [("a", "a"), (None, "(no label)")]
    report = outcome.rows["sample_report"].filter(pl.col("stratum") == "(no label)")
    assert report["reason"].to_list() == ["fetched, but in no subset"]


def test_an_unknown_label_lists_those_that_exist() -> None:
    with pytest.raises(UnknownLabel, match="gbif_id, dataset_key, species, basis_of_record"):
        draw(*lake_rows(["a"]), Sampling(), label="speciesKey")


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


def report_of(outcome: Drawn) -> dict[str, tuple[object, ...]]:
    return {row[0]: row[1:] for row in outcome.rows["sample_report"].iter_rows()}


def test_strata_are_the_product_of_the_terms_asked_for() -> None:
    media, occurrences = lake_rows(["a"] * 6 + ["b"] * 4 + [None])
    occurrences = occurrences.with_columns(
        dataset_key=pl.Series(["d", "e"] * 5 + ["d"]), country_code=pl.lit(None, pl.String)
    )
    sampling = Sampling(policy="balanced", split_streams_by=["datasetKey", "species", "countryCode"], per_stratum=2)
    outcome = draw(media, occurrences, sampling)
    counts = outcome.rows["balanced_samples"].group_by("stratum", "label").len().sort("stratum").rows()
    assert counts == [
        ("d | a | (none)", "a", 2),
        ("d | b | (none)", "b", 2),
        ("e | a | (none)", "a", 2),
        ("e | b | (none)", "b", 2),
    ]


def test_strata_whose_values_hold_the_separator_stay_apart() -> None:
    media, occurrences = lake_rows(["x"] * 8)
    occurrences = occurrences.with_columns(
        locality=pl.Series(["a | b", "a"] * 4), recorded_by=pl.Series(["c", "b | c"] * 4)
    )
    streams = Sampling(policy="balanced", per_stratum=3, split_streams_by=["locality", "recordedBy"])
    asked = {"locality": ["a | b"], "recordedBy": ["c", "d | e"]}
    outcome = draw(media, occurrences, streams, asked=asked)
    assert dict(outcome.rows["balanced_samples"].group_by("stratum").len().iter_rows()) == {
        r"a \| b | c": 3,
        r"a | b \| c": 3,
    }
    vain = outcome.rows["sample_report"].filter(pl.col("reason") == "none in the snapshot")
    assert vain["stratum"].to_list() == [r"a \| b | d \| e"]


def test_a_label_to_downsample_that_is_not_there_is_a_row_of_the_report() -> None:
    media, occurrences = lake_rows(["blank"] * 10 + ["a"] * 4)
    kept = Sampling(policy="balanced", per_label=9, downsample={"blank": 0.5, "blnk": 0.1, "vain": 0.1})
    report = report_of(draw(media, occurrences, kept, asked={"species": ["vain"]}))
    assert report["blank"][3] == 5
    assert report["blnk"] == ("blnk", 0, 9, 0, "none in the snapshot")
    assert set(report) == {"blank", "a", "blnk", "vain"}
    streams = kept.model_copy(update={"split_streams_by": ["datasetKey"]})
    rows = draw(media, occurrences, streams).rows["sample_report"].filter(pl.col("reason") == "none in the snapshot")
    assert rows.select("stratum", "label").rows() == [("(any)", "blnk"), ("(any)", "vain")]


@pytest.mark.parametrize(
    "quota", ["total", "per_label", "per_stratum", "min_per_label", "min_per_stratum", "media_per_occurrence"]
)
def test_no_quota_is_too_large_to_count_with(quota: str) -> None:
    with pytest.raises(ValidationError, match="less than or equal"):
        Sampling.model_validate({"policy": "balanced", quota: 10**12 + 1})
    if quota.startswith("min"):
        with pytest.raises(NothingToSample):
            sample(["a"] * 3, **{quota: 10**12})
    else:
        assert taken(sample(["a"] * 3, **{quota: 10**12})) == {"a": 3}


def test_what_rules_most_out_is_what_to_loosen() -> None:
    media, occurrences = lake_rows(["a"] * 3)
    for filters, said in (
        (Filters(basis_of_record=["OCCURRENCE"]), "basis_of_record_not_allowed"),
        (Filters(licences=["CC0-1.0"]), "filters.licences: any"),
    ):
        with pytest.raises(NothingToSample) as error:
            draw(media, occurrences, Sampling(policy="balanced"), filters)
        assert said in error.value.next_step


def test_a_floor_above_the_quota_chooses_labels_and_the_quota_holds() -> None:
    assert taken(sample(["a"] * 9 + ["b"] * 4, per_label=3, min_per_label=5)) == {"a": 3}


def test_what_was_asked_for_and_is_not_there_is_a_row_of_the_report() -> None:
    media, occurrences = lake_rows(["a", "a", "b"])
    outcome = draw(media, occurrences, Sampling(policy="balanced", per_label=2), asked={"species": ["a", "c"]})
    assert report_of(outcome)["c"][:2] == ("c", 0)
    assert report_of(outcome)["c"][3:] == (0, "none in the snapshot")
    streams = Sampling(policy="balanced", per_stratum=1, split_streams_by=["species", "datasetKey"])
    outcome = draw(media, occurrences, streams, asked={"datasetKey": ["d", "f"]})
    assert {name: row[-1] for name, row in report_of(outcome).items()} == {
        "a | d": "as wanted",
        "b | d": "as wanted",
        "(any) | f": "none in the snapshot",
    }


def test_a_label_without_any_medium_is_in_the_report() -> None:
    media, occurrences = lake_rows(["a", "b"])
    assert report_of(draw(media.head(1), occurrences, Sampling()))["b"] == ("b", 0, 0, 0, "no media")


def test_the_funnel_goes_from_all_media_to_the_sample() -> None:
    media, occurrences = lake_rows(["a"] * 8 + ["b", None])
    media = media.with_columns(
        license=pl.Series(["unknown"] * 2 + ["CC0-1.0"] * 8),
        url_id=pl.Series(["u", "v", "x", "x", "y", "z", "w", "r", "s", "t"]),
    )
    occurrences = occurrences.with_columns(occurrence_status=pl.Series(["PRESENT", "ABSENT"] + ["PRESENT"] * 8))
    outcome = draw(media, occurrences, Sampling(policy="balanced", per_label=2, min_per_label=2))
    steps = outcome.rows["sample_funnel"].filter(pl.col("lost") + pl.col("alone").fill_null(0) > 0)
    assert steps.select("filter", "media_in", "lost", "alone", "media_left").rows() == [
        ("licence_not_allowed", 10, 2, 2, 8),
        ("absence", 8, 0, 1, 8),
        ("no_label", 8, 1, 1, 7),
        ("duplicate_url", 7, 1, None, 6),
        ("labels_left_out", 6, 1, None, 5),
        ("over_the_quota", 5, 3, None, 2),
    ]


def test_a_refused_medium_names_the_first_filter_and_its_value() -> None:
    media, occurrences = lake_rows(["a", "a", "a"])
    media = media.with_columns(license=pl.Series(["unknown", "CC0-1.0", "CC0-1.0"]))
    occurrences = occurrences.with_columns(occurrence_status=pl.Series(["absent", "ABSENT", "PRESENT"]))
    assert draw(media, occurrences, Sampling()).refused.sort("row_ref").rows() == [
        (f"{0:032x}", "licence_not_allowed", "unknown"),
        (f"{1:032x}", "absence", "ABSENT"),
    ]


def test_freer_licences_larger_renditions_and_dates_come_first() -> None:
    media, occurrences = lake_rows(["a"] * 4)
    photo = "https://inaturalist-open-data.s3.amazonaws.com/photos/1/"
    media = media.with_columns(
        license=pl.Series(["CC-BY-4.0", "CC0-1.0", "unknown", "CC0-1.0"]),
        url=pl.Series([f"{photo}{name}.jpg" for name in ("original", "square", "original", "medium")]),
    )
    occurrences = occurrences.with_columns(year=pl.Series([2001, 2003, 2002, None]))

    def first(*prefer: str) -> list[int]:
        most = [Sampling(policy="balanced", per_label=n, prefer=list(prefer)) for n in (1, 2, 3, 4)]
        found = [members(draw(media, occurrences, one, Filters(licences="any"))) for one in most]
        return [int((new - old).pop(), 16) for old, new in zip([set(), *found], found, strict=False)]

    assert first("licence", "resolution") == [3, 1, 0, 2]
    assert first("newest") == [1, 2, 0, 3]
    assert first("oldest") == [0, 2, 1, 3]
    assert first("resolution", "newest") == [2, 0, 3, 1]


KEY = st.integers(0, 3) | st.integers(0, 2**64 - 1)
medium = st.tuples(
    st.integers(0, 9),  # occurrence
    KEY,  # sample key; a few values come again and again
    st.integers(0, 12),  # URL
    st.sampled_from(["CC0-1.0", "CC-BY-4.0", "unknown"]),
)
owners = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from(["d", "e"])), min_size=10, max_size=10
)
policies = st.fixed_dictionaries(
    {"policy": st.sampled_from(["balanced", "natural", "sqrt"]), "total": st.integers(1, 30)},
    optional={
        "per_label": st.integers(1, 8),
        "per_stratum": st.integers(1, 8),
        "min_per_label": st.integers(1, 3),
        "media_per_occurrence": st.integers(1, 3),
        "prefer": st.sampled_from([[], ["licence"]]),
        "split_streams_by": st.sampled_from([[], ["species", "dataset_key"], ["dataset_key"]]),
    },
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(medium, max_size=40),
    owners,
    policies.map(lambda said: Sampling.model_validate(said)),
    st.sampled_from(["keep_first", "keep_all"]),
)
def test_the_sample_is_that_of_a_plain_reference(
    rows: list[tuple[int, int, int, str]], labels: list[tuple[str | None, str]], sampling: Sampling, policy: str
) -> None:
    media = pl.DataFrame(
        {
            "media_id": [f"{key:016x}{place:016x}" for place, (_, key, _, _) in enumerate(rows)],
            "url_id": [f"u{url}" for _, _, url, _ in rows],
            "url": [f"http://a.org/{url}" for _, _, url, _ in rows],
            "gbif_id": [str(owner) for owner, *_ in rows],
            "license": [licence for *_, licence in rows],
            "sample_key": pl.Series([key for _, key, _, _ in rows], dtype=pl.UInt64),
        },
        schema_overrides={
            "gbif_id": pl.String,
            "license": pl.String,
            "url_id": pl.String,
            "url": pl.String,
            "media_id": pl.String,
        },
    )
    occurrences = pl.DataFrame(
        {
            "gbif_id": [str(n) for n in range(10)],
            "dataset_key": [key for _, key in labels],
            "species": [name for name, _ in labels],
        },
        schema_overrides={"species": pl.String},
    )
    try:
        expected = reference(media, occurrences, sampling, policy)
    except QuotaTooSmall:
        with pytest.raises(QuotaTooSmall):
            draw(media, occurrences, sampling, Filters(duplicates=policy))
        return
    try:
        outcome = draw(media.sample(fraction=1, shuffle=True), occurrences, sampling, Filters(duplicates=policy))
    except (NothingToSample, UnknownLabel):
        assert not expected
        return
    assert outcome.rows["balanced_samples"].select("media_id", "label", "stratum").rows() == expected
    assert outcome.rows_in == len(rows) == outcome.rows_out + outcome.rows_left + len(outcome.refused)
    assert outcome.rows["sample_funnel"]["media_left"][-1] == len(expected) == outcome.rows_out


def reference(
    media: pl.DataFrame, occurrences: pl.DataFrame, sampling: Sampling, policy: str
) -> list[tuple[str, str, str]]:
    """The sample, one row after the other; quotas from `allocate`."""
    draws = draws_of(media["sample_key"].to_list(), sampling.seed)
    labels = {row["gbif_id"]: row for row in occurrences.iter_rows(named=True)}
    rows = [row | {"owner": labels[row["gbif_id"]]} for row in media.iter_rows(named=True)]
    rows = [row for row in rows if row["license"] != "unknown" and row["owner"]["species"]]
    if policy == "keep_first":
        ordered = sorted(rows, key=lambda row: (row["sample_key"], row["media_id"]), reverse=True)
        rows = list({row["url_id"]: row for row in ordered}.values())
    for row in rows:
        level = ["CC0-1.0", "CC-BY-4.0"].index(row["license"]) if sampling.prefer else 0
        row["place"] = (level, draws[row["sample_key"]], row["media_id"])
        fields = sampling.split_streams_by or ["species"]
        row["cell"] = (" | ".join(row["owner"][field] for field in fields), row["owner"]["species"])
    if most := sampling.media_per_occurrence:
        rows = [row for group in grouped(rows, "gbif_id").values() for row in group[:most]]
    cells = grouped(rows, "cell")
    everything = {
        (" | ".join(owner[field] for field in sampling.split_streams_by or ["species"]), owner["species"])
        for owner in labels.values()
        if owner["species"]
    }
    strata = pl.DataFrame(
        [(*cell, len(cells.get(cell, []))) for cell in sorted(everything)],
        schema={"stratum": pl.String, "label": pl.String, "available": pl.Int64},
        orient="row",
    )
    quotas = {row[:2]: row[4] for row in allocate(strata, sampling).iter_rows()}
    taken = [(row["media_id"], cell[1], cell[0]) for cell, group in cells.items() for row in group[: quotas[cell]]]
    return sorted(taken)


def grouped(rows: list[dict[str, Any]], name: str) -> dict[Any, list[dict[str, Any]]]:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["place"]):
        groups[row[name]].append(row)
    return groups


def draws_of(keys: list[int], seed: int) -> dict[int, int]:
    frame = pl.DataFrame({"key": pl.Series(keys, dtype=pl.UInt64)})  # noqa: F841  read by name
    return dict(duckdb.sql(f"SELECT key, {draw_order('key', seed)} FROM frame").fetchall())


spread = st.sampled_from([0, 2**63, 2**64 - 2**20])  # from where the draws begin: evenly spread, or all large


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2000)), min_size=1),
    st.integers(1, 30),
    spread,
)
def test_the_prefilter_changes_nothing(sizes: list[tuple[int, int, int]], quota: int, first: int) -> None:
    """Also where the draws of a cell all lie behind the threshold."""
    rows = random.Random(str(sizes))
    cells = [(cell, level) for cell, level, size in sizes for _ in range(size)]
    keys = pl.DataFrame(
        {"cell": [cell for cell, _ in cells], "level": [level for _, level in cells]},
        schema={"cell": pl.Int32, "level": pl.Int32},
    ).with_columns(sample_key=pl.Series([rows.randrange(first, 2**64) for _ in cells], dtype=pl.UInt64), mark=0)
    levels = keys.group_by("cell", "level").agg(media=pl.len().cast(pl.Int64))
    quotas = keys.group_by("cell").agg(taken=pl.len().clip(0, quota).cast(pl.Int64))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as work, duckdb.connect() as con:
        patch.setattr(selection, "draw_order", lambda key, seed: key)
        con.register("passing", keys.to_arrow())
        file = chosen(con, "passing", levels, quotas, 17, Path(work) / "chosen.parquet")
        found = con.sql(f"SELECT cell, sample_key FROM {parquet(file)} ORDER BY ALL").fetchall()
        plain = con.sql(f"""SELECT cell, sample_key FROM passing
            QUALIFY rank() OVER (PARTITION BY cell ORDER BY level, sample_key) <= {quota} ORDER BY ALL""").fetchall()
    assert found == plain


def test_ten_percent_more_of_mixed_data_keep_the_sample() -> None:
    """Most labels of a long tail are taken whole, so that more of the sample stays than of a single label."""
    rows = random.Random(1)
    names = [f"l{min(int(60 * rows.random() ** 3), 59)}" for _ in range(6600)]
    before, after = (sample(names[:size], per_label=60) for size in (6000, 6600))
    assert len(members(before) & members(after)) / len(members(before)) >= 0.94


OTHER_PROCESS = """
import json, sys
from gbif_platform_tests.curation.test_sampling import THREE, members, sample
print(json.dumps(sorted(members(sample(THREE, per_label=50)))))
"""


def test_another_process_draws_the_same_sample() -> None:
    found = subprocess.run([sys.executable, "-c", OTHER_PROCESS], capture_output=True, text=True, check=True).stdout
    assert set(json.loads(found)) == members(sample(THREE, per_label=50))


def test_large_data_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    media, occurrences = lake_rows(["a", "b"] * 40)
    media = media.with_columns(
        url_id=pl.Series([f"u{n % 60}" for n in range(80)]), gbif_id=pl.Series([str(n // 3) for n in range(80)])
    )
    sampling = Sampling(policy="balanced", media_per_occurrence=2, per_label=15)
    filters = Filters(duplicates="keep_first")
    whole = draw(media, occurrences, sampling, filters)
    for place in (duplicates, "DECIDED_AT_ONCE"), (selection, "RANKED_AT_ONCE"):
        monkeypatch.setattr(*place, 7)
    assert members(draw(media, occurrences, sampling, filters)) == members(whole)


def test_ids_that_are_no_numbers_are_joined_as_they_are() -> None:
    media, occurrences = lake_rows(["a", "b"])
    ids = pl.Series("gbif_id", ["7", "007"])
    outcome = draw(media.with_columns(ids), occurrences.with_columns(ids), Sampling())
    assert outcome.rows["balanced_samples"]["label"].to_list() == ["a", "b"]


def test_no_media_at_all() -> None:
    media, occurrences = lake_rows(["a"])
    with pytest.raises(NothingToSample, match="the snapshot has no usable media"):
        draw(media.head(0), occurrences, Sampling())


def test_every_label_under_the_floor() -> None:
    with pytest.raises(NothingToSample, match="3 in labels under min_per_label = 5"):
        sample(["a", "a", "b"], per_label=9, min_per_label=5)
