"""The load: even, open, bounded, and honest about what was not sent or not answered."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.demo_kit.load import Load, Traffic, stopwatch
from examples.demo_kit.processes import Service
from examples.demo_kit.recording import Answer, Recording, classify

TRAFFIC = Traffic("/charges", {"amount_cents": 5}, per_s=100.0, customers=4, traced=3)


async def send_until(load: Load, done: Callable[[], bool]) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        await until(done)
        load.stop()


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110 - a recording has no event
            await asyncio.sleep(0.01)


def test_requests_are_due_at_an_even_pace_and_each_leaves_one_sample(tmp_path: Path) -> None:
    recording = Recording()
    with Service("payments", "examples.asgi_app.payments:create_app", tmp_path) as service:
        asyncio.run(service.wait_ready())
        load = Load(service.url, TRAFFIC, recording, stopwatch())
        asyncio.run(send_until(load, lambda: len(recording.samples) >= 30))
    due_s = sorted(sample.due_s for sample in recording.samples)
    assert all(later - earlier == pytest.approx(0.01, abs=1e-6) for earlier, later in itertools.pairwise(due_s))
    assert {sample.answer for sample in recording.samples} == {Answer.OTHER}  # 400: no Idempotency-Key
    assert all(sample.answered_s >= sample.due_s for sample in recording.samples)
    traced = [sample.trace_id for sample in recording.samples if sample.trace_id]
    assert len(traced) == len(set(traced)) == len(recording.samples) // 3


def test_a_request_that_nobody_answers_is_written_down_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    recording = Recording()
    load = Load(f"http://127.0.0.1:{port}", TRAFFIC, recording, stopwatch())
    asyncio.run(send_until(load, lambda: len(recording.samples) >= 5))
    assert {sample.answer for sample in recording.samples} == {Answer.NONE}
    assert not any(sample.admitted for sample in recording.samples)


def test_no_more_than_so_many_are_unanswered() -> None:
    traffic = Traffic("/", {}, per_s=2000.0, customers=1, traced=1000)
    recording = Recording()

    async def send(url: str) -> None:
        running = asyncio.create_task(Load(url, traffic, recording, stopwatch()).run())
        await until(lambda: bool(recording.held_back))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as never_answers:
        asyncio.run(send(f"http://127.0.0.1:{never_answers.getsockname()[1]}"))
    assert recording.samples == []


def test_what_was_due_while_the_client_stood_still_is_not_sent_all_at_once() -> None:
    recording = Recording()
    instants_s = iter([0.0, 2.0])  # the start, and then 2 s late
    last_s = [2.0]

    def now_s() -> float:
        last_s[0] = next(instants_s, last_s[0])
        return last_s[0]

    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    load = Load(f"http://127.0.0.1:{port}", TRAFFIC, recording, now_s)
    asyncio.run(send_until(load, lambda: len(recording.samples) >= 40))
    assert recording.held_back == pytest.approx([number / 100 for number in range(151)])
    assert min(sample.due_s for sample in recording.samples) > 1.5


@pytest.mark.parametrize(
    ("status", "kind", "answer"),
    [
        (200, "", Answer.OK),
        (201, "", Answer.OK),
        (429, "https://iana.org/assignments/http-problem-types#quota-exceeded", Answer.QUOTA),
        (429, "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity", Answer.CUT),
        (500, "", Answer.ERROR),
        (502, "", Answer.FAILED),
        (503, "about:blank", Answer.BREAKER),
        (504, "about:blank", Answer.DEADLINE),
        (404, "", Answer.OTHER),
    ],
)
def test_answers_are_told_apart(status: int, kind: str, answer: Answer) -> None:
    assert classify(status, kind) is answer
