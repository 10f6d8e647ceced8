"""Observers: told of every change, never able to hurt a call."""

from __future__ import annotations

import threading

import pytest

from resilience import CircuitBreaker, Event, HealthSignal, Pipeline, RateLimiter, subscribe
from resilience.events import BreakerChanged, ConfigLoaded, HealthChanged, emit
from resilience.testing import ManualClock, RecordingObserver
from tests.core.helpers import Drive, attempt, fail, no_jitter, succeed

LOADED = ConfigLoaded("resilience.yaml", "0" * 64)


class Broken:
    """An observer with a bug."""

    def __init__(self) -> None:
        self.told = 0

    def on_event(self, event: Event) -> None:
        self.told += 1
        raise RuntimeError("the dashboard is down")


def test_every_observer_is_told_in_order() -> None:
    with RecordingObserver() as first, RecordingObserver() as second:
        emit([LOADED, HealthChanged("default", 1.0, 0.3, "incident")])
    emit([LOADED])
    assert first.events == second.events == [LOADED, HealthChanged("default", 1.0, 0.3, "incident")]


def test_one_that_raises_is_logged_once_and_dropped(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    subscribe(broken)
    with RecordingObserver() as after:
        emit([LOADED, LOADED])
        emit([LOADED])
    assert (broken.told, len(after.events)) == (1, 3)
    assert caplog.text.count("raised on ConfigLoaded and is told nothing more") == 1
    assert "the dashboard is down" in caplog.text


def test_one_that_raises_changes_no_decision(clock: ManualClock, drive: Drive) -> None:
    health = HealthSignal(clock=clock)
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, health=health, clock=clock, uniform=no_jitter)
    limiter = RateLimiter(100.0, health=health, clock=clock)
    pipeline = Pipeline("p", limiter, breaker)
    for work, outcome, wait_s in ((fail, "failed", 0.0), (succeed, "refused", 30.0), (succeed, "ok", 60.0), (succeed, "ok", 0.0)):
        broken = Broken()
        unsubscribe = subscribe(broken)
        try:
            assert attempt(pipeline, work, drive) == outcome
        finally:
            unsubscribe()
        clock.advance(wait_s)
    assert (breaker.state.value, limiter.rate_per_s) == ("closed", 35.0)


def test_unsubscribing_twice_and_during_an_event() -> None:
    class Once:
        def __init__(self) -> None:
            self.told = 0
            self.unsubscribe = subscribe(self)

        def on_event(self, event: Event) -> None:
            self.told += 1
            self.unsubscribe()

    once = Once()
    emit([LOADED, LOADED])
    once.unsubscribe()
    assert once.told == 1


def test_threads_that_subscribe_at_once_lose_nobody() -> None:
    observers = [RecordingObserver() for _ in range(16)]
    start = threading.Barrier(len(observers))

    def come_and_go(observer: RecordingObserver) -> None:
        start.wait()
        for _ in range(300):
            with observer:
                pass
        observer.__enter__()

    threads = [threading.Thread(target=come_and_go, args=(observer,)) for observer in observers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    emit([LOADED])
    for observer in observers:
        observer.__exit__()
    assert [observer.events for observer in observers] == [[LOADED]] * len(observers)


def test_what_one_breaker_tells(clock: ManualClock) -> None:
    health = HealthSignal(name="shop", clock=clock)
    breaker = CircuitBreaker(consecutive_failures=1, probes=1, health=health, name="payments", clock=clock, uniform=no_jitter)
    with RecordingObserver() as observer:
        attempt(Pipeline("p", breaker), fail)
        clock.advance(30.0)
        attempt(Pipeline("p", breaker), succeed)
    assert observer.events == [
        BreakerChanged("payments", None, "closed", "open", 2, "1 failures in a row"),
        HealthChanged("shop", 1.0, 0.3, "incident"),
        BreakerChanged("payments", None, "open", "half_open", 3, "open time over"),
        BreakerChanged("payments", None, "half_open", "closed", 4, "1 of 1 probes succeeded"),
    ]
