"""What a decision on a shared store costs, beside other libraries on the same server, in one run.

python benchmarks/stores.py              # a table, and the ratios that the project promises; exit 1 where one is not reached
python benchmarks/stores.py --seconds 2  # longer rounds

Starts a Valkey from its wheel. `limits` and `throttled-py` are measured where they are installed, as `make bench` does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # this checkout's package, not one that is installed

import redis.asyncio  # noqa: E402

from resilience.clock import SYSTEM_CLOCK  # noqa: E402
from resilience.layers.limiter import RateLimiterSettings, SharedLimiterState  # noqa: E402
from resilience.stores.redis import RedisStore  # noqa: E402
from resilience.stores.redis.scripts import TAKE, Questions  # noqa: E402
from resilience.stores.settings import RedisStoreSettings  # noqa: E402
from tests.stores.clusters import TestCluster  # noqa: E402
from tests.stores.servers import Server  # noqa: E402

CALLERS: Final = 50
BLOCK: Final = 50
RATE_PER_S: Final = 1_000_000.0
LEASED: Final = 100
Decide = Callable[[], object]
ADecide = Callable[[], Awaitable[object]]


def rate_of(decide: Decide, seconds: float) -> float:
    """Decisions a second of one caller."""
    end_s = time.perf_counter() + seconds
    count, began_s = 0, time.perf_counter()
    while time.perf_counter() < end_s:
        for _ in range(50):
            decide()
        count += 50
    return count / (time.perf_counter() - began_s)


def rate_of_threads(decide: Decide, seconds: float) -> float:
    """Decisions a second of many threads together."""
    counts = [0] * CALLERS
    stop = threading.Event()

    def run(number: int) -> None:
        while not stop.is_set():
            decide()
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CALLERS)]
    began_s = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began_s)


async def rate_of_tasks(decide: ADecide, seconds: float) -> float:
    """Decisions a second of many tasks together."""
    end_s = time.perf_counter() + seconds
    began_s = time.perf_counter()

    async def run() -> int:
        count = 0
        while time.perf_counter() < end_s:
            await decide()
            count += 1
        return count

    return sum(await asyncio.gather(*(run() for _ in range(CALLERS)))) / (time.perf_counter() - began_s)


def compared(decide: Decide, bare: Decide, blocks: int) -> tuple[float, float]:
    """Microseconds a call of two that one caller makes in turns, block by block: the median of each."""

    def took_us(call: Decide) -> float:
        began_s = time.perf_counter()
        for _ in range(BLOCK):
            call()
        return (time.perf_counter() - began_s) / BLOCK * 1e6

    found = [(took_us(decide), took_us(bare)) for _ in range(blocks)]
    return statistics.median(ours for ours, _ in found), statistics.median(theirs for _, theirs in found)


async def acompared(decide: ADecide, bare: ADecide, blocks: int) -> tuple[float, float]:
    """The same by one task."""

    async def took_us(call: ADecide) -> float:
        began_s = time.perf_counter()
        for _ in range(BLOCK):
            await call()
        return (time.perf_counter() - began_s) / BLOCK * 1e6

    found = [(await took_us(decide), await took_us(bare)) for _ in range(blocks)]
    return statistics.median(ours for ours, _ in found), statistics.median(theirs for _, theirs in found)


class Ours:
    """Decisions as a limiter makes them: the question is put together anew each time."""

    def __init__(self, url: str, mode: str, burst: int = 1_000_000) -> None:
        self.store = RedisStore(RedisStoreSettings(url, mode=mode, name=f"bench-{mode}"))
        self.store.timeout_us = 5_000_000  # a machine that is busy must not have decisions measured that no server made
        settings = RateLimiterSettings(rate_per_s=RATE_PER_S, burst=burst)
        self.state = SharedLimiterState("api", settings, None, SYSTEM_CLOCK.now_us(), self.store)

    def decide(self) -> object:
        question = self.state.question(None, 1, SYSTEM_CLOCK.now_us())
        return self.store.take(question) or self.store.ask(question)

    async def adecide(self) -> object:
        question = self.state.question(None, 1, SYSTEM_CLOCK.now_us())
        return self.store.take(question) or await self.store.aask(question)

    def close(self) -> None:
        self.store.close()


class OfKeys(Ours):
    """The same for a hundred clients in turn: in a cluster, their buckets are on all nodes."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "strict")
        self._keys = itertools.cycle([f"client{number}" for number in range(100)])

    def decide(self) -> object:
        question = self.state.question(next(self._keys), 1, SYSTEM_CLOCK.now_us())
        return self.store.take(question) or self.store.ask(question)

    async def adecide(self) -> object:
        question = self.state.question(next(self._keys), 1, SYSTEM_CLOCK.now_us())
        return self.store.take(question) or await self.store.aask(question)


