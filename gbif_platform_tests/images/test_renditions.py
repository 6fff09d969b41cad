"""Which size of a picture is asked for, host by host."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.images.addresses import web_url
from gbif_platform.images.renditions import Rule, cache_url, load_rules, renditions
from gbif_platform.images.transform import Transform

INATURALIST = "https://inaturalist-open-data.s3.amazonaws.com/photos/31610070"
COMMONS = "https://upload.wikimedia.org/wikipedia/commons"
FLICKR = "https://live.staticflickr.com/5443/17858062_8a1f3c"
PLANTNET = "https://bs.plantnet.org/image/{}/171e538d4f59288686f87e378a4a1b5d9a80fe2d"
MACAULAY = "https://cdn.download.ams.birds.cornell.edu/api/v2/asset/354974891/{}"
IDS = "https://ids.si.edu/ids/deliveryService"
IIIF = "https://images.collections.yale.edu/iiif/2/ypm:c6ece5f4/full/{}/0/default.jpg"
ARK = f"{IDS}/id/ark:/65665/m3004af0b"

OFFERS = [
    # url, target of the shorter side, what is asked in its place
    (f"{INATURALIST}/original.jpg", 128, [f"{INATURALIST}/small.jpg", f"{INATURALIST}/medium.jpg"]),
    (f"{INATURALIST}/original.jpg", 256, [f"{INATURALIST}/medium.jpg", f"{INATURALIST}/large.jpg"]),
    (f"{INATURALIST}/original.jpeg", 512, [f"{INATURALIST}/large.jpeg"]),
    (f"{INATURALIST}/original.jpg", 1024, []),
    (f"{INATURALIST}/medium.jpg", 128, [f"{INATURALIST}/small.jpg"]),
    (f"{INATURALIST}/medium.jpg", 256, []),
    (
        "http://static.inaturalist.org/photos/42/original.JPG?1545345",
        256,
        ["http://static.inaturalist.org/photos/42/medium.JPG", "http://static.inaturalist.org/photos/42/large.JPG"],
    ),
    (
        f"{COMMONS}/a/ab/Rana_%28arvalis%29.jpg",
        256,
        [
            f"{COMMONS}/thumb/a/ab/Rana_%28arvalis%29.jpg/500px-Rana_%28arvalis%29.jpg",
            f"{COMMONS}/thumb/a/ab/Rana_%28arvalis%29.jpg/960px-Rana_%28arvalis%29.jpg",
        ],
    ),
    (f"{COMMONS}/thumb/a/ab/Rana.JPG/1024px-Rana.JPG", 512, [f"{COMMONS}/thumb/a/ab/Rana.JPG/960px-Rana.JPG"]),
    (f"{COMMONS}/thumb/a/ab/Rana.jpg/500px-Rana.jpg", 256, []),
    (
        f"{COMMONS}/d/dd/Sheet.tif",
        512,
        [
            f"{COMMONS}/thumb/d/dd/Sheet.tif/lossy-page1-960px-Sheet.tif.jpg",
            f"{COMMONS}/thumb/d/dd/Sheet.tif/lossy-page1-1280px-Sheet.tif.jpg",
        ],
    ),
    (f"{FLICKR}_b.jpg", 256, [f"{FLICKR}_w.jpg", f"{FLICKR}.jpg"]),
    (f"{FLICKR}.jpg", 200, [f"{FLICKR}_n.jpg", f"{FLICKR}_w.jpg"]),
    (
        "http://farm6.staticflickr.com/7/5443/17858_8a_z.jpg?zz=1",
        300,
        ["http://farm6.staticflickr.com/7/5443/17858_8a.jpg"],
    ),
    (PLANTNET.format("o"), 256, [PLANTNET.format("m")]),
    (PLANTNET.format("o"), 512, []),
    (PLANTNET.format("m"), 128, []),
    (MACAULAY.format("2400"), 256, [MACAULAY.format("480"), MACAULAY.format("640")]),
    (MACAULAY.format("1200"), 512, [MACAULAY.format("900")]),
    (
        f"{IDS}?id=NMNH-USNMENT01732649",
        256,
        [f"{IDS}?max=400&id=NMNH-USNMENT01732649", f"{IDS}?max=600&id=NMNH-USNMENT01732649"],
    ),
    (f"{IDS}?max=600&id=FS-7766_25", 256, [f"{IDS}?max=400&id=FS-7766_25"]),
    (ARK, 500, [f"{ARK}/800", f"{ARK}/1200"]),
    (IIIF.format("full"), 256, [IIIF.format("!400,400"), IIIF.format("!600,600")]),
    (IIIF.format("max"), 1024, [IIIF.format("!1600,1600"), IIIF.format("!2400,2400")]),
    (IIIF.format("!800,800"), 300, [IIIF.format("!600,600")]),
    (IIIF.format("512,"), 512, []),
    (
        "http://127.0.0.1:8080/iiif/a%2Fb/full/max/0/default.png",
        256,
        [f"http://127.0.0.1:8080/iiif/a%2Fb/full/!{n},{n}/0/default.jpg" for n in (400, 600)],
    ),
]


@pytest.mark.parametrize(("url", "size", "offered"), OFFERS)
def test_offers(url: str, size: int, offered: list[str]) -> None:
    assert [rendition.url for rendition in renditions(url, Transform(size=size))] == offered


@pytest.mark.parametrize(
    "url",
    [
        f"{INATURALIST}/original.jpg/extra",
        f"{INATURALIST}/square.jpg",
        f"{INATURALIST}/original.jpg?X-Amz-Signature=ab",
        "https://inaturalist-open-data.s3.amazonaws.com.example.org/photos/1/original.jpg",
        "https://static.inaturalist.org@example.org/photos/1/original.jpg",
        "https://staticXinaturalist.org/photos/1/original.jpg",
        "https://example.org/?u=https://static.inaturalist.org/photos/1/original.jpg",
        "ftp://static.inaturalist.org/photos/1/original.jpg",
        "https://static.inaturalist.org/attachments/1/original.jpg",
        f"{COMMONS}/a/ab/Song.ogg",
        f"{COMMONS}/archive/a/ab/20200101!Rana.jpg",
        "https://commons.wikimedia.org/wiki/File:Rana.jpg",
        f"{FLICKR}_o.jpg",
        f"{FLICKR}_k.jpg",
        f"{FLICKR}_q.jpg",
        "https://www.flickr.com/photos/me/17858062",
        "https://bs.plantnet.org/image/o/not-a-hash",
        "https://cdn.download.ams.birds.cornell.edu/api/v1/asset/207166/mp3",
        "https://cdn.download.ams.birds.cornell.edu/api/v1/asset/207166/spectrogram_small",
        f"{IDS}?id=NMNH-1&max_w=5000",
        "https://iiif.example.org/b1/0,0,50,50/max/0/default.jpg",
        "https://iiif.example.org/b1/full/max/90/default.jpg",
        "https://iiif.example.org/b1/full/max/0/gray.jpg",
        "https://iiif.example.org/b1/full/pct:50/0/default.jpg",
        "https://iiif.example.org/b1/info.json",
        "https://observation.org/photos/15658540.jpg",
        "",
        "not a url",
    ],
)
def test_what_only_looks_alike_has_no_rendition(url: str) -> None:
    assert renditions(url, Transform(size=64)) == []


@pytest.mark.parametrize(
    ("resize", "name"),
    [("keep_ratio", "large"), ("center_crop", "large"), ("keep_ratio_largest", "medium"), ("border", "medium")],
)
def test_the_side_that_the_target_measures_decides(resize: str, name: str) -> None:
    offered = renditions(f"{INATURALIST}/original.jpg", Transform(size=400, resize=resize))  # type: ignore[arg-type]
    assert offered[0].name == f"inaturalist/{name}"


def test_a_width_says_nothing_of_the_longer_side() -> None:
    transform = Transform(size=256)
    assert renditions(f"{INATURALIST}/original.jpg", transform)[0].longest == 500
    assert renditions(f"{COMMONS}/a/ab/Rana.jpg", transform)[0].longest is None
    assert renditions(PLANTNET.format("o"), transform)[0].longest is None


@pytest.mark.parametrize(
    "transform",
    [Transform(size=None, resize="no"), Transform(keep_original=True), Transform(renditions=False)],
)
def test_none_where_the_original_is_wanted(transform: Transform) -> None:
    assert all(renditions(url, transform) == [] for url, _, _ in OFFERS)


@given(
    st.sampled_from([url for url, _, _ in OFFERS]),
    st.integers(1, 4000),
    st.sampled_from(["keep_ratio", "keep_ratio_largest", "border", "center_crop"]),
)
def test_never_the_original_never_larger_and_settled_after_one_step(url: str, size: int, resize: str) -> None:
    transform = Transform(size=size, resize=resize)  # type: ignore[arg-type]
    offered = renditions(url, transform)
    assert url not in [rendition.url for rendition in offered]
    assert len({rendition.url for rendition in offered}) == len(offered) <= 2
    longest = [rendition.longest for rendition in offered if rendition.longest]
    assert longest == sorted(longest)
    assert all(side >= size for side in longest)
    assert offered == [] or renditions(offered[0].url, transform) == []
    for rendition in offered:
        assert str(web_url(rendition.url)) == rendition.url  # it is sent as it stands: commas stay commas


@given(st.data(), st.sampled_from(load_rules()))
def test_no_url_is_too_hostile(data: st.DataObject, rule: Rule) -> None:
    url = data.draw(st.from_regex(rule.pattern, fullmatch=True) | st.text())
    for rendition in renditions(url, Transform(size=64)):
        assert rendition.url != url


@pytest.mark.parametrize(
    "url", [f"{IDS}?max={{}}&id=FS-7766_25", f"{ARK}/{{}}", IIIF.format("{},"), f"{COMMONS}/a/ab/R.jpg/{{}}px-R.jpg"]
)
def test_a_size_that_no_picture_has_is_no_size(url: str) -> None:
    assert renditions(url.format("9" * 5000), Transform(size=64)) == []


def test_every_rule_is_exercised() -> None:
    met = {
        rendition.name.split("/")[0] for url, size, _ in OFFERS for rendition in renditions(url, Transform(size=size))
    }
    assert met == {rule.name for rule in load_rules()}


def test_the_address_in_gbifs_cache() -> None:
    # The example of https://techdocs.gbif.org/en/openapi/images
    url = "https://inaturalist-open-data.s3.amazonaws.com/photos/31610070/original.jpg"
    wanted = "https://api.gbif.org/v1/image/cache/occurrence/2005380410/media/568639b65b65ddb9090d3d6ef1abce14"
    assert hashlib.md5(url.encode()).hexdigest() == "568639b65b65ddb9090d3d6ef1abce14"
    assert cache_url("https://api.gbif.org/v1/image/cache", "2005380410", url) == wanted
    assert cache_url("https://api.gbif.org/v1/image/cache/", "2005380410", url) == wanted
