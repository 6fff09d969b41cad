"""The tables behind licences.py: how licences are named in URLs, codes and words of many languages.

All patterns meet text that `plain` has prepared. In the word lists a blank stands for any separator, or none.
"""

import html
import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

CC_VERSIONS = ("1.0", "2.0", "2.5", "3.0", "4.0")

# Free licences beside CC BY, and what they ask for.
OTHER_LICENCES: dict[str, tuple[str, ...]] = {
    "CC0-1.0": (),
    "CC-PDM-1.0": (),
    "CC-PDDC": (),
    "PDDL-1.0": (),
    "ODC-By-1.0": ("by",),
    "ODbL-1.0": ("by", "sa"),
    "OGL-UK-1.0": ("by",),
    "OGL-UK-2.0": ("by",),
    "OGL-UK-3.0": ("by",),
}


def plain(text: str) -> str:
    """Lower case without accents, entities, escapes and typographic dashes; `BY_NC_4_0` as `by nc 4.0`."""
    text = unicodedata.normalize("NFKD", unquote(html.unescape(text))).casefold()
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = re.sub(r"(?<=[\W_]\d)_(?=\d)", ".", text)
    return re.sub(r"[\u2010-\u2015\ufffd]", "-", text).replace("_", " ")


def _words(lines: str) -> str:
    """One pattern of the words and phrases in `lines`, one on each line or several divided by commas."""
    words = [plain(word.strip()) for word in re.split(r"[,\n]", lines) if word.strip()]
    return "|".join(re.escape(word).replace(r"\ ", r"[\W_]*") for word in words)


def _compiled(rules: Iterable[tuple[str, str]]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(pattern), spdx) for pattern, spdx in rules)


# URLs ----------------------------------------------------------------------------------------------------------------
_CC_HOST = r"creativecommons\.(?:org|net)"
_OGL = r"nationalarchives\.gov\.uk/doc/open-government-licence/version"

ANY_URL = re.compile(r"\b(?:https?:|www\.)\S*|\b[\w.-]+\.(?:org|net|com|uk|de)/\S*")
CC_URL = re.compile(
    rf"(?:{_CC_HOST}/(?:licen[cs]es?|l)|licensebuttons\.net/[li])/(?P<code>(?!zero|publicdomain|mark)[a-z0-9+-]+)"
    r"(?![^/?#\s\"'<>()\[\],;.])(?:/+v?(?P<version>\d(?:\.\d+)?))?"
)
URLS = _compiled(
    (
        (rf"{_CC_HOST}/(?:publicdomain|licen[cs]es?|l|p)/zero\b|{_CC_HOST}/\S*\bcc0\b", "CC0-1.0"),
        (rf"{_CC_HOST}/(?:publicdomain|p)/mark\b", "CC-PDM-1.0"),
        (rf"{_CC_HOST}/licen[cs]es?/publicdomain\b", "CC-PDDC"),
        (r"opendatacommons\.org/licen[cs]es/pddl\b", "PDDL-1.0"),
        (r"opendatacommons\.org/licen[cs]es/by\b", "ODC-By-1.0"),
        (r"opendatacommons\.org/licen[cs]es/odbl\b", "ODbL-1.0"),
        (rf"{_OGL}/1\b", "OGL-UK-1.0"),
        (rf"{_OGL}/2\b", "OGL-UK-2.0"),
        (rf"{_OGL}/3\b", "OGL-UK-3.0"),
    )
)
IN_COPYRIGHT_URL = re.compile(r"rightsstatements\.org/(?:vocab|page)/inc\b(?!-)")

# Names of licences beside CC BY --------------------------------------------------------------------------------------
PHRASES = _compiled(
    (
        (r"(?:\bcc|\bcreative ?commons)[\W_]*(?:cc[\W_]*)?(?:0|zero)(?![\d.]*\d)(?![a-z])", "CC0-1.0"),
        (r"\bno rights reserved\b", "CC0-1.0"),  # iNaturalist's words for CC0
        (r"\bpublic domain mark\b|\bcc[\W_]*pdm\b", "CC-PDM-1.0"),
        (r"\bcc[\W_]*pddc\b", "CC-PDDC"),
        (r"\bpddl\b", "PDDL-1.0"),
        (r"\bodc[\W_]*by\b", "ODC-By-1.0"),
        (r"\bodbl\b|\bopen database licen[cs]e\b", "ODbL-1.0"),
        (r"\b(?:ogl(?:[\W_]*uk)?|open government licen[cs]e)[\W_]*(?:v\.? ?)?1(?:\.0)?\b", "OGL-UK-1.0"),
        (r"\b(?:ogl(?:[\W_]*uk)?|open government licen[cs]e)[\W_]*(?:v\.? ?)?2(?:\.0)?\b", "OGL-UK-2.0"),
        (r"\b(?:ogl(?:[\W_]*uk)?|open government licen[cs]e)[\W_]*(?:v\.? ?)?3(?:\.0)?\b", "OGL-UK-3.0"),
    )
)

