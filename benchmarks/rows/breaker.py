"""A call of a function that does nothing through a circuit breaker: closed, and open.

Each is called as its documentation tells. `resilience` is a whole pipeline of that one layer; `resilience, the layer` is what every
pipeline makes of it, admission and settling with the reads of the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final

from benchmarks.harness import Size, Subject, Table, Take, awaited, called, measure, refused_by
from resilience import CircuitBreaker, Pipeline
from resilience.call import Call, Outcome
from resilience.clock import SYSTEM_CLOCK
from resilience.layers.breaker.machine import Ticket

Operation = Callable[[], object]
AOperation = Callable[[], Awaitable[object]]
HOUR_S: Final = 3600.0


def work() -> int:
    return 1


async def awork() -> int:
    return 1


def our_breaker(opened: bool) -> CircuitBreaker:
    breaker = CircuitBreaker(consecutive_failures=1, open_for_s=HOUR_S)
    if opened:
        call = Call(now_us=SYSTEM_CLOCK.now_us())
        ticket = breaker.admit(call)
        if ticket is not None:
            breaker.settle(ticket, Outcome.FAILED, call, call.now_us)
    return breaker


def ours(opened: bool) -> Operation:
    pipeline = Pipeline("bench", our_breaker(opened))
    return lambda: pipeline.call(work)


def our_layer(opened: bool) -> Operation:
    """A call of its own for each, as it is never shared; admission, settling, and the clock twice."""
    breaker, now_us = our_breaker(opened), SYSTEM_CLOCK.now_us
    call = Call()

    def decide() -> None:
        call.now_us = now_us()
        ticket = breaker.admit(call)
        if ticket is not None:
            breaker.settle(ticket, Outcome.OK, call, now_us())

    return decide


def our_arithmetic(opened: bool) -> Operation:
    """The decision alone, which returns a refusal as a value: what stands under the lock, with the reads of the clock."""
    breaker, now_us = our_breaker(opened), SYSTEM_CLOCK.now_us
    machine = breaker.pool.single

    def decide() -> None:
        answer = machine.admit(now_us(), shadow=False)
        if isinstance(answer, Ticket):
            machine.settle(answer, Outcome.OK, None, now_us())

    return decide


def pybreaker(opened: bool) -> Operation:
    import pybreaker as peer  # noqa: PLC0415

    breaker = peer.CircuitBreaker(fail_max=20, reset_timeout=HOUR_S)
    if opened:
        breaker.open()
    return lambda: breaker.call(work)


def circuitbreaker(opened: bool) -> Operation:
    import circuitbreaker as peer  # noqa: PLC0415

    breaker = peer.CircuitBreaker(failure_threshold=20, recovery_timeout=int(HOUR_S))
    if opened:
        for _ in range(20):
            with contextlib.suppress(RuntimeError):
                breaker.call(fails)
    return breaker(work)  # type: ignore[no-any-return]


def fails() -> None:
    raise RuntimeError


def aiobreaker(opened: bool) -> Operation:
    import aiobreaker as peer  # noqa: PLC0415

    breaker = peer.CircuitBreaker(fail_max=20, timeout_duration=timedelta(seconds=HOUR_S))
    if opened:
        breaker.open()
    return lambda: breaker.call(work)


def interlock(opened: bool) -> Operation:
    import interlock as peer  # noqa: PLC0415

    breaker = peer.CircuitBreaker(name="bench")
    if opened:
        breaker.force_open()
    return lambda: breaker.call(work)


def purgatory(opened: bool) -> Operation:
    import purgatory as peer  # noqa: PLC0415

    factory = peer.SyncCircuitBreakerFactory(default_threshold=20, default_ttl=HOUR_S)
    guarded = factory("bench")(work)
    if opened:
        failing = factory("bench")(fails)
        for _ in range(20):
            with contextlib.suppress(RuntimeError):
                failing()
    return guarded  # type: ignore[no-any-return]


def arithmetic(opened: bool) -> Take:
    """Measures `our_arithmetic`, whose refusals are no errors."""
    return called(our_arithmetic(opened))


def refusal_of(operation: Operation) -> type[BaseException] | None:
    """What an open breaker raises; None where it lets the call pass."""
    try:
        operation()
    except Exception as error:  # noqa: BLE001  # each has an error of its own
        return type(error)
    return None


def prepared(make: Callable[[bool], Operation], opened: bool) -> Take:
    operation = make(opened)
    refusal = refusal_of(operation)
    if opened != (refusal is not None):
        raise AssertionError(f"is {'open' if opened else 'closed'}, and a call ended with {refusal}")
    if refusal is None:
        return called(operation)
    return called(refused_by(operation, refusal))


def ours_async() -> AOperation:
    pipeline = Pipeline("bench", our_breaker(opened=False))
    return lambda: pipeline.acall(awork)


def aiobreaker_async() -> AOperation:
    import aiobreaker as peer  # noqa: PLC0415

    breaker = peer.CircuitBreaker(fail_max=20, timeout_duration=timedelta(seconds=HOUR_S))
    return lambda: breaker.call_async(awork)


def circuitbreaker_async() -> AOperation:
    import circuitbreaker as peer  # noqa: PLC0415

    return peer.CircuitBreaker(failure_threshold=20, recovery_timeout=int(HOUR_S))(awork)  # type: ignore[no-any-return]


def interlock_async() -> AOperation:
    import interlock as peer  # noqa: PLC0415

    breaker = peer.CircuitBreaker(name="bench")
    return lambda: breaker.call_async(awork)


def purgatory_async() -> AOperation:
    import purgatory as peer  # noqa: PLC0415

    return peer.AsyncCircuitBreakerFactory(default_threshold=20, default_ttl=HOUR_S)("bench")(awork)  # type: ignore[no-any-return]


MAKERS: Final[dict[str, Callable[[bool], Operation]]] = {
    "resilience": ours,
    "resilience, the layer": our_layer,
    "pybreaker": pybreaker,
    "circuitbreaker": circuitbreaker,
    "purgatory": purgatory,
    "aiobreaker": aiobreaker,
    "interlock-cb": interlock,
}
AMAKERS: Final[dict[str, Callable[[], AOperation]]] = {
    "resilience": ours_async,
    "circuitbreaker": circuitbreaker_async,
    "purgatory": purgatory_async,
    "aiobreaker": aiobreaker_async,
    "interlock-cb": interlock_async,
}
PEERS: Final = ("pybreaker", "circuitbreaker", "purgatory", "aiobreaker", "interlock-cb")
BARE: Final = "the function alone"


def run(size: Size) -> Table:
    loop = asyncio.new_event_loop()
    subjects = [Subject(f"closed: {BARE}", lambda: called(work)), Subject(f"awaited: {BARE}", lambda: awaited(loop, awork))]
    for state, opened in (("closed", False), ("open", True)):
        subjects += [Subject(f"{state}: {name}", partial(prepared, make, opened)) for name, make in MAKERS.items()]
        subjects.append(Subject(f"{state}: resilience, the decision alone", partial(arithmetic, opened)))
    subjects += [Subject(f"awaited: {name}", partial(aprepared, make, loop)) for name, make in AMAKERS.items()]
    table = measure(subjects, size)
    loop.close()
    for state in ("closed", "open", "awaited"):
        cheapest = cheapest_peer(table, state)
        if cheapest is not None:
            table.ratio(f"{state}: pipeline / cheapest peer", f"{state}: resilience", cheapest)
            table.ratio(f"{state}: layer / cheapest peer", f"{state}: resilience, the layer", cheapest)
    table.ratio("refusing / admitting", "open: resilience, the decision alone", "closed: resilience, the decision alone")
    table.ratio("a refused call / an admitted one", "open: resilience", "closed: resilience")
    return table


def aprepared(make: Callable[[], AOperation], loop: asyncio.AbstractEventLoop) -> Take:
    return awaited(loop, make())


def cheapest_peer(table: Table, state: str) -> str | None:
    """The row of the peer that takes the least."""
    measured = {name: row.median for name in PEERS if (row := table.rows.get(f"{state}: {name}")) is not None}
    known = {name: median for name, median in measured.items() if median is not None}
    return f"{state}: {min(known, key=lambda name: known[name])}" if known else None
