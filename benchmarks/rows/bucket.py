"""One decision of a rate limiter: admitted and refused, with one key and with 100,000.

Ours is `RateLimiter.admit`, which does what every pipeline does, with a read of the clock before it as there; others are what their
documentation tells to call. Each has a limit that admits all of it, or none.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from benchmarks.harness import Size, Subject, Table, Take, awaited, called_with, checked, measure
from benchmarks.stitched import UNREACHED
from resilience import RateLimited, RateLimiter, clock
from resilience.call import Call
from resilience.clock import NS_PER_US

KEYS: Final = 100_000
Decide = Callable[[str], object]
Make = Callable[[bool], Decide]
"""Makes a decider by a key: one that admits, or one that refuses. Every key has had what it may have before."""


def our_limiter(rate_per_s: float, burst: int, max_keys: int = KEYS) -> RateLimiter:
    """One that has room for all keys, and by default not for one more."""
    return RateLimiter(rate_per_s, burst, key="client_address", max_keys=max_keys)


def ours(admits: bool, max_keys: int = KEYS) -> Decide:
    """Through the layer, as a pipeline does it: admission returns, a refusal is an error with its hint."""
    limiter = our_limiter(1e9, UNREACHED, max_keys) if admits else our_limiter(1e-3, 1, max_keys)
    call, admit = Call(), limiter.admit

    def decide(key: str) -> object:
        call.key = key
        call.now_us = clock.monotonic_ns() // NS_PER_US
        try:
            admit(call)
        except RateLimited:
            return False
        return True

    return decide


def our_arithmetic(admits: bool) -> Decide:
    """The decision alone, with a read of the clock: 0 is admitted, else a wait. Both at one rate, whose numbers are of one size."""
    limiter = our_limiter(1e-3, UNREACHED if admits else 1)
    draw, settings = limiter.state.draw, limiter.settings
    return lambda key: draw(key, None, clock.monotonic_ns() // NS_PER_US, settings) == 0


def of_limits(strategy: str) -> Make:
    def make(admits: bool) -> Decide:
        import limits  # noqa: PLC0415

        storage = limits.storage.MemoryStorage()
        item = limits.RateLimitItemPerSecond(UNREACHED) if admits else limits.RateLimitItemPerDay(1)
        hit = getattr(limits.strategies, strategy)(storage).hit
        return lambda key: hit(item, key)

    return make


def throttled_py(admits: bool) -> Decide:
    import throttled  # noqa: PLC0415

    quota = throttled.per_sec(UNREACHED, burst=UNREACHED) if admits else throttled.per_day(1, burst=1)
    store = throttled.MemoryStore(options={"MAX_SIZE": 2 * KEYS})
    limit = throttled.Throttled(using="token_bucket", quota=quota, store=store).limit
    return lambda key: not limit(key).limited


def pyrate_limiter(admits: bool) -> Decide:
    """One bucket, since it keeps no table of them: whoever wants keys builds a factory that makes a bucket for each."""
    import pyrate_limiter as pyrate  # noqa: PLC0415

    rate = pyrate.Rate(UNREACHED, pyrate.Duration.SECOND) if admits else pyrate.Rate(1, pyrate.Duration.DAY)
    acquire = pyrate.Limiter(rate).try_acquire
    return lambda key: acquire(key, blocking=False)


def keys_of(count: int) -> Iterator[str]:
    """Addresses over and over: that of one client, or those of many in an order that jumps about."""
    if count == 1:
        return itertools.repeat("192.0.2.7")
    addresses = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(count)]
    return itertools.cycle(addresses[number * 61_803 % count] for number in range(count))


def prepared(make: Make, admits: bool, count: int) -> Take:
    decide = make(admits)
    for key in itertools.islice(keys_of(count), count):
        decide(key)  # each key is known, and has had its one token where it has no more
    checked(decide("10.0.0.1" if count > 1 else "192.0.2.7"), admits)
    return called_with(decide, keys_of(count))


def aiolimiter(loop: asyncio.AbstractEventLoop) -> Take:
    """It keeps no keys and refuses nothing: what does not fit waits."""
    import aiolimiter  # noqa: PLC0415

    limiter = aiolimiter.AsyncLimiter(UNREACHED, 1)
    return awaited(loop, limiter.acquire)


MAKERS: Final[dict[str, Make]] = {
    "resilience": ours,
    "resilience, room for ten times as many": partial(ours, max_keys=10 * KEYS),
    "resilience, the decision alone": our_arithmetic,
    "limits, fixed window": of_limits("FixedWindowRateLimiter"),
    "limits, moving window": of_limits("MovingWindowRateLimiter"),
    "limits, sliding window": of_limits("SlidingWindowCounterRateLimiter"),
    "throttled-py, token bucket": throttled_py,
    "pyrate-limiter": pyrate_limiter,
}
ONE_KEY_ONLY: Final = ("pyrate-limiter",)
IN_SMOKE: Final = ("resilience", "resilience, the decision alone", "limits, fixed window")


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()
    subjects = []
    for keys, count in (("one key", 1), ("100,000 keys", KEYS)):
        for name, make in MAKERS.items():
            if count == 1 or (name not in ONE_KEY_ONLY and (name in IN_SMOKE or not size.is_smoke)):
                for verdict, admits in (("admitted", True), ("refused", False)):
                    subjects.append(Subject(f"{verdict}, {keys}: {name}", partial(prepared, make, admits, count)))
    subjects.append(Subject("admitted, one key: aiolimiter, awaited", partial(aiolimiter, loop)))
    table = measure(subjects, size)
    loop.close()
    for keys in ("one key", "100,000 keys"):
        for verdict in ("admitted", "refused"):
            row = f"{verdict}, {keys}: "
            table.ratio(f"{verdict}, {keys} / limits", f"{row}resilience", f"{row}limits, fixed window")
        alone = f"{keys}: resilience, the decision alone"
        table.ratio(f"refusing / admitting, {keys}", f"refused, {alone}", f"admitted, {alone}")
    return table
