"""What a person sees: `gbif-platform dev` in a real browser, the asset page with its numbers and its sample grid."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from gbif_platform.dataset import read_dataset
from gbif_platform.orchestration.instance import prepare_home
from gbif_platform.orchestration.runs import execute
from gbif_platform.platform import Platform
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.settings import Settings
from gbif_platform.sources.snapshots import add_snapshot

pytestmark = pytest.mark.browser

DATASET = """\
type: gbif_platform.components.ImageDataset
attributes:
  source: {{gbif_download: {{doi: 10.15468/dl.sand01, endpoint: "{url}"}}}}
  label: species
  filters: {{licences: any}}
  images: {{size: 64}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the Dagster UI over a home in which one small dataset is materialised."""
    home = tmp_path_factory.mktemp("home")
    platform = Platform(Settings(home=home, allow_private_hosts=True))
    prepare_home(platform.settings)
    platform.settings.datasets.mkdir()
    file = platform.settings.datasets / "insects.yaml"
    with Sandbox() as sandbox:
        sandbox.publish(SandboxDataset(size=40))
        file.write_text(DATASET.format(url=sandbox.url))
        dataset = read_dataset(file)
        assert execute(platform, dataset, add_snapshot(platform, dataset)[0]).failures == []
    port = free_port()
    command = [sys.executable, "-m", "gbif_platform.cli", "dev", "--port", str(port), "--mlflow-port", str(free_port())]
    log = (home / "dev.log").open("w")
    server = subprocess.Popen(
        command, env={**os.environ, "GBIF_PLATFORM_HOME": str(home)}, stdout=log, stderr=log, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/server_info", 120)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0, (home / "dev.log").read_text()


def wait_for(url: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.5)


def shown(browser: webdriver.Chrome, text: str, seconds: float = 60) -> None:
    WebDriverWait(browser, seconds).until(lambda chrome: text in chrome.find_element(By.TAG_NAME, "body").text)


def test_the_graph_lists_every_stage_of_the_users_dataset(browser: webdriver.Chrome, page: str) -> None:
    browser.get(f"{page}/locations/gbif_platform/asset-groups/insects/lineage")
    for stage in ("occurrences", "media_urls", "balanced_samples", "downloaded_images", "splits"):
        shown(browser, stage)


def test_an_asset_page_shows_rows_checks_and_the_sample_grid(browser: webdriver.Chrome, page: str) -> None:
    browser.get(f"{page}/assets/insects/downloaded_images")
    for text in ("Row count", "10.15468/dl.sand01", "sample_grid (picture)", "stored_bytes"):
        shown(browser, text)
    row = browser.find_element(By.XPATH, "//tr[.//*[contains(text(), 'sample_grid (picture)')]]")
    link = row.find_element(By.XPATH, ".//*[contains(text(), 'Show Markdown')]")
    browser.execute_script("arguments[0].click()", link)
    width = (
        "return Math.max(0, ...[...document.images].map(i => i.src.startsWith('data:image/jpeg') ? i.naturalWidth : 0))"
    )
    WebDriverWait(browser, 30).until(lambda chrome: chrome.execute_script(width) > 400)
