"""What may be asked: public web addresses, however they are spelt."""

import string
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.images.addresses import BadURLError, is_public, web_url


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.1.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "192.0.2.1", "198.18.0.1", "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "fe80::1%eth0", "fec0::1",
        "fc00::1", "ff02::1",
    ],
)  # fmt: skip
def test_addresses_inside_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_outside_are_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_wrapping_an_address_changes_nothing(address: IPv4Address) -> None:
    number = int(address)
    wrapped = [
        IPv6Address((0xFFFF << 32) | number),
        IPv6Address((0x64FF9B << 96) | number),
        IPv6Address((0x2002 << 112) | (number << 80)),
    ]
    assert {is_public(str(ip)) for ip in wrapped} == {is_public(str(address))}


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("http://h.org/with blank/ö ñ.jpg", "http://h.org/with%20blank/%C3%B6%20%C3%B1.jpg"),
        ("  HTTP://H.ORG/a%20b%2Fc.jpg?x=%2F+a&y=ä#fragment ", "http://h.org/a%20b%2Fc.jpg?x=%2F+a&y=%C3%A4"),
        ("http://h.org/100%.jpg", "http://h.org/100%25.jpg"),
        ("http://h.org/a\\b.jpg", "http://h.org/a/b.jpg"),
        ("http://h.org/a\n\tb.jpg", "http://h.org/ab.jpg"),
        ("https://bücher.example:8443", "https://xn--bcher-kva.example:8443/"),
        ("http://h.org/iiif/full/!512,512/0/default.jpg", "http://h.org/iiif/full/!512,512/0/default.jpg"),
        ("http://[2606:4700::1111]/x", "http://[2606:4700::1111]/x"),
    ],
)
def test_a_url_is_sent_as_a_browser_would(text: str, sent: str) -> None:
    assert str(web_url(text)) == sent


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "unsupported_scheme"), ("//h/x", "unsupported_scheme"), ("javascript:alert(1)", "unsupported_scheme"),
        ("file:///etc/passwd", "unsupported_scheme"), ("http://", "invalid_url"), ("http://h:99999/", "invalid_url"),
        ("http://exa mple.org/", "invalid_url"), ("http://[::1/x", "invalid_url"), ("http://\udcff/", "invalid_url"),
    ],
)  # fmt: skip
def test_what_is_no_web_address_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(BadURLError) as refused:
        web_url(text)
    assert refused.value.reason == reason


@given(st.text() | st.text().map("http://h.org/".__add__) | st.text().map("http://".__add__))
def test_any_text_gives_a_plain_url_or_a_refusal(text: str) -> None:
    try:
        url = web_url(text)
    except BadURLError:
        return
    assert url.scheme in ("http", "https")
    assert set(str(url)) <= set(string.ascii_letters + string.digits + "!$&'()*+,/:;=?@[]-._~%")
    assert web_url(str(url)) == url
