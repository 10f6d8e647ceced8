"""Whatever a timeout or a try's number looks like, it is read by its rule or as good as absent; never an exception."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from resilience import Call, Deadline, DeadlineExceeded, Pipeline
from resilience.edges import Guarded, inbound_timeout_s, read_inbound
from resilience.layers.timeouts import PARSERS, grpc_timeout_ns, milliseconds_left

UNIT_NS = {"H": 3_600 * 10**9, "M": 60 * 10**9, "S": 10**9, "m": 10**6, "u": 10**3, "n": 1}
DIGITS = st.text(st.sampled_from("0123456789"), max_size=14)
NEARLY = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "", " ", "+", "-", "0x", "\u0661", "\xb2"]),
    DIGITS,
    st.sampled_from([*UNIT_NS, *UNIT_NS, "", "h", "s", "ms", "d", ".5S", "e3", "\n", " "]),
    st.sampled_from(["", "", "", "\n", " ", "\x00", ",1S"]),
)
TEXT = st.one_of(
    NEARLY,
    DIGITS,
    st.text(max_size=20),
    st.integers(1, 10_240).map(lambda count: "9" * count),
    st.integers(1, 10_240).map(lambda count: "9" * count + "H"),
)
NAMES = st.sampled_from([*PARSERS, "x-retry-attempt", "host", "grpc-timeout-bin"])


@given(TEXT)
@example("99999999H")
@example("00000000n")
@example("1S\n")
def test_grpc_timeouts_go_by_the_rule_of_grpc(text: str) -> None:
    found = re.fullmatch(r"([0-9]{1,8})([HMSmun])", text)
    expected_ns = None if found is None else int(found[1]) * UNIT_NS[found[2]]
    assert grpc_timeout_ns(text) == expected_ns
    assert PARSERS["grpc-timeout"](text) == (None if expected_ns is None else expected_ns / 1e9)


@given(TEXT, st.sampled_from(["x-envoy-expected-rq-timeout-ms", "connect-timeout-ms"]))
@example("9999999999", "connect-timeout-ms")
@example("5\n", "connect-timeout-ms")
def test_milliseconds_go_by_the_rule_of_connect(text: str, header: str) -> None:
    expected_s = int(text) / 1000 if re.fullmatch("[0-9]{1,10}", text) else None
    assert PARSERS[header](text) == expected_s


@given(st.lists(st.tuples(NAMES, TEXT), max_size=6))
@example([("grpc-timeout", "9" * 10_240), ("x-retry-attempt", "9" * 10_240)])
def test_any_headers_give_the_earliest_that_can_be_read_and_count_the_others(headers: list[tuple[str, str]]) -> None:
    deadline = Deadline(5.0, 30.0)
    timeouts = [PARSERS[name](value) for name, value in headers if name in PARSERS]
    readable = [timeout_s for timeout_s in timeouts if timeout_s is not None]
    assert inbound_timeout_s(deadline, headers) == min(readable, default=None)
    assert deadline.state.malformed == len(timeouts) - len(readable)


@given(st.lists(st.tuples(NAMES, TEXT), max_size=6))
@example([("connect-timeout-ms", "9999999999")])
def test_any_call_is_bound_by_the_maximum_and_never_gains_time(headers: list[tuple[str, str]]) -> None:
    pipeline = Pipeline("api", Deadline(5.0, 30.0))
    call = Call("the request")
    read_inbound(Guarded(pipeline), call, headers)
    assert 0 <= call.attempt <= 999
    pipeline.begin(call)
    try:
        pipeline.outer.admit(call)
    except DeadlineExceeded:
        assert call.timeout_s is not None
        assert call.timeout_s < 1e-6
        return
    assert call.deadline_us is not None
    left_us = call.deadline_us - call.now_us
    assert left_us == (5_000_000 if call.timeout_s is None else int(min(call.timeout_s, 30.0) * 1_000_000))


@given(st.lists(TEXT, max_size=4))
@example(["007", "-1", "1000", "\u0663"])
def test_the_number_of_the_try_is_the_highest_that_can_be_read(values: list[str]) -> None:
    call = Call("the request")
    read_inbound(Guarded(Pipeline("api")), call, [("x-retry-attempt", value) for value in values])
    assert call.attempt == max((int(value) for value in values if re.fullmatch("[0-9]{1,3}", value)), default=0)


@given(st.integers(-(2**62), 2**62), st.integers(0, 60_000_000))
def test_what_is_passed_on_is_never_more_than_what_is_left(remaining_us: int, reserve_us: int) -> None:
    left_ms = milliseconds_left(remaining_us, reserve_us)
    assert left_ms * 1000 <= remaining_us - reserve_us < (left_ms + 1) * 1000