def bare(url: str, state: SharedLimiterState) -> Decide:
    """The same script by redis-py's own client, with nothing around it."""
    client = redis.Redis.from_url(url)
    questions = Questions("bench-bare", [state.question(None, 1, 0)])
    digest = client.script_load(TAKE.text)
    keys, arguments = questions.keys, questions.arguments
    return lambda: client.evalsha(digest, len(keys), *keys, *arguments)


def abare(url: str, state: SharedLimiterState) -> ADecide:
    """The same by redis-py's client for an event loop."""
    client = redis.asyncio.Redis.from_url(url)
    questions = Questions("bench-bare", [state.question(None, 1, 0)])
    digest = hashlib.sha1(TAKE.text, usedforsecurity=False).hexdigest()
    keys, arguments = questions.keys, questions.arguments
    return lambda: client.evalsha(digest, len(keys), *keys, *arguments)


def of_limits(url: str) -> tuple[Decide, Callable[[], ADecide]] | None:
    """limits: a fixed window over Redis, the cheapest of its strategies."""
    with contextlib.suppress(ImportError):
        limits: Any = importlib.import_module("limits")
        item = limits.parse("1000000/second")
        limiter = limits.strategies.FixedWindowRateLimiter(limits.storage.storage_from_string(url))

        def make() -> ADecide:
            storage = limits.storage.storage_from_string(f"async+{url}", implementation="redispy")
            alimiter = importlib.import_module("limits.aio.strategies").FixedWindowRateLimiter(storage)
            return lambda: alimiter.hit(item, "api")

        return (lambda: limiter.hit(item, "api")), make
    return None


def of_throttled(url: str) -> Decide | None:
    """throttled-py: a token bucket over Redis."""
    with contextlib.suppress(ImportError):
        throttled: Any = importlib.import_module("throttled")
        made = throttled.Throttled(
            key="api",
            using="token_bucket",
            quota=throttled.per_sec(1_000_000, burst=1_000_000),
            store=throttled.RedisStore(server=url),
        )
        limit: Decide = made.limit
        return limit
    return None


class Report:
    """The table, and the promises held against it."""

    def __init__(self) -> None:
        self.rates: dict[str, float] = {}
        self.missed = 0

    def note(self, subjects: Mapping[str, Callable[[], float]], rounds: int) -> None:
        """Measure all in turns, round after round: a machine that is busy for a while is so for all of them."""
        rates: dict[str, list[float]] = {what: [] for what in subjects}
        for _ in range(rounds):
            for what, measure in subjects.items():
                rates[what].append(measure())
        for what, found in rates.items():
            self.rates[what] = statistics.median(found)
            print(f"{what:44} {self.rates[what]:>12,.0f}/s   from {min(found):,.0f} to {max(found):,.0f}")

    def compare(self, what: str, found: tuple[float, float], at_most: float) -> None:
        """One caller: the time of ours divided by that of the bare call of the same script with the same arguments."""
        ours_us, bare_us = found
        ratio = ours_us / bare_us
        self.missed += ratio > at_most
        verdict = "reached" if ratio <= at_most else "MISSED"
        print(f"{what:60} {ratio:6.2f} x its time ({ours_us:.0f} and {bare_us:.0f} us)   at most {at_most:.2f} x   {verdict}")

    def promise(self, what: str, of: str, than: str, at_least: float) -> None:
        if of not in self.rates or than not in self.rates:
            print(f"{what:60} not measured")
            return
        ratio = self.rates[of] / self.rates[than]
        verdict = "reached" if ratio >= at_least else "MISSED"
        self.missed += ratio < at_least
        print(f"{what:60} {ratio:6.2f} x   promised {at_least:.2f} x   {verdict}")


