"""Bad input and trouble: each is told in one line with a next step and exit code 1, and leaves the lake as it was."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click.testing
import pytest

from gbif_platform.errors import PlatformError
from gbif_platform.gbif import retry
from gbif_platform.gbif.download_errors import UnknownDownload
from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform_tests.commands import Home, changed_archive, small_archive, without_multimedia

BEFORE_MEDIA = {"occurrences"}
BEFORE_TAXA = {"occurrences", "media_urls"}
BEFORE_SAMPLES = BEFORE_TAXA | {"taxa"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with pytest.MonkeyPatch.context() as patch:
        yield Home(tmp_path_factory.mktemp("home"), patch)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_archive(tmp_path_factory.mktemp("archives") / "sound.zip")


def told(result: click.testing.Result) -> tuple[str, str]:
    """Cause and next step of a command that failed as it should."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    cause, next_step = result.stderr.strip().splitlines()[-2:]
    assert cause.startswith("error: ")
    assert next_step.startswith("next:  ")
    return cause.removeprefix("error: "), next_step.removeprefix("next:  ")


def run_refused(home: Home, name: str, *arguments: str) -> tuple[str, str]:
    """Cause and next step of a run that is refused in two lines."""
    result = home("run", name, *arguments)
    assert len(result.stderr.splitlines()) == 2
    return told(result)


def left_by(home: Home, name: str) -> set[str]:
    """The stages that the lake holds of a dataset, after a look that none of them is half written."""
    stages = {row["stage"]: row for row in home.rows(f"SELECT * FROM stages WHERE dataset = '{name}'")}
    for table in ("occurrences", "media_urls", "balanced_samples", "splits"):
        rows = home.rows(f"SELECT count(*) AS n FROM {table} WHERE dataset = '{name}'")[0]["n"]
        assert rows == (stages[table]["rows_out"] if table in stages else 0), table
    refused = home.rows(f"SELECT stage, count(*) AS n FROM quarantine WHERE dataset = '{name}' GROUP BY stage")
    expected = {stage: row["rows_refused"] for stage, row in stages.items() if row["rows_refused"]}
    assert {row["stage"]: row["n"] for row in refused} == expected
    return set(stages)


def test_a_missing_archive(home: Home, tmp_path: Path) -> None:
    home.dataset("missing", tmp_path / "nowhere.zip")
    cause, next_step = run_refused(home, "missing")
    assert cause == f"there is no archive at {tmp_path / 'nowhere.zip'}"
    assert "source.archive" in next_step


