"""Pictures in a folder for each subset and class, as torchvision's `ImageFolder` reads them."""

from pathlib import Path

import polars as pl

from gbif_platform.exports.contents import ALL, Export
from gbif_platform.exports.folder_names import folder_names
from gbif_platform.exports.manifest import ExportError
from gbif_platform.exports.picture_files import PictureFiles


class ImageFolder(PictureFiles):
    """`<subset>/<folder of the class>/<media_id>.jpg`, with a folder of every class in every subset.

    Readers count the folders: with one missing, the classes after it would have another index in that subset.
    """

    def _folder(self, export: Export) -> pl.Expr:
        if export.rows["label"].has_nulls():
            raise ExportError(
                f"{export.rows['label'].null_count():,} pictures have no label, and {export.format} is made of labels",
                "choose another format, such as webdataset",
            )
        label = pl.col("label").replace_strict(folder_names(export.classes), return_dtype=pl.String)
        return pl.concat_str(pl.col("subset").fill_null(ALL), label, separator="/")

    def beside(self, export: Export, folder: Path) -> None:
        """classes.csv: index, folder and label of each class, in the order of the folders; and the folders."""
        named = sorted((name, label) for label, name in folder_names(export.classes).items())
        rows = [(index, name, label) for index, (name, label) in enumerate(named)]
        pl.DataFrame(rows, schema=["index", "folder", "label"], orient="row").write_csv(folder / "classes.csv")
        for subset in export.subsets:
            for name, _ in named:
                (folder / subset / name).mkdir(parents=True, exist_ok=True)
