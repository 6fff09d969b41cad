import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gbif_platform.gbif.licences import (
    UNKNOWN,
    Licence,
    LicencePolicyError,
    allowed,
    check_policy,
    from_spdx,
    normalise,
)


@pytest.mark.parametrize(
    ("text", "spdx"),
    [
        ("CC0_1_0", "CC0-1.0"),
        ("CC_BY_4_0", "CC-BY-4.0"),
        ("CC_BY_NC_4_0", "CC-BY-NC-4.0"),
        ("CC-BY-NC-SA-3.0", "CC-BY-NC-SA-3.0"),
        ("http://creativecommons.org/licenses/by/4.0/legalcode", "CC-BY-4.0"),
        ("https://creativecommons.org/licenses/by-sa/4.0/deed.pt_BR", "CC-BY-SA-4.0"),
        ("creativecommons.org/licenses/by-nc-nd/2.5/es", "CC-BY-NC-ND-2.5"),
        ("http://creativecommons.org/licenses/by/3.0/igo/", "CC-BY-3.0"),
        ("https://i.creativecommons.org/l/by-nc/4.0/80x15.png", "CC-BY-NC-4.0"),
        ("http://creativecommons.org/licenses/by%2Dnc/4.0/", "CC-BY-NC-4.0"),
        ('<a href="http://creativecommons.org/licenses/by/2.0/">CC BY</a>', "CC-BY-2.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("© Jane Doe, some rights reserved (CC BY-NC-ND 4.0)", "CC-BY-NC-ND-4.0"),
        ("Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
        ("Creative Commons Reconocimiento-NoComercial-CompartirIgual 3.0 España", "CC-BY-NC-SA-3.0"),
        ("Creative Commons Namensnennung - Keine Bearbeitungen 3.0 Deutschland", "CC-BY-ND-3.0"),
        ("Licence Creative Commons Attribution - Pas d’Utilisation Commerciale 4.0", "CC-BY-NC-4.0"),
        ("Licença Creative Commons Atribuição-NãoComercial-SemDerivações 4.0", "CC-BY-NC-ND-4.0"),
        ("知识共享署名-非商业性使用 4.0", "CC-BY-NC-4.0"),
        ("https://opendatacommons.org/licenses/odbl/1-0/", "ODbL-1.0"),
        ("no rights reserved", "CC0-1.0"),
    ],
)
def test_a_licence_is_read_in_each_of_its_forms(text: str, spdx: str) -> None:
    licence = normalise(text)
    assert licence.spdx == spdx
    assert not licence.version_assumed


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "UNSPECIFIED",
        "Jane Doe",
        "Photo by NC Museum",
        "Creative Commons",
        "Creative Commons - Share Alike",
        "http://creativecommons.org/licenses/",
        "http://creativecommons.org/licenses/sampling+/1.0/",
        "CC BY-NC-ND-SA 4.0",
        "This image is not CC BY",
        "CC BY for thumbnails only",
        "CC BY 4.0 with the permission of the author",
        "Metadata CC0; images CC BY-NC",
        "not-for-profit use only",
        "https://example.org/cc-by-4.0.html",
        "© axicus some rights reserved",
        "x" * 30_000,
    ],
)
def test_what_names_no_licence_or_two_is_unknown(text: str | None) -> None:
    assert normalise(text) == Licence(UNKNOWN)


@pytest.mark.parametrize(
    "text", ["(c) Jane Doe, all rights reserved", "Tous droits réservés", "© 2018 Museum", "All rights reserved, CC BY"]
)
def test_reserved_rights_are_unknown_and_said_so(text: str) -> None:
    assert normalise(text) == Licence(UNKNOWN, all_rights_reserved=True)


def test_a_missing_or_invented_version_is_assumed_to_be_the_current_one() -> None:
    for text in ("CC BY-NC", "Creative Commons Attribution-Non Commercial (CC BY-NC) 3.15"):
        licence = normalise(text)
        assert (licence.spdx, licence.version_assumed) == ("CC-BY-NC-4.0", True)


