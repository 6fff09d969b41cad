import csv
import io
import itertools
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gbif_platform.gbif import archive_rows
from gbif_platform.gbif.archive import DarwinCoreArchive, DataFile
from gbif_platform.gbif.archive_errors import (
    ArchiveUnsafe,
    DescriptorInvalid,
    DescriptorMissing,
    MemberMissing,
    MemberUnreadable,
    NotAnArchive,
)
from gbif_platform_tests.gbif.archives import (
    AUDUBON,
    DC,
    DWC,
    GBIF,
    MULTIMEDIA,
    PLAIN,
    meta,
    occurrence_archive,
    pack,
    section,
)

TERMS = [GBIF + "gbifID", DWC + "locality", DWC + "decimalLatitude"]
HEADER = "gbifID\tlocality\tdecimalLatitude\n"
QUOTED = 'fieldsTerminatedBy="," fieldsEnclosedBy="&quot;" ignoreHeaderLines="1"'


def read(data_file: DataFile, batch_bytes: int = 4096) -> list[dict[str, Any]]:
    return [row for batch in data_file.batches(batch_bytes) for row in batch.to_pylist()]


class CoreRead(NamedTuple):
    rows: list[dict[str, Any]]
    core: DataFile
    lines: int | None


def read_core(path: Path, **kwargs: int) -> CoreRead:
    with DarwinCoreArchive(path) as archive:
        rows, lines = read(archive.core, **kwargs), archive.core.lines
        assert lines == archive.core.count_lines()
        return CoreRead(rows, archive.core, lines)


def test_rows_come_by_term_with_their_id_and_line(tmp_path: Path) -> None:
    text = HEADER + " 17 \tÅlborg\t\n\tRibe\t55.3\n"
    rows, core, lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS))
    assert rows == [
        {
            "_row_ref": "occurrence.txt:2",
            "_id": "17",
            "gbif_id": " 17 ",
            "locality": "Ålborg",
            "decimal_latitude": None,
        },
        {"_row_ref": "occurrence.txt:3", "_id": None, "gbif_id": None, "locality": "Ribe", "decimal_latitude": "55.3"},
    ]
    assert core.schema.names == list(rows[0])
    assert lines == core.rows == 2


def test_columns_follow_the_terms_and_not_the_header(tmp_path: Path) -> None:
    rows, *_ = read_core(occurrence_archive(tmp_path / "a.zip", "x\ty\tz\n1\t2\t3\n", list(reversed(TERMS))))
    assert (rows[0]["decimal_latitude"], rows[0]["gbif_id"]) == ("1", "3")


def test_a_quote_is_a_character_where_quoting_is_off(tmp_path: Path) -> None:
    text = HEADER + '1\tcliff above "Two"\t5\n2\t"open\t6\n3\t"closed"\t7\n4\tend"\t8\n'
    rows, *_ = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS))
    assert [row["locality"] for row in rows] == ['cliff above "Two"', '"open', '"closed"', 'end"']


def test_the_quotes_of_a_small_gbif_file_are_undone(tmp_path: Path) -> None:
    text = HEADER + '1\t"cliff above ""Two"""\t5\n2\tplain\t6\n3\t"""A"" and ""B"""\t7\n'
    rows, _core, lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS))
    assert [row["locality"] for row in rows] == ['cliff above "Two"', "plain", '"A" and "B"']
    assert lines == 3


def test_one_value_in_another_form_leaves_all_quotes_as_they_are(tmp_path: Path) -> None:
    text = HEADER + '1\t"cliff above ""Two"""\t5\n2\t12" tall\t6\n'
    rows, *_ = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS))
    assert [row["locality"] for row in rows] == ['"cliff above ""Two"""', '12" tall']


def test_rows_with_a_wrong_number_of_fields_are_refused_and_lines_stay_exact(tmp_path: Path) -> None:
    text = HEADER + "1\tA\t5\n2\tB\n\n3\tC\t6\tx\n4\tD\t7\t\t\n5\tE\t8"
    rows, core, lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS))
    assert [(row["_id"], row["_row_ref"]) for row in rows] == [
        ("1", "occurrence.txt:2"),
        ("4", "occurrence.txt:6"),  # surplus fields that are all empty lose nothing
        ("5", "occurrence.txt:7"),
    ]
    assert [(r.row_ref, r.reason) for r in core.rejected] == [
        ("occurrence.txt:3", "wrong_field_count"),
        ("occurrence.txt:5", "wrong_field_count"),
    ]
    assert "4 fields instead of 3: 3\tC\t6\tx" in core.rejected[1].detail
    assert lines == core.rows + len(core.rejected) == 5


