"""The time that a request asks for: which header decides, and what becomes of those that nobody can read."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from resilience import current_deadline
from tests.integrations.asgi.apps import Bench, answering
from tests.integrations.asgi.conversation import Conversation, run, turns


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ([], 5.0),
        ([("grpc-timeout", "2S")], 2.0),
        ([("grpc-timeout", "1500m")], 1.5),
        ([("connect-timeout-ms", "700")], 0.7),
        ([("x-envoy-expected-rq-timeout-ms", "800")], 0.8),
        ([("grpc-timeout", "3S"), ("connect-timeout-ms", "700"), ("x-envoy-expected-rq-timeout-ms", "800")], 0.7),
        ([("connect-timeout-ms", "900"), ("connect-timeout-ms", "600")], 0.6),
        ([("grpc-timeout", "2H")], 60.0),
        ([("grpc-timeout", "99999999H")], 60.0),
    ],
)
def test_the_earliest_header_decides_and_none_goes_above_the_maximum(headers: list[tuple[str, str]], expected_s: float) -> None:
    bench, seen = Bench(), []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        deadline = current_deadline(bench.clock)
        assert deadline is not None
        seen.append(deadline.remaining_s())
        await answering()(scope, receive, send)

    run(Conversation(bench.guard(handler), headers=headers).run())
    assert seen == [pytest.approx(expected_s, abs=1e-6)]
    assert bench.deadline.state.malformed == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("grpc-timeout", ""),
        ("grpc-timeout", "5"),
        ("grpc-timeout", "-1S"),
        ("grpc-timeout", "1s"),
        ("grpc-timeout", "123456789S"),
        ("grpc-timeout", "\xb2S"),
        ("connect-timeout-ms", "1.5"),
        ("connect-timeout-ms", "12345678901"),
        ("x-envoy-expected-rq-timeout-ms", "soon"),
        ("x-envoy-expected-rq-timeout-ms", "-5"),
    ],
)
def test_a_malformed_header_is_as_good_as_none_and_is_counted(name: str, value: str) -> None:
    bench = Bench()
    bench.half_open()

    async def scenario() -> None:
        talk = await Conversation(bench.guard(answering()), headers=[(name, value)]).run()
        assert talk.status == 200

    run(scenario())
    assert bench.outcome() == "ok"
    assert bench.deadline.state.malformed == 1
    assert bench.deadline.status()["malformed_headers"] == 1


def test_a_malformed_header_beside_a_good_one_leaves_the_good_one() -> None:
    bench = Bench()

    async def scenario() -> None:
        headers = [("grpc-timeout", "soon"), ("connect-timeout-ms", "0")]
        assert (await Conversation(bench.guard(answering()), headers=headers).run()).status == 504

    run(scenario())
    assert bench.deadline.state.malformed == 1


def test_expired_on_arrival_says_nothing_of_the_dependency() -> None:
    bench = Bench()
    bench.half_open()
    run(Conversation(bench.guard(answering()), headers=[("grpc-timeout", "0n")]).run())
    assert bench.outcome() == "untouched"
    assert bench.clock.pending_timers == 0


def test_the_deadline_that_runs_out_fails_a_call_that_had_half_the_usual_time() -> None:
    for timeout_ms, expected in ((2_499, "ignored"), (2_500, "failed")):
        bench = Bench()  # 5 s by default
        bench.half_open()

        async def scenario(bench: Bench = bench, timeout_ms: int = timeout_ms) -> None:
            headers = [("connect-timeout-ms", str(timeout_ms))]
            talk = Conversation(bench.guard(waits_for_ever), headers=headers).start()
            await turns()
            assert bench.outcome() == "held"
            bench.clock.advance(timeout_ms / 1000)
            await talk.task
            assert talk.status == 504

        run(scenario())
        assert bench.outcome() == expected
        assert bench.clock.pending_timers == 0


def test_without_a_header_or_a_default_there_is_no_deadline() -> None:
    bench, seen = Bench(default_s=None), []

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        seen.append((current_deadline(bench.clock), bench.clock.pending_timers))
        await answering()(scope, receive, send)

    run(Conversation(bench.guard(handler)).run())
    assert seen == [(None, 0)]


async def waits_for_ever(scope: Any, receive: Any, send: Any) -> None:
    """A handler that never answers."""
    await asyncio.Event().wait()