def test_a_second_mention_can_only_restrict() -> None:
    assert normalise("http://creativecommons.org/licenses/by/4.0/ no commercial use").non_commercial
    assert normalise("CC BY 4.0, no derivatives").no_derivatives


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    licence = normalise(text)
    assert licence.unknown or from_spdx(licence.spdx).spdx == licence.spdx


@given(
    st.sampled_from(["", "-nc", "-sa", "-nd", "-nc-sa", "-nc-nd"]), st.sampled_from(["1.0", "2.0", "2.5", "3.0", "4.0"])
)
def test_url_code_and_spdx_id_agree(elements: str, version: str) -> None:
    spdx = f"CC-BY{elements.upper()}-{version}"
    expected = from_spdx(spdx)
    assert expected.spdx == spdx
    for text in (
        f"https://creativecommons.org/licenses/by{elements}/{version}/legalcode",
        f"cc by{elements.replace('-', ' ')} {version}",
        spdx.replace("-", "_").replace(".", "_"),
    ):
        assert normalise(text) == expected


@pytest.mark.parametrize(
    ("spdx", "in_open", "in_non_commercial"),
    [
        ("CC0-1.0", True, True),
        ("CC-PDM-1.0", True, True),
        ("CC-BY-4.0", True, True),
        ("CC-BY-SA-3.0", True, True),
        ("ODbL-1.0", True, True),
        ("CC-BY-NC-4.0", False, True),
        ("CC-BY-NC-SA-4.0", False, True),
        ("CC-BY-ND-4.0", False, False),
        ("CC-BY-NC-ND-4.0", False, False),
        ("unknown", False, False),
        ("GPL-3.0-only", False, False),
    ],
)
def test_policies(spdx: str, in_open: bool, in_non_commercial: bool) -> None:
    assert allowed(spdx, "open") is in_open
    assert allowed(spdx, "non-commercial") is in_non_commercial
    assert allowed(spdx, "any")
    assert allowed(spdx, ["CC-BY-4.0"]) is (spdx == "CC-BY-4.0")


@pytest.mark.parametrize("policy", ["opne", "", [], ["CC-BY"], ["unknown"]])
def test_a_policy_that_does_not_exist_is_named(policy: str | list[str]) -> None:
    with pytest.raises(LicencePolicyError, match="open, non-commercial"):
        check_policy(policy)


# Real strings --------------------------------------------------------------------------------------------------------


def truth(shared: Path) -> list[tuple[str, Licence]]:
    """Real strings and how they are to be read: a CC code with its version, or words for what is no licence."""
    with (shared / "vocab" / "licence_truth_dev.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(row["string"], expected_licence(row["expected"], row["version"])) for row in rows]


def expected_licence(expected: str, version: str) -> Licence:
    code = expected.split(" ")[0]
    if code.startswith("CC-BY"):
        exists = version[:1].isdigit()
        licence = from_spdx(f"{code}-{version if exists else '4.0'}")
        return Licence(**{**vars(licence), "version_assumed": not exists})
    spdx = {"CC0": "CC0-1.0", "PDM": "CC-PDM-1.0"}.get(code, UNKNOWN)
    return from_spdx(spdx) if spdx != UNKNOWN else Licence(spdx, all_rights_reserved=code == "ALL-RIGHTS-RESERVED")


def test_real_strings_are_read_as_a_person_reads_them(shared: Path) -> None:
    rows = truth(shared)
    wrong = [(text, normalise(text), expected) for text, expected in rows if normalise(text) != expected]
    assert len(rows) >= 100
    assert len(wrong) <= 0.03 * len(rows), wrong


def test_no_real_string_is_read_as_more_permissive_than_it_is(shared: Path) -> None:
    for text, expected in truth(shared):
        read = normalise(text)
        if read.unknown:
            continue
        assert not expected.unknown, text
        for duty in ("attribution", "non_commercial", "no_derivatives", "share_alike"):
            assert getattr(read, duty) >= getattr(expected, duty), text