def test_a_header_line_with_a_tab_too_many_refuses_no_row(tmp_path: Path) -> None:
    rows, core, _lines = read_core(
        occurrence_archive(tmp_path / "a.zip", HEADER.strip() + "\t\n1\tA\t5\n2\tB\t6\n", TERMS)
    )
    assert (len(rows), core.rejected) == (2, [])


def test_columns_that_no_term_names_are_left_out(tmp_path: Path) -> None:
    rows, core, _lines = read_core(
        occurrence_archive(tmp_path / "a.zip", HEADER.strip() + "\tmore\n1\tA\t5\tx\n2\tB\t6\ty\n", TERMS)
    )
    assert (len(rows), core.rejected, core.columns) == (2, [], ["gbif_id", "locality", "decimal_latitude"])


def test_bytes_that_are_not_in_the_encoding_are_replaced_and_counted(tmp_path: Path) -> None:
    text = HEADER.encode() + b"1\tM\xe9xico\t5\n2\t\xef\xbf\xbd\t6\n3\tR\xc3\xb8nne\t7\n"
    rows, core, _lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS))
    assert [row["locality"] for row in rows] == ["M\ufffdxico", "\ufffd", "Rønne"]
    assert core.replaced_characters == 1


@pytest.mark.parametrize("encoding", ["ISO-8859-1", "windows-1252", "UTF-16", "utf-8-sig"])
@pytest.mark.parametrize("batch_bytes", [5, 4096])
def test_the_declared_encoding_is_used(tmp_path: Path, encoding: str, batch_bytes: int) -> None:
    text = (HEADER + "1\tMéxico\t5\n").encode(encoding)
    path = occurrence_archive(tmp_path / "a.zip", text, TERMS, PLAIN.replace("UTF-8", encoding))
    rows, core, _lines = read_core(path, batch_bytes=batch_bytes)
    assert [(row["_id"], row["locality"]) for row in rows] == [("1", "México")]
    assert core.replaced_characters == 0


def test_a_character_cut_off_at_the_end_is_counted(tmp_path: Path) -> None:
    text = (HEADER + "1\tA\t5").encode("utf-16") + b"x"
    rows, core, _ = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS, PLAIN.replace("UTF-8", "UTF-16")))
    assert (rows[0]["decimal_latitude"], core.replaced_characters) == ("5\ufffd", 1)


def test_a_byte_order_mark_is_no_part_of_the_first_value(tmp_path: Path) -> None:
    path = occurrence_archive(
        tmp_path / "a.zip", b"\xef\xbb\xbf1\tA\t5\n", TERMS, PLAIN.replace('Lines="1"', 'Lines="0"')
    )
    rows, *_ = read_core(path)
    assert (rows[0]["_id"], rows[0]["_row_ref"]) == ("1", "occurrence.txt:1")


@pytest.mark.parametrize(
    ("declared", "newline"),
    [
        *itertools.product([r"\n", r"\r\n", r"\r"], ["\n", "\r\n"]),
        (r"\r", "\r"),  # ends a line only where the descriptor says so
    ],
)
def test_line_ends_may_differ_from_the_descriptor(tmp_path: Path, declared: str, newline: str) -> None:
    text = (HEADER + "1\tA\t5\n2\tB\t6\n").replace("\n", newline)
    attributes = PLAIN.replace(r'linesTerminatedBy="\n"', f'linesTerminatedBy="{declared}"')
    rows, _core, lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS, attributes))
    assert [(row["_row_ref"], row["decimal_latitude"]) for row in rows] == [
        ("occurrence.txt:2", "5"),
        ("occurrence.txt:3", "6"),
    ]
    assert lines == 2


def test_a_carriage_return_or_a_unicode_line_end_within_a_value_ends_no_row(tmp_path: Path) -> None:
    text = HEADER + "1\tA\rB\t5\n2\tC\u0085D\u2028E\x0bF\t6\n"
    rows, core, _lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS))
    assert [row["locality"] for row in rows] == ["A B", "C\u0085D\u2028E\x0bF"]
    assert core.replaced_characters == 1


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    core = section("core", "occurrence.txt", TERMS).replace(
        f'index="1" term="{DWC}locality"', f'index="1" term="{DWC}locality" default="somewhere"'
    )
    core = core.replace("</core>", f'<field term="{DWC}geodeticDatum" default="WGS84"/><field term="{DWC}sex"/></core>')
    path = pack(tmp_path / "a.zip", {"meta.xml": meta(core), "occurrence.txt": HEADER + "1\t\t5\n2\tB\t6\n"})
    rows, *_ = read_core(path)
    assert [row["locality"] for row in rows] == ["somewhere", "B"]
    assert {row["geodetic_datum"] for row in rows} == {"WGS84"}
    assert "sex" not in rows[0]


