"""The life of a requested download over real HTTP: refused, accepted, polled, cancelled, listed, fetched, erased."""

import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from gbif_platform.sandbox import Sandbox, SandboxDataset
from gbif_platform.sandbox.downloads import STATUSES
from gbif_platform.sandbox.organisms import SPECIES
from gbif_platform_tests.sandbox.calls import FROG, Reply, assert_shape, call, get, recorded

DATASET = SandboxDataset(size=60)
RECORDS = list(DATASET.occurrences())
ROOT = "/v1/occurrence/download"
DENMARK = {"type": "equals", "key": "COUNTRY", "value": "DK"}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(users={"frog": "secret", "toad": "moss"}) as running:
        running.publish(DATASET)
        yield running


def ask(sandbox: Sandbox, predicate: object = DENMARK, user: tuple[str, str] | None = FROG, **more: Any) -> Reply:
    body = {"format": "DWCA", "predicate": predicate, **more}
    return call("POST", f"{sandbox.url}{ROOT}/request", body, user)


def described(sandbox: Sandbox, key: str) -> Any:
    return get(f"{sandbox.url}{ROOT}/{key}").json


def fetch(sandbox: Sandbox, key: str) -> Reply:
    return get(f"{sandbox.url}{ROOT}/request/{key}.zip")


def gbif_ids(archive: bytes, member: str = "occurrence.txt") -> list[str]:
    with zipfile.ZipFile(BytesIO(archive)) as opened:
        assert opened.testzip() is None
        return [line.split("\t")[0] for line in opened.read(member).decode().splitlines()[1:]]


def at_once(sandbox: Sandbox, predicate: object, **more: Any) -> list[str]:
    """The gbifIDs of a predicate's download."""
    sandbox.prepare_polls = sandbox.run_polls = 0
    answer = ask(sandbox, predicate, **more)
    assert answer.status == 201, answer.text
    return gbif_ids(fetch(sandbox, answer.text).body)


def test_a_download_goes_from_preparing_to_succeeded(sandbox: Sandbox, shared: Path) -> None:
    sandbox.prepare_polls = 2
    answer = ask(sandbox)
    assert answer.status == 201
    assert answer.text.replace("-", "").isdecimal()
    seen = [described(sandbox, answer.text) for _ in range(4)]
    assert [each["status"] for each in seen] == ["PREPARING", "PREPARING", "RUNNING", "SUCCEEDED"]
    examples = recorded(shared, "download_lifecycle", "rgbif__occ_download_wait_request__*")[1:]
    for each, example in ((seen[0], examples[0]), (seen[3], examples[-1])):
        assert each.keys() == example.keys()
        assert each["request"].keys() == example["request"].keys()
        assert {name: type(value) for name, value in each.items()} == {n: type(v) for n, v in example.items()}
    assert seen[0]["request"]["predicate"] == DENMARK | {"matchCase": False}
    assert seen[3] == get(f"{sandbox.url}{ROOT}/{seen[3]['doi']}").json


def test_the_file_is_404_before_it_is_ready_and_410_once_erased(sandbox: Sandbox) -> None:
    key = ask(sandbox).text
    assert fetch(sandbox, key).status == 404
    sandbox.set_status(key, "SUCCEEDED")
    assert call("GET", f"{sandbox.url}{ROOT}/request/{key}.zip", follow=False).status == 302
    archive = fetch(sandbox, key)
    assert len(archive.body) == described(sandbox, key)["size"]
    sandbox.set_status(key, "FILE_ERASED")
    assert fetch(sandbox, key).status == 410
    erased = described(sandbox, key)
    assert (erased["status"], erased["request"]["predicate"]["key"]) == ("FILE_ERASED", "COUNTRY")
    assert erased["doi"]


