"""Why a GBIF download cannot be had."""

from gbif_platform.errors import PlatformError


class DownloadError(PlatformError):
    """A GBIF download cannot be fetched."""


class InvalidReference(DownloadError):
    """The text is neither a download's DOI, nor its key, nor an address that holds one of them."""


class UnknownDownload(DownloadError):
    """GBIF knows no such download."""


class DownloadNotReady(DownloadError):
    """GBIF is still preparing the file."""


class DownloadErased(DownloadError):
    """GBIF has deleted the file; its metadata and its DOI remain."""


class DownloadFailed(DownloadError):
    """The download was cancelled or killed, or it failed at GBIF: there will be no file."""


class DownloadDamaged(DownloadError):
    """What came is no sound zip of the announced size."""


class DownloadUnreachable(DownloadError):
    """GBIF did not answer, or broke off again and again."""
