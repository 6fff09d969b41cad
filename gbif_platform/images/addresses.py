"""Which addresses may be asked: http(s) URLs only, and no machine inside our own network.

The rule is enforced where the socket is made, on the very address that is connected to: names, numbers in any spelling,
redirects and a DNS answer that changes between two look-ups all pass through it.
"""

import re
import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import quote, urlsplit

import aiohttp
from yarl import URL

# RFC 6052: the last 32 bits are the IPv4 address that is reached.
NAT64 = IPv6Network("64:ff9b::/96")

# Reserved and unreserved characters of RFC 3986, and % for what is encoded already.
URL_CHARACTERS = "!$&'()*+,/:;=?@[]-._~%"
HOST = re.compile(r"[\w.:%~-]+", re.ASCII)
STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


class ForbiddenAddressError(OSError):
    """The name or number leads to an address that is not public."""


class BadURLError(ValueError):
    """A URL that is not asked at all. `reason` is `unsupported_scheme` or `invalid_url`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def web_url(text: str) -> URL:
    """An http(s) URL, encoded as a browser would send it; what is percent-encoded already stays as it is.

    Raises:
        BadURLError: another scheme, none, or no usable host.
    """
    # Browsers drop these (WHATWG URL, 4.4); archives hold them where a cell was wrapped.
    text = text.strip().replace("\t", "").replace("\n", "").replace("\r", "")
    try:
        parts = urlsplit(text)
        if parts.scheme not in ("http", "https"):
            raise BadURLError("unsupported_scheme", f"{parts.scheme or 'no scheme'}: only http and https are fetched")
        base = URL(f"{parts.scheme}://{parts.netloc}")
        if not HOST.fullmatch(base.raw_host or ""):
            raise BadURLError("invalid_url", f"no usable host: {base.raw_host!r}")
        return URL.build(
            scheme=base.scheme,
            authority=base.raw_authority,
            path=_encoded(parts.path.replace("\\", "/")) or "/",
            query_string=_encoded(parts.query),
            encoded=True,
        )
    except BadURLError:
        raise
    except ValueError as error:  # also UnicodeError, from host names
        raise BadURLError("invalid_url", str(error)) from error


def server_name(target: URL) -> str:
    """What tells servers apart: host and port; http and https on their usual ports are one server."""
    return target.raw_host or "" if target.is_default_port() else f"{target.raw_host}:{target.port}"


def host_of(url: str) -> str:
    """The server behind a URL; empty where the URL is unusable."""
    return _host_of_origin("/".join(url.split("/", 3)[:3]))


@lru_cache(maxsize=65_536)
def _host_of_origin(origin: str) -> str:
    try:
        return server_name(web_url(origin))
    except BadURLError:
        return ""


def _encoded(part: str) -> str:
    # Header bytes that are not UTF-8 arrive as surrogates: they go back as the bytes they were.
    return STRAY_PERCENT.sub("%25", quote(part, safe=URL_CHARACTERS, errors="surrogateescape"))


def is_public(address: str) -> bool:
    """Whether an IP address (its textual form) is one of the open internet, also where it is wrapped in an IPv6 one."""
    ip = _unwrapped(ip_address(address.partition("%")[0]))
    if ip.is_multicast or ip.is_reserved or not ip.is_global:
        return False
    return not (isinstance(ip, IPv6Address) and ip.is_site_local)


def _unwrapped(ip: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(ip, IPv6Address):
        if inner := ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1]):
            return inner
        if ip in NAT64:
            return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def guarded_connector(allow_private: bool = False) -> aiohttp.TCPConnector:
    """A connector without limits of its own that connects to public addresses only, unless `allow_private`.

    A forbidden address appears as `aiohttp.ClientConnectorError` caused by `ForbiddenAddressError`. Needs a running
    loop.
    """

    def guarded_socket(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        if not allow_private and not is_public(str(address[0])):
            # The same words for every address, so that aiohappyeyeballs keeps the type where a name has several.
            raise ForbiddenAddressError("not a public address")
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, socket_factory=guarded_socket)
