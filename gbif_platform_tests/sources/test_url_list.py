"""Lists of URLs in every format: what becomes a row, under which name, and what is put aside with its place."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.media import media_rows
from gbif_platform.dataset import UrlList
from gbif_platform.dataset_template import list_start
from gbif_platform.errors import PlatformError
from gbif_platform.sources.list_files import ListUnreadable, columns_of, files_of
from gbif_platform.sources.url_list import UnknownColumn, collect, common_column, media_lines, occurrence_rows
from gbif_platform.storage.tables import Outcome

IIIF = "https://iiif.example.org/b1/full/!512,512/0/default.jpg"
ROWS: list[dict[str, Any]] = [
    {"url": "https://example.org/1.jpg", "label": "Rana temporaria", "caption": 'a frog; brown, "common"'},
    {"url": IIIF, "label": "Bufo bufo", "caption": None},
    {"url": "https://example.org/ü 3.jpg", "label": None, "caption": "tōad"},
]


def as_csv(delimiter: str) -> Callable[[Path], None]:
    return lambda file: pl.DataFrame(ROWS).write_csv(file, separator=delimiter)


def as_gzip(file: Path) -> None:
    file.write_bytes(gzip.compress(pl.DataFrame(ROWS).write_csv().encode()))


def as_lines(file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))


WRITERS: dict[str, Callable[[Path], object]] = {
    "list.csv": as_csv(","),
    "semicolons.csv": as_csv(";"),
    "list.tsv": as_csv("\t"),
    "list.csv.gz": as_gzip,
    "list.parquet": lambda file: pl.DataFrame(ROWS).write_parquet(file),
    "list.jsonl": as_lines,
    "lines.json": as_lines,
    "list.json": lambda file: file.write_text(json.dumps(ROWS, indent=1)),
}


class Listed:
    """A list, read."""

    def __init__(self, path: Path, work: Path, label: str = "label", **source: str) -> None:
        work.mkdir(exist_ok=True)
        collect(files_of(path), work / "list.parquet")
        self.con = duckdb.connect()
        named = UrlList(files=str(path), **source)
        self.outcome = occurrence_rows(self.con, work / "list.parquet", named, label, work)
        self.file = work / "occurrences.parquet"
        self.rows = pl.read_parquet(self.file)
        self.work = work

    @property
    def refused(self) -> list[tuple[str, str]]:
        assert isinstance(self.outcome.refused, pl.DataFrame)
        return [(row["row_ref"], row["reason"]) for row in self.outcome.refused.iter_rows(named=True)]

    def media(self) -> tuple[pl.DataFrame, Outcome]:
        occurrences = self.con.read_parquet(str(self.file))
        outcome = media_rows(self.con, media_lines(self.con, occurrences), occurrences, self.work)
        rows = outcome.rows["media_urls"]
        assert isinstance(rows, Path)
        return pl.read_parquet(rows), outcome


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / name)
    assert columns_of(tmp_path / name) == ["url", "label", "caption"]
    listed = Listed(tmp_path / name, tmp_path / "work", caption_column="caption")
    found = listed.rows.select(url="identifier", label="label", caption="description").to_dicts()
    assert found == ROWS
    assert listed.refused == []
    first = 2 if name.endswith((".csv", ".tsv", ".csv.gz")) else 1
    assert listed.rows["row_ref"].to_list() == [f"{name}:{first + n}" for n in range(3)]
    media, outcome = listed.media()
    urls = dict(zip(media["row_ref"], media["url"], strict=True))
    assert sorted(urls.values()) == sorted([ROWS[0]["url"], IIIF, "https://example.org/%C3%BC%203.jpg"])
    assert outcome.rows_in == outcome.rows_out == 3
    assert set(media["media_type"]) == {"StillImage"}
    assert set(media["gbif_id"]) == set(listed.rows["gbif_id"])


def test_a_text_is_never_read_as_csv(tmp_path: Path) -> None:
    lines = [IIIF, 'https://example.org/a,b,"c.jpg', "", "  https://example.org/2\r", "https://example.org/x?q=a;b\tc"]
    (tmp_path / "urls.txt").write_text("\ufeff" + "\n".join(lines))
    listed = Listed(tmp_path / "urls.txt", tmp_path / "work")
    assert listed.rows["identifier"].to_list() == [line.strip() for line in lines if line]
    assert listed.rows["row_ref"].to_list() == [f"urls.txt:{n}" for n in (1, 2, 4, 5)]
    assert listed.rows["label"].to_list() == ["unlabelled"] * 4
    assert listed.refused == []
    media, _ = listed.media()
    assert IIIF in media["url"].to_list()


def test_a_folder_of_lists_is_one_list(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "b.txt").write_text("https://example.org/b.jpg\n")
    (folder / "a.csv").write_text("URL,species\nhttps://example.org/a.jpg,Rana\n")
    (folder / "notes.md").write_text("no list")
    listed = Listed(folder, tmp_path / "work", label="species")
    assert listed.rows.select("row_ref", "identifier", "species").rows() == [
        ("a.csv:2", "https://example.org/a.jpg", "Rana"),
        ("b.txt:1", "https://example.org/b.jpg", None),
    ]


def test_what_is_refused_is_told_by_file_and_line(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "a.csv").write_bytes(
        b"url,label\n"
        b"https://example.org/1.jpg,frog\n"
        b",toad\n"
        b"https://example.org/1.jpg,frog\n"
        b"https://example.org/\xff.jpg,newt\n"
        b"one,two,three\n"
        b'https://example.org/2.jpg,"a\nb"\n'
        b"ftp://example.org/3.jpg,frog\n"
        b"images/4.jpg,frog\n"
    )
    (folder / "b.jsonl").write_bytes(
        b'{"url": "https://example.org/5.jpg"}\nno json\n[1]\n\n{"url": "\xff"}\n{"url": null}\n'
    )
    listed = Listed(folder, tmp_path / "work")
    assert sorted(listed.refused) == [
        ("a.csv:3", "no_url"),
        ("a.csv:4", "duplicate_row"),
        ("a.csv:5", "not_utf8"),
        ("a.csv:6", "wrong_field_count"),
        ("b.jsonl:2", "not_json"),
        ("b.jsonl:3", "not_json"),
        ("b.jsonl:5", "not_utf8"),
        ("b.jsonl:6", "no_url"),
    ]
    assert (listed.outcome.rows_in, listed.outcome.rows_out) == (13, 5)
    media, outcome = listed.media()
    assert sorted(media["row_ref"]) == ["a.csv:2", "a.csv:7", "b.jsonl:1"]
    assert isinstance(outcome.refused, pl.DataFrame)
    assert sorted(outcome.refused.select("row_ref", "reason").rows()) == [
        ("a.csv:10", "no_scheme"),
        ("a.csv:9", "unsupported_scheme"),
    ]


def test_further_columns_pass_through_and_licence_and_credit_are_read(tmp_path: Path) -> None:
    file = tmp_path / "list.parquet"
    columns = {
        "image_url": ["https://example.org/1", "https://example.org/2", "https://example.org/3"],
        "class": ["frog", "toad", "frog"],
        "label": ["x", "y", "z"],
        "licence": ["CC BY 4.0", None, "all rights reserved"],
        "Photographer": ["Ada", "Bo", None],
        "WIDTH": [640, 800, None],
        "decimalLatitude": ["55.5", "north", None],
        "dataset": ["a", "b", "c"],
        "type": ["portrait", "Sound", None],
        "bytes": [b"\x00", b"\xff", b""],
        "tags": [["a"], [], ["b", "c"]],
    }
    pq.write_table(pa.table(columns), file)
    listed = Listed(file, tmp_path / "work", label="label", url_column="image_url", label_column="class")
    row = listed.rows.row(0, named=True)
    assert row["label"] == "frog"
    assert row["label_2"] == "x", "the list's own column of that name is kept beside"
    assert row["width"] == "640"
    assert row["decimal_latitude"] == 55.5
    assert listed.rows["decimal_latitude_text"].to_list() == [None, "north", None]
    assert not {"bytes", "tags", "dataset", "image_url"} & set(listed.rows.columns)
    media, outcome = listed.media()
    assert isinstance(outcome.refused, pl.DataFrame)
    assert outcome.refused.select("row_ref", "reason").rows() == [("list.parquet:2", "not_still_image")]
    by_row = {row["row_ref"]: row for row in media.iter_rows(named=True)}
    assert by_row["list.parquet:1"]["license"] == "CC-BY-4.0"
    assert by_row["list.parquet:1"]["creator"] == "Ada"
    assert by_row["list.parquet:3"]["license_text"] == "all rights reserved"


def test_one_url_under_several_labels_is_several_occurrences_of_one_picture(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("url,label\nhttps://example.org/1.jpg,frog\nhttps://example.org/1.jpg,toad\n")
    media, _ = Listed(file, tmp_path / "work").media()
    assert media["url_id"].n_unique() == 1
    assert media["media_id"].n_unique() == media["gbif_id"].n_unique() == 2


def test_ids_depend_neither_on_the_order_nor_on_other_rows(tmp_path: Path) -> None:
    ids = []
    for name, lines in (("a.txt", ["1", "2", "3"]), ("b.txt", ["3", "4", "1"])):
        (tmp_path / name).write_text("".join(f"https://example.org/{line}.jpg\n" for line in lines))
        rows = Listed(tmp_path / name, tmp_path / f"work-{name}").rows
        ids.append(dict(zip(rows["identifier"], rows["gbif_id"], strict=True)))
    shared = ids[0].keys() & ids[1].keys()
    assert len(shared) == 2
    assert all(ids[0][url] == ids[1][url] for url in shared)


def test_rows_that_name_their_occurrence_belong_together(tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(
        "gbifID,url\n7,https://example.org/1.jpg\n7,https://example.org/2.jpg\n8,https://example.org/2.jpg\n"
    )
    listed = Listed(file, tmp_path / "work")
    assert listed.rows["occurrence_id"].to_list() == ["7", "7", "8"]
    assert listed.rows["gbif_id"].n_unique() == 3, "each row is an occurrence of its own"
    assert len(listed.media()[0]) == 3


@pytest.mark.parametrize(
    ("content", "source", "says"),
    [
        ("a,b\n1,2\n", {}, "known to hold URLs; it has: a, b"),
        ("a,url\n1,2\n", {"url_column": "link"}, "no column 'link'"),
        ("a,url\n1,2\n", {"label_column": "kind"}, "no column 'kind'"),
        ("a,url\n1,2\n", {"label_column": "url"}, "two things"),
    ],
)
def test_a_missing_column_is_told_with_those_there_are(
    content: str, source: dict[str, str], says: str, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UnknownColumn, match=says):
        Listed(tmp_path / "list.csv", tmp_path / "work", **source)


def test_a_list_without_a_url_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,label\n,frog\n")
    with pytest.raises(PlatformError, match="holds no URL"):
        Listed(tmp_path / "list.csv", tmp_path / "work")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.parquet", b"no parquet"),
        ("list.csv.gz", b"no gzip"),
        ("list.json", b"[1, 2"),
        ("list.xlsx", b"PK"),
        ("list.parquet.gz", b"PAR1"),
    ],
)
def test_what_is_no_list_is_told_by_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ListUnreadable, match=re.escape(name)):
        Listed(tmp_path / name, tmp_path / "work")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", b"url,label\n"),
        ("list.tsv", b""),
        ("list.txt", b"\n\n"),
        ("list.json", b"[]"),
        ("list.jsonl", b""),
        ("list.csv.gz", gzip.compress(b"url,label\n")),
        ("list.parquet", None),
    ],
)
def test_a_list_without_a_row_is_told_by_name(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        pl.DataFrame({"url": []}, schema={"url": pl.String}).write_parquet(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ListUnreadable, match=re.escape(f"{tmp_path / name} lists no rows")):
        Listed(tmp_path / name, tmp_path / "work")
    with pytest.raises(ListUnreadable, match=re.escape(f"{tmp_path / name} lists no rows")):
        list_start(tmp_path / name)


def test_a_list_of_which_no_row_can_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("url,label\na,b,c\n")
    assert list_start(tmp_path / "list.csv").label == "label"
    with pytest.raises(PlatformError, match=r"holds no URL in 1 rows; list\.csv:2: wrong_field_count"):
        Listed(tmp_path / "list.csv", tmp_path / "work")


def test_where_there_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(ListUnreadable, match="there is no list"):
        files_of(tmp_path / "absent.csv")
    with pytest.raises(ListUnreadable, match="no list of URLs"):
        files_of(tmp_path)


@pytest.mark.parametrize(
    ("columns", "meaning", "found"),
    [
        (["URL", "TEXT"], "url", "URL"),
        (["key", "accessURI"], "url", "accessURI"),
        (["image_url", "url"], "url", "url"),
        (["scientificName"], "label", "scientificName"),
        (["TEXT"], "caption", "TEXT"),
        (["text"], "label", None),
    ],
)
def test_common_names(columns: list[str], meaning: str, found: str | None) -> None:
    assert common_column(columns, meaning) == found


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1), min_size=1, max_size=8)
)
def test_any_line_of_a_text_comes_through_as_it_is(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("lines")
    urls = [f"https://example.org/{n}/{line}".strip() for n, line in enumerate(lines)]
    (folder / "urls.txt").write_text("\n".join(urls), encoding="utf-8")
    assert Listed(folder / "urls.txt", folder / "work").rows["identifier"].to_list() == urls
