import base64
import re
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gbif_platform.evaluation.baselines import prior_scores
from gbif_platform.evaluation.card import model_card
from gbif_platform.evaluation.comparison import compare
from gbif_platform.evaluation.evaluate import evaluate
from gbif_platform.evaluation.hierarchy import Hierarchy
from gbif_platform.evaluation.report import ReportData, report_html, write_report
from gbif_platform.evaluation.report_rows import THUMBNAIL, safe_link
from gbif_platform.evaluation.wording import interval, percent, wording, written
from gbif_platform_tests.evaluation.reports import Number, picture, report_data

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Every element with its attributes, and the text outside of style and script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._code = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._code = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._code = False

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def minimal() -> ReportData:
    classes = pa.table(
        {
            "label": ["a", "b"],
            "train_pictures": [3, 4],
            "bucket": ["few", "few"],
            "support": [1, 0],
            "precision": pa.array([None, None], pa.float64()),
            "recall": pa.array([0.0, None], pa.float64()),
            "f1": pa.array([0.0, None], pa.float64()),
            "most_confused_with": pa.array(["b", None], pa.string()),
            "confused_rows": [1, 0],
        }
    )
    return ReportData("m", "d", "s", [Number("top1", 0.0)], classes, np.array([[0, 1, 1]]), unevaluated=["b"])


def test_the_report_says_what_the_model_is_worth_and_what_not() -> None:
    data = report_data(40)
    text = " ".join(Page(report_html(data)).text.split())
    for said in (
        "Top-1 accuracy", "nearest centroid", "Promoted.", "Better than always answering",
        "Answers at the lowest sure rank",
        "Labels without test data", "FPR at 95 %", "worst", "doi:10.15468/dl.sand01", "CC-BY-NC-4.0",
        "GBIF.org (15 January 2026)", "The logits are divided by 1.310", "resnet18",
    ):  # fmt: skip
        assert said in text, said
    for label in [*data.labels, *data.unevaluated]:
        assert label in text


def test_nothing_is_asked_of_a_network_and_only_our_own_style_and_script_may_run() -> None:
    page = Page(report_html(report_data(10)))
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
        for name in ("src", "href", "srcset", "xlink:href"):
            address = attributes.get(name) or ""
            assert tag == "a" or not address or address.startswith("data:"), (tag, address)
    [policy] = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert all(link["rel"] == "noreferrer noopener" for link in page.all("a") if not str(link["href"]).startswith("#"))


def test_hostile_names_credits_and_addresses_stay_text() -> None:
    data = report_data(6, pictures=3)
    classes = pl.DataFrame(data.classes).with_columns(
        pl.lit(EVIL).alias("label"), pl.lit(EVIL).alias("most_confused_with")
    )
    evil = replace(data.mistakes[0], label=EVIL, predicted=EVIL, credit=EVIL, url="javascript:alert(3)")
    worse = replace(evil, url='https://example.org/"><script>alert(4)</script>', licence="CC-BY-4.0")
    slices = pl.DataFrame(data.slices).with_columns(pl.lit(EVIL).alias("value"), pl.lit(EVIL).alias("slice"))
    data = replace(
        data, title=EVIL, dataset=EVIL, snapshot=EVIL, doi=EVIL, classes=classes, mistakes=[evil, worse], slices=slices,
        unevaluated=[EVIL], citations=[EVIL], licences={EVIL: 1}, card={EVIL: EVIL},
    )  # fmt: skip
    html = report_html(data)
    page = Page(html)
    assert len(page.all("script")) == 1
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert not any(str(link["href"]).startswith("javascript") for link in page.all("a"))
    assert EVIL in page.text, "the name is shown as it is"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_a_link_is_http_or_none(text: str) -> None:
    for url in (text, f"javascript:{text}", f" data:text/html,{text}", f"//{text}"):
        assert safe_link(url) == "" or re.match(r"https?://\S", safe_link(url), re.IGNORECASE)


def test_pictures_are_small_and_new_and_those_without_a_licence_are_counted(tmp_path: Path) -> None:
    data = report_data(10, pictures=8)
    exif = Image.Exif()
    exif[0x8298] = "secret"
    buffer = BytesIO()
    with Image.open(BytesIO(picture(1, 900, 300))) as image:
        image.save(buffer, "JPEG", exif=exif)
    broken = replace(data.mistakes[1], jpeg=b"<svg onload=alert(1)>")
    data = replace(data, mistakes=[replace(data.mistakes[0], jpeg=buffer.getvalue()), broken, *data.mistakes[2:]])
    page = Page(report_html(data))
    assert len(page.all("img")) == 5
    text = " ".join(page.text.split())
    assert "2 pictures without a known licence are left out." in text
    assert "1 picture that cannot be read is left out." in text
    first = base64.b64decode(str(page.all("img")[0]["src"]).partition(",")[2])
    assert b"secret" not in first
    with Image.open(BytesIO(first)) as image:
        assert image.size == (THUMBNAIL, 85)
    assert len(Page(report_html(data, show_unlicensed=True)).all("img")) == 7
    assert all(image["alt"] for image in page.all("img"))


