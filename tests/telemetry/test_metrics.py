"""Metrics through a real SDK's reader: their names, labels and values."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import pytest

import resilience
from resilience import CircuitBreaker, ConfigError, Deadline, HealthSignal, Pipeline, RateLimited, RateLimiter, Retry
from resilience.integrations.asgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.asgi.apps import answering
from tests.integrations.asgi.conversation import Conversation, run
from tests.telemetry.recording import Recording

NAMES = {
    "resilience.decisions",
    "resilience.retry.attempts",
    "resilience.health.factor",
    "resilience.breaker.state",
    "resilience.limiter.rate",
    "resilience.retry.budget",
    "resilience.config.reloads",
}


@pytest.fixture(autouse=True)
def _nothing_is_left_of_other_tests() -> None:
    """Metrics tell of every policy that lives, also of one that only waits to be collected."""
    gc.collect()


def of(recorded: Recording, metric: str, policy: str) -> dict[str, Any]:
    """The values of one policy's points by the rest of their labels."""
    points = {}
    for labels, value in recorded.points(metric).items():
        named = dict(labels)
        if named.pop("policy", None) == policy or named.pop("signal", None) == policy:
            points[" ".join(str(value) for _, value in sorted(named.items()))] = value
    return points


def test_decisions_are_counted_to_the_request(recorded: Recording) -> None:
    clock = ManualClock()
    limiter = RateLimiter(0.001, 7, name="counted", clock=clock)
    breaker = CircuitBreaker(name="counted", min_calls=100, clock=clock)
    deadline = Deadline(5.0, name="counted", clock=clock)
    app = ResilienceMiddleware(answering(), pipeline=Pipeline("api", deadline, limiter, breaker))

    async def scenario() -> None:
        statuses = [(await Conversation(app).run()).status for _ in range(10)]
        assert statuses == [200] * 7 + [429] * 3
        for _ in range(2):
            assert (await Conversation(app, headers=[("grpc-timeout", "0S")]).run()).status == 504

    run(scenario())
    assert of(recorded, "resilience.decisions", "counted") == {
        "admitted deadline": 10,
        "expired deadline": 2,
        "admitted limiter": 7,
        "rejected limiter": 3,
        "queued limiter": 0,
        "would_reject limiter": 0,
        "admitted breaker": 7,
        "rejected breaker": 0,
        "probe breaker": 0,
        "would_reject breaker": 0,
    }


def test_all_metrics_are_there_and_have_a_description(recorded: Recording) -> None:
    clock = ManualClock()
    health = HealthSignal(clock=clock, name="there")
    layers = [RateLimiter(1.0, health=health, clock=clock), Retry(clock=clock), CircuitBreaker(clock=clock)]
    pipeline = Pipeline("there", *layers)
    data = recorded._reader.get_metrics_data()
    assert data is not None
    found = {
        one.name: one.description
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        if scope.scope.name == "resilience"
        for one in scope.metrics
    }
    assert set(found) >= NAMES  # those of stores are there once one was asked
    assert all(found.values())
    del pipeline


def test_the_factor_the_breaker_s_state_and_the_limiter_s_rate_follow_an_incident(recorded: Recording) -> None:
    clock = ManualClock()
    health = HealthSignal(clock=clock, name="incident")
    limiter = RateLimiter(100.0, health=health, name="incident", clock=clock)
    breaker = CircuitBreaker(min_calls=1, probes=1, health=health, name="incident", clock=clock, uniform=lambda: 0.0)
    pipeline = Pipeline("incident", limiter, breaker)

    def now() -> tuple[Any, Any, Any]:
        factor = of(recorded, "resilience.health.factor", "incident")
        state = of(recorded, "resilience.breaker.state", "incident")
        rate = of(recorded, "resilience.limiter.rate", "incident")
        return factor[""], state[""], rate[""]

    assert now() == (1.0, 0, 100.0)
    with contextlib.suppress(OSError):
        pipeline.call(_fail)
    assert now() == (0.3, 2, 30.0)
    clock.advance(30.0)
    guard = pipeline.guard()
    with guard:
        assert now() == (0.3, 1, 30.0)
    assert now() == (0.3, 0, 30.0)
    clock.advance(600.0)
    assert now() == (0.8, 0, 80.0)


