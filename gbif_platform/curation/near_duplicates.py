"""The same picture at several URLs, once it has arrived: equal bytes, equal pixels, or nearly the same look.

All pairs among the first eight copies of a picture (by url_id) are listed, and each further copy with the first one
only, so that ten thousand copies of a placeholder are ten thousand pairs and not fifty million. Frames of camera traps
can make billions of near pairs: of more than `most_pairs`, those of a minimum spanning forest are listed, which has the
same groups, and for every hash its nearest.
"""

from collections.abc import Iterator
from itertools import combinations, pairwise
from math import comb
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

HASH_BITS = 64
COPIES_IN_FULL = 8
KINDS = pl.Enum(["bytes", "pixels", "near"])
"""Equal bytes as fetched (also: one URL), equal stored pictures, near perceptual hashes; the strongest comes first."""
PLACE = pl.col("url_id").rank("ordinal") - 1
"""A URL's place among others, from 0."""

# Relative times of sorting a hash and of comparing two, for the choice of bands; only speed depends on them.
SORTING, COMPARING = 12.0, 1.0


class NearPairs(NamedTuple):
    """Pairs of hashes: indices `first` < `second`, int64, and the number of bits that differ, uint8; in their order."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    distance: NDArray[np.uint8]

    def take(self, rows: NDArray[np.int64]) -> "NearPairs":
        """Some of them, in that order."""
        return NearPairs(self.first[rows], self.second[rows], self.distance[rows])


def near_pairs(hashes: NDArray[np.uint64], bits: int) -> NearPairs:
    """All pairs of distinct hashes that differ in at most `bits` bits; exact.

    By the pigeonhole: of `bits + m` bands, at least m are equal in such a pair, so it stands in one run of hashes that
    are sorted by some m bands. Of more than `most_pairs`, a minimum spanning forest is left (by distance, then index).
    Memory: some 50 bytes a hash, beside the pairs.
    """
    hashes = np.ascontiguousarray(hashes, dtype=np.uint64)
    equal = _equal_bands(len(hashes), bits)
    masks = _band_masks(bits + equal)
    parts, held, thinned, most = [_no_pairs()], 0, False, most_pairs(len(hashes))
    for chosen in combinations(range(bits + equal), equal):
        for pairs in _pairs_in_runs(hashes, masks, chosen, bits):
            parts.append(pairs)
            held += len(pairs.first)
            if held > most:
                parts, thinned = [_spanning(_together(parts), len(hashes))], True
                held = len(parts[0].first)
    found = _together(parts)
    if thinned:
        found = _spanning(found, len(hashes))
    return found.take(np.lexsort((found.second, found.first)))


def most_pairs(count: int) -> int:
    """How many near pairs of so many hashes, or URLs, are listed in full."""
    return 1_000_000 + 4 * count


def _spanning(pairs: NearPairs, count: int) -> NearPairs:
    """The minimum spanning forest; no two pairs weigh the same, so there is one only, in whatever order they come."""
    ordered = pairs.take(np.lexsort((pairs.second, pairs.first, pairs.distance)))
    weights = np.arange(1, len(ordered.first) + 1, dtype=np.float64)
    graph = coo_array((weights, (ordered.first, ordered.second)), shape=(count, count))
    return ordered.take(minimum_spanning_tree(graph.tocsr()).data.astype(np.int64) - 1)


def _equal_bands(count: int, bits: int) -> int:
    """How many bands to sort by at a time: more make shorter runs, but more ways to choose them."""

    def cost(equal: int) -> float:
        run = count / 2 ** (HASH_BITS * equal / (bits + equal))
        return comb(bits + equal, equal) * (SORTING + COMPARING * run)

    return min((1, 2, 3), key=cost)


def _band_masks(bands: int) -> NDArray[np.uint64]:
    """Masks of that many bands of nearly equal width, together all 64 bits."""
    edges = [HASH_BITS * number // bands for number in range(bands + 1)]
    return np.array([(1 << high) - (1 << low) for low, high in pairwise(edges)], dtype=np.uint64)


def _pairs_in_runs(
    hashes: NDArray[np.uint64], masks: NDArray[np.uint64], chosen: tuple[int, ...], bits: int
) -> Iterator[NearPairs]:
    """The near pairs that are equal in the chosen bands, but for those that an earlier choice has found; in parts."""
    keys = hashes & np.bitwise_or.reduce(masks[list(chosen)])
    order = np.argsort(keys)
    keys, values = keys[order], hashes[order]
    earlier = masks[[band for band in range(chosen[-1]) if band not in chosen]]
    # Each hash of a run with the next one, then with the one after, until no run is so long.
    here = np.flatnonzero(keys[:-1] == keys[1:])
    apart = 1
    while len(here):
        differing = values[here] ^ values[here + apart]
        distance = np.bitwise_count(differing)
        near = np.flatnonzero(distance <= bits)
        near = near[((differing[near, None] & earlier) != 0).all(axis=1)]
        ends = np.sort(np.stack([order[here[near]], order[here[near] + apart]]), axis=0)
        yield NearPairs(ends[0], ends[1], distance[near])
        apart += 1
        here = here[here < len(keys) - apart]
        here = here[keys[here] == keys[here + apart]]


def _together(parts: list[NearPairs]) -> NearPairs:
    return NearPairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _no_pairs() -> NearPairs:
    none = np.zeros(0, dtype=np.int64)
    return NearPairs(none, none, np.zeros(0, dtype=np.uint8))


def duplicate_pairs(pictures: pl.DataFrame, bits: int) -> pl.DataFrame:
    """Pairs of URLs that hold the same or nearly the same picture.

    Args:
        pictures: one row a URL: `url_id`, `source_sha256` and `sha256` (null: unknown), `phash` (null: none).
        bits: how many bits of the hash may differ.

    Returns:
        `url_id` < `other_url_id`, `kind` (the strongest one of the pair), `distance` (bits; 0 for bytes and pixels),
        closest first.
    """
    found = [_copies(pictures, *of) for of in (("source_sha256", "bytes"), ("sha256", "pixels"), ("phash", "near"))]
    return (
        pl.concat([*found, _look_alikes(pictures, bits)])
        .sort("kind", "distance", "url_id", "other_url_id")
        .unique(["url_id", "other_url_id"], keep="first", maintain_order=True)
    )


def _copies(pictures: pl.DataFrame, column: str, kind: str) -> pl.DataFrame:
    """Pairs of URLs that have the same value."""
    urls = pictures.filter(pl.col(column).is_not_null()).select(column, "url_id")
    urls = urls.filter(pl.col(column).is_duplicated()).with_columns(PLACE.over(column).alias("place"))
    paired = urls.filter(pl.col("place") < COPIES_IN_FULL).join(urls, on=column, suffix="_other")
    listed = (pl.col("place") == 0) | (pl.col("place_other") < COPIES_IN_FULL)
    return paired.filter(listed & (pl.col("place") < pl.col("place_other"))).select(
        "url_id",
        other_url_id="url_id_other",
        kind=pl.lit(kind, KINDS),
        distance=pl.lit(0, pl.Int32),
    )


def _look_alikes(pictures: pl.DataFrame, bits: int) -> pl.DataFrame:
    """Pairs of URLs whose hashes are near but not equal."""
    hashes = pictures["phash"].cast(pl.UInt64).drop_nulls().unique().sort()
    near = near_pairs(hashes.to_numpy(), bits)
    found = pl.DataFrame(
        {
            "phash": hashes.gather(near.first),
            "other_phash": hashes.gather(near.second),
            "distance": pl.Series(near.distance, dtype=pl.Int32),
        }
    )
    ends = pl.concat([found["phash"], found["other_phash"]]).unique()
    urls = pictures.select(pl.col("phash").cast(pl.UInt64), "url_id").filter(pl.col("phash").is_in(ends.implode()))
    urls = urls.with_columns(place=PLACE.over("phash")).filter(pl.col("place") < COPIES_IN_FULL)
    if _pairs_of_copies(found, urls) > most_pairs(len(pictures)):
        urls = urls.filter(pl.col("place") == 0)
    paired = found.join(urls, on="phash").join(urls, left_on="other_phash", right_on="phash", suffix="_other")
    return paired.select(
        url_id=pl.min_horizontal("url_id", "url_id_other"),
        other_url_id=pl.max_horizontal("url_id", "url_id_other"),
        kind=pl.lit("near", KINDS),
        distance="distance",
    )


def _pairs_of_copies(found: pl.DataFrame, urls: pl.DataFrame) -> int:
    """How many pairs of URLs the pairs of hashes stand for."""
    copies = urls.group_by("phash").agg(pl.len().cast(pl.Int64).alias("copies"))
    sizes = found.join(copies, on="phash").join(copies, left_on="other_phash", right_on="phash", suffix="_other")
    return int((sizes["copies"] * sizes["copies_other"]).sum())


def duplicate_groups(pairs: pl.DataFrame) -> pl.DataFrame:
    """Connected components of the pairs: `url_id`, `group_id` (the smallest url_id of the group), by url_id."""
    urls = pl.concat([pairs["url_id"], pairs["other_url_id"]]).unique().sort()
    one, two = (urls.search_sorted(pairs[end]).to_numpy() for end in ("url_id", "other_url_id"))
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (one, two)), shape=(len(urls), len(urls)))
    component = connected_components(graph, directed=False)[1] if len(urls) else np.zeros(0, dtype=np.int32)
    groups = pl.DataFrame({"url_id": urls, "component": component})
    return groups.select("url_id", group_id=pl.col("url_id").min().over("component"))


def duplicate_media(media: pl.DataFrame, pairs: pl.DataFrame, policy: str) -> pl.DataFrame:
    """The media that are not the only one of their picture, and which of them stay.

    The first of a group has the smallest (sample_key, media_id) among those with a label, or among all where none has.
    Media without a label contradict none.

    Args:
        media: `media_id`, `url_id`, `label`, `sample_key`; several media may share a URL.
        pairs: as from `duplicate_pairs`, over the URLs of these media.
        policy: one of `keep_all`, `keep_first`, `drop_all`, `keep_if_labels_agree` (the first of a group whose labels
            agree, none of another).

    Returns:
        `media_id`, `url_id`, `label`, `group_id`, `kind` and `distance` of the medium's nearest, `labels_agree`,
        `decision` (`kept`, `left out`), by group and medium.
    """
    first = pl.col("media_id") == pl.col("media_id").first().over(
        "group_id", order_by=["unlabelled", "sample_key", "media_id"]
    )
    kept = {
        "keep_all": pl.lit(True),
        "keep_first": first,
        "drop_all": pl.lit(False),
        "keep_if_labels_agree": first & pl.col("labels_agree"),
    }[policy]
    return (
        media.with_columns(shared=pl.col("url_id").is_duplicated(), unlabelled=pl.col("label").is_null())
        .join(duplicate_groups(pairs), on="url_id", how="left")
        .filter(pl.col("shared") | pl.col("group_id").is_not_null())
        .join(_nearest(pairs), on="url_id", how="left")
        .with_columns(pl.col("group_id").fill_null(pl.col("url_id")))
        .with_columns(
            kind=pl.when("shared").then(pl.lit("bytes", KINDS)).otherwise("kind"),
            distance=pl.when("shared").then(pl.lit(0, pl.Int32)).otherwise("distance"),
            labels_agree=pl.col("label").drop_nulls().n_unique().over("group_id") <= 1,
        )
        .sort("group_id", "media_id")
        .select(
            "media_id",
            "url_id",
            "label",
            "group_id",
            pl.col("kind").cast(pl.String),
            "distance",
            "labels_agree",
            decision=pl.when(kept).then(pl.lit("kept")).otherwise(pl.lit("left out")),
        )
    )


def _nearest(pairs: pl.DataFrame) -> pl.DataFrame:
    """Kind and distance of each URL's nearest."""
    sides = [pairs.select(pl.col(end).alias("url_id"), "kind", "distance") for end in ("url_id", "other_url_id")]
    return pl.concat(sides).sort("kind", "distance").unique("url_id", keep="first")
