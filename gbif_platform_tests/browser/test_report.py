"""A model's report of 3 000 labels in a real browser: it sorts, filters, asks no network and complains of nothing."""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from gbif_platform.evaluation.report import write_report
from gbif_platform_tests.evaluation.reports import report_data

pytestmark = pytest.mark.browser

CAPABILITIES = {"goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
LABELS = 3000
EVIL = "<script>document.title = 'evil'</script>"
ROWS = "document.querySelectorAll('#classes tbody tr')"
REQUESTS = "performance.getEntriesByType('resource').filter(entry => !entry.name.startsWith('data:'))"
INJECT = """
const script = document.createElement('script');
script.textContent = "document.title = 'evil'";
document.body.append(script);
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = report_data(LABELS)
    label = pl.when(pl.int_range(pl.len()) == 7).then(pl.lit(EVIL)).otherwise("label").alias("label")
    mistakes = [replace(data.mistakes[0], label=EVIL, credit=EVIL), *data.mistakes[1:]]
    data = replace(data, classes=pl.DataFrame(data.classes).with_columns(label), mistakes=mistakes)
    return write_report(tmp_path_factory.mktemp("report") / "report.html", data)


@pytest.fixture
def page(browser: webdriver.Chrome, report: Path) -> webdriver.Chrome:
    browser.get(report.as_uri())
    return browser


def column(page: webdriver.Chrome, index: int) -> list[str]:
    """The texts of all rows, also of those that come when they are scrolled to: a print has them."""
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    found = page.execute_script(f"return [...{ROWS}].map(row => row.cells[{index}].textContent)")
    assert isinstance(found, list)
    return found


def click(page: webdriver.Chrome, heading: str) -> None:
    button = page.find_element(By.XPATH, f"//table[@id='classes']//button[.='{heading}']")
    page.execute_script("arguments[0].click()", button)


def shown(page: webdriver.Chrome, text: str) -> None:
    WebDriverWait(page, 10).until(lambda chrome: chrome.find_element(By.ID, "shown").text == text)


def test_labels_sort_by_recall_both_ways_and_what_has_none_stands_last(page: webdriver.Chrome) -> None:
    click(page, "recall, %")
    rising = column(page, 4)
    numbers = [float(text) for text in rising if text.strip() != "–"]
    assert numbers == sorted(numbers)
    assert [text.strip() for text in rising[len(numbers) :]] == ["–"] * (LABELS - len(numbers))
    click(page, "recall, %")
    falling = column(page, 4)
    assert [float(text) for text in falling[: len(numbers)]] == sorted(numbers, reverse=True)
    assert falling[-1].strip() == "–"
    sorted_heads = page.find_elements(By.CSS_SELECTOR, "#classes th[aria-sort]")
    assert [head.get_attribute("aria-sort") for head in sorted_heads] == ["descending"]
    click(page, "train")
    assert column(page, 2)[0].strip() == "3", "numbers of four digits sort as numbers"


def test_labels_are_filtered_by_name_bucket_and_test_pictures(page: webdriver.Chrome) -> None:
    box = page.find_element(By.ID, "filter")
    box.send_keys("gentiana ALBA")
    names = column(page, 0)
    assert 1 < len(names) < 50
    assert all(name.strip().startswith("Gentiana alba") for name in names)
    shown(page, f"{len(names)} of {LABELS} labels")
    box.clear()
    box.send_keys(" ")
    Select(page.find_element(By.ID, "bucket")).select_by_visible_text("few")
    page.execute_script("document.getElementById('tested').click()")
    assert {text.strip() for text in column(page, 1)} == {"few"}
    assert "0" not in {text.strip() for text in column(page, 3)}


def test_rows_come_as_they_are_scrolled_to(page: webdriver.Chrome) -> None:
    count = f"return {ROWS}.length"
    assert page.execute_script(count) == 200
    for least in (201, 401, 601):
        page.execute_script("const frame = document.querySelector('.tall'); frame.scrollTop = frame.scrollHeight")
        WebDriverWait(page, 10).until(lambda chrome: chrome.execute_script(f"{count} >= {least}"))  # noqa: B023
    assert len(set(column(page, 0))) == LABELS, "none is lost, none comes twice"


def test_no_request_leaves_the_page_and_the_console_stays_empty(page: webdriver.Chrome, report: Path) -> None:
    for log in ("performance", "browser"):
        page.get_log(log)  # what the browser asked for when it started
    page.refresh()
    assert page.execute_script(f"return {REQUESTS}.length") == 0
    assert page.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} <= {report.as_uri(), "about:blank"}


def test_a_script_in_a_name_or_a_credit_does_not_run(page: webdriver.Chrome) -> None:
    assert page.title == "baseline 2026-01"
    assert column(page, 0)[7].strip() == EVIL
    assert EVIL in page.find_element(By.CSS_SELECTOR, "#mistakes figcaption").text


def test_the_policy_stops_a_script_that_got_in(page: webdriver.Chrome) -> None:
    page.execute_script(INJECT)
    assert page.title == "baseline 2026-01"
    assert any("Content Security Policy" in entry["message"] for entry in page.get_log("browser"))


@pytest.mark.parametrize("width", [500, 1320])
def test_the_page_needs_no_scrolling_sideways(browser: webdriver.Chrome, report: Path, width: int) -> None:
    browser.set_window_size(width, 900)
    browser.get(report.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert all(browser.execute_script("return [...document.images].map(i => i.complete && i.naturalWidth > 0)"))


def test_it_is_dark_where_the_reader_asks_for_it(page: webdriver.Chrome) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    seen = []
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen.append(page.execute_script(colour))
    assert seen == ["rgb(255, 255, 255)", "rgb(20, 24, 22)"]
