"""What a model has seen: the pictures that it, and every model it was started from, was trained and chosen on."""

import io

import polars as pl

from gbif_platform.errors import PlatformError
from gbif_platform.storage.objects import ObjectStore

ROWS = "training_rows.parquet"
COLUMNS = ("media_id", "url_id", "group_id", "label", "subset")


class RowsMissing(PlatformError):
    """A bundle does not say what its model has seen."""


def keep_training_rows(objects: ObjectStore, bundle: str, rows: pl.DataFrame, start: str | None) -> None:
    """Write beside a bundle which pictures its model saw.

    Args:
        rows: `COLUMNS` of the pictures in `train` and `validation`.
        start: the bundle that the training starts from; what that has seen, this one has seen too.
    """
    seen = rows.select(COLUMNS).with_columns(bundle=pl.lit(bundle))
    if start:
        seen = pl.concat([seen, training_rows(objects, start)])
    buffer = io.BytesIO()
    seen.write_parquet(buffer)
    objects.put(f"{bundle}/{ROWS}", buffer.getvalue())


def training_rows(objects: ObjectStore, bundle: str) -> pl.DataFrame:
    """What a model has seen: `COLUMNS`, and `bundle`: of the model itself, or of one that it goes back to.

    Raises:
        RowsMissing: the bundle is of an older version of this program.
    """
    key = f"{bundle}/{ROWS}"
    if not objects.exists(key):
        raise RowsMissing(f"{objects.url_of(key)} is missing: it says what the model has seen", "train the model anew")
    return pl.read_parquet(io.BytesIO(objects.get(key)))


def unseen(pictures: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    """The pictures of which no copy and no other member of the group is among `seen`, in their order.

    Args:
        pictures: media_id, url_id, group_id. A group that has another id since is known by any of its pictures here.
        seen: of `training_rows`.
    """
    keys = ("media_id", "url_id", "group_id")
    met = pl.concat([pictures.join(seen, on=key, how="semi").select("group_id") for key in keys])
    return pictures.join(met, on="group_id", how="anti", maintain_order="left")
