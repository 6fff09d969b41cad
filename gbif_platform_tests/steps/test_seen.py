"""What a model has seen, its own rows and those of the models that it goes back to."""

from pathlib import Path

import polars as pl
import pytest

from gbif_platform.steps.seen import RowsMissing, keep_training_rows, training_rows, unseen
from gbif_platform.storage.objects import ObjectStore


def pictures(*rows: tuple[str, str, str], subset: str = "train") -> pl.DataFrame:
    """Rows of (media_id, url_id, group_id)."""
    frame = pl.DataFrame(rows, schema=dict.fromkeys(("media_id", "url_id", "group_id"), pl.String), orient="row")
    return frame.with_columns(label=pl.lit("Rana"), subset=pl.lit(subset), shard=pl.lit("not kept"))


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path.as_uri())


def test_a_model_has_seen_what_the_models_before_it_saw(objects: ObjectStore) -> None:
    keep_training_rows(objects, "bundles/a", pictures(("m1", "u1", "g1")), None)
    keep_training_rows(objects, "bundles/b", pictures(("m2", "u2", "g2"), subset="validation"), "bundles/a")
    keep_training_rows(objects, "bundles/c", pictures(("m1", "u1", "g1"), ("m3", "u3", "g3")), "bundles/b")
    assert sorted(training_rows(objects, "bundles/c").rows()) == [
        ("m1", "u1", "g1", "Rana", "train", "bundles/a"),
        ("m1", "u1", "g1", "Rana", "train", "bundles/c"),
        ("m2", "u2", "g2", "Rana", "validation", "bundles/b"),
        ("m3", "u3", "g3", "Rana", "train", "bundles/c"),
    ]
    asked = pictures(("m1", "u1", "g1"), ("m2", "u2", "g2"), ("m4", "u4", "g4"))
    assert unseen(asked, training_rows(objects, "bundles/c"))["media_id"].to_list() == ["m4"]
    assert unseen(asked, training_rows(objects, "bundles/a"))["media_id"].to_list() == ["m2", "m4"]


def test_training_again_replaces_the_rows(objects: ObjectStore) -> None:
    for name in ("m1", "m2"):
        keep_training_rows(objects, "bundles/a", pictures((name, "u", "g")), None)
    assert training_rows(objects, "bundles/a")["media_id"].to_list() == ["m2"]


def test_a_bundle_without_the_rows_is_named(objects: ObjectStore) -> None:
    with pytest.raises(RowsMissing, match=r"bundles/old/training_rows\.parquet is missing"):
        training_rows(objects, "bundles/old")


@pytest.mark.parametrize("copy", [("m1", "u8", "g8"), ("m8", "u1", "g8"), ("m8", "u8", "g1")])
def test_a_copy_and_the_rest_of_its_group_count_as_seen(copy: tuple[str, str, str]) -> None:
    """The group has another id than when the model saw it, so that only the copy tells of it."""
    other = ("m9", "u9", copy[2])
    asked = pictures(("m7", "u7", "g7"), other, copy, ("m5", "u5", "g5"))
    assert unseen(asked, pictures(("m1", "u1", "g1")))["media_id"].to_list() == ["m7", "m5"]


def test_nothing_seen_leaves_all_in_their_order() -> None:
    asked = pictures(("m2", "u2", "g2"), ("m1", "u1", "g1"))
    assert unseen(asked, pictures()).equals(asked)
    assert unseen(pictures(), asked).is_empty()
