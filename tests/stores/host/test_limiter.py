"""A limiter over the store of the host: what it does while a lock or a file is not to be had, and what is told of it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

import resilience
from resilience import Call, RateLimited, StoreChanged
from resilience.layers.limiter import SharedLimiterState, SharedRateLimiter
from resilience.layers.limiter.settings import RateLimiterSettings
from resilience.stores.host import HostStore, turns
from resilience.stores.host.turns import COUNT, Taken, Turns
from resilience.testing import ManualClock, RecordingObserver
from tests.stores.host.conftest import MakeStore


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks are waited for by a clock that moves by itself."""
    monkeypatch.setattr(turns, "SYSTEM_CLOCK", ManualClock())


def limiter_over(store: HostStore, clock: ManualClock, action: str = "local", key: str | None = None) -> SharedRateLimiter:
    settings = RateLimiterSettings(rate_per_s=10.0, burst=10, key=key)
    state = SharedLimiterState("api", settings, None, clock.now_us(), store.buckets, action)  # type: ignore[arg-type]
    return SharedRateLimiter.over(state, settings, name="api", clock=clock)


def ask(limiter: SharedRateLimiter, clock: ManualClock, key: str | None = None) -> bool:
    try:
        limiter.admit(Call(key=key, now_us=clock.now_us()))
    except RateLimited:
        return False
    return True


def stopped(store: HostStore, stack: ExitStack) -> None:
    """Another process has all locks and does not go on."""
    opened = store._files._opened
    assert opened is not None
    others = Turns(opened[0])
    assert all(stack.enter_context(Taken(others[number])) for number in range(COUNT))


@pytest.mark.parametrize("key", [None, "client_address"])
def test_what_the_share_admits_is_no_more_than_the_limit_in_the_end(
    make_store: MakeStore, clock: ManualClock, key: str | None
) -> None:
    store, other = make_store(), make_store()
    limiter, theirs = limiter_over(store, clock, key=key), limiter_over(other, clock, key=key)
    name = None if key is None else "203.0.113.7"
    store.buckets.workers = 2
    admitted = sum(ask(limiter, clock, name) for _ in range(50))
    assert admitted == 10
    with ExitStack() as stack:
        stopped(store, stack)
        for _ in range(30):
            clock.advance(0.1)
            by_share = sum(ask(limiter, clock, name) for _ in range(3))
            admitted += by_share
    assert admitted > 20, "it was not shut"
    assert limiter.shared.without_store == 90
    for _ in range(20):
        admitted += sum(ask(one, clock, name) for one in (limiter, theirs) for _ in range(3))
        clock.advance(0.1)
    assert 10 + 10 * 4.9 - 1 <= admitted <= 10 + 10 * 5.0


@pytest.mark.parametrize(("action", "passes"), [("open", True), ("closed", False)])
def test_open_and_closed(store: HostStore, clock: ManualClock, action: str, passes: bool) -> None:
    limiter = limiter_over(store, clock, action)
    assert ask(limiter, clock)
    with ExitStack() as stack:
        stopped(store, stack)
        assert [ask(limiter, clock) for _ in range(20)] == [passes] * 20
    assert ask(limiter, clock)


def test_trouble_is_told_once_and_so_is_its_end(store: HostStore, clock: ManualClock) -> None:
    limiter = limiter_over(store, clock)
    ask(limiter, clock)
    observer = RecordingObserver()
    unsubscribe = resilience.subscribe(observer)
    try:
        with ExitStack() as stack:
            stopped(store, stack)
            for _ in range(4):
                ask(limiter, clock)
                store.beat()
                clock.advance(0.4)
        for _ in range(20):
            store.beat()
            clock.advance(0.4)
    finally:
        unsubscribe()
    told = [event for event in observer.events if isinstance(event, StoreChanged)]
    assert [(event.store, event.answers) for event in told] == [("host", False), ("host", True)]
    assert told[0].reason == "1 decisions had no lock within 5 ms"
    assert limiter.status()["store"]["locks_not_had_in_time"] == 4


def test_a_service_whose_folder_cannot_be_had_serves_by_its_share(tmp_path: Path, folder: Path) -> None:
    (folder / f"resilience-{os.geteuid()}").touch()
    config = tmp_path / "resilience.yaml"
    config.write_text(
        f"version: 1\nstore: {{host: {{directory: {folder}}}}}\nlimiters: {{api: {{rate: 1/h, burst: 3}}}}\n"
        "pipelines: {api: [{limiter: api}]}\n"
    )
    with resilience.load(config) as toolkit:
        had = 0
        for _ in range(5):
            try:
                had += toolkit.pipeline("api").call(lambda: 1)
            except RateLimited:
                continue
        told = toolkit.status()["limiters"]["api"]
    assert had == 3
    assert told["decided_without_store"] == 5
    assert "Not a directory" in told["store"]["trouble"]


def test_a_reload_keeps_buckets_also_where_it_makes_room_for_more_keys(tmp_path: Path, folder: Path) -> None:
    config = tmp_path / "resilience.yaml"
    text = (
        "version: 1\nstore: {{host: {{directory: {folder}}}}}\n"
        "limiters: {{api: {{rate: 1/h, burst: 3, key: client_address, max_keys: {keys}}}}}\n"
        "pipelines: {{api: [{{limiter: api}}]}}\n"
    )
    config.write_text(text.format(folder=folder, keys=100))
    with resilience.load(config) as toolkit:
        for _ in range(3):
            with toolkit.pipeline("api").guard(key="somebody"):
                pass
        config.write_text(text.format(folder=folder, keys=50_000))
        toolkit.reload()
        with pytest.raises(RateLimited), toolkit.pipeline("api").guard(key="somebody"):
            pass
        assert toolkit.status()["limiters"]["api"]["store"]["limits"]["api"]["keys"] == 1