def test_what_is_no_archive_does_not_become_a_snapshot(home: Home, archive: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.zip"
    text.write_text("gbifID\tspecies\n1\tRana temporaria\n")
    half = tmp_path / "half.zip"
    half.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    empty = tmp_path / "empty.zip"
    empty.touch()
    nameless = changed_archive(archive, tmp_path / "nameless.zip", without=("meta.xml",))
    for file, trouble in (
        (text, "is no zip"),
        (half, "it was cut"),
        (empty, "empty"),
        (nameless, "no meta.xml"),
        (tmp_path, "is a folder"),
    ):
        home.dataset("no_archive", file)
        cause, next_step = run_refused(home, "no_archive")
        assert cause.startswith(str(file)), "the person's own file is named"
        assert trouble in cause
        assert next_step
    assert left_by(home, "no_archive") == set()
    assert home.rows("SELECT * FROM snapshots WHERE dataset = 'no_archive'") == []


def test_a_damaged_member(home: Home, archive: Path, tmp_path: Path) -> None:
    content = bytearray(archive.read_bytes())
    place = content.index(b"occurrence.txt") + 500  # of its local header, before the directory at the end
    content[place : place + 50] = bytes(50)
    damaged = tmp_path / "damaged.zip"
    damaged.write_bytes(content)
    home.dataset("damaged", damaged)
    cause, _ = run_refused(home, "damaged")
    assert cause.startswith("occurrences: occurrence.txt in ")
    assert left_by(home, "damaged") == set()


def test_no_multimedia(home: Home, archive: Path, tmp_path: Path) -> None:
    no_extension = {"meta.xml": without_multimedia}
    for name, changed, trouble in (
        ("undeclared", changed_archive(archive, tmp_path / "1.zip", no_extension), "no multimedia extension"),
        ("left_out", changed_archive(archive, tmp_path / "2.zip", without=("multimedia.txt",)), "no multimedia"),
        (
            "no_rows",
            changed_archive(
                archive, tmp_path / "3.zip", {"multimedia.txt": lambda text: text.partition("\n")[0] + "\n"}
            ),
            "an empty multimedia extension",
        ),
    ):
        file = home.dataset(name, changed)
        assert file.exists()
        cause, next_step = run_refused(home, name)
        assert cause.startswith(f"media_urls: {changed} has {trouble}")
        assert "GBIF download" in next_step
        assert left_by(home, name) == BEFORE_MEDIA


def test_no_usable_row(home: Home, archive: Path) -> None:
    home.dataset("unusable", archive, filters="{licences: [CC-BY-SA-2.0]}")
    cause, next_step = run_refused(home, "unusable")
    assert cause.startswith("balanced_samples: no medium is left to sample: ")
    assert "licence_not_allowed" in cause
    assert "loosen filters" in next_step
    assert left_by(home, "unusable") == BEFORE_SAMPLES


def test_an_unknown_label(home: Home, archive: Path) -> None:
    home.dataset("mislabelled", archive, label="speceis")
    cause, next_step = run_refused(home, "mislabelled")
    assert cause.startswith("taxa: label 'speceis' is no column with values; there are: ")
    assert {"species", "genus", "family", "species_key"} <= set(cause.rpartition(": ")[2].split(", "))
    assert "label" in next_step
    assert left_by(home, "mislabelled") == BEFORE_TAXA

    home.dataset("mislabelled", archive, label="genus")
    assert home("run", "mislabelled", "--select", "balanced_samples").exit_code == 0, "the correction is enough"


def test_mistakes_in_a_dataset_file(home: Home, archive: Path) -> None:
    file = home.dataset("mistaken", archive, more="  sampling: {policy: balanced, per_label: many}\n  modles: {}\n")
    result = home("run", "mistaken")
    assert result.exit_code == 1
    first, second, next_step = result.stderr.splitlines()  # one line a mistake
    assert first.startswith(f"error: {file}:8: sampling.per_label: Input should be a valid integer")
    assert second == f"{file}:9: modles: unknown key; did you mean models?"
    assert next_step.startswith("next:  ")
    for text, mistake in (
        ("type: [a\nb: c", f"{file}:2: not YAML"),
        ("- frogs\n", f"{file}:1: a dataset file starts with"),
        ("", f"{file}:1: a dataset file starts with"),
    ):
        file.write_text(text)
        cause, next_step = run_refused(home, "mistaken")
        assert cause.startswith(mistake)
        assert "dataset check" in next_step
    file.write_bytes(b"type: \xff\xfe")
    assert run_refused(home, "mistaken")[0].startswith(f"{file} is not UTF-8")
    file.unlink()


def test_a_doi_that_the_endpoint_does_not_know(home: Home) -> None:
    with Sandbox() as sandbox:
        home.dataset("unknown", f'{{gbif_download: {{doi: 10.15468/dl.nowhere, endpoint: "{sandbox.url}"}}}}')
        cause, next_step = run_refused(home, "unknown")
        debug = home("--debug", "run", "unknown")
    assert cause == "GBIF knows no download 10.15468/dl.nowhere"
    assert "check the DOI" in next_step
    assert isinstance(debug.exception, UnknownDownload), "the traceback for who asks"
    assert home.rows("SELECT * FROM snapshots WHERE dataset = 'unknown'") == [], "nobody has to take it back"
    assert left_by(home, "unknown") == set()


def test_an_endpoint_that_does_not_answer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.01)  # six tries take half a minute
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    home.dataset("unreachable", f'{{gbif_download: {{doi: 10.15468/dl.sand01, endpoint: "http://127.0.0.1:{port}"}}}}')
    cause, next_step = run_refused(home, "unreachable")
    assert cause.startswith("GBIF (http")
    assert f"127.0.0.1:{port}" in cause
    assert "endpoint" in next_step
    assert left_by(home, "unreachable") == set()