def test_the_archive_holds_exactly_what_was_asked_for(sandbox: Sandbox) -> None:
    wanted = [record for record in RECORDS if record.terms["countryCode"] == "DK"]
    sandbox.prepare_polls = sandbox.run_polls = 0
    key = ask(sandbox).text
    archive = fetch(sandbox, key).body
    assert gbif_ids(archive) == [str(record.gbif_id) for record in wanted]
    assert gbif_ids(archive, "multimedia.txt") == [str(medium.gbif_id) for r in wanted for medium in r.media_rows]
    metadata = described(sandbox, key)
    assert metadata["totalRecords"] == len(wanted)
    rows = get(f"{sandbox.url}{ROOT}/{key}/datasets").json
    assert (rows["count"], sum(row["numberRecords"] for row in rows["results"])) == (
        metadata["numberDatasets"],
        len(wanted),
    )
    assert f"https://doi.org/{metadata['doi']}" in get(f"{sandbox.url}{ROOT}/{key}/citation").text


def test_predicates_mean_what_gbif_says(sandbox: Sandbox) -> None:
    def wanted(keep: Any) -> list[str]:
        return [str(record.gbif_id) for record in RECORDS if keep(record.terms)]

    cases: list[tuple[dict[str, object], Any]] = [
        ({"type": "in", "key": "MONTH", "values": ["6", 7]}, lambda t: t["month"] in ("6", "7")),
        ({"type": "equals", "key": "TAXON_KEY", "value": SPECIES[0].genus.key}, lambda t: t["genus"] == "Demoptera"),
        ({"type": "lessThan", "key": "YEAR", "value": "2022"}, lambda t: int(t["year"]) < 2022),
        ({"type": "lessThanOrEquals", "key": "YEAR", "value": "2022"}, lambda t: int(t["year"]) <= 2022),
        ({"type": "greaterThan", "key": "YEAR", "value": "2022"}, lambda t: int(t["year"]) > 2022),
        ({"type": "greaterThanOrEquals", "key": "EVENT_DATE", "value": "2023-07"},
         lambda t: t["eventDate"] >= "2023-07"),
        ({"type": "like", "key": "RECORDED_BY", "value": "*a*"}, lambda t: "a" in t["recordedBy"].lower()),
        ({"type": "isNull", "parameter": "SEX"}, lambda t: not t["sex"]),
        ({"type": "isNotNull", "parameter": "SEX"}, lambda t: bool(t["sex"])),
        ({"type": "within", "geometry": "POLYGON((-80 0, -70 0, -70 10, -80 10, -80 0))"},
         lambda t: t["countryCode"] == "CO"),
        ({"type": "geoDistance", "latitude": "55.86", "longitude": "12.41", "distance": "20km"},
         lambda t: t["stateProvince"] == "Hovedstaden"),
        ({"type": "or", "predicates": [DENMARK, {"type": "not", "predicate": {"type": "isNotNull",
          "parameter": "SEX"}}]}, lambda t: t["countryCode"] == "DK" or not t["sex"]),
        ({"type": "equals", "key": "TAXON_KEY", "value": "99000100",
          "checklistKey": "7ddf754f-d193-4cc9-b351-99906754a03b"}, lambda t: False),
    ]  # fmt: skip
    sandbox.reuse = False
    for predicate, keep in cases:
        assert at_once(sandbox, predicate) == wanted(keep), predicate
    assert all(wanted(keep) for _, keep in cases[:-1])


def test_simple_csv_has_50_columns(sandbox: Sandbox, shared: Path) -> None:
    sandbox.prepare_polls = sandbox.run_polls = 0
    key = ask(sandbox, format="SIMPLE_CSV").text
    with zipfile.ZipFile(BytesIO(fetch(sandbox, key).body)) as archive:
        assert archive.namelist() == [f"{key}.csv"]
        header, *rows = archive.read(f"{key}.csv").decode().splitlines()
    described_fields = get(f"{sandbox.url}{ROOT}/describe/simpleCsv").json
    assert described_fields == recorded(shared, "describe")[0]
    assert header.split("\t") == [each["name"] for each in described_fields["fields"]]
    assert len(header.split("\t")) == 50
    assert len(rows) == sum(record.terms["countryCode"] == "DK" for record in RECORDS)
    tables = get(f"{sandbox.url}{ROOT}/describe/dwca").json
    assert tables["multimedia"]["fields"][0]["name"] == "gbifID"


