"""What inbound headers say: the time that they ask for, and the number of the try."""

from __future__ import annotations

import pytest

from resilience import Call, Deadline, Pipeline
from resilience.edges import Guarded, inbound_timeout_s, read_inbound


@pytest.mark.parametrize(
    ("headers", "expected_s", "malformed"),
    [
        ([], None, 0),
        ([("host", "x"), ("accept", "y")], None, 0),
        ([("grpc-timeout", "1H")], 3600.0, 0),
        ([("grpc-timeout", "2M")], 120.0, 0),
        ([("grpc-timeout", "3S")], 3.0, 0),
        ([("grpc-timeout", "4m")], 0.004, 0),
        ([("grpc-timeout", "5u")], 0.000005, 0),
        ([("grpc-timeout", "6n")], 0.000000006, 0),
        ([("grpc-timeout", "00000001S")], 1.0, 0),
        ([("x-envoy-expected-rq-timeout-ms", "0")], 0.0, 0),
        ([("connect-timeout-ms", "9999999999")], 9_999_999.999, 0),
        ([("connect-timeout-ms", "20"), ("grpc-timeout", "10m")], 0.01, 0),
        ([("connect-timeout-ms", "10"), ("grpc-timeout", "20m")], 0.01, 0),
        ([("grpc-timeout", "20m"), ("grpc-timeout", "10m")], 0.01, 0),
        ([("grpc-timeout", "10"), ("connect-timeout-ms", "10")], 0.01, 1),
        ([("grpc-timeout", "10x"), ("connect-timeout-ms", "1e3")], None, 2),
        ([("grpc-timeout", " 10S")], None, 1),
        ([("grpc-timeout", "10S\n")], None, 1),
        ([("grpc-timeout", "\u0661S")], None, 1),
        ([("connect-timeout-ms", "\u0661")], None, 1),
        ([("connect-timeout-ms", "+1")], None, 1),
    ],
)
def test_the_earliest_that_can_be_read(headers: list[tuple[str, str]], expected_s: float | None, malformed: int) -> None:
    deadline = Deadline(5.0)
    assert inbound_timeout_s(deadline, headers) == expected_s
    assert deadline.state.malformed == malformed


def test_only_the_headers_that_the_policy_reads() -> None:
    deadline = Deadline(5.0, read=("connect-timeout-ms",))
    headers = [("grpc-timeout", "1S"), ("x-envoy-expected-rq-timeout-ms", "nonsense"), ("connect-timeout-ms", "2000")]
    assert inbound_timeout_s(deadline, headers) == 2.0
    assert deadline.state.malformed == 0


@pytest.mark.parametrize(
    ("values", "attempt"),
    [([], 0), (["0"], 0), (["2"], 2), (["1", "3"], 3), (["-1"], 0), (["1000"], 0), (["two"], 0), (["1 "], 0), ([""], 0)],
)
def test_the_number_of_the_try_is_read(values: list[str], attempt: int) -> None:
    guarded = Guarded(Pipeline("api"))
    call = Call("the request")
    read_inbound(guarded, call, [("x-retry-attempt", value) for value in values])
    assert call.attempt == attempt