def test_a_port_in_use(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for option in ("--port", "--mlflow-port"):
            cause, next_step = told(home("dev", option, port))
            assert cause == f"port {port} is in use"
            assert f"{option} N" in next_step
    assert home("dev", "--port", "70000").exit_code == 2


def test_the_demos_port_in_use(home: Home) -> None:
    with socket.socket() as server:
        with suppress(OSError):  # somebody's demo may run here: as good
            server.bind(("127.0.0.1", 8765))
            server.listen()
        cause, next_step = told(home("demo"))
    assert "127.0.0.1:8765" in cause
    assert "another sandbox" in next_step


def test_a_setting_of_a_wrong_value(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GBIF_PLATFORM_FETCH_CONCURRENCY", "many")
    cause, next_step = told(home("status"))
    assert cause.startswith("setting 'fetch_concurrency': Input should be a valid integer")
    assert "'many'" in cause
    assert "GBIF_PLATFORM_FETCH_CONCURRENCY" in next_step
    debug = home("--debug", "status")
    assert isinstance(debug.exception, PlatformError), "Python prints the traceback of what is not caught"


def test_a_broken_settings_file(home: Home) -> None:
    file = home.folder / "settings.toml"
    try:
        for content, mistake in (
            (b"contact = [\n", f"{file} cannot be read: "),
            (b"\xff\xfe", f"{file} cannot be read: "),
            (b"fetch_concurency = 4\n", "setting 'fetch_concurency'"),
            (b"fetch_timeout = -1\n", "setting 'fetch_timeout': Input should be greater than 0"),
        ):
            file.write_bytes(content)
            cause, next_step = told(home("status"))
            assert cause.startswith(mistake)
            assert "correct" in next_step
    finally:
        file.unlink()
    assert home("status").exit_code == 0


def test_a_home_that_is_no_folder(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "home"
    file.write_text("I am a file")
    monkeypatch.setenv("GBIF_PLATFORM_HOME", str(file))
    for command in (("init",), ("dataset", "list"), ("run", "demo")):
        cause, next_step = told(home(*command))
        assert str(file) in cause
        assert "GBIF_PLATFORM_HOME" in next_step


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """The mount point of a file system of 16 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small file system")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_home_that_cannot_be_written(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(disk / "home", monkeypatch)
    assert home("init").exit_code == 0
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    cause, next_step = told(home("status"))
    assert str(home.folder) in cause
    assert "Read-only" in cause
    assert "GBIF_PLATFORM_HOME" in next_step


def test_a_full_disk_costs_a_second_run_and_nothing_else(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ballast = disk / "ballast"
    with Sandbox() as sandbox:
        doi = sandbox.publish(SandboxDataset(size=24, troubles=0)).doi
        home = Home(disk / "home", monkeypatch)
        home.dataset("insects", f'{{gbif_download: {{doi: {doi}, endpoint: "{sandbox.url}"}}}}')
        assert home("init").exit_code == 0
        for left in (0, 200_000, 400_000):
            fill(ballast, left)
            cause, next_step = told(home("run", "insects"))
            assert "the disk is full" in cause
            assert "free space" in next_step
            ballast.unlink()
            left_by(home, "insects")
        again = home("run", "insects")
        assert again.exit_code == 0, again.output
    assert left_by(home, "insects") == BEFORE_SAMPLES | {
        "balanced_samples",
        "predicted_catalogue",
        "downloaded_images",
        "duplicate_images",
        "splits",
        "catalogue",
    }
    assert "running:" not in home("status").stdout


def fill(file: Path, left: int) -> None:
    """Write until so many bytes are left on the file's disk."""
    with file.open("wb") as stream:
        stream.write(bytes(max(0, shutil.disk_usage(file.parent).free - left)))


def test_the_installed_command_shows_a_traceback_only_on_demand(home: Home, tmp_path: Path) -> None:
    home.dataset("missing", tmp_path / "nowhere.zip")
    for debug, wanted in (([], False), (["--debug"], True)):
        command = [sys.executable, "-m", "gbif_platform.cli", *debug, "run", "missing"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) is wanted
        assert "nowhere.zip" in done.stderr
