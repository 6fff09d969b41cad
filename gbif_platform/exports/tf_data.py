"""Pictures as files that `tf.keras.utils.image_dataset_from_directory` reads."""

import polars as pl

from gbif_platform.exports.contents import Export
from gbif_platform.exports.imagefolder import ImageFolder
from gbif_platform.exports.manifest import ExportError

DECODED = (".jpg", ".png")
"""What that function looks for, of the formats in which pictures are stored."""


class TfDataFolder(ImageFolder):
    """An image folder of pictures that TensorFlow decodes."""

    def _folder(self, export: Export) -> pl.Expr:
        if export.suffix not in DECODED:
            raise ExportError(
                f"Keras does not find pictures named {export.suffix}", "set images.format: jpeg in the dataset file"
            )
        return super()._folder(export)