@pytest.mark.parametrize(
    ("user", "more", "status"),
    [
        (None, {}, 401),
        (("frog", "wrong"), {}, 401),
        (("nobody", "secret"), {}, 401),
        (FROG, {"creator": "toad"}, 403),
        (FROG, {"format": "PAPER"}, 400),
        (FROG, {"format": "SIMPLE_PARQUET"}, 400),
        (FROG, {"predicate": None}, 400),
        (FROG, {"predicate": {"type": "equals", "key": "FOO", "value": "1"}}, 400),
        (FROG, {"predicate": {"type": "guess"}}, 400),
        (FROG, {"predicate": {"type": "and", "predicates": []}}, 400),
        (FROG, {"predicate": {"type": "in", "key": "YEAR", "values": []}}, 400),
        (FROG, {"predicate": {"type": "lessThan", "key": "COUNTRY", "value": "DK"}}, 400),
        (FROG, {"predicate": {"type": "equals", "key": "YEAR", "value": "soon"}}, 400),
        (FROG, {"predicate": {"type": "in", "key": "YEAR", "values": ["2020"] * 101_001}}, 413),
    ],
)
def test_bad_requests_are_refused_in_words(
    sandbox: Sandbox, user: tuple[str, str] | None, more: dict[str, Any], status: int
) -> None:
    body = {"format": "DWCA", "predicate": DENMARK} | more
    answer = call("POST", f"{sandbox.url}{ROOT}/request", body, user)
    assert (answer.status, bool(answer.text)) == (status, True)
    assert call("POST", f"{sandbox.url}{ROOT}/request", b"{no json", FROG).status == 400


def test_a_fourth_unfinished_download_is_420(sandbox: Sandbox) -> None:
    years = [{"type": "equals", "key": "YEAR", "value": str(year)} for year in range(2020, 2024)]
    keys = [ask(sandbox, predicate).text for predicate in years[:3]]
    refused = ask(sandbox, years[3])
    assert refused.status == 420
    assert "too many" in refused.text
    assert ask(sandbox, years[3], ("toad", "moss")).status == 201
    sandbox.set_status(keys[0], "KILLED")
    assert ask(sandbox, years[3]).status == 201


def test_the_same_request_gives_the_same_key(sandbox: Sandbox) -> None:
    key = ask(sandbox, DENMARK).text
    assert ask(sandbox, DENMARK | {"checklistKey": "7ddf754f-d193-4cc9-b351-99906754a03b"}).text == key
    assert ask(sandbox, DENMARK, verbatimExtensions=["http://rs.gbif.org/terms/1.0/Image"]).text == key
    assert ask(sandbox, DENMARK, ("toad", "moss")).text != key
    assert ask(sandbox, DENMARK, format="SIMPLE_CSV").text != key
    sandbox.set_status(key, "FAILED")
    again = ask(sandbox, DENMARK).text
    assert again != key
    sandbox.reuse = False
    assert ask(sandbox, DENMARK).text not in (key, again)


def test_time_can_be_what_a_download_needs(sandbox: Sandbox) -> None:
    sandbox.prepare_polls = sandbox.run_polls = 0
    sandbox.prepare_seconds = 3600
    key = ask(sandbox).text
    assert [described(sandbox, key)["status"] for _ in range(3)] == ["PREPARING"] * 3
    sandbox.prepare_seconds, sandbox.run_seconds = 0, 3600
    assert described(sandbox, key)["status"] == "RUNNING"
    sandbox.run_seconds = 0
    assert described(sandbox, key)["status"] == "SUCCEEDED"
    sandbox.run_seconds = 3600
    assert described(sandbox, key)["status"] == "SUCCEEDED"