def measure(url: str, cluster_url: str, seconds: float, rounds: int) -> Report:
    """All of it."""
    report = Report()
    keyed, spread = OfKeys(url), OfKeys(cluster_url)
    strict, leased = Ours(url, "strict"), Ours(url, "lease", burst=4 * LEASED)
    others = of_limits(url)
    decide_bare = bare(url, strict.state)
    blocks = max(20, round(seconds * rounds * 40))
    one = "strict, one caller, beside a bare EVALSHA"
    report.compare(f"{one}, threads", compared(strict.decide, decide_bare, blocks), 1.1)
    found = asyncio.run(_acompared_in_loop(strict, url, blocks))
    report.compare(f"{one}, asyncio", found, 1.1)
    print()
    subjects: dict[str, Callable[[], float]] = {
        "bare EVALSHA, one caller": lambda: rate_of(decide_bare, seconds),
        "strict, one caller": lambda: rate_of(strict.decide, seconds),
        f"strict, {CALLERS} threads": lambda: rate_of_threads(strict.decide, seconds),
        f"strict, {CALLERS} tasks": lambda: asyncio.run(rate_of_tasks(strict.adecide, seconds)),
        "strict, 100 keys, one caller": lambda: rate_of(keyed.decide, seconds),
        f"strict, 100 keys, {CALLERS} tasks": lambda: asyncio.run(rate_of_tasks(keyed.adecide, seconds)),
        "cluster of 3, 100 keys, one caller": lambda: rate_of(spread.decide, seconds),
        f"cluster of 3, 100 keys, {CALLERS} tasks": lambda: asyncio.run(rate_of_tasks(spread.adecide, seconds)),
        "leased, one caller": lambda: rate_of(leased.decide, seconds),
        f"leased, {CALLERS} tasks": lambda: asyncio.run(rate_of_tasks(leased.adecide, seconds)),
    }
    if others is not None:
        decide, make = others
        subjects |= {
            "limits, one caller": lambda: rate_of(decide, seconds),
            f"limits, {CALLERS} threads": lambda: rate_of_threads(decide, seconds),
            f"limits, {CALLERS} tasks": lambda: asyncio.run(_made_in_loop(make, seconds)),
        }
    throttled = of_throttled(url)
    if throttled is not None:
        subjects |= {
            "throttled-py, one caller": lambda: rate_of(throttled, seconds),
            f"throttled-py, {CALLERS} threads": lambda: rate_of_threads(throttled, seconds),
        }
    report.note(subjects, rounds)
    for name, ours in {"strict": strict, "strict, 100 keys": keyed, "cluster of 3": spread, "lease": leased}.items():
        print(f"{name}: {ours.store.status()['failures']} trips failed")
        ours.close()
    return report


async def _acompared_in_loop(ours: Ours, url: str, blocks: int) -> tuple[float, float]:
    return await acompared(ours.adecide, abare(url, ours.state), blocks)


async def _made_in_loop(make: Callable[[], ADecide], seconds: float) -> float:
    return await rate_of_tasks(make(), seconds)


@contextlib.contextmanager
def _servers() -> Iterator[tuple[str, str]]:
    """Where one server is, and where a cluster is."""
    with contextlib.ExitStack() as stack:
        server = Server()
        stack.callback(server.close)
        cluster = TestCluster()
        stack.callback(cluster.close)
        yield server.url, cluster.url


def main() -> int:
    """Measure and compare."""
    parser = argparse.ArgumentParser(description="Measure decisions on a shared store.")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median counts")
    arguments = parser.parse_args()
    with _servers() as (url, cluster_url):
        report = measure(url, cluster_url, arguments.seconds, arguments.rounds)
    print()
    report.promise(f"strict, {CALLERS} tasks, beside limits", f"strict, {CALLERS} tasks", f"limits, {CALLERS} tasks", 5.0)
    report.promise(f"strict, {CALLERS} threads, beside limits", f"strict, {CALLERS} threads", f"limits, {CALLERS} threads", 2.0)
    report.promise(f"leased by {LEASED}, one caller, beside limits", "leased, one caller", "limits, one caller", 20.0)
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
