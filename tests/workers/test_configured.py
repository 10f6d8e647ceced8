"""Pools in the configuration file: made, followed while they run, checked line by line, and told of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import resilience
from resilience import CircuitOpen, ConfigError, RateLimited, Toolkit
from resilience.config import parse
from resilience.testing import ManualClock
from resilience.workers import FailedTaskStoreError, PoolFull
from tests.workers.helpers import Blocked, until

TEXT = """\
version: 1
limiters: {mail: {rate: 1/s, burst: 2}}
retries: {mail: {attempts: 2, backoff: 1s, budget: {tokens: 100}}}
breakers: {mail: {min_calls: 10}}
pipelines: {mail: [{retry: mail}, {breaker: mail}]}
pools:
  mail: {min_workers: 1, max_workers: 1, queue: 2, timeout: 1m, pipeline: mail, failed: failed.db}
  gated: {limiter: mail}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "resilience.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def toolkit(file: Path) -> Iterator[Toolkit]:
    with resilience.load(file, clock=ManualClock()) as found:
        yield found


def change(toolkit: Toolkit, *pairs: tuple[str, str]) -> None:
    text = Path(toolkit.path).read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    Path(toolkit.path).write_text(text, encoding="utf-8")
    toolkit.reload()


def fail() -> None:
    raise ConnectionError


def test_a_pool_is_made_once_and_again_when_it_is_drained(toolkit: Toolkit) -> None:
    pool = toolkit.worker_pool("mail")
    assert toolkit.worker_pool("mail") is pool
    assert (pool.plan.settings.queue, pool.plan.settings.timeout_s) == (2, 60.0)
    assert list(toolkit.status()["pools"]) == ["mail"]
    pool.drain()
    assert toolkit.worker_pool("mail") is not pool
    toolkit.worker_pool("mail").drain()
    with pytest.raises(ConfigError, match="has no pool called 'post'; it has gated, mail"):
        toolkit.worker_pool("post")


def test_its_limiter_is_that_of_the_file(toolkit: Toolkit) -> None:
    with toolkit.worker_pool("gated") as pool:
        pool.submit(len, "1")
        pool.submit(len, "2")
        with pytest.raises(RateLimited):
            pool.submit(len, "3")
    assert toolkit.status()["limiters"]["mail"]["admitted"] == 2


def test_its_retry_and_its_store_are_those_of_the_file(toolkit: Toolkit, file: Path) -> None:
    with toolkit.worker_pool("mail") as pool:
        assert isinstance(pool.submit(fail).exception(10), ConnectionError)
        change(toolkit, ("attempts: 2", "attempts: 4"))
        assert isinstance(pool.submit(fail).exception(10), ConnectionError)
        assert pool.failed is not None
        assert [task.attempts for task in pool.failed.list()] == [2, 4]
    assert (file.parent / "failed.db").exists(), "beside the file, wherever the process was started"


def test_everything_that_can_change_does_while_it_runs(toolkit: Toolkit) -> None:
    blocked = Blocked()
    with toolkit.worker_pool("mail") as pool:
        futures = [pool.submit(blocked) for _ in range(3)]
        blocked.wait_begun()
        with pytest.raises(PoolFull):
            pool.submit(blocked)
        change(toolkit, ("queue: 2", "queue: 3"))
        futures.append(pool.submit(blocked))
        change(toolkit, ("max_workers: 1", "max_workers: 3"), ("min_workers: 1", "min_workers: 3"), ("timeout: 1m", "timeout: 2m"))
        blocked.wait_begun(2)
        assert pool.plan.settings.timeout_s == 120.0
        change(toolkit, ("breakers: {mail: {min_calls: 10}}", "breakers: {mail: {min_calls: 10, force: open}}"))
        late = pool.submit(len, "four")
        blocked.open.set()
        assert isinstance(late.exception(10), CircuitOpen), "what begins now goes by the new breaker"
        assert sum(future.exception(10) is None for future in futures) == 3
        with pytest.raises(ConfigError):
            change(toolkit, ("queue: 3", "queue: many"))
        assert pool.plan.settings.queue == 3, "a bad file changes nothing"


def test_a_pool_that_the_file_no_longer_names_goes_on(toolkit: Toolkit) -> None:
    with toolkit.worker_pool("gated") as pool:
        change(toolkit, ("  gated: {limiter: mail}\n", ""))
        assert pool.submit(len, "four").result(10) == 4
    with pytest.raises(ConfigError):
        toolkit.worker_pool("gated")


