"""Licence texts as SPDX ids: what a publisher wrote, in any form or language, read with care.

GBIF passes the licence of a medium on as free text. A text is read as a licence only where it names one; where it
contradicts itself, adds a condition or names a licence that is not in licence_patterns.py, the answer is `unknown`, so
that nothing is ever read as more permissive than it is. The SPDX ids are those of https://spdx.org/licenses/.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from gbif_platform.errors import PlatformError
from gbif_platform.gbif import licence_patterns as patterns

UNKNOWN = "unknown"
POLICIES = ("any", "open", "non-commercial")
RESTRICTIONS = ("attribution", "non_commercial", "no_derivatives", "share_alike")
"""What a licence may ask for: fields of `Licence`, columns of the lake."""
# GBIF reads a Creative Commons licence without a version as the current one (gbif/parsers, license_uri.tsv).
CURRENT_VERSION = "4.0"
_LONGEST_TEXT = 20_000
_CC_ID = re.compile(rf"CC-(BY(?:-NC)?(?:-ND|-SA)?)-({'|'.join(map(re.escape, patterns.CC_VERSIONS))})")


@dataclass(frozen=True)
class Licence:
    """A licence as an SPDX id (or `unknown`) and what it asks for.

    `version_assumed`: the text names a Creative Commons licence, but no version of it that exists.
    `all_rights_reserved`: the text reserves all rights, or is a bare copyright notice; `spdx` is `unknown` then.
    """

    spdx: str
    version_assumed: bool = False
    attribution: bool = False
    non_commercial: bool = False
    no_derivatives: bool = False
    share_alike: bool = False
    all_rights_reserved: bool = False

    @property
    def unknown(self) -> bool:
        """Whether the text names no licence, or several that contradict each other."""
        return self.spdx == UNKNOWN


class LicencePolicyError(PlatformError):
    """A licence policy that does not exist."""


def allowed(spdx: str, policy: str | Sequence[str]) -> bool:
    """Whether a medium under licence `spdx` may be used under `policy`.

    Args:
        spdx: an SPDX id, or `unknown`.
        policy: `any`; `open` (free for every use, also commercial, and for derivatives: CC0, public domain, BY, BY-SA,
            …); `non-commercial` (open, or non-commercial); or a list of SPDX ids. Unknown licences pass `any` alone.

    Raises LicencePolicyError.
    """
    check_policy(policy)
    if policy == "any":
        return True
    licence = from_spdx(spdx)
    if not isinstance(policy, str):
        return spdx in policy
    return not (licence.unknown or licence.no_derivatives or (licence.non_commercial and policy != "non-commercial"))


def check_policy(policy: str | Sequence[str]) -> None:
    """Raise LicencePolicyError where `policy` is none, or a list with something else than known SPDX ids in it."""
    wrong = [policy] if isinstance(policy, str) else [spdx for spdx in policy if from_spdx(spdx).unknown]
    if policy in POLICIES or (policy and not wrong):
        return
    raise LicencePolicyError(
        f"{wrong[0] if wrong else '[]'!r} is no licence policy",
        f"use one of {', '.join(POLICIES)}, or a list of SPDX ids such as [CC0-1.0, CC-BY-4.0]",
    )


def from_spdx(spdx: str) -> Licence:
    """The licence of an SPDX id; `unknown` for ids that are not in the tables."""
    if match := _CC_ID.fullmatch(spdx):
        return _creative_commons(set(match[1].lower().split("-")), match[2])
    if (asks_for := patterns.OTHER_LICENCES.get(spdx)) is None:
        return Licence(UNKNOWN)
    return Licence(spdx, attribution="by" in asks_for, share_alike="sa" in asks_for)


def page_of(spdx: str) -> str | None:
    """Where SPDX has the text of a licence; None for `unknown`."""
    return None if spdx == UNKNOWN else f"https://spdx.org/licenses/{spdx}"


@lru_cache(maxsize=65536)
def normalise(text: str | None) -> Licence:
    """Read a licence text: a URL, a GBIF enumeration value, an SPDX id or a phrase."""
    if not text or len(text) > _LONGEST_TEXT:
        return Licence(UNKNOWN)
    plain = patterns.plain(text)
    words = patterns.ANY_URL.sub(" ", plain)
    if patterns.ALL_RIGHTS.search(words) or patterns.IN_COPYRIGHT_URL.search(plain):
        return Licence(UNKNOWN, all_rights_reserved=True)
    named = {spdx for pattern, spdx in patterns.URLS if pattern.search(plain)}
    named |= {spdx for pattern, spdx in patterns.PHRASES if pattern.search(words)}
    elements = _cc_elements(plain, words)
    if not named and not elements:
        notice = patterns.COPYRIGHT_NOTICE.match(words) and not patterns.SOME_RIGHTS.search(words)
        return Licence(UNKNOWN, all_rights_reserved=bool(notice))
    if len(named) + bool(elements) > 1 or patterns.CONDITION.search(patterns.ELEMENT_NAMES.sub(" ", words)):
        return Licence(UNKNOWN)
    return from_spdx(named.pop()) if named else _creative_commons(elements, _version(plain, words))


def _cc_elements(plain: str, words: str) -> set[str]:
    """What a Creative Commons licence in the text is made of, such as {"by", "nc"}; empty where none is named.

    Elements are collected from the whole text: a second mention can only restrict further.
    """
    codes = [match["code"] for match in patterns.CC_URL.finditer(plain)]
    in_words = any(pattern.search(words) for pattern in patterns.NAMES_CC_BY)
    if not codes and not in_words:
        return set()
    elements = {element for code in codes for element in code.split("-")} | ({"by"} if in_words else set())
    elements |= {element for element, pattern in patterns.RESTRICTIONS.items() if pattern.search(words)}
    for match in patterns.CC_CHAIN.finditer(words):
        elements |= set(re.findall("nc|nd|sa", match["chain"]))
    return elements


def _version(plain: str, words: str) -> str | None:
    """The latest version that is named and exists."""
    versions = {match["version"] for match in patterns.CC_URL.finditer(plain)} | set(patterns.VERSION.findall(words))
    versions |= {f"{number}.0" for number in patterns.SHORT_VERSION.findall(words)}
    return max(versions & set(patterns.CC_VERSIONS), default=None)


def _creative_commons(elements: set[str], version: str | None) -> Licence:
    """`unknown` for a combination that does not exist: without BY, with ND and SA, or with something else."""
    if "by" not in elements or not elements <= {"by", "nc", "nd", "sa"} or {"nd", "sa"} <= elements:
        return Licence(UNKNOWN)
    code = "-".join(element.upper() for element in ("by", "nc", "nd", "sa") if element in elements)
    return Licence(
        f"CC-{code}-{version or CURRENT_VERSION}",
        version_assumed=version is None,
        attribution=True,
        non_commercial="nc" in elements,
        no_derivatives="nd" in elements,
        share_alike="sa" in elements,
    )