def test_of_two_terms_with_one_name_the_later_has_its_vocabulary(tmp_path: Path) -> None:
    terms = [GBIF + "gbifID", DC + "type", "http://purl.org/dc/elements/1.1/type"]
    rows, *_ = read_core(occurrence_archive(tmp_path / "a.zip", "a\tb\tc\n1\tx\ty\n", terms))
    assert (rows[0]["type"], rows[0]["dc_type"]) == ("x", "y")


def test_several_members_are_read_one_after_the_other(tmp_path: Path) -> None:
    core = section("core", "a.txt b.txt", TERMS)
    path = pack(
        tmp_path / "a.zip", {"meta.xml": meta(core), "a.txt": HEADER + "1\tA\t5\nx\n", "b.txt": HEADER + "2\tB\t6\ny\n"}
    )
    rows, data_file, lines = read_core(path)
    assert [row["_row_ref"] for row in rows] == ["a.txt:2", "b.txt:2"]
    assert [r.row_ref for r in data_file.rejected] == ["a.txt:3", "b.txt:3"]
    assert lines == 4


def test_a_second_reading_gives_the_same(tmp_path: Path) -> None:
    with DarwinCoreArchive(occurrence_archive(tmp_path / "a.zip", HEADER + "1\tA\t5\nx\n", TERMS)) as archive:
        assert read(archive.core) == read(archive.core)
        assert (archive.core.rows, len(archive.core.rejected)) == (1, 1)


def test_multimedia_is_found_among_the_extensions(tmp_path: Path) -> None:
    path = pack(
        tmp_path / "a.zip",
        {
            "meta.xml": meta(
                section("core", "occurrence.txt", TERMS),
                section("extension", "verbatim.txt", TERMS),
                section("extension", "multimedia.txt", [GBIF + "gbifID", DC + "identifier"], MULTIMEDIA),
            ),
            "occurrence.txt": HEADER + "1\tA\t5\n",
            "multimedia.txt": "gbifID\tidentifier\n1 \thttp://x/1.jpg\n",
        },
    )
    with DarwinCoreArchive(path) as archive:
        assert archive.multimedia is not None
        rows = read(archive.multimedia)
        assert (rows[0]["_id"], rows[0]["identifier"]) == ("1", "http://x/1.jpg")
        verbatim = archive.extensions[0]
        assert not verbatim.present
        assert archive.warnings == ["verbatim.txt is named by meta.xml but is not in a.zip"]
        with pytest.raises(MemberMissing, match=r"verbatim\.txt"):
            read(verbatim)


def test_audubon_media_have_the_names_of_multimedia(tmp_path: Path) -> None:
    xmp = "http://ns.adobe.com/xap/1.0/"
    terms = [
        DWC + "occurrenceID",
        DC + "identifier",
        "http://rs.tdwg.org/ac/terms/accessURI",
        xmp + "rights/UsageTerms",
        xmp + "rights/WebStatement",
        xmp + "rights/Owner",
        "http://purl.org/dc/elements/1.1/creator",
    ]
    lines = "a\tb\tc\td\te\tf\tg\n1\tm1\thttp://x/1.jpg\tCC BY\t\tMuseum\tAnn\n1\tm2\thttp://x/2.jpg\tterms\thttp://cc\t\t\n"
    path = pack(
        tmp_path / "a.zip",
        {
            "meta.xml": meta(
                section("core", "occurrence.txt", TERMS), section("extension", "media.txt", terms, AUDUBON)
            ),
            "occurrence.txt": HEADER + "1\tA\t5\n",
            "media.txt": lines,
        },
    )
    with DarwinCoreArchive(path) as archive:
        assert archive.multimedia is not None
        rows = read(archive.multimedia)
    assert [row["identifier"] for row in rows] == ["http://x/1.jpg", "http://x/2.jpg"]
    assert [row["license"] for row in rows] == ["CC BY", "http://cc"]
    assert [row["dcterms_identifier"] for row in rows] == ["m1", "m2"]
    assert (rows[0]["creator"], rows[0]["rights_holder"]) == ("Ann", "Museum")


