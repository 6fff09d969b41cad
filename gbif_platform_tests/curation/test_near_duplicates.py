"""Pairs and groups of pictures: exact against brute force, the same in any order, and what each policy keeps."""

import random
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation import near_duplicates
from gbif_platform.curation.near_duplicates import duplicate_groups, duplicate_media, duplicate_pairs, near_pairs

FLIPS = st.lists(st.integers(0, 63), max_size=10)
LIKE_EACH_OTHER = st.lists(st.tuples(st.sampled_from([0, 2**64 - 1, 0x9E3779B97F4A7C15]), FLIPS), max_size=60)


def flipped(start: int, places: list[int]) -> int:
    for place in set(places):
        start ^= 1 << place
    return start


def by_brute_force(hashes: list[int], bits: int) -> list[tuple[int, int, int]]:
    apart = [(one, two, (hashes[one] ^ hashes[two]).bit_count()) for one, two in combinations(range(len(hashes)), 2)]
    return [pair for pair in apart if pair[2] <= bits]


def found(hashes: list[int], bits: int) -> list[tuple[int, int, int]]:
    pairs = near_pairs(np.array(hashes, dtype=np.uint64), bits)
    return list(zip(*(column.tolist() for column in pairs), strict=True))


@pytest.mark.parametrize("equal", [1, 2, 3])
@settings(max_examples=60, deadline=None)
@given(made=LIKE_EACH_OTHER, bits=st.integers(0, 8))
def test_every_near_pair_is_found_once(equal: int, made: list[tuple[int, list[int]]], bits: int) -> None:
    hashes = list(dict.fromkeys(flipped(start, places) for start, places in made))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_equal_bands", lambda count, bits: equal)
        assert found(hashes, bits) == by_brute_force(hashes, bits)


@settings(max_examples=100, deadline=None)
@given(made=LIKE_EACH_OTHER, bits=st.integers(1, 8), most=st.integers(0, 40))
def test_of_too_many_pairs_a_forest_is_left_with_the_same_groups_and_nearest(
    made: list[tuple[int, list[int]]], bits: int, most: int
) -> None:
    hashes = list(dict.fromkeys(flipped(start, places) for start, places in made))
    every = by_brute_force(hashes, bits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "most_pairs", lambda count: most)
        listed = found(hashes, bits)
    if len(every) <= most:
        assert listed == every
        return
    assert set(listed) <= set(every)
    urls = [f"{number:02d}" for number in range(len(hashes))]
    groups = brute_components(urls, [(urls[one], urls[two]) for one, two, _ in every])
    assert brute_components(urls, [(urls[one], urls[two]) for one, two, _ in listed]) == groups
    assert len(listed) == len(urls) - len(set(groups.values()))
    for number in range(len(hashes)):
        nearest = [min((pair[2] for pair in pairs if number in pair[:2]), default=None) for pairs in (every, listed)]
        assert nearest[0] == nearest[1]


def test_copies_of_look_alikes_are_listed_by_their_first_where_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = pictures([(f"{look}{copy}", None, f"{look}{copy}", 1 << look) for look in range(3) for copy in range(4)])
    assert len(duplicate_pairs(rows, 2)) == 3 * 6 + 3 * 16
    monkeypatch.setattr(near_duplicates, "most_pairs", lambda count: 10)
    pairs = duplicate_pairs(rows, 2)
    assert len(pairs) == 3 * 6 + 3
    assert set(duplicate_groups(pairs)["group_id"]) == {"00"}


def test_planted_pairs_among_many_hashes_are_found() -> None:
    generator = np.random.default_rng(5)
    hashes = generator.integers(0, 2**64, 100_000, dtype=np.uint64)
    for number in range(500):
        places = generator.choice(64, number % 5, replace=False)
        hashes[99_999 - number] = flipped(int(hashes[number]), places.tolist())
    distinct = np.unique(hashes)
    pairs = near_pairs(distinct, 4)
    planted = {
        (min(pair), max(pair)) for pair in zip(hashes[:500], hashes[:-501:-1], strict=True) if pair[0] != pair[1]
    }
    assert len(planted) == 400
    assert planted <= set(zip(distinct[pairs.first], distinct[pairs.second], strict=True))


