"""A deadline set by a gateway is honoured three services deep: ASGI, then WSGI, then ASGI."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.chain.hops import DEADLINE, Hop, Service, chain
from tests.watch.waiting import wait_until

FIRST_RESERVE_MS = 20
SECOND_RESERVE_MS = 130


def guarded(reserve_ms: int) -> str:
    """A configuration: what the caller gives, and a reserve for the way home."""
    return f"""\
version: 1
deadlines:
  api: {{default: 20s, reserve: {reserve_ms}ms}}
pipelines:
  inbound: [{{deadline: api}}]
  next: [{{deadline: api}}]
routes:
  - {{match: {{path: /-/seen}}, pipeline: none}}
  - {{match: {{path: "/**"}}, pipeline: inbound}}
"""


@pytest.fixture(scope="module")
def hops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Hop]]:
    """Three services. All of them are up, and have opened their connections."""
    services = [
        Service("asgi", guarded(FIRST_RESERVE_MS)),
        Service("wsgi", guarded(SECOND_RESERVE_MS)),
        Service("asgi", guarded(0)),
    ]
    with chain(tmp_path_factory.mktemp("deadline"), services) as running:
        assert running[0].get("/orders").status_code == 200
        yield running


def told(hop: Hop, before: int) -> list[int]:
    """What a service was told of its time since so many requests. Each is a whole number without sign, and not nothing."""
    headers = hop.deadlines()[before:]
    assert all(header is not None and re.fullmatch("[1-9][0-9]*", header) for header in headers), headers
    return [int(header) for header in headers if header is not None]


def ask_until(hops: list[Hop], reached: int, deadline_ms: int, status: int, work_ms: int = 0) -> list[list[int]]:
    """Ask the first service until the one of number `reached` was asked too: on a busy machine, time may run out before.

    Returns what each service was told. Every answer but the last is 504, and the last one is `status`.
    """
    before = [len(hop.deadlines()) for hop in hops]
    answers: list[int] = []

    def asked() -> bool:
        headers = {DEADLINE: str(deadline_ms), "x-work-ms": str(work_ms)}
        with hops[0].client() as client:
            answers.append(client.get("/orders", headers=headers).status_code)
        return len(hops[reached].deadlines()) > before[reached] and answers[-1] == status

    wait_until(asked, f"hop {reached + 1} is asked and {status} is answered")
    assert set(answers) <= {status, 504}
    return [told(hop, count) for hop, count in zip(hops, before, strict=True)]


def test_the_third_is_told_what_is_left_less_the_reserves(hops: list[Hop]) -> None:
    first, second, third = ask_until(hops, reached=2, deadline_ms=500, status=200)
    assert set(first) == {500}
    # Some time has always passed, and what is left is rounded down: the whole of it is never passed on.
    assert all(0 < left_ms < 500 - FIRST_RESERVE_MS for left_ms in second)
    assert all(0 < left_ms < 500 - FIRST_RESERVE_MS - SECOND_RESERVE_MS for left_ms in third)
    assert third[-1] < second[-1] - SECOND_RESERVE_MS


def test_work_on_the_way_is_taken_off(hops: list[Hop]) -> None:
    _, second, third = ask_until(hops, reached=2, deadline_ms=500, status=200, work_ms=150)
    assert third[-1] < second[-1] - SECOND_RESERVE_MS - 150


def test_without_a_header_the_default_goes_the_same_way(hops: list[Hop]) -> None:
    before = [len(hop.deadlines()) for hop in hops]
    assert hops[0].get("/orders").status_code == 200
    (second,), (third,) = (told(hop, count) for hop, count in zip(hops[1:], before[1:], strict=True))
    assert second < 20_000 - FIRST_RESERVE_MS
    assert third < second - SECOND_RESERVE_MS


def test_the_third_is_not_called_when_nothing_is_left_for_it(hops: list[Hop]) -> None:
    _, second, third = ask_until(hops, reached=1, deadline_ms=FIRST_RESERVE_MS + SECOND_RESERVE_MS, status=504)
    assert all(left_ms < SECOND_RESERVE_MS for left_ms in second)
    assert third == []


def test_the_third_is_not_called_when_the_second_has_used_the_time(hops: list[Hop]) -> None:
    _, second, third = ask_until(hops, reached=1, deadline_ms=500, status=504, work_ms=400)
    assert max(second) > SECOND_RESERVE_MS  # there was enough when it began
    assert third == []


def test_the_second_is_not_called_when_nothing_is_left_for_it(hops: list[Hop]) -> None:
    first, second, third = ask_until(hops, reached=0, deadline_ms=FIRST_RESERVE_MS, status=504)
    assert set(first) == {FIRST_RESERVE_MS}
    assert second == third == []