def test_separators_fall_back_to_the_text_guide_and_to_what_the_header_shows(tmp_path: Path) -> None:
    for number, (attributes, delimiter) in enumerate(
        [
            ('ignoreHeaderLines="1"', ","),
            ('ignoreHeaderLines="1"', "\t"),
            ('fieldsTerminatedBy=" " fieldsEnclosedBy="" ignoreHeaderLines="1"', "\t"),
            ('fieldsTerminatedBy="\t" fieldsEnclosedBy="" ignoreHeaderLines="1"', "\t"),
            ('fieldsTerminatedBy="|" fieldsEnclosedBy="" ignoreHeaderLines="1"', "|"),
        ]
    ):
        text = (HEADER + "1\tA B\t5\n").replace("\t", delimiter)
        rows, *_ = read_core(occurrence_archive(tmp_path / f"{number}.zip", text, TERMS, attributes))
        assert [(row["locality"], row["decimal_latitude"]) for row in rows] == [("A B", "5")], attributes


def test_quoted_values_may_hold_line_ends_and_lines_stay_exact(tmp_path: Path) -> None:
    text = 'id,locality,lat\n1,"a\nb",5\n\n2,"say ""x"", y",6\n3,short\n4,"plain",7\n'
    rows, core, lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS, QUOTED))
    assert [(row["_row_ref"], row["locality"]) for row in rows] == [
        ("occurrence.txt:2", "a\nb"),
        ("occurrence.txt:5", 'say "x", y'),
        ("occurrence.txt:7", "plain"),
    ]
    assert [r.row_ref for r in core.rejected] == ["occurrence.txt:6"]
    assert lines is None


def test_a_quote_that_is_never_closed_costs_its_block_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_rows, "MAX_RECORD_BYTES", 2000)
    text = 'id,locality,lat\n1,"open,5\n' + "".join(f"{i},x,6\n" for i in range(2, 2000))
    rows, core, _lines = read_core(occurrence_archive(tmp_path / "a.zip", text, TERMS, QUOTED), batch_bytes=500)
    assert core.rejected
    assert core.rejected[0].row_ref == "occurrence.txt:2"
    assert len(rows) > 1000
    assert rows[-1]["_row_ref"] == "occurrence.txt:2000"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(*[st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"]))] * 2), max_size=20
    ),
    batch_bytes=st.integers(1, 200),
)
def test_any_unquoted_values_come_back(tmp_path: Path, values: list[tuple[str, str]], batch_bytes: int) -> None:
    texts = ['0\t12"\tx', *(f"{i}\t{a}\t{b}" for i, (a, b) in enumerate(values, 1))]
    path = occurrence_archive(tmp_path / "a.zip", HEADER + "\n".join(texts) + "\n", TERMS)
    rows, _core, lines = read_core(path, batch_bytes=batch_bytes)
    assert [(row["locality"], row["decimal_latitude"]) for row in rows[1:]] == [
        (a or None, b or None) for a, b in values
    ]
    assert [row["_row_ref"] for row in rows] == [f"occurrence.txt:{i + 2}" for i in range(len(texts))]
    assert lines == len(texts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    values=st.lists(
        st.tuples(*[st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]))] * 2), max_size=20
    ),
    batch_bytes=st.integers(1, 200),
)
def test_any_quoted_values_come_back(tmp_path: Path, values: list[tuple[str, str]], batch_bytes: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    refs, line = [], 2
    for i, (a, b) in enumerate(values):
        writer.writerow([i, a, b])
        refs.append(f"occurrence.txt:{line}")
        line += 1 + a.count("\n") + b.count("\n")
    path = occurrence_archive(tmp_path / "a.zip", "id,a,b\n" + text.getvalue(), TERMS, QUOTED)
    rows, core, _lines = read_core(path, batch_bytes=batch_bytes)
    assert [(row["locality"], row["decimal_latitude"]) for row in rows] == [(a or None, b or None) for a, b in values]
    assert [row["_row_ref"] for row in rows] == refs
    assert core.rejected == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["1\tA\t5", "2\tB", "", "3\tC\t6\t7", "4\tD\t7\t", " ", "\t\t"]), max_size=30),
    ends=st.sampled_from(["\n", "\r\n"]),
    batch_bytes=st.integers(1, 100),
)
def test_every_line_is_a_row_or_refused(tmp_path: Path, texts: list[str], ends: str, batch_bytes: int) -> None:
    path = occurrence_archive(
        tmp_path / "a.zip", HEADER.replace("\n", ends) + "".join(text + ends for text in texts), TERMS
    )
    rows, core, lines = read_core(path, batch_bytes=batch_bytes)
    expected = {f"occurrence.txt:{number}" for number, text in enumerate(texts, 2) if text}
    assert {row["_row_ref"] for row in rows} | {r.row_ref for r in core.rejected} == expected
    assert core.rows + len(core.rejected) == lines == len(expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    rows=st.lists(st.lists(st.sampled_from(["", "", "", "a", "\x0b", "øre"]), min_size=5, max_size=5), max_size=20),
    ends=st.sampled_from(["\n", "\r\n"]),
    batch_bytes=st.integers(1, 60),
    cache_bytes=st.integers(1, 60),
)
def test_a_value_in_a_column_that_was_empty_is_seen(
    tmp_path: Path, rows: list[list[str]], ends: str, batch_bytes: int, cache_bytes: int
) -> None:
    terms = [GBIF + "gbifID", *(DWC + name for name in ("a", "b", "c", "d", "e"))]
    lines = ["\t".join((str(number), *values)) for number, values in enumerate(rows)]
    path = occurrence_archive(tmp_path / "a.zip", ends.join(("header", *lines, "")), terms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_rows, "CACHE_BYTES", cache_bytes)
        patch.setattr(archive_rows, "WINDOW_BYTES", cache_bytes)
        found, core, _lines = read_core(path, batch_bytes=batch_bytes)
    assert [[row[name] or "" for name in "abcde"] for row in found] == rows
    assert core.rejected == []