def test_cancelling(sandbox: Sandbox) -> None:
    key = ask(sandbox).text
    address = f"{sandbox.url}{ROOT}/request/{key}"
    assert call("DELETE", address).status == 401
    assert call("DELETE", address, user=("toad", "moss")).status == 403
    assert call("DELETE", address, user=FROG).status == 204
    assert described(sandbox, key)["status"] == "CANCELLED"
    assert call("DELETE", address + "0", user=FROG).status == 404
    assert sandbox.counts()[f"DELETE {ROOT}/request/{key}"] == 3


@pytest.mark.parametrize("status", STATUSES)
def test_any_status_can_be_set_and_stays(sandbox: Sandbox, status: str) -> None:
    key = ask(sandbox).text
    sandbox.set_status(key, status)
    assert [described(sandbox, key)["status"] for _ in range(4)] == [status] * 4
    with pytest.raises(ValueError, match="DONE"):
        sandbox.set_status(key, "DONE")
    with pytest.raises(KeyError):
        sandbox.set_status("0000000-1", status)


def test_a_users_list_is_private_ordered_and_filtered(sandbox: Sandbox, shared: Path) -> None:
    address = f"{sandbox.url}{ROOT}/user/frog"
    started = datetime.now(UTC) - timedelta(seconds=1)
    first = sandbox.publish(SandboxDataset(size=10), user="frog")
    key = ask(sandbox).text
    assert get(address).status == 401
    assert get(address, user=("toad", "moss")).status == 403
    listed = get(address, user=FROG).json
    assert [each["key"] for each in listed["results"]] == [key, first.key]
    example = recorded(shared, "download_lifecycle", "*list*")[0]
    assert_shape({**listed, "results": []}, [example])
    for each in listed["results"]:
        assert each["request"]["creator"] == "frog"
        assert each.keys() - {"doi"} <= {name for row in example["results"] for name in row}

    def keys(**parameters: object) -> list[str]:
        return [each["key"] for each in get(address, parameters, user=FROG).json["results"]]

    sandbox.set_status(key, "KILLED")
    assert keys(status="SUCCEEDED") == [first.key]
    assert keys(status=["SUCCEEDED", "KILLED"], limit=1, offset=1) == [first.key]
    assert keys(**{"from": started.isoformat()}) == [key]
    assert keys(**{"from": "2026-01-01"}) == [key, first.key]
    assert get(address, {"status": "DONE"}, user=FROG).status == 400
    assert get(address, {"from": "lately"}, user=FROG).status == 400
    later = sandbox.publish(SandboxDataset(size=10), user="frog", created=datetime.now(UTC))
    assert keys(**{"from": started.isoformat(), "status": "SUCCEEDED"}) == [later.key]
    assert get(f"{sandbox.url}{ROOT}/{first.key}").json["request"].keys() == {
        "predicate", "sendNotification", "format", "type", "verbatimExtensions",
    }  # fmt: skip


def test_what_is_said_beside_the_predicate_is_kept(sandbox: Sandbox) -> None:
    extra: dict[str, Any] = {"machineDescription": {"hash": "abc"}, "description": "mine", "checklistKey": "d7dddbf4"}
    request = described(sandbox, ask(sandbox, **extra).text)["request"]
    assert {name: request[name] for name in extra} == extra
    checked = call("POST", f"{sandbox.url}{ROOT}/request/validate", {"predicate": DENMARK}, FROG)
    assert (checked.status, checked.json["format"]) == (200, "DWCA")


def test_requested_downloads_do_not_shift_published_ones(sandbox: Sandbox) -> None:
    ask(sandbox)
    assert sandbox.publish(SandboxDataset(size=10)).doi == "10.15468/dl.sand02"