def test_a_pool_that_the_file_no_longer_names_keeps_its_pipeline(toolkit: Toolkit) -> None:
    with toolkit.worker_pool("mail") as pool:
        change(
            toolkit,
            ("  mail: {min_workers", "  other: {min_workers"),
            ("pipeline: mail", "pipeline: other"),
            ("pipelines: {mail:", "pipelines: {other:"),
        )
        assert pool.submit(len, "four").result(10) == 4, "a task that is accepted is not failed by a change of the file"


def test_a_store_that_cannot_be_opened_is_told_and_the_old_one_stays(toolkit: Toolkit, caplog: pytest.LogCaptureFixture) -> None:
    with toolkit.worker_pool("mail") as pool:
        change(toolkit, ("failed: failed.db", "failed: nowhere/failed.db"))
        assert "failed tasks go on to where they went before" in caplog.text
        pool.submit(fail).exception(10)
        assert pool.failed is not None
        assert len(pool.failed.list()) == 1
    with pytest.raises(FailedTaskStoreError):
        toolkit.worker_pool("mail")


def test_tasks_of_asyncio_follow_too(toolkit: Toolkit) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        begun = 0

        async def work() -> None:
            nonlocal begun
            begun += 1
            await gate.wait()

        async with toolkit.async_worker_pool("mail") as pool:
            for _ in range(3):
                pool.submit(work)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert begun == 1
            await asyncio.to_thread(change, toolkit, ("max_workers: 1", "max_workers: 3"), ("min_workers: 1", "min_workers: 3"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert begun == 3
            gate.set()

    asyncio.run(main())


def test_a_watched_file_is_followed_by_itself(file: Path) -> None:
    with resilience.load(file, watch=True, every_s=0.05) as toolkit, toolkit.worker_pool("mail") as pool:
        new = file.with_suffix(".new")
        new.write_text(TEXT.replace("queue: 2", "queue: 7"), encoding="utf-8")
        os.replace(new, file)  # noqa: PTH105
        until(lambda: pool.plan.settings.queue == 7)


@pytest.mark.parametrize(
    ("entry", "where", "told"),
    [
        ("{min_workers: 5, max_workers: 4}", "2:26", "pools.x.min_workers: must be at most max_workers 4, got 5"),
        ("{queue: -1}", "2:20", "pools.x.queue: must be between 0 and 10000000, got -1"),
        ("{timeout: 0s}", "2:22", "pools.x.timeout: must be above 0 s and at most 604800 s, got 0 s"),
        ("{workers: 4}", "2:13", "pools.x.workers: is unknown; did you mean 'min_workers'?"),
        ("{limiter: api}", "2:22", "pools.x.limiter: no limiter is called 'api'; none is declared"),
        ("{pipeline: api}", "2:23", "pools.x.pipeline: no pipeline is called 'api'; none is declared"),
        ("{health: api}", "2:21", "pools.x.health: no health signal is called 'api'; there is default"),
        ("{limiter: }", "2:21", "pools.x.limiter: must be the name of a limiter, or none, got nothing; write none for no limiter"),
        ("{failed: [x]}", "2:21", "pools.x.failed: must be text, got a list"),
        ("{grow_by: 0}", "2:22", "pools.x.grow_by: must be between 1 and 10000, got 0"),
    ],
)
def test_faults_are_told_with_line_and_column(entry: str, where: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"version: 1\npools: {{x: {entry}}}\n", "r.yaml")
    (problem,) = caught.value.problems
    assert str(problem) == f"r.yaml:{where}: {told}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("limiters: {l: {rate: 1/s, key: client_address}}\npools: {x: {limiter: l}}", "a task has none: all share one bucket"),
        ("pools: {x: {min_workers: 4, max_workers: 4, grow_by: 2}}", "has no effect while min_workers is max_workers"),
        ("pools: {x: {timeout: 500ms}}", "tasks time out in the queue before the pool grows for them"),
        (
            """limiters: {l: {rate: 1/s}}
pipelines: {p: [{limiter: l}]}
routes: [{match: {path: "/**"}, pipeline: p}]
pools: {x: {pipeline: p}}""",
            "guards requests coming in too",
        ),
        ("limiters: {l: {rate: 1/s}}\npools: {x: {limiter: l}}", ""),
    ],
)
def test_doubts(text: str, told: str) -> None:
    warnings = [str(warning) for warning in parse(f"version: 1\n{text}\n", "r.yaml").warnings]
    assert len(warnings) == (1 if told else 0), warnings
    assert all(told in warning for warning in warnings)