def test_three_thousand_labels_and_24_pictures_stay_below_5_mb(tmp_path: Path) -> None:
    data = report_data(3000)
    start = time.perf_counter()
    path = write_report(tmp_path / "report.html", data)
    assert time.perf_counter() - start < 20
    assert path.stat().st_size < 5_000_000
    assert not list(tmp_path.glob(".*")), "no part is left beside it"
    html = path.read_text(encoding="utf-8")
    body = html[html.index('<table id="classes">') :]
    assert body[: body.index("</table>")].count('<tr><th scope="row">') == 3000


def test_what_is_missing_is_left_out_and_not_drawn_empty() -> None:
    page = Page(report_html(minimal()))
    headings = {attributes["id"] for attributes in page.all("h2")}
    assert headings == {
        f"{name}-title" for name in ("summary", "confusion", "tail", "labels", "unevaluated", "sources")
    }
    links = {str(link["href"]) for link in page.all("a") if str(link["href"]).startswith("#")} - {"#content"}
    assert links == {f"#{str(heading).removesuffix('-title')}" for heading in headings}
    nothing = replace(minimal(), confusion=np.zeros((0, 3), np.int64), summary=[])
    assert "Confusion" not in Page(report_html(nothing)).text


def test_every_table_has_headings_with_a_scope_and_every_chart_a_name() -> None:
    page = Page(report_html(report_data(35)))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    charts = [chart for chart in page.all("svg") if chart.get("role") == "img"]
    assert len(charts) == 7
    assert all(chart.get("aria-label") for chart in charts)
    assert all(chart.get("aria-hidden") for chart in page.all("svg") if chart not in charts)


def test_a_report_of_one_epoch_of_numbers_that_are_not_finite_is_written() -> None:
    nan = float("nan")
    data = replace(
        report_data(3),
        history=[{"epoch": 0, "train_loss": nan, "val_loss": 1.0}],
        summary=[Number("top1", nan, nan, nan, nan), Number("log_loss", float("inf"))],
    )
    assert not re.search(r"\b(nan|inf)\b", Page(report_html(data)).text)


@pytest.mark.parametrize("promote", [True, False])
def test_the_champions_comparison_shows_which_way_is_better(promote: bool) -> None:
    data = report_data(10)
    assert data.comparison is not None
    html = report_html(replace(data, comparison=replace(data.comparison, promote=promote)))  # type: ignore[type-var]
    assert ("Not promoted." in html) != promote
    section = html[html.index('id="comparison"') : html.index('id="training"')]
    rows = {row.split("</th>")[0]: row for row in section.split('<tr><th scope="row">')[1:]}
    assert "dot worse" in rows["<bdi>country_code=SE</bdi>"]
    log_loss = next(row for row in section.split("<tr>") if "Log loss" in row)
    assert "dot better" in log_loss, "a smaller log loss is better"


def test_the_evaluation_and_the_comparison_fit_as_they_are() -> None:
    random = np.random.default_rng(1)
    counts, label = np.array([200, 50, 10, 5]), random.integers(0, 3, 400)
    hierarchy = Hierarchy.from_names({"genus": ["A", "A", "B", None]}, 4)
    scores, other = (prior_scores(label, numbers, hierarchy) for numbers in (counts, counts[::-1]))
    country = np.where(label == 0, "DK", "SE")
    found = evaluate(scores, list("abcd"), counts, slices={"country_code": country}, strangers=other, resamples=50)
    data = ReportData(
        "m", "d", "s", found.summary, found.classes, found.confusion, found.reliability, found.coverage, found.ranks,
        found.rollup, found.slices, found.unevaluated, found.open_set, found.temperature, groups=found.groups,
        comparison=compare(scores, other, label, protected={"country_code": country}, resamples=50),
    )  # fmt: skip
    page = Page(report_html(data))
    text = " ".join(page.text.split())
    assert "Severity of mistakes" in text
    assert "worst" in text
    assert sum(chart.get("aria-label") is not None for chart in page.all("svg")) == 4
    assert "| Top-1 at the rank genus |" in model_card(data)


@given(st.floats(0, 1))
def test_a_share_is_written_so_that_nothing_imperfect_is_called_perfect(value: float) -> None:
    assert (percent(value) == "100.0") == (value == 1)
    assert abs(float(percent(value)) - 100 * value) < 0.11


def test_words_and_numbers() -> None:
    assert wording("genus_top1").title == "Top-1 at the rank genus"
    assert wording("few_macro").title == wording("macro_few").title == "Macro accuracy, few"
    assert wording("coverage_at_99").title == "Coverage at 99\N{NO-BREAK SPACE}%"
    assert not wording("genus_log_loss").higher_is_better
    assert wording("something_new").title == "something new"
    assert written(None) == written(float("nan")) == "–"
    assert written(-0.5, share=False) == "−0.500"
    assert interval(0.1, 0.2).split() == ["10.0", "–", "20.0", "%"]


def test_importing_the_report_loads_neither_torch_nor_matplotlib() -> None:
    code = (
        "import sys, gbif_platform.evaluation.report;"
        "print([m for m in ('torch', 'matplotlib', 'mlflow', 'dagster') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"