# Creative Commons BY -------------------------------------------------------------------------------------------------
_CREATIVE_COMMONS = _words("creative commons, 知识共享, クリエイティブ・コモンズ")
_ATTRIBUTION = _words(
    """attribution, atribución, reconocimiento, atribuição, reconeixement, paternité, attribuzione, namensnennung
    naamsvermelding, erkännande, navngivelse, navngiving, nimeä, uznanie autorstwa, uveďte, attribuering, атрибуция
    表示, 署名, 저작자표시"""
)
_FILLER = r"(?:licen[cs]es?|licencia|licenca|licenza|licentie|lizenz|licens|lisens|public|international|the|cc|by)\b"
_CHAIN = r"(?:(?:nc|nd|sa)[\W_]*)*by(?:[\W_]*(?:noncomm|nonc|nc|nd|sa))*(?![a-z])"
NAMES_CC_BY = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\bcc[\W_]*{_CHAIN}",  # CC BY-NC-SA, ccbync, cc-nc-by
        rf"\bcreative[\W_]*commons[\W_]*(?:{_FILLER}[\W_]*)*?by(?:[\W_]+(?:nc|nd|sa)\b|[\W_]*\d|[\W_]*$)",
        rf"(?:{_CREATIVE_COMMONS}|\bcc)[\W_]*(?:{_FILLER}[\W_]*)*(?:{_ATTRIBUTION})",  # Creative Commons Namensnennung
        rf"^[\W_]*(?:{_ATTRIBUTION})\b.{{0,60}}\b\d\.\d\W+(?:internat|internac|unported|generic)",  # a deed's title
        r"^[\W_]*by(?:[\s-]+(?:nc|nd|sa))+(?:[\s-]+\d\.\d)?[\W_]*$",  # by-nc
    )
)
CC_CHAIN = re.compile(rf"\b(?:cc[\W_]*)?(?P<chain>{_CHAIN})")
RESTRICTIONS = {
    "nc": re.compile(
        r"\bnc\b|"
        + _words("commerc, comerc, kommerz, kommers, kommerc, коммерч, 营利, 營利, 商业, 商業, 영리, kaupallis, ticari")
    ),
    "nd": re.compile(
        r"\bnd\b|"
        + _words(
            """deriv, modifi, bearbeit, bearbeid, bearbejd, bearbetn, afgeleid, производн, 演绎, 演繹, 改変, 改變, 改变
            변경, utworów zależnych"""
        )
    ),
    "sa": re.compile(
        r"\bsa\b|"
        + _words(
            """share alike, compartir igual, compartilha igual, partage, gleichen bedingungen, stesso modo, gelijk delen
            del på samme, dela lika, na tych samych warunkach, 継承, 相同方式, 동일조건"""
        )
    ),
}
VERSION = re.compile(r"(?<![\d.])\d\.\d+(?![.\d])")
SHORT_VERSION = re.compile(r"\bby(?:[\W_]*(?:nc|nd|sa))*[\W_]+v?([1-4])\b(?![.\d])")

# What denies a licence or makes it conditional; the names of the elements themselves are taken out before.
ELEMENT_NAMES = re.compile(
    r"\bnot for commercial|\b(?:no|non|not|nicht|keine)[\W_]*(?:commerc|comerc|kommerz|deriv|modifi|bearbeit)\w*"
)
CONDITION = re.compile(
    r"\b(?:not|except|unless|excluding|permission|consent|restricted|prohibited|forbidden|only|solely|pending|formerly"
    r"|conditions apply|keine?|nicht|sauf|excepto|salvo|ausser|interdit\w*|prohibid\w*|verboten)\b"
)

# Copyright -----------------------------------------------------------------------------------------------------------
ALL_RIGHTS = re.compile(
    _words(
        """all rights reserved, all right reserved, tous droits réservés, derechos reservados
        todos os direitos reservados, tots els drets reservats, alle rechte vorbehalten, tutti i diritti riservati
        alle rechten voorbehouden, alla rättigheter förbehållna, alle rettigheder forbeholdes
        wszelkie prawa zastrzeżone, все права защищены
        版权所有, 版權所有, 無断転載"""
    )
)
COPYRIGHT_NOTICE = re.compile(r"[\W_]*(?:©|\(c\)|copyright\b)")
SOME_RIGHTS = re.compile(r"\bsome rights reserved\b")
