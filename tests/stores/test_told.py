"""What a caller of a shared limit is told: by its own settings after a change, and by the local share while the store is away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from resilience import Call, Quota, RateLimited
from resilience.layers.base import Ask, Wait
from resilience.layers.limiter import SharedRateLimiter
from resilience.stores.redis import RedisStore
from tests.stores.limits import limiter_over, redis_store
from tests.stores.servers import Server

HOUR = 1 / 3600


def passed(limiter: SharedRateLimiter, **call: Any) -> Call:
    """A call that has been through the limiter, as a pipeline sends it."""
    made = Call(now_us=limiter.clock.now_us(), **call)
    found = limiter.admit(made)
    if isinstance(found, Ask):
        found = found.resume(found.store.ask(found.question))
    if found is not None and not isinstance(found, Wait):
        made.held.append((limiter, found))
    return made


def refused(limiter: SharedRateLimiter, **call: Any) -> RateLimited:
    """The refusal of one that is over the limit."""
    with pytest.raises(RateLimited) as caught:
        passed(limiter, **call)
    return caught.value


def told(refusal: RateLimited) -> Quota:
    assert refusal.quota is not None
    return refusal.quota


def changed(limiter: SharedRateLimiter, **settings: Any) -> SharedRateLimiter:
    """Put other settings in force. Returns the limiter of these; calls through the one before come late."""
    made = replace(limiter.settings, **settings)
    limiter.shared.configure(made, limiter.clock.now_us())
    return SharedRateLimiter.over(limiter.shared, made, name=limiter.name, clock=limiter.clock)


# --- by its own settings -------------------------------------------------------------------------------------------------------


def test_a_late_call_is_told_the_limit_with_which_it_began(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        late = limiter_over(store, rate_per_s=10.0, burst=20, cost=20)
        passed(late)
        present = changed(late, rate_per_s=100.0, burst=80, cost=80)
        refusal = refused(late)
        assert (told(refusal).limit, told(refusal).window_s, refusal.rate_per_s) == (20, 2, 10.0)
        refusal = refused(present)
        assert (told(refusal).limit, told(refusal).window_s, refusal.rate_per_s) == (80, 1, 100.0)


def test_a_late_call_costs_what_it_did_and_waits_as_long(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        late = limiter_over(store, rate_per_s=1 / 600, burst=10, cost=3, max_wait_s=3_600.0, key="header:x-key")
        present = changed(late, cost=1, max_wait_s=0.0)
        assert late.quota(passed(late, key="a")).remaining == 7
        assert present.quota(passed(present, key="a")).remaining == 6
        assert [present.quota(passed(present, key="a")).remaining for _ in range(4)] == [5, 4, 3, 2]
        call = Call(key="a", now_us=late.clock.now_us())
        asked: Any = late.admit(call)
        waits = asked.resume(store.ask(asked.question))
        assert isinstance(waits, Wait), "two are there, and it waits for the third"
        assert late.quota(call).remaining == 0
        refused(present, key="a")


def test_a_bucket_that_has_become_smaller_tells_its_own_size(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        late = limiter_over(store, rate_per_s=10.0, burst=20, cost=4)
        changed(late, burst=4, rate_per_s=0.1)
        assert late.quota(passed(late)).remaining == 0
        refusal = refused(late)
        assert (told(refusal).limit, told(refusal).window_s) == (4, 40), "it was this one that refused it"
        assert refusal.retry_after_s == pytest.approx(40.0, abs=1.0)


# --- by the share --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def away() -> Any:
    """A store that never answers, in a fleet of two."""
    with redis_store("redis://127.0.0.1:1/0", "away") as store:
        store.workers = 2
        yield store


@pytest.mark.parametrize("key", [None, "header:x-key"])
def test_what_is_left_of_the_share_is_told_while_the_store_is_away(away: RedisStore, key: str | None) -> None:
    limiter = limiter_over(away, rate_per_s=HOUR, burst=10, key=key)
    of: dict[str, Any] = {} if key is None else {"key": "a"}
    assert [limiter.quota(passed(limiter, **of)).remaining for _ in range(5)] == [4, 3, 2, 1, 0]
    if key is not None:
        assert limiter.quota(passed(limiter, key="b")).remaining == 4
    call = Call(now_us=limiter.clock.now_us(), **of)
    with pytest.raises(RateLimited) as caught:
        limiter.admit(call)
    quota = told(caught.value)
    assert (quota.limit, quota.remaining) == (5, 0)
    assert limiter.quota(call).remaining == 0
    assert limiter.attributes(call)["resilience.limiter.remaining"] == 0


def test_the_share_is_told_to_those_that_wait_for_it_and_in_shadow(away: RedisStore) -> None:
    waiting = limiter_over(away, rate_per_s=1.0, burst=2, max_wait_s=60.0)
    assert waiting.quota(passed(waiting)).remaining == 0
    assert waiting.quota(passed(waiting)).limit == 1
    shadow = limiter_over(away, rate_per_s=HOUR, burst=4, shadow=True)
    assert [shadow.quota(passed(shadow)).remaining for _ in range(4)] == [1, 0, 0, 0]


def test_an_open_limit_tells_nothing_of_before(server: Server, name: str) -> None:
    with redis_store(server.url, name) as store:
        limiter = limiter_over(store, rate_per_s=HOUR, burst=10, on_store_error="open")
        assert limiter.quota(passed(limiter)).remaining == 9
        store.servers.board.lines.close()
        away: Any = store.breaker.away
        store.take = lambda question: away()  # type: ignore[method-assign]
        assert limiter.quota(passed(limiter)).remaining == 10, "all pass: there is nothing to run out of"