def test_typed_columns_are_typed_until_a_value_is_of_another_type(tmp_path: Path) -> None:
    lines = (
        [f"{n}\tA\t{n / 2}\n" for n in range(20)] + ["20\tB\tnorth\n"] + [f"{n}\tA\t{n / 2}\n" for n in range(21, 40)]
    )
    path = occurrence_archive(tmp_path / "a.zip", HEADER + "".join(lines), TERMS)
    with DarwinCoreArchive(path) as archive:
        columns = [t["decimal_latitude"] for t in archive.core.tables(60, {"decimal_latitude": pa.float64()})]
    assert columns[0].type == pa.float64()
    assert columns[-1].type == pa.string()
    values = [value for column in columns for value in column.to_pylist()]
    assert [float(v) for n, v in enumerate(values) if n != 20] == [n / 2 for n in range(40) if n != 20]
    assert values[20] == "north"


def test_the_number_of_rows_is_estimated_while_they_are_read(tmp_path: Path) -> None:
    path = occurrence_archive(tmp_path / "a.zip", HEADER + "".join(f"{n}\tA\t5\n" for n in range(1000, 1400)), TERMS)
    with DarwinCoreArchive(path) as archive:
        estimates = [archive.core.expected_rows or 0 for _ in archive.core.tables(500)]
        assert all(350 <= estimate <= 400 for estimate in estimates)
        assert estimates[-1] == archive.core.rows == archive.core.lines == 400


# Lone files ----------------------------------------------------------------------------------------------------------


def test_a_simple_csv_download_is_read_by_its_header(tmp_path: Path) -> None:
    text = 'gbifID\tdatasetKey\tspecies\n1\td\tPuma "concolor"\n'
    for path in (pack(tmp_path / "a.zip", {"0001.csv": text, "citations.txt": "cite"}), tmp_path / "0001.csv"):
        (tmp_path / "0001.csv").write_text(text)
        with DarwinCoreArchive(path) as archive:
            assert not archive.has_descriptor
            assert archive.multimedia is None
            assert read(archive.core) == [
                {"_row_ref": "0001.csv:2", "_id": "1", "gbif_id": "1", "dataset_key": "d", "species": 'Puma "concolor"'}
            ]


def test_a_comma_separated_file_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('occurrenceID,locality\n1,"a, b"\n')
    rows, *_ = read_core(tmp_path / "a.csv")
    assert (rows[0]["_id"], rows[0]["locality"]) == ("1", "a, b")


