"""The GBIF account, from the environment alone: GBIF_USER, GBIF_PWD, GBIF_EMAIL, as rgbif and pygbif name them."""

import os
from dataclasses import dataclass, field

import aiohttp

from gbif_platform.gbif.errors import NotAuthorised


@dataclass(frozen=True)
class Credentials:
    """A GBIF account; the password is in no repr, log or metadata.

    Attributes:
        user: the user name, not the e-mail address.
        email: where GBIF may write when a download is finished; "" for nowhere.
    """

    user: str
    password: str = field(repr=False)
    email: str = ""

    @classmethod
    def from_environment(cls) -> "Credentials":
        """The account of this process.

        Raises:
            NotAuthorised: `GBIF_USER` or `GBIF_PWD` is not set.
        """
        user, password = os.environ.get("GBIF_USER", ""), os.environ.get("GBIF_PWD", "")
        missing = [name for name, value in (("GBIF_USER", user), ("GBIF_PWD", password)) if not value]
        if missing:
            raise NotAuthorised(
                f"a GBIF account is needed, but {' and '.join(missing)} is not set",
                "set GBIF_USER (the user name), GBIF_PWD and, for GBIF's mails, GBIF_EMAIL in the environment",
            )
        return cls(user, password, os.environ.get("GBIF_EMAIL", ""))

    @property
    def authorization(self) -> str:
        """HTTP Basic authentication, as GBIF asks for."""
        return aiohttp.encode_basic_auth(self.user, self.password, encoding="utf-8")
