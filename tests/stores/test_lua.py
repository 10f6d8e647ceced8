"""The Redis scripts agree with the arithmetic, number for number. Their clock is replaced in the text of the script under test."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from resilience.fleet_health import LAPSES_US, Board, FleetState, Mark, renewed
from resilience.health import PPB
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.redis.scripts import RENEW, TAKE, Questions, Renewal
from tests.stores.conformance import START_US, Ask, BucketConformance
from tests.stores.servers import Server

CLOCK = b"redis.call('TIME')"


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with server.client() as client:
        yield client


def at(text: bytes, now_us: int) -> bytes:
    """A script whose clock stands at `now_us`."""
    assert text.count(CLOCK) == 1
    return text.replace(CLOCK, b"{%d, %d}" % divmod(now_us, 1_000_000))


class TestLua(BucketConformance):
    @pytest.fixture
    def ask(self, client: Any, name: str) -> Ask:
        def put(question: Take, now_us: int) -> Decided:
            questions = Questions(name, [question])
            reply = client.eval(
                at(TAKE.text, now_us),
                len(questions.keys),
                *questions.keys,
                *questions.arguments,
            )
            (decided,) = questions.answers(reply)
            return decided

        return put


def some_marks(dice: random.Random, seen: FleetState, quorum: int) -> Mark:
    kept_ppb = dice.choice((300_000_000, 333_333_333, 10_000_000))
    return Mark(
        dice.random() < 0.5,
        dice.choice((0, seen.incident, max(0, seen.incident - 1))),
        quorum,
        kept_ppb,
        dice.choice((kept_ppb, 1_000_000)),
        dice.choice((50_000_000, 70_000_001)),
        dice.choice((60_000_000, 1_000)),
        dice.random() < 0.1,
        seen,
    )


@pytest.mark.parametrize("seed", range(30))
def test_the_board_agrees_with_its_arithmetic(client: Any, name: str, seed: int) -> None:
    dice = random.Random(seed)
    quorum = dice.choice((1, 1, 2, 3))
    board, now_us = Board(FleetState(), {}), START_US
    seen = [FleetState() for _ in range(4)]
    for _ in range(80):
        now_us += dice.choice((1, 1_000, 900_000, LAPSES_US, 61_000_000, -700_000))
        if dice.random() < 0.03:
            client.flushdb()
            board = Board(FleetState(), {})
        process = dice.randrange(4)
        mark = some_marks(dice, seen[process], quorum)
        board = renewed(board, f"{process}#7", mark, now_us)
        renewal = Renewal(name, str(process), 1, [("default", 7, mark)])
        reply = client.eval(at(RENEW.text, now_us), len(renewal.keys), *renewal.keys, *renewal.arguments)
        told_us, _, (state,) = renewal.answers(reply)
        assert told_us == now_us
        assert state == board.state
        marks = client.zrange(renewal.keys[2], 0, -1, withscores=True)
        assert {member.decode(): int(score) for member, score in marks} == dict(board.marks)
        seen[process] = state
        assert 0 < state.factor_ppb <= PPB


def test_processes_that_decide_are_counted(client: Any, name: str) -> None:
    def tell(process: str, decides: int, now_us: int) -> int:
        renewal = Renewal(name, process, decides, [])
        reply = client.eval(at(RENEW.text, now_us), len(renewal.keys), *renewal.keys, *renewal.arguments)
        return renewal.answers(reply)[1]

    assert tell("a", 0, START_US) == 0
    assert [tell(process, 1, START_US) for process in "abc"] == [1, 2, 3]
    assert tell("b", -1, START_US + 1) == 2
    assert tell("a", 1, START_US + LAPSES_US) == 1, "who is not heard of for long is gone"