def test_several_data_files_without_a_descriptor_are_refused(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", {"occurrence.txt": HEADER, "multimedia.txt": HEADER, "metadata.xml": "<eml/>"})
    with pytest.raises(DescriptorMissing, match=r"occurrence\.txt, multimedia\.txt"):
        DarwinCoreArchive(path)


def test_a_text_without_columns_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("just some notes\n")
    with pytest.raises(NotAnArchive, match="header"):
        DarwinCoreArchive(tmp_path / "notes.txt")


# Descriptors that cannot be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("descriptor", "says"),
    [
        ("<archive", "meta.xml"),
        ("<archive/>", "no <core>"),
        (meta('<core rowType="x"><id index="0"/></core>'), "names no file"),
        (meta(section("core", "occurrence.txt", TERMS).replace('index="1"', 'index="one"')), "one"),
        (meta(section("core", "occurrence.txt", TERMS).replace('index="1"', 'index="999999999"')), "between 0 and"),
        (meta(section("core", "occurrence.txt", TERMS).replace('"UTF-8"', '"no-such-code"')), "no-such-code"),
        (meta(section("core", "occurrence.txt", TERMS).replace(r'"\t"', '"::"')), "::"),
        (meta(section("core", "occurrence.txt", TERMS).replace('Lines="1"', 'Lines="-1"')), "ignoreHeaderLines"),
        (
            meta('<core><files><location>a.txt</location></files><field index="0" term="x"/></core>'),
            "identifier column",
        ),
    ],
)
def test_an_unusable_descriptor_says_why(tmp_path: Path, descriptor: str, says: str) -> None:
    path = pack(tmp_path / "a.zip", {"meta.xml": descriptor, "occurrence.txt": HEADER})
    with pytest.raises(DescriptorInvalid, match=says):
        DarwinCoreArchive(path)


def test_a_namespace_prefix_and_a_missing_id_do_no_harm(tmp_path: Path) -> None:
    core = section("core", "occurrence.txt", TERMS).replace('<id index="0"/>', "")
    descriptor = f'<d:archive xmlns:d="http://rs.tdwg.org/dwc/text/">{core}</d:archive>'
    descriptor = descriptor.replace("<core", "<d:core").replace("</core", "</d:core")
    path = pack(tmp_path / "a.zip", {"meta.xml": descriptor, "occurrence.txt": HEADER + "7\tA\t5\n"})
    assert read_core(path)[0][0]["_id"] == "7"


@pytest.mark.parametrize(("location", "error"), [("../../etc/passwd", ArchiveUnsafe), ("other.txt", MemberMissing)])
def test_a_core_that_is_not_there_is_named(tmp_path: Path, location: str, error: type[Exception]) -> None:
    path = pack(tmp_path / "a.zip", {"meta.xml": meta(section("core", location, TERMS)), "occurrence.txt": HEADER})
    with pytest.raises(error, match=location):
        DarwinCoreArchive(path)


def test_a_file_of_which_no_row_fits_is_an_error_and_no_million_refused_rows(tmp_path: Path) -> None:
    text = "a;b;c\n" + "1;2;3\n" * 3000
    with DarwinCoreArchive(occurrence_archive(tmp_path / "a.zip", text, TERMS)) as archive:
        with pytest.raises(MemberUnreadable, match="fieldsTerminatedBy"):
            read(archive.core)
        assert len(archive.core.rejected) < 2500


def test_what_an_archive_says_of_itself(tmp_path: Path) -> None:
    eml = """<eml packageId="10.15468/dl.4gbcs6"><dataset>
        <alternateIdentifier>0022697-200613084148143</alternateIdentifier><title>GBIF Occurrence
        Download</title></dataset></eml>"""
    files = {"meta.xml": meta(section("core", "occurrence.txt", TERMS)), "occurrence.txt": HEADER}
    with DarwinCoreArchive(
        pack(tmp_path / "a.zip", {**files, "metadata.xml": eml, "citations.txt": "Cite this\n"})
    ) as archive:
        assert archive.metadata == {
            "title": "GBIF Occurrence Download",
            "package_id": "10.15468/dl.4gbcs6",
            "alternate_identifier": "0022697-200613084148143",
            "doi": "10.15468/dl.4gbcs6",
            "download_key": "0022697-200613084148143",
            "citations": "Cite this",
        }
    with DarwinCoreArchive(pack(tmp_path / "b.zip", {**files, "metadata.xml": "<eml"})) as archive:
        assert archive.metadata == {}
        assert "metadata.xml" in archive.warnings[0]


def test_a_tar_gz_is_read_as_a_zip_is(tmp_path: Path) -> None:
    files = {"meta.xml": meta(section("core", "occurrence.txt", TERMS)), "occurrence.txt": HEADER + "1\tA\t5\n" * 2000}
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(f"./archive/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    assert read_core(tmp_path / "a.tar.gz")[0] == read_core(pack(tmp_path / "a.zip", files))[0]