def test_a_keyed_breaker_shows_the_worst_of_its_keys_and_none_of_their_names(recorded: Recording) -> None:
    breaker = CircuitBreaker(min_calls=1, key=lambda call: call.name, name="keyed", clock=ManualClock())
    pipeline = Pipeline("keyed", breaker)
    pipeline.call(_fine)
    with contextlib.suppress(OSError):
        pipeline.call(_fail)
    assert of(recorded, "resilience.breaker.state", "keyed") == {"": 2}
    assert of(recorded, "resilience.decisions", "keyed")["admitted breaker"] == 2


def test_no_client_key_is_a_label(recorded: Recording) -> None:
    clock = ManualClock()
    layers = [
        RateLimiter(1.0, 1, key="client_address", name="by address", clock=clock),
        RateLimiter(1.0, 1, key="header:x-api-key", name="by header", clock=clock),
        CircuitBreaker(key="header:x-api-key", name="by header", clock=clock),
    ]
    app = ResilienceMiddleware(answering(), pipeline=Pipeline("api", *layers))

    async def scenario() -> None:
        for number in range(20):
            await Conversation(app, client=f"192.0.2.{number}", headers=[("x-api-key", f"s3cr3t-{number}")]).run()

    run(scenario())
    allowed = {"layer", "policy", "decision", "signal", "result"}
    for metric in NAMES:
        for labels in recorded.points(metric):
            assert {name for name, _ in labels} <= allowed
            assert not any("192.0.2." in str(value) or "s3cr3t" in str(value) for _, value in labels)


def test_attempts_and_the_budget_of_retries(recorded: Recording) -> None:
    retry = Retry(3, backoff_s=0.0, budget=(10, 0.5), name="tries", clock=ManualClock())
    pipeline = Pipeline("tries", retry)
    pipeline.call(_fine)
    with contextlib.suppress(OSError):
        pipeline.call(_fail)
    assert of(recorded, "resilience.retry.attempts", "tries") == {"": 4}
    assert of(recorded, "resilience.retry.budget", "tries") == {"": 7.0}
    assert of(recorded, "resilience.decisions", "tries") == {"admitted retry": 2, "retried retry": 2, "rejected retry": 1}


def test_a_policy_in_two_pipelines_and_over_a_reload_is_counted_once(recorded: Recording, tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(
        "version: 1\nlimiters:\n  shared: {rate: 1/h, burst: 5}\n"
        "pipelines:\n  one: [{limiter: shared}]\n  two: [{limiter: shared}]\n",
        encoding="utf-8",
    )
    with resilience.load(path) as toolkit:
        kept = [toolkit.resolve("one")]
        for name in ("one", "two"):
            toolkit.pipeline(name).call(_fine)
        toolkit.reload()
        toolkit.pipeline("one").call(_fine)
        assert of(recorded, "resilience.decisions", "shared")["admitted limiter"] == 3
        toolkit.pipeline("one").call(_fine)
        toolkit.pipeline("two").call(_fine)
        with pytest.raises(RateLimited):
            toolkit.pipeline("two").call(_fine)
        assert of(recorded, "resilience.decisions", "shared")["rejected limiter"] == 1
        del kept


def test_configurations_are_counted_by_result(recorded: Recording, tmp_path: Path) -> None:
    def counts() -> dict[str, Any]:
        return {dict(labels)["result"]: value for labels, value in recorded.points("resilience.config.reloads").items()}

    before = counts()
    path = tmp_path / "resilience.yaml"
    path.write_text("version: 1\n", encoding="utf-8")
    with resilience.load(path) as toolkit:
        toolkit.reload()
        path.write_text("version: 2\n", encoding="utf-8")
        with pytest.raises(ConfigError):
            toolkit.reload()
    after = counts()
    assert {result: after[result] - before[result] for result in after} == {"loaded": 2, "refused": 1}


def test_what_nobody_holds_any_more_is_told_no_more(recorded: Recording) -> None:
    limiter = RateLimiter(1.0, name="short-lived", clock=ManualClock())
    assert of(recorded, "resilience.limiter.rate", "short-lived") == {"": 1.0}
    del limiter
    gc.collect()
    assert of(recorded, "resilience.limiter.rate", "short-lived") == {}


def _fine() -> None:
    """Work that succeeds."""


def _fail() -> None:
    raise OSError("the dependency is down")