def pictures(rows: list[tuple[str, str | None, str | None, int | None]]) -> pl.DataFrame:
    schema = {"url_id": pl.String, "source_sha256": pl.String, "sha256": pl.String, "phash": pl.UInt64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def listed(pairs: pl.DataFrame) -> list[tuple[str, str, str, int]]:
    return list(pairs.cast({"kind": pl.String}).iter_rows())


def test_a_pair_is_listed_once_under_its_strongest_kind() -> None:
    rows = pictures(
        [
            ("a", "source 1", "stored 1", 0b0000),
            ("b", "source 1", "stored 1", 0b0000),
            ("c", "source 2", "stored 1", 0b0000),
            ("d", "source 3", "stored 3", 0b0000),
            ("e", "source 4", "stored 4", 0b0111),
            ("f", "source 5", "stored 5", 0b11111 << 8),
            ("g", None, None, None),
            ("h", None, None, None),
        ]
    )
    exact = [("a", "b", "bytes", 0), ("a", "c", "pixels", 0), ("b", "c", "pixels", 0)]
    alike = [("a", "d", "near", 0), ("b", "d", "near", 0), ("c", "d", "near", 0)]
    near = [(url, "e", "near", 3) for url in "abcd"]
    assert listed(duplicate_pairs(rows, 0)) == [*exact, *alike]
    assert listed(duplicate_pairs(rows, 4)) == [*exact, *alike, *near]
    assert listed(duplicate_pairs(rows, 5)) == [*exact, *alike, *near, *((url, "f", "near", 5) for url in "abcd")]
    assert duplicate_pairs(rows.clear(), 4).is_empty()


def test_many_copies_make_about_as_many_pairs() -> None:
    copies = pictures([(f"{number:05d}", None, f"{number:05d}", 7) for number in range(10_000)])
    alike = pictures([(f"x{number:04d}", None, f"x{number:04d}", 6) for number in range(1000)])
    pairs = duplicate_pairs(pl.concat([copies, alike]), 8)
    among_the_first = 8 * 7 // 2
    assert len(pairs) == among_the_first + 9_992 + among_the_first + 992 + 8 * 8
    groups = duplicate_groups(pairs)
    assert (len(groups), set(groups["group_id"])) == (11_000, {"00000"})


def brute_components(urls: list[str], pairs: list[tuple[str, str]]) -> dict[str, str]:
    group = {url: url for url in urls}
    for one, two in pairs:
        low, high = sorted((group[one], group[two]))
        group = {url: low if own == high else own for url, own in group.items()}
    return group


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("stuvw"), st.integers(0, 9), st.sampled_from(["l", "m", None])),
        max_size=14,
    ),
    st.sampled_from(["keep_all", "keep_first", "drop_all", "keep_if_labels_agree"]),
    st.randoms(use_true_random=False),
)
def test_groups_and_decisions(made: list[tuple[str, int, str | None]], policy: str, shuffling: random.Random) -> None:
    urls = [f"u{number:02d}" for number in range(len(made))]
    rows = pictures([(url, source, url, 1 << look) for url, (source, look, _) in zip(urls, made, strict=True)])
    labels = [one[2] for one in made]
    media = pl.DataFrame(
        {"media_id": [f"m{url}" for url in urls], "url_id": urls, "label": labels, "sample_key": [7] * len(urls)},
        schema={"media_id": pl.String, "url_id": pl.String, "label": pl.String, "sample_key": pl.UInt64},
    )
    pairs = duplicate_pairs(rows, 1)
    chosen = duplicate_media(media, pairs, policy)

    order = shuffling.sample(range(len(urls)), len(urls))
    assert duplicate_pairs(rows[order], 1).equals(pairs)
    assert duplicate_media(media[order], pairs, policy).equals(chosen)

    same = [
        (urls[one], urls[two])
        for one, two in combinations(range(len(made)), 2)
        if made[one][0] == made[two][0] or made[one][1] == made[two][1]
    ]
    expected = brute_components(urls, same)
    groups = {url: group for url, group in expected.items() if list(expected.values()).count(group) > 1}
    assert dict(chosen.select("url_id", "group_id").iter_rows()) == groups
    assert set(chosen["kind"]) <= {"bytes", "near"}
    label_of = dict(zip(urls, labels, strict=True))
    for (group,), members in chosen.group_by("group_id"):
        own = [url for url in urls if groups.get(url) == group]
        agree = len({label_of[url] for url in own} - {None}) <= 1
        first = min(own, key=lambda url: (label_of[url] is None, url))
        kept = {"keep_all": own, "drop_all": [], "keep_first": [first], "keep_if_labels_agree": [first] * agree}[policy]
        assert members["labels_agree"].unique().to_list() == [agree]
        assert sorted(members.filter(pl.col("decision") == "kept")["url_id"]) == kept


def test_media_of_one_url_are_duplicates_without_a_pair() -> None:
    media = pl.DataFrame(
        {
            "media_id": ["m1", "m2", "m3", "m4"],
            "url_id": ["a", "a", "b", "c"],
            "label": ["l", None, "l", "l"],
            "sample_key": pl.Series([9, 1, 5, 2], dtype=pl.UInt64),
        }
    )
    rows = pictures([("a", "1", "1", 0), ("b", "2", "2", 0b11), ("c", "3", "3", 0xFFFF)])
    chosen = duplicate_media(media, duplicate_pairs(rows, 4), "keep_first")
    assert chosen.select("media_id", "kind", "distance", "decision").rows() == [
        ("m1", "bytes", 0, "left out"),
        ("m2", "bytes", 0, "left out"),
        ("m3", "near", 2, "kept"),
    ]
    alone = duplicate_media(media.filter(pl.col("url_id") == "a"), duplicate_pairs(rows.clear(), 4), "keep_first")
    assert alone.select("media_id", "group_id", "decision").rows() == [("m1", "a", "kept"), ("m2", "a", "left out")]
