"""Composition: layers are passed outermost first, and every permit comes back exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from resilience import (
    Call,
    CircuitBreaker,
    Deadline,
    HealthSignal,
    Outcome,
    Permit,
    Pipeline,
    RateLimited,
    RateLimiter,
    Retry,
)
from resilience.call import CURRENT, enclosing_call
from resilience.layers.base import Wait
from resilience.testing import ManualClock
from tests.core.helpers import Drive, Failure, abandon, fail, succeed


class Spy:
    """A layer that writes down what happens to it."""

    kind = "spy"

    def __init__(
        self,
        name: str,
        log: list[Any],
        refusal: BaseException | None = None,
        wait_s: float | None = None,
        votes_at_start: bool = False,
    ) -> None:
        self.name = name
        self.votes_at_start = votes_at_start
        self.has_effects = wait_s is not None
        self._log = log
        self._refusal = refusal
        self._wait_s = wait_s

    def admit(self, call: Call) -> object:
        self._log.append(f"{self.name} in")
        if self._refusal is not None:
            raise self._refusal
        return self.name if self._wait_s is None else Wait(self._wait_s, lambda: self._log.append(f"{self.name} cancelled"))

    def settle(self, token: object, outcome: Outcome, call: Call, now_us: int) -> None:
        assert token == self.name
        self._log.append(f"{self.name} {outcome.value}")


@pytest.mark.parametrize(
    ("work", "outcome"), [(succeed, "ok"), (fail, "failed"), (abandon, "ignored")], ids=["ok", "failed", "abandoned"]
)
def test_layers_are_passed_outermost_first(drive: Drive, work: Any, outcome: str) -> None:
    log: list[Any] = []
    pipeline = Pipeline("p", Spy("a", log), Spy("b", log), Spy("c", log))

    def logged() -> Any:
        log.append("work")
        return work()

    with contextlib.suppress(Failure, asyncio.CancelledError):
        drive(pipeline, logged)
    assert log == ["a in", "b in", "c in", "work", f"c {outcome}", f"b {outcome}", f"a {outcome}"]


@pytest.mark.parametrize("wait_s", [None, 1.0], ids=["plain", "with effects"])
@pytest.mark.parametrize("refusal", [RateLimited("no"), Failure("a key function that raised"), asyncio.CancelledError()])
def test_layers_before_a_refusal_are_settled_as_ignored(
    clock: ManualClock, drive: Drive, refusal: BaseException, wait_s: float | None
) -> None:
    log: list[Any] = []
    waits = [Spy("waits", log, wait_s=wait_s)] if wait_s else []
    pipeline = Pipeline("p", Deadline(clock=clock), Spy("a", log), *waits, Spy("b", log), Spy("c", log, refusal), Spy("d", log))
    with pytest.raises(type(refusal)) as raised:
        drive(pipeline, lambda: log.append("work"))
    assert raised.value is refusal
    assert [entry for entry in log if "waits" not in entry] == ["a in", "b in", "c in", "b ignored", "a ignored"]
    assert CURRENT.get() is None


def test_a_retry_divides_the_layers(clock: ManualClock, drive: Drive) -> None:
    log: list[Any] = []
    pipeline = Pipeline("p", Spy("whole", log), Retry(2, backoff_s=0, clock=clock), Spy("each", log))
    errors = iter([OSError(), None])

    def work() -> str:
        error = next(errors)
        if error is not None:
            raise error
        return "done"

    assert drive(pipeline, work) == "done"
    assert log == ["whole in", "each in", "each failed", "each in", "each ok", "whole ok"]


def test_the_result_and_the_error_are_passed_on_as_they_are(drive: Drive) -> None:
    marker = object()
    assert drive(Pipeline("empty"), lambda: marker) is marker
    error = Failure("as it is")
    with pytest.raises(Failure) as raised:
        drive(Pipeline("empty"), lambda: (_ for _ in ()).throw(error))
    assert raised.value is error


def test_arguments_are_passed_on(clock: ManualClock) -> None:
    seen: list[Any] = []

    def key(call: Any) -> None:
        seen.append((call.name, call.args, call.kwargs))

    limiter = RateLimiter(10.0, key=key, clock=clock)

    def charge(order: int, *, currency: str) -> str:
        return f"{order} {currency}"

    async def acharge(order: int, *, currency: str) -> str:
        return charge(order, currency=currency)

    for pipeline in (Pipeline("p", limiter), Pipeline("p", Retry(clock=clock), limiter)):
        assert pipeline.call(charge, 7, currency="EUR") == "7 EUR"
        assert asyncio.run(pipeline.acall(acharge, 7, currency="EUR")) == "7 EUR"
    assert seen == [(name, (7,), {"currency": "EUR"}) for name in ("charge", "acharge")] * 2


@pytest.mark.parametrize("retry", [False, True])
def test_stop_iteration_passes_through(clock: ManualClock, retry: bool) -> None:
    """It cannot travel through a generator as itself, and plans are generators."""
    layers = [Retry(clock=clock)] if retry else [RateLimiter(1.0, burst=9, max_wait_s=1.0, clock=clock)]
    breaker = CircuitBreaker(min_calls=1, clock=clock)
    stop = StopIteration("a value")

    def work() -> None:
        raise stop

    for pipeline in (Pipeline("plain"), Pipeline("planned", *layers, breaker)):
        with pytest.raises(StopIteration) as raised:
            pipeline.call(work)
        assert raised.value is stop
    assert breaker.state.value == "open"
    assert next(iter([pipeline.call(succeed) for pipeline in [Pipeline("p", *layers)]])) == "done"


def test_calls_nest_and_end(clock: ManualClock, drive: Drive) -> None:
    outer, inner = Pipeline("outer"), Pipeline("inner")
    seen: list[str | None] = []

    def current() -> None:
        call = enclosing_call()
        seen.append(None if call is None else call.name)

    def middle() -> None:
        current()
        inner.call(current)
        current()

    drive(outer, middle)
    current()
    assert seen[1:] == ["current", seen[0], None]


# --- settling exactly once --------------------------------------------------------------------------------------------


def test_a_permit_settles_once_whoever_comes(clock: ManualClock) -> None:
    for _ in range(200):
        log: list[Any] = []
        pipeline = Pipeline("p", Spy("a", log), Spy("b", log))
        permit = pipeline.outer.admit(Call(now_us=clock.now_us()))
        start = threading.Barrier(8)
        won: list[bool] = []

        def settle(permit: Permit = permit, start: threading.Barrier = start, won: list[bool] = won) -> None:
            start.wait()
            won.append(permit.settle(Outcome.OK))

        threads = [threading.Thread(target=settle) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(won) == [False] * 7 + [True]
        assert log == ["a in", "b in", "b ok", "a ok"]
        assert permit.settled


def test_a_stream_votes_at_its_start_and_settles_the_rest_at_its_end(clock: ManualClock) -> None:
    log: list[Any] = []
    pipeline = Pipeline("p", Spy("breaker", log, votes_at_start=True), Spy("bulkhead", log))
    permit = pipeline.outer.admit(Call(now_us=clock.now_us()))
    permit.vote(Outcome.OK, clock.now_us())
    permit.vote(Outcome.FAILED, clock.now_us())
    assert log == ["breaker in", "bulkhead in", "breaker ok"]
    permit.settle(Outcome.FAILED)
    permit.vote(Outcome.FAILED, clock.now_us())
    assert log[3:] == ["bulkhead failed"]


def test_settled_in_the_midst_of_a_vote(clock: ManualClock) -> None:
    log: list[Any] = []
    permits: list[Permit] = []

    class Settles(Spy):
        def settle(self, token: object, outcome: Outcome, call: Call, now_us: int) -> None:
            super().settle(token, outcome, call, now_us)
            permits[0].settle(Outcome.FAILED)

    layers = [Settles("a", log, votes_at_start=True), Spy("b", log, votes_at_start=True)]
    permits.append(Pipeline("p", *layers).outer.admit(Call(now_us=clock.now_us())))
    permits[0].vote(Outcome.OK, clock.now_us())
    assert log == ["a in", "b in", "a ok", "b failed"]


def test_voting_and_settling_at_once_counts_each_token_once(clock: ManualClock) -> None:
    for _ in range(200):
        log: list[Any] = []
        permit = Pipeline("p", *(Spy(f"{index}", log, votes_at_start=True) for index in range(4))).outer.admit(Call())
        start = threading.Barrier(2)

        def vote(permit: Permit = permit, start: threading.Barrier = start) -> None:
            start.wait()
            permit.vote(Outcome.OK, 0)

        thread = threading.Thread(target=vote)
        thread.start()
        start.wait()
        permit.settle(Outcome.OK)
        thread.join()
        assert sorted(log) == sorted([f"{index} {what}" for index in range(4) for what in ("in", "ok")])


def test_a_token_of_a_call_that_entered_twice_is_no_matter(clock: ManualClock) -> None:
    """The same layer in two pipelines of one call hands out two tokens, and takes both back."""
    log: list[Any] = []
    spy = Spy("shared", log)
    Pipeline("outer", spy).call(lambda: Pipeline("inner", spy).call(succeed))
    assert log == ["shared in", "shared in", "shared ok", "shared ok"]


# --- decorating -------------------------------------------------------------------------------------------------------


class Shop:
    """Something with methods."""

    pipeline = Pipeline("shop")

    @pipeline
    def charge(self, amount: int, currency: str = "EUR") -> str:
        """Take the money."""
        return f"{type(self).__name__} {amount} {currency}"

    @pipeline
    async def acharge(self, amount: int) -> str:
        """Take the money later."""
        await asyncio.sleep(0)
        return f"{amount}"

    @staticmethod
    @pipeline
    def rate() -> float:
        return 0.2

    @classmethod
    @pipeline
    def name(cls) -> str:
        return cls.__name__


def test_decorated_functions_stay_what_they_are() -> None:
    shop = Shop()
    assert shop.charge(3) == "Shop 3 EUR"
    assert shop.charge(amount=3, currency="CHF") == "Shop 3 CHF"
    assert asyncio.run(shop.acharge(4)) == "4"
    assert (Shop.rate(), shop.name()) == (0.2, "Shop")
    assert (Shop.charge.__name__, Shop.charge.__doc__) == ("charge", "Take the money.")
    assert inspect.signature(Shop.charge) == inspect.signature(Shop.charge.__wrapped__)  # type: ignore[attr-defined]
    assert inspect.iscoroutinefunction(Shop.acharge)
    assert not inspect.iscoroutinefunction(Shop.charge)


def test_decorated_functions_go_through_the_layers(clock: ManualClock) -> None:
    log: list[Any] = []
    pipeline = Pipeline("p", Spy("a", log))

    @pipeline
    def plain() -> None:
        log.append("plain")

    @pipeline
    async def coroutine() -> None:
        log.append("coroutine")

    plain()
    asyncio.run(coroutine())
    assert log == ["a in", "plain", "a ok", "a in", "coroutine", "a ok"]


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize("fn", [generator, async_generator, functools.partial(generator)], ids=["sync", "async", "partial"])
def test_generators_are_refused_clearly(fn: Any) -> None:
    with pytest.raises(
        TypeError, match=r"pipeline 'shop': .*generator.* is a generator, whose work begins after the call; use `with"
    ):
        Pipeline("shop")(fn)


# --- composing --------------------------------------------------------------------------------------------------------


def test_what_is_no_layer_is_refused(clock: ManualClock) -> None:
    with pytest.raises(TypeError, match=r"pipeline 'p': 5\.0 is no layer; it has no admit and settle"):
        Pipeline("p", 5.0)
    with pytest.raises(ValueError, match="pipeline 'p': has 2 retries; their attempts would multiply, keep one"):
        Pipeline("p", Retry(clock=clock), Retry(clock=clock))


def test_layers_of_different_clocks_are_refused(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="go by different clocks"):
        Pipeline("p", Deadline(1.0, clock=clock), RateLimiter(1.0, clock=ManualClock()))
    other = HealthSignal(clock=ManualClock())
    for layer in (
        RateLimiter(1.0, health=other, clock=clock),
        CircuitBreaker(health=other, clock=clock),
        Retry(health=other, clock=clock),
    ):
        with pytest.raises(ValueError, match="go by different clocks"):
            Pipeline("p", layer)


def test_names(clock: ManualClock) -> None:
    pipeline = Pipeline("shop", Deadline(1.0, clock=clock), RateLimiter(2.0, clock=clock))
    assert (
        repr(pipeline) == "Pipeline('shop', Deadline('deadline', default_s=1.0, max_s=None), RateLimiter('limiter', 2/s, burst 2))"
    )
    assert pipeline.clock is clock


@pytest.mark.parametrize("layers", [(), (Retry(2),)], ids=["plain", "with a retry"])
def test_a_coroutine_function_is_not_called_without_being_awaited(layers: tuple[Retry, ...]) -> None:
    async def charge() -> None:
        """Would run unguarded, after the call was settled."""

    with pytest.raises(TypeError, match=r"charge is a coroutine function; use `await pipeline.acall"):
        Pipeline("payments", *layers).call(charge)  # type: ignore[unused-coroutine]
