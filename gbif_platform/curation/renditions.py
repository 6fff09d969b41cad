"""One picture at several sizes or addresses: which spellings of a URL are the same picture, as data.

A rule is here only where the host's own scheme says so. Not here, for example: Flickr's sizes `_o`, `_h`, `_k`, `_3k` …
have a secret of their own, so that their URLs cannot be told to be the picture of another one.
"""

from dataclasses import dataclass

_S3 = "inaturalist-open-data.s3.amazonaws.com"
_INATURALIST = r"(?:static\.inaturalist\.org|inaturalist-open-data\.s3(?:\.us-east-1)?\.amazonaws\.com)"
_TRACKING = r"(?:utm_[a-z]+|fbclid|gclid)=[^&]*"


@dataclass(frozen=True)
class Rendition:
    """A rule over URL keys (host in lower case, path, query; no scheme).

    Attributes:
        markers: what a key holds that the rule concerns, all of it; a cheap test before the pattern.
        pattern: RE2, replaced wherever it matches by `replacement`.
        example: a key before and after.
        unless: what only keys hold that are canonical already.
    """

    name: str
    markers: tuple[str, ...]
    pattern: str
    replacement: str
    example: tuple[str, str]
    unless: str | None = None


RENDITIONS = (
    Rendition(
        "iNaturalist: open-data bucket and static host hold the same photo ids in the same sizes",
        ("inaturalist", "/photos/"),
        rf"^{_INATURALIST}/photos/(\d+)/(?:original|large|medium|small|square|thumb)\.(\w+)(?:\?\d*)?$",
        rf"{_S3}/photos/\1/original.\2",
        ("static.inaturalist.org/photos/42/medium.jpeg?1545345", f"{_S3}/photos/42/original.jpeg"),
        unless=f"{_S3}/photos/%/original.jpg",
    ),
    Rendition(
        "Flickr: the sizes that share one secret; the largest of them stands for all",
        ("flickr.com/",),
        r"^(?:live|c\d|farm\d+)\.static\.?flickr\.com/(?:\d+/)??(\d+)/(\d+_[0-9a-f]+)(?:_[sqtmnwzcb])?\.jpg$",
        r"live.staticflickr.com/\1/\2_b.jpg",
        ("farm6.staticflickr.com/5443/17858_8a1f_z.jpg", "live.staticflickr.com/5443/17858_8a1f_b.jpg"),
    ),
    Rendition(
        "Wikimedia: a scaled copy lies under the name of its original",
        ("upload.wikimedia.org/", "/thumb/"),
        r"^upload\.wikimedia\.org/wikipedia/(\w+)/thumb/([0-9a-f]/[0-9a-f]{2}/[^/?]+)/"
        r"(?:(?:lossy-|lossless-)?page1-)?\d+px-[^/?]+$",
        r"upload.wikimedia.org/wikipedia/\1/\2",
        (
            "upload.wikimedia.org/wikipedia/commons/thumb/a/ab/Rana.jpg/800px-Rana.jpg",
            "upload.wikimedia.org/wikipedia/commons/a/ab/Rana.jpg",
        ),
    ),
    Rendition(
        "IIIF Image API 2 and 3: the whole region, not rotated, in any size",
        ("/full/", "/0/"),
        r"^([^/?]+/[^?]+)/full/(?:full|\^?max|\^?!?\d+,\d+|\^?\d+,|\^?,\d+|\^?pct:[\d.]+)/0/(default|native)\.(\w+)$",
        r"\1/full/max/0/\2.\3",
        ("iiif.example.org/b123/full/!512,512/0/default.jpg", "iiif.example.org/b123/full/max/0/default.jpg"),
    ),
    Rendition(
        "tracking parameters, after another parameter",
        ("&", "="),
        rf"&{_TRACKING}",
        "",
        ("example.org/view?id=7&utm_source=mail&utm_medium=x", "example.org/view?id=7"),
    ),
    Rendition(
        "a tracking parameter before another parameter",
        ("?", "&"),
        rf"\?{_TRACKING}&",
        "?",
        ("example.org/view?fbclid=Iw0&id=7", "example.org/view?id=7"),
    ),
    Rendition(
        "a tracking parameter alone",
        ("?",),
        rf"\?{_TRACKING}$",
        "",
        ("example.org/1.jpg?utm_source=mail", "example.org/1.jpg"),
    ),
)


def rendition_sql(key: str) -> str:
    """SQL for the canonical spelling of a URL key; nearly all keys cost no pattern."""
    replaced = key
    for rule in RENDITIONS:
        replaced = f"regexp_replace({replaced}, '{rule.pattern}', '{rule.replacement}', 'g')"
    concerned = " OR ".join(f"({_concerned(rule, key)})" for rule in RENDITIONS)
    return f"CASE WHEN {concerned} THEN {replaced} ELSE {key} END"


def _concerned(rule: Rendition, key: str) -> str:
    tests = [f"contains({key}, '{marker}')" for marker in rule.markers]
    if rule.unless:
        tests.append(f"{key} NOT LIKE '{rule.unless}'")
    return " AND ".join(tests)
