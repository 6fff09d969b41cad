"""What a host's headers say about taking its pictures.

`X-Robots-Tag` may come several times, each a list of directives, some with a value, some after the name of the agent
they are for (https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag). `TDM-Reservation: 1` keeps
text and data mining to the owner (https://www.w3.org/community/reports/tdmrep/CG-FINAL-tdmrep-20240202/).
"""

from collections.abc import Iterable, Iterator, Mapping

TDM_RESERVATION = "tdm-reservation"
# Without them a name before a colon could not be told to be an agent's.
VALUED = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})
PLAIN = frozenset(
    {"all", "index", "follow", "none", "noindex", "nofollow", "noarchive", "nocache", "nosnippet", "noimageindex"}
    | {"notranslate", "indexifembedded", "noodp", "noydir", "noai", "noimageai", "noml"}
)


def refused_by(
    headers: Mapping[str, list[str]] | Mapping[str, str] | Iterable[tuple[str, str]],
    directives: frozenset[str],
    agent: str = "gbif-platform",
) -> str | None:
    """The directive that keeps this picture from being taken; None = it may be taken.

    Args:
        headers: of the answer, names in any case, a name once or several times.
        directives: what is heeded, in small letters; empty = nothing. `none` in a header also counts as `noindex`.
        agent: our name; what is meant for other agents does not concern us.
    """
    if not directives:
        return None
    for name, value in _pairs(headers):
        if name.lower() == TDM_RESERVATION and value.strip() == "1" and TDM_RESERVATION in directives:
            return TDM_RESERVATION
        if name.lower() != "x-robots-tag":
            continue
        for directive in _concerning(value, agent.lower(), PLAIN | directives):
            if directive in directives or (directive == "none" and "noindex" in directives):
                return directive
    return None


def _pairs(
    headers: Mapping[str, list[str]] | Mapping[str, str] | Iterable[tuple[str, str]],
) -> Iterator[tuple[str, str]]:
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        for single in [value] if isinstance(value, str) else value:
            yield name, single


def _concerning(line: str, agent: str, known: frozenset[str]) -> Iterator[str]:
    """The directives of one header line that are for everybody or for us. A name holds until the next one."""
    addressee = agent
    for part in line.lower().split(","):
        head, colon, rest = (piece.strip() for piece in part.partition(":"))
        if colon and head not in VALUED:
            if rest.partition(":")[0].strip() not in known | VALUED:
                continue  # a value, of a date or of a directive we do not know
            addressee, head = head, rest
        if addressee in (agent, "*"):
            yield head
