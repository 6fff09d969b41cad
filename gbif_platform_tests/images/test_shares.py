"""Dividing a plan among workers: nothing lost, nothing twice, no host asked too much."""

from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.images.addresses import host_of
from gbif_platform.images.plan import Wanted
from gbif_platform.images.shares import Division, Share, shares

counts_of_hosts = st.dictionaries(st.text("abc.", max_size=6), st.integers(1, 10**7), max_size=40)
few = st.integers(1, 20)


def loads(divided: list[Share], counts: dict[str, int]) -> list[float]:
    """URLs of each share."""
    named = Counter(host for share in divided for host in share.hosts)
    return [sum(counts[host] / named[host] for host in share.hosts) for share in divided]


@given(counts_of_hosts, few, few)
def test_no_host_sees_more_requests_than_it_should(counts: dict[str, int], workers: int, per_host: int) -> None:
    divided = shares(counts, workers, per_host)
    assert {host for share in divided for host in share.hosts} == set(counts)
    for host in counts:
        asking = [share for share in divided if host in share.hosts]
        assert sum(share.per_host for share in asking) == per_host
        assert min(share.per_host for share in asking) >= 1


@given(counts_of_hosts, few, few)
def test_shares_are_few_and_never_empty(counts: dict[str, int], workers: int, per_host: int) -> None:
    divided = shares(counts, workers, per_host)
    assert len(divided) <= workers
    assert all(share.hosts for share in divided)


@given(counts_of_hosts, few)
def test_no_worker_has_much_more_than_its_part(counts: dict[str, int], workers: int) -> None:
    divided = shares(counts, workers, per_host=workers)
    fair = sum(counts.values()) / workers
    assert max(loads(divided, counts), default=0) <= 3 * fair + 1


@given(counts_of_hosts, few, few, st.randoms())
def test_the_order_of_the_hosts_does_not_matter(
    counts: dict[str, int], workers: int, per_host: int, random: Random
) -> None:
    shuffled = list(counts.items())
    random.shuffle(shuffled)
    assert shares(dict(shuffled), workers, per_host) == shares(counts, workers, per_host)


def test_a_giant_is_split_and_small_hosts_stay_whole() -> None:
    divided = shares({"giant.org": 900, "a.org": 60, "b.org": 40}, workers=10, per_host=16)
    assert divided == [
        *[Share(("giant.org",), 2)] * 7,
        *[Share(("giant.org",), 1)] * 2,
        Share(("a.org", "b.org"), 16),
    ]


def test_a_host_that_bears_two_requests_is_not_split_in_three() -> None:
    assert shares({"giant.org": 900}, workers=3, per_host=2) == [Share(("giant.org",), 1)] * 2


def test_hosts_are_told_apart_as_the_schedule_does() -> None:
    assert host_of("https://A.org/x") == host_of("http://a.org:80/y?z") == "a.org"
    assert host_of("http://a.org:8080/x") == "a.org:8080"
    assert host_of("http://a.org?x=/1") == "a.org"
    assert host_of("urn:x") == host_of("") == ""


def divided(folder: Path, plan: list[Wanted], workers: int, per_host: int = 2) -> Division:
    return Division(folder / "plan", iter(plan), workers, per_host)


def rest(division: Division) -> list[list[Wanted]]:
    return [
        [Wanted(*row) for frame in division.rest(number) for row in frame.iter_rows()]
        for number in range(len(division.shares))
    ]


plans = st.lists(st.sampled_from(["a.org", "b.org", "c.org", "d.org:81"]), max_size=60).map(
    lambda hosts: [
        Wanted(f"u{number}", f"http://{host}/{number}", gbif_id=str(number)) for number, host in enumerate(hosts)
    ]
)


@given(plans, few)
@settings(deadline=None, max_examples=40)
def test_every_url_is_in_one_share_and_stays_as_it_was(plan: list[Wanted], workers: int) -> None:
    with TemporaryDirectory() as name:
        division = divided(Path(name), plan, workers)
        parts = rest(division)
        assert sorted(wanted for part in parts for wanted in part) == sorted(plan)
        for share, part in zip(division.shares, parts, strict=True):
            assert {host_of(wanted.url) for wanted in part} <= set(share.hosts)


def test_what_is_done_does_not_come_again(tmp_path: Path) -> None:
    division = divided(tmp_path, [Wanted(f"u{n}", f"http://a.org/{n}") for n in range(6)], 1)
    division.note(0, [{"url_id": "u1", "status": "ok", "reason": ""}])
    division.note(0, [{"url_id": "u4", "status": "failed", "reason": "http_404"}])
    assert [[wanted.url_id for wanted in part] for part in rest(division)] == [["u0", "u2", "u3", "u5"]]


def test_failed_is_what_the_world_did_not_give(tmp_path: Path) -> None:
    division = divided(tmp_path, [Wanted(f"u{n}", f"http://a.org/{n}", gbif_id=str(n)) for n in range(6)], 1)
    division.note(
        0,
        [
            {"url_id": "u1", "status": "ok", "reason": ""},
            {"url_id": "u3", "status": "refused", "reason": "robots"},
            {"url_id": "u5", "status": "failed", "reason": "http_404"},
        ],
    )
    (failed,) = division.failed()
    assert failed.select("url_id", "gbif_id", "reason").rows() == [("u5", "5", "http_404")]
