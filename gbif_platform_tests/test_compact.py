"""`gbif-platform compact` and `takedown`, as a person types them."""

import re
from pathlib import Path

import pytest

from gbif_platform_tests.commands import Home
from gbif_platform_tests.images.ledger import picture, store, stored

SEVEN = {f"p{number}": picture(number) for number in range(7)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return Home(tmp_path / "home", monkeypatch)


def numbers(output: str) -> dict[str, int]:
    """What the table says was done."""
    found = re.findall(r"^(.+?)  +([\d,]+)(?:  .*)?$", output, re.MULTILINE)
    return {what.strip(): int(number.replace(",", "")) for what, number in found}


def test_compact_tells_what_there_is_to_do_does_it_and_then_finds_nothing(home: Home) -> None:
    lake, objects = home.platform.lake, home.platform.objects
    old = store(lake, objects, SEVEN)
    store(lake, objects, {f"p{number}": picture(100 + number) for number in range(5)})
    before = stored(lake, objects)

    planned = home("compact", "--dry-run", "--grace-days", "0")
    assert planned.exit_code == 0, planned.stderr
    nothing = {"to delete": 0, "files of answers to delete": 0, "lake files to delete": 0}
    assert numbers(planned.stdout) == {"shards": 2, "to rewrite": 1} | nothing
    assert objects.exists(old)

    done = home("compact", "--grace-days", "0")
    assert done.exit_code == 0, done.stderr
    assert numbers(done.stdout)["rewritten"] == 1
    assert numbers(done.stdout)["deleted, as nothing names them"] == 1
    assert "into 1 with 2 pictures" in done.stdout
    assert not objects.exists(old)
    assert stored(lake, objects) == before

    again = numbers(home("compact", "--grace-days", "0").stdout)
    assert again["shards"] == 2
    assert again["rewritten"] == again["deleted, as nothing names them"] == again["lake files merged"] == 0


def test_compact_verifies_on_request_and_names_what_is_damaged(home: Home) -> None:
    lake, objects = home.platform.lake, home.platform.objects
    shard = store(lake, objects, SEVEN)
    content = objects.get(shard)
    header = content.index(b"p3.jpg")
    objects.put(shard, content[:header] + b"\xff" * 512 + content[header + 512 :])
    done = home("compact", "--verify")
    assert done.exit_code == 0, done.stderr
    assert "unreadable" in done.stdout
    assert shard in done.stdout
    assert set(stored(lake, objects)) == set(SEVEN) - {"p3"}, "the others are saved from the torn shard"
    assert "damaged" not in home("compact", "--verify").stdout.splitlines()


def test_takedown_and_compact(home: Home) -> None:
    lake, objects = home.platform.lake, home.platform.objects
    store(lake, objects, SEVEN)
    refused = home("takedown", "http://host/none", "--reason", "asked")
    assert refused.exit_code == 1
    assert "no medium is known by http://host/none" in refused.stderr
    taken = home("takedown", "http://host/p3", "p4", "--reason", "the photographer asked")
    assert taken.exit_code == 0, taken.stderr
    assert "2 picture(s) taken down" in taken.stdout
    assert set(stored(lake, objects)) == set(SEVEN) - {"p3", "p4"}
    done = home("compact")
    assert numbers(done.stdout)["deleted, with pictures taken down"] == 1
    assert not any(picture(3) in objects.get(key) for key in objects.list())
