"""Turns: every job comes out once, in whatever order jobs pause, fail and move between hosts."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.images.schedule import Job, Schedule


@settings(max_examples=60, deadline=None)
@given(
    hosts=st.lists(st.integers(0, 4), max_size=40),
    fates=st.lists(st.sampled_from(["done", "again", "later", "pause"]), min_size=1, max_size=50),
    per_host=st.integers(1, 3),
    workers=st.integers(1, 5),
    look_ahead=st.integers(1, 20),
)
def test_every_job_is_finished_once_within_the_limits(
    hosts: list[int], fates: list[str], per_host: int, workers: int, look_ahead: int
) -> None:
    async def run() -> list[str]:
        plan = [(str(number), f"http://h{host}.org/{number}") for number, host in enumerate(hosts)]
        schedule = Schedule(plan, per_host, look_ahead)
        fate = iter(fates)
        finished: list[str] = []

        async def work() -> None:
            while (job := await schedule.next()) is not None:
                assert 1 <= job.host.in_flight <= per_host
                assert asyncio.get_running_loop().time() >= job.host.paused_until
                await asyncio.sleep(0)
                schedule.release(job)
                settle(job, next(fate, "done"))

        def settle(job: Job, what: str) -> None:
            if what == "done":
                finished.append(job.url_id)
                schedule.finish(job)
                return
            if what == "pause":
                schedule.pause(job.host, 0.001)
            schedule.again(job, 0.001 if what == "later" else 0)

        async with asyncio.timeout(10):
            await asyncio.gather(*(work() for _ in range(workers)))
        return finished

    assert sorted(asyncio.run(run()), key=int) == [str(number) for number in range(len(hosts))]


def test_hosts_take_turns() -> None:
    async def run() -> list[str]:
        schedule = Schedule([(f"{host}{n}", f"http://{host}/{n}") for host in "abc" for n in range(3)], per_host=3)
        order = []
        for _ in range(9):
            job = await schedule.next()
            assert job is not None
            order.append(job.url_id)
        return order

    assert asyncio.run(run()) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_the_same_server_is_one_host_whatever_the_spelling() -> None:
    urls = ["http://H.org/1", "http://h.org:80/2", "https://user@h.org/3"]

    async def run() -> set[str]:
        schedule = Schedule([(url, url) for url in urls], per_host=3)
        jobs = [await schedule.next() for _ in urls]
        return {job.host.name for job in jobs if job}

    assert asyncio.run(run()) == {"h.org"}
