"""Turns: every job comes out once, in whatever order jobs pause, fail and move between hosts."""

import asyncio
from collections.abc import Callable, Iterable, Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.images.candidates import Candidate
from gbif_platform.images.plan import Wanted
from gbif_platform.images.schedule import Job, Schedule


def schedule_of(
    plan: Iterable[Wanted | tuple[str, str]],
    per_host: int = 3,
    look_ahead: int = 10_000,
    wake: Callable[[], None] = lambda: None,
) -> Schedule:
    return Schedule(
        plan,
        lambda wanted: [Candidate(wanted.url)],
        most_at=lambda name: per_host,
        most_hanging=50,
        wake=wake,
        look_ahead=look_ahead,
    )


@settings(max_examples=60, deadline=None)
@given(
    hosts=st.lists(st.integers(0, 4), max_size=40),
    fates=st.lists(st.sampled_from(["done", "again", "later", "pause", "aside"]), min_size=1, max_size=50),
    per_host=st.integers(1, 3),
    workers=st.integers(1, 5),
    look_ahead=st.integers(1, 20),
)
def test_every_job_is_finished_once_within_the_limits(
    hosts: list[int], fates: list[str], per_host: int, workers: int, look_ahead: int
) -> None:
    async def run() -> list[str]:
        plan = [(str(number), f"http://h{host}.org/{number}") for number, host in enumerate(hosts)]
        woken = asyncio.Event()
        schedule = schedule_of(plan, per_host, look_ahead, woken.set)
        fate = iter(fates)
        finished: list[str] = []

        async def work() -> None:
            while True:
                woken.clear()  # before taking, which may wake as well
                job = schedule.take()
                if schedule.done:
                    woken.set()
                    return
                if job is None:
                    await woken.wait()
                    continue
                assert 1 <= job.host.in_flight <= per_host
                at = job.host.free_at(job.sent_at)
                assert at is None or at <= job.sent_at
                await asyncio.sleep(0)
                settle(job, next(fate, "done"))

        def settle(job: Job, what: str) -> None:
            if what == "aside":
                schedule.set_aside(job)
            schedule.release(job)
            if what in ("done", "aside"):
                finished.append(job.wanted.url_id)
                schedule.finish(job)
                woken.set()
                return
            if what == "pause":
                job.host.pause(job.sent_at, 0.001)
            schedule.again(job, 0.001 if what == "later" else 0)

        async with asyncio.timeout(10):
            await asyncio.gather(*(work() for _ in range(workers)))
        assert all(lane.host.in_flight == lane.host.hanging == 0 for lane in schedule._lanes.values())
        return finished

    assert sorted(asyncio.run(run()), key=int) == [str(number) for number in range(len(hosts))]


def take_all(schedule: Schedule) -> Iterator[Job]:
    while (job := schedule.take()) is not None:
        yield job


def test_hosts_take_turns() -> None:
    async def run() -> list[str]:
        plan = [(f"{host}{n}", f"http://{host}/{n}") for host in "abc" for n in range(3)]
        return [job.wanted.url_id for job in take_all(schedule_of(plan))]

    assert asyncio.run(run()) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_the_same_server_is_one_host_whatever_the_spelling() -> None:
    urls = ["http://H.org/1", "http://h.org:80/2", "https://user@h.org/3"]

    async def run() -> set[str]:
        return {job.host.name for job in take_all(schedule_of([(url, url) for url in urls]))}

    assert asyncio.run(run()) == {"h.org"}


def test_a_request_set_aside_makes_room_for_the_next() -> None:
    async def run() -> list[str]:
        schedule = schedule_of([(str(n), f"http://h/{n}") for n in range(3)], per_host=1)
        (first,) = take_all(schedule)
        schedule.set_aside(first)
        (second,) = take_all(schedule)
        schedule.release(first)
        assert schedule.take() is None
        return [first.wanted.url_id, second.wanted.url_id]

    assert asyncio.run(run()) == ["0", "1"]


def test_a_paused_host_with_a_long_queue_hides_no_other_host() -> None:
    async def run() -> bool:
        plan = ((str(n), f"http://{'busy' if n < 250 else 'free'}/{n}") for n in range(260))
        schedule = schedule_of(plan, look_ahead=100)
        for job in take_all(schedule):
            schedule.release(job)
            job.host.pause(job.sent_at, 1000)
            schedule.again(job)
        taken = [schedule.take() for _ in range(10)]
        schedule.close()
        return any(job is not None and job.host.name == "free" for job in taken)

    assert asyncio.run(run())


def test_the_plan_is_read_as_far_as_needed_only() -> None:
    read = 0

    def plan() -> Iterator[tuple[str, str]]:
        nonlocal read
        while True:
            read += 1
            yield str(read), f"http://h/{read}"

    async def run() -> None:
        schedule = schedule_of(plan(), look_ahead=100)
        for _ in range(1000):
            schedule.take()

    asyncio.run(run())
    assert read <= 300
