"""Why a GBIF download cannot be had."""

from gbif_platform.gbif.errors import GbifError, NotFound, Unreachable


class DownloadError(GbifError):
    """A GBIF download cannot be fetched."""


class InvalidReference(DownloadError):
    """The text is neither a download's DOI, nor its key, nor an address that holds one of them."""


class UnknownDownload(DownloadError, NotFound):
    """GBIF knows no such download."""


class DownloadNotReady(DownloadError):
    """GBIF is still preparing the file."""


class DownloadErased(DownloadError):
    """GBIF has deleted the file; its metadata and its DOI remain, and its request can be repeated."""

    def __init__(self, reference: object) -> None:
        super().__init__(
            f"GBIF has deleted the file of download {reference}",
            f"gbif-platform snapshot replay DATASET {reference} requests the same data anew, under a new DOI",
        )


class DownloadFailed(DownloadError):
    """The download was cancelled or killed, or it failed at GBIF: there will be no file."""


class DownloadDamaged(DownloadError):
    """What came is no sound zip of the announced size."""


class DownloadUnreachable(DownloadError, Unreachable):
    """GBIF did not answer, or broke off again and again."""
