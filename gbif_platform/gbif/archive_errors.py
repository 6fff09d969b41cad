"""What can be wrong with an archive as a whole; single bad rows are counted, not raised."""

from gbif_platform.errors import PlatformError


class ArchiveError(PlatformError):
    """An archive cannot be read."""


class ArchiveMissing(ArchiveError):
    """There is nothing at the path."""


class NotAnArchive(ArchiveError):
    """The file is empty, cut, or no zip, tar or delimited text."""


class ArchiveUnsafe(ArchiveError):
    """A member leaves the archive's folder, or unpacks to more than the limits allow."""


class DescriptorMissing(ArchiveError):
    """Several data files and no meta.xml that says which one is the core."""


class DescriptorInvalid(ArchiveError):
    """meta.xml cannot be parsed, or it describes a file that cannot exist."""


class MemberMissing(ArchiveError):
    """A file that meta.xml names is not in the archive."""


class MemberUnreadable(ArchiveError):
    """A member is damaged, encrypted, or no table of the shape that meta.xml declares."""
