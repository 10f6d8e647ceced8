"""What a client repeats, against a real server: in threads, as futures and in tasks, for all kinds of calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

from resilience import Deadline, Pipeline, Retry
from resilience.testing import ManualClock
from tests.integrations.grpc.client.clients import Client, Driven, iterator
from tests.integrations.grpc.client.peer import KINDS, OK, UNAVAILABLE, Fails, Peer

VECTORS = Path(__file__).parents[3] / "vectors"
CODES = grpc.StatusCode
# Of a pushback that is repeated grpcio delivers the last value alone: that row is for the parser, in tests/core.
PUSHBACKS = [
    row for row in json.loads((VECTORS / "grpc_pushback.json").read_text(encoding="utf-8"))["rows"] if "two values" not in row[0]
]
PUSHBACK = "grpc-retry-pushback-ms"


def retrying(clock: ManualClock, **settings: Any) -> Pipeline:
    """A pipeline that retries and has budget enough."""
    return Pipeline("retrying", Retry(**{"attempts": 3, "budget": (1000, 1.0), "clock": clock, **settings}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_the_server_refuses_is_made_again(kind: str, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE, UNAVAILABLE]
    answers = drive(retrying(clock), lambda client: client.call(kind, [b"a", b"b"]))
    assert b", ".join(answers).startswith(b"re: a")
    assert [each.attempt for each in peer.tries] == [None, "1", "2"]
    assert len(clock.slept_s) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_error_is_raised_as_itself_with_a_note(kind: str, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE] * 9
    with pytest.raises(grpc.RpcError) as caught:
        drive(retrying(clock), lambda client: client.call(kind))
    assert caught.value.code() is CODES.UNAVAILABLE
    assert caught.value.details() == "as the script says"
    assert "gave up after 3 attempts" in caught.value.__notes__[0]
    assert len(peer.tries) == 3


def test_no_call_is_made_more_than_five_times(drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE] * 9
    with pytest.raises(grpc.RpcError):
        drive(retrying(clock, attempts=9), lambda client: client.call("unary_unary"))
    assert len(peer.tries) == 5


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (UNAVAILABLE, 2),
        (Fails(CODES.RESOURCE_EXHAUSTED), 1),
        (Fails(CODES.RESOURCE_EXHAUSTED, ((PUSHBACK, "10"),)), 2),
        (Fails(CODES.INTERNAL), 1),
        (Fails(CODES.INTERNAL, ((PUSHBACK, "10"),)), 1),
        (Fails(CODES.DEADLINE_EXCEEDED), 1),
        (Fails(CODES.CANCELLED), 1),
        (Fails(CODES.UNAVAILABLE, initial=(("x-shard", "7"),)), 1),
    ],
    ids=str,
)
def test_what_is_worth_another_try(answer: Fails, tries: int, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [answer]
    try:
        drive(retrying(clock), lambda client: client.call("unary_unary"))
    except grpc.RpcError as error:
        assert error.code() is answer.code  # noqa: PT017  # with two tries it succeeds
        assert tries == 1
    assert len(peer.tries) == tries


def test_on_names_other_codes(drive: Driven, peer: Peer, clock: ManualClock, tmp_path: Path) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text(
        "version: 1\nretries: {r: {on: [ABORTED], backoff: 1ms..1ms}}\npipelines: {p: [{retry: r}]}\n", encoding="utf-8"
    )
    peer.script = [Fails(CODES.ABORTED)]
    drive("p", lambda client: client.call("unary_unary"), config=path)
    assert len(peer.tries) == 2


@pytest.mark.parametrize(("value", "expected"), PUSHBACKS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_server_s_pushback(value: str, expected: str, kind: str, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [Fails(CODES.UNAVAILABLE, ((PUSHBACK, value),))]
    if expected == "no retry":
        with pytest.raises(grpc.RpcError):
            drive(retrying(clock), lambda client: client.call(kind))
        assert len(peer.tries) == 1
    else:
        drive(retrying(clock), lambda client: client.call(kind))
        assert len(peer.tries) == 2
        assert clock.slept_s == [1.0]


def test_the_retry_budget_goes_by_the_table_of_grpc(drive: Driven, peer: Peer, clock: ManualClock) -> None:
    table = json.loads((VECTORS / "retry_budget_grpc_core.json").read_text())
    budget = (table["max_milli"] // 1000, table["ratio_milli"] / 1000)
    pipeline = retrying(clock, attempts=5, budget=budget)
    peer.script = [UNAVAILABLE if letter == "F" else OK for letter in table["seq"]]

    async def calls(client: Client) -> None:
        while peer.script:
            try:
                await client.call("unary_unary")
            except grpc.RpcError:
                continue

    drive(pipeline, calls)
    # A try is a retry of the one before exactly where the table allows it: each call takes letters until it succeeds or must stop.
    followed = [after.attempt is not None for after in peer.tries[1:]]
    allowed = [bool(each) for each in table["retry_allowed_on_F"]]
    assert followed == allowed[: len(followed)]
    assert len(peer.tries) >= len(table["seq"])


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_requests_that_were_taken_from_an_iterator_are_not_sent_again(
    kind: str, drive: Driven, peer: Peer, clock: ManualClock
) -> None:
    peer.script = [UNAVAILABLE]
    with pytest.raises(grpc.RpcError):
        drive(retrying(clock), lambda client: client.call(kind, iterator(b"a", b"b")))
    assert len(peer.tries) == 1


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
def test_a_list_of_requests_arrives_whole_again(kind: str, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE]
    drive(retrying(clock), lambda client: client.call(kind, [b"a", b"b"]))
    assert peer.tries[1].requests == [b"a", b"b"]


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
def test_a_stream_that_has_begun_is_not_begun_again(kind: str, drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [Fails(CODES.UNAVAILABLE, after=1)]
    with pytest.raises(grpc.RpcError):
        drive(retrying(clock), lambda client: client.call(kind))
    assert len(peer.tries) == 1


def test_only_one_layer_of_a_chain_retries(drive: Driven, peer: Peer, clock: ManualClock) -> None:
    peer.script = [UNAVAILABLE] * 9
    outer = Pipeline("outer", Retry(attempts=2, on=grpc.RpcError, budget=(1000, 1.0), clock=clock))
    with pytest.raises(grpc.RpcError):
        drive(retrying(clock), lambda client: outer.acall(client.call, "unary_unary"))
    assert [each.attempt for each in peer.tries] == [None, "1"]


def test_a_try_that_its_own_deadline_ends_is_made_again(drive: Driven, peer: Peer) -> None:
    peer.script = ["hang"]
    pipeline = Pipeline("p", Retry(attempts=2, backoff_s=0.001, budget=(1000, 1.0)), Deadline(default_s=0.1))
    assert drive(pipeline, lambda client: client.call("unary_unary")) == [b"re: a"]
    assert len(peer.tries) == 2
