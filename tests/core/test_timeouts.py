"""Timeouts as they travel in headers."""

from __future__ import annotations

import math

import pytest

from resilience.layers.timeouts import PARSERS, grpc_timeout_ns, grpc_timeout_s, milliseconds_left, timeout_text
from tests.core.helpers import vectors

GO_CLAMPS_AT_NS = 9_223_372_036_854_775_807


@pytest.mark.parametrize(("text", "timeout_ns"), vectors("grpc_timeout")["ok"].items())
def test_grpc_timeouts(text: str, timeout_ns: int) -> None:
    got_ns = grpc_timeout_ns(text)
    assert got_ns is not None
    assert min(got_ns, GO_CLAMPS_AT_NS) == timeout_ns
    assert PARSERS["grpc-timeout"](text) == pytest.approx(got_ns / 1e9)


@pytest.mark.parametrize("text", [*vectors("grpc_timeout")["error"], "1S\n", " 1S", "١S", "1.5S", "+1S"])
def test_malformed_grpc_timeouts(text: str) -> None:
    assert grpc_timeout_ns(text) is None
    assert PARSERS["grpc-timeout"](text) is None


@pytest.mark.parametrize("header", ["x-envoy-expected-rq-timeout-ms", "connect-timeout-ms"])
@pytest.mark.parametrize(
    ("text", "timeout_s"),
    [
        ("0", 0.0), ("1", 0.001), ("1500", 1.5), ("9999999999", 9_999_999.999),
        *((text, None) for text in ("10000000000", "", "-1", "+1", "1.5", "1e3", "١", "5\n", " 5")),
    ],
)  # fmt: skip
def test_milliseconds(header: str, text: str, timeout_s: float | None) -> None:
    assert PARSERS[header](text) == timeout_s


@pytest.mark.parametrize(
    ("remaining_us", "reserve_us", "left_ms"),
    [
        (1_000_000, 0, 1_000), (1_000_999, 0, 1_000), (1_000_000, 20_000, 980),
        (999, 0, 0), (20_000, 20_000, 0), (19_999, 20_000, -1), (-5, 0, -1),
    ],
)  # fmt: skip
def test_what_is_passed_on_is_rounded_down(remaining_us: int, reserve_us: int, left_ms: int) -> None:
    assert milliseconds_left(remaining_us, reserve_us) == left_ms


@pytest.mark.parametrize(
    ("header", "timeout_ms", "text"),
    [
        ("grpc-timeout", 1, "1m"),
        ("grpc-timeout", 99_999_999, "99999999m"),
        ("grpc-timeout", 100_000_000, "99999999m"),
        ("x-envoy-expected-rq-timeout-ms", 100_000_000, "100000000"),
        ("connect-timeout-ms", 20, "20"),
    ],
)
def test_what_is_written(header: str, timeout_ms: int, text: str) -> None:
    assert timeout_text(header, timeout_ms) == text


@pytest.mark.parametrize(
    ("timeout_ms", "timeout_s"),
    [
        (1, 0.0005), (2, 0.0005), (3, 0.001), (4, 0.002), (100, 0.096),
        (1_030, 0.998), (1_031, 0.999),  # 999 ms are told to the millisecond, 1,000 ms and more to three digits
        (12_345, 11.899), (10_309, 9.989), (10_310, 9.999), (1_000_000, 969.999), (10_000_000, 9_699.999),
    ],
)  # fmt: skip
def test_what_is_handed_to_grpc_arrives_as_no_more_however_it_is_rounded(timeout_ms: int, timeout_s: float) -> None:
    assert grpc_timeout_s(timeout_ms) == timeout_s
    handed_ms = math.floor(timeout_s * 1000) + 1  # to whole milliseconds, up
    digit_ms = 10 ** max(0, len(str(handed_ms)) - 3)
    encoded_ms = -(-handed_ms // digit_ms) * digit_ms
    assert encoded_ms / 0.97 <= timeout_ms or timeout_ms == 1, "and then to that of an earlier call, less than 3 % longer"
