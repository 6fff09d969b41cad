"""What headers forbid, in every spelling that is met."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gbif_platform.images.robots import refused_by

POLICY = frozenset({"noai", "noimageai", "noindex", "noimageindex", "noml", "none", "tdm-reservation"})


@pytest.mark.parametrize(
    ("line", "directive"),
    [
        ("noai", "noai"),
        ("NOAI", "noai"),
        ("noimageai", "noimageai"),
        ("noindex, nofollow", "noindex"),
        ("none", "none"),
        ("noml", "noml"),
        ("max-snippet:-1, noai", "noai"),
        ("noai, max-snippet:-1", "noai"),
        ("max-image-preview: large, max-snippet: -1,noimageindex", "noimageindex"),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, noindex", "noindex"),
        ("unavailable_after: Tuesday, 25-Jun-30 15:00:00 GMT, noindex", "noindex"),
        ("some-new-thing: 7, noai", "noai"),
        ("gbif-platform: noai", "noai"),
        ("GBIF-Platform: nofollow, noai", "noai"),
        ("*: noai", "noai"),
        ("otherbot: noindex, gbif-platform: noml", "noml"),
        ("noai, otherbot: noindex", "noai"),
        ("otherbot: noindex", None),
        ("otherbot: noindex, nofollow, noai", None),
        ("otherbot: max-snippet: 4, noindex", None),
        ("all", None),
        ("nofollow, noarchive", None),
        ("max-snippet:-1", None),
        ("unavailable_after: 2030-01-01T00:00:00Z", None),
        ("", None),
        (", ,:", None),
        ("noaiming", None),
    ],
)
def test_a_line(line: str, directive: str | None) -> None:
    assert refused_by({"X-Robots-Tag": [line]}, POLICY) == directive


def test_the_header_may_come_several_times_in_any_case_and_shape() -> None:
    pairs = [("Content-Type", "image/jpeg"), ("x-robots-tag", "otherbot: noindex"), ("X-ROBOTS-TAG", "noai")]
    assert refused_by(pairs, POLICY) == "noai"
    assert refused_by(CIMultiDictProxy(CIMultiDict(pairs)), POLICY) == "noai"
    assert refused_by({"X-Robots-Tag": ["otherbot: noindex", "noai"]}, POLICY) == "noai"


@pytest.mark.parametrize(("value", "directive"), [("1", "tdm-reservation"), (" 1 ", "tdm-reservation"), ("0", None)])
def test_text_and_data_mining_reserved(value: str, directive: str | None) -> None:
    assert refused_by({"TDM-Reservation": [value]}, POLICY) == directive


def test_only_what_the_policy_names_is_heeded() -> None:
    everything = [("X-Robots-Tag", "noindex, none, noimageindex"), ("TDM-Reservation", "1")]
    assert refused_by(everything, frozenset()) is None
    assert refused_by(everything, frozenset({"noai"})) is None
    assert refused_by([("X-Robots-Tag", "none")], frozenset({"noindex"})) == "none"
    assert refused_by([("X-Robots-Tag", "noindex")], frozenset({"none"})) is None
    assert refused_by([("X-Robots-Tag", "house-rule")], frozenset({"house-rule"})) == "house-rule"


@given(st.text(max_size=80), st.sampled_from(["noai", "noimageai", "noml"]))
def test_no_line_breaks_it_and_a_line_of_its_own_always_counts(noise: str, directive: str) -> None:
    assert refused_by([("X-Robots-Tag", noise), ("X-Robots-Tag", directive)], frozenset({directive})) == directive
