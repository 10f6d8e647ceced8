"""What servers say of another try: read from headers and metadata, and obeyed within the caps."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import Call, Deadline, Pipeline, Retry
from resilience.drivers import adrive
from resilience.drivers import drive as run_plan
from resilience.layers.retry import Judge, RetryOn, Verdict, grpc_verdict, http_verdict
from resilience.layers.retry.advice import FORBIDDEN, UNSAID, Pushback, http_date, read_pushback, retry_after_s
from resilience.layers.statuses import GRPC_CODES
from resilience.testing import ManualClock
from tests.core.helpers import Drive, vectors, via_sync

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
NOW_S = NOW.timestamp()


# --- Retry-After ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 120\t", 120.0),
        ("007", 7.0),
        ("9" * 30, 1e30),
        ("9" * 10_000, float("inf")),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 30.0),
        ("Friday, 20-Nov-26 12:01:00 GMT", 60.0),
        ("Fri Nov 20 12:02:00 2026", 120.0),
        ("Sun Dec  6 12:00:00 2026", 16 * 86_400.0),
        ("Fri, 4 Dec 2026 12:00:00 GMT", 14 * 86_400.0),
        ("Fri, 20 Nov 2026 12:00:60 GMT", 59.0),  # a leap second
        ("Fri, 20 Nov 2026 12:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 11:59:59 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
    ],
)
def test_seconds_and_dates_are_waits(value: str, wait_s: float) -> None:
    assert retry_after_s([value], NOW_S) == wait_s


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "-1",
        "+5",
        "1.5",
        "1e3",
        "0x10",
        "5s",
        "5 minutes",
        "٣",
        "soon",
        "120, 60",
        "Fri, 20 Nov 2026 12:00:30",
        "Fri, 20 Nov 2026 12:00:30 EST",
        "Fri, 20 Nov 2026 12:00:30 +0000",
        "Fri, 20 Nov 2026 12:00 GMT",
        "Fri, 20 Nov 26 12:00:30 GMT",
        "Fri, 20-Nov-2026 12:00:30 GMT",
        "Fri, 20 Nov 2026 25:00:30 GMT",
        "Fri, 31 Feb 2026 12:00:30 GMT",
        "Fri, 20 Foo 2026 12:00:30 GMT",
        "Foo Bar 20 12:00:30 2026",
        "2026-11-20T12:00:30Z",
        "Fri, 20 Nov 2026 12:00:30 GMT, 5",
        "Fri, 20 Nov 0026 12:00:30 GMT",
        "Fri, 20 Nov 2026 12:00:30 GMT" * 500,
    ],
)
def test_what_cannot_be_read_is_no_advice(value: str) -> None:
    assert retry_after_s([value], NOW_S) is None


def test_dates_are_counted_to_the_fraction_of_a_second() -> None:
    assert retry_after_s(["Fri, 20 Nov 2026 12:00:01 GMT"], NOW_S + 0.25) == 0.75


@pytest.mark.parametrize(
    ("values", "wait_s"),
    [([], None), (["x"], None), (["5", "9", "7"], 9.0), (["x", "5"], 5.0), (["5", "Fri, 20 Nov 2026 12:00:06 GMT"], 6.0)],
)
def test_of_several_the_longest_is_obeyed(values: list[str], wait_s: float | None) -> None:
    assert retry_after_s(values, NOW_S) == wait_s


@pytest.mark.parametrize(
    ("now_year", "digits", "year"),
    [
        (2026, "26", 2026),
        (2026, "27", 2027),
        (2026, "70", 2070),
        (2026, "76", 2076),
        (2026, "77", 1977),
        (2026, "94", 1994),
        (2026, "00", 2000),
        (2099, "01", 2101),
        (2050, "00", 2100),
        (2049, "00", 2000),
    ],
)
def test_a_year_of_two_digits_is_at_most_fifty_years_ahead(now_year: int, digits: str, year: int) -> None:
    wall_s = datetime(now_year, 1, 1, tzinfo=UTC).timestamp()
    assert http_date(f"Monday, 05-Jan-{digits} 00:00:00 GMT", wall_s) == datetime(year, 1, 5, tzinfo=UTC)


@given(st.integers(0, 253_402_300_799))
def test_every_date_is_read_in_every_form(seconds: int) -> None:
    """The weekday and month names are written by other hands than those that read them."""
    when = datetime.fromtimestamp(seconds, UTC)
    imf = format_datetime(when, usegmt=True)
    weekday, _, rest = imf.partition(", ")
    day, month, year, clock, _ = rest.split()
    assert http_date(imf, NOW_S) == when
    assert http_date(f"{weekday} {month} {int(day):2} {clock} {year}", NOW_S) == when
    long_weekday = {"Tue": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Sat": "Saturday"}.get(weekday, f"{weekday}day")
    if 1977 <= when.year <= 2076:
        assert http_date(f"{long_weekday}, {day}-{month}-{year[2:]} {clock} GMT", NOW_S) == when


PIECES = st.sampled_from(
    [
        *"0123456789 -+:,.\t\x00é٣",
        "Fri",
        "Friday",
        "Fri, ",
        "20",
        " Nov ",
        "-Nov-",
        "2026",
        "26 ",
        "12:00:30",
        " GMT",
        "99",
        "+0530",
    ]
)


@given(st.text() | st.lists(PIECES, max_size=12).map("".join), st.floats(0, 4e9))
def test_any_text_is_a_wait_or_nothing(text: str, wall_s: float) -> None:
    wait_s = retry_after_s([text], wall_s)
    assert wait_s is None or wait_s >= 0.0
    pushback = read_pushback([text])
    assert pushback == FORBIDDEN or (pushback.wait_s is not None and pushback.wait_s >= 0.0)


# --- grpc-retry-pushback-ms -------------------------------------------------------------------------------------------


def test_grpc_vectors() -> None:
    wanted = {"no retry": FORBIDDEN, "retry after >=1000 ms": Pushback(wait_s=1.0)}
    for text, meaning in vectors("grpc_pushback")["rows"]:
        values = text.removeprefix("two values ").split(",")
        assert len(values) == (2 if text.startswith("two values") else 1)
        assert read_pushback(values) == wanted[meaning], text


@pytest.mark.parametrize(
    ("values", "pushback"),
    [
        ([], UNSAID),
        (["0"], Pushback(wait_s=0.0)),
        (["1"], Pushback(wait_s=0.001)),
        (["0100"], Pushback(wait_s=0.1)),
        (["2147483647"], Pushback(wait_s=2_147_483.647)),
        (["2147483648"], FORBIDDEN),
        (["9" * 10_000], FORBIDDEN),
        (["-0"], FORBIDDEN),
        (["+5"], FORBIDDEN),
        (["5.0"], FORBIDDEN),
        ([" 5"], FORBIDDEN),
        (["٣"], FORBIDDEN),
        (["5\n"], FORBIDDEN),
        ([""], FORBIDDEN),
        (["5", "5"], FORBIDDEN),
    ],
)
def test_pushback(values: list[str], pushback: Pushback) -> None:
    assert read_pushback(values) == pushback


# --- verdicts ---------------------------------------------------------------------------------------------------------

BACKOFF, SUCCESS, FAILURE = Verdict(True), Verdict(False), Verdict(False, failed=True)
NO_RETRY = Verdict(False, forbidden=True, failed=True)


@pytest.mark.parametrize(
    ("on", "status", "retry_after", "verdict"),
    [
        ((), 101, [], SUCCESS),
        ((), 200, [], SUCCESS),
        ((), 304, ["5"], SUCCESS),
        ((), 399, [], SUCCESS),
        ((), 400, [], FAILURE),
        ((), 404, ["5"], FAILURE),
        ((), 413, ["5"], FAILURE),
        ((), 500, [], FAILURE),
        ((), 429, [], BACKOFF),
        ((), 502, [], BACKOFF),
        ((), 503, [], BACKOFF),
        ((), 504, [], BACKOFF),
        ((), 429, ["5"], Verdict(True, advice_s=5.0)),
        ((), 503, ["5"], Verdict(True, advice_s=5.0)),
        ((), 503, ["Fri, 20 Nov 2026 12:00:30 GMT"], Verdict(True, advice_s=30.0)),
        ((), 503, ["Fri, 20 Nov 2020 12:00:30 GMT"], Verdict(True, advice_s=0.0)),
        ((), 503, ["soon"], BACKOFF),
        ((), 502, ["5"], BACKOFF),
        ((), 504, ["5"], BACKOFF),
        (("413",), 413, ["5"], Verdict(True, advice_s=5.0)),
        (("413",), 413, [], BACKOFF),
        (("413",), 503, ["5"], FAILURE),
        (("500..599",), 500, ["5"], BACKOFF),
        (("500..599",), 599, [], BACKOFF),
        (("500..599",), 429, ["5"], FAILURE),
        (("UNAVAILABLE", "circuit_open"), 429, [], BACKOFF),
    ],
)
def test_http_verdicts(on: tuple[str, ...], status: int, retry_after: list[str], verdict: Verdict) -> None:
    assert http_verdict(RetryOn.of(on), status, retry_after, NOW_S) == verdict


@pytest.mark.parametrize(
    ("on", "code", "pushback", "verdict"),
    [
        ((), "OK", [], SUCCESS),
        ((), "OK", ["-1"], SUCCESS),
        ((), "UNAVAILABLE", [], BACKOFF),
        ((), "UNAVAILABLE", ["40"], Verdict(True, advice_s=0.04)),
        ((), "UNAVAILABLE", ["-1"], NO_RETRY),
        ((), "UNAVAILABLE", ["1", "1"], NO_RETRY),
        ((), "RESOURCE_EXHAUSTED", [], FAILURE),
        ((), "RESOURCE_EXHAUSTED", ["0"], Verdict(True, advice_s=0.0)),
        ((), "RESOURCE_EXHAUSTED", ["40"], Verdict(True, advice_s=0.04)),
        ((), "RESOURCE_EXHAUSTED", ["x"], NO_RETRY),
        ((), "INTERNAL", [], FAILURE),
        ((), "INTERNAL", ["40"], FAILURE),
        ((), "INTERNAL", ["-1"], NO_RETRY),
        (("INTERNAL",), "INTERNAL", [], BACKOFF),
        (("INTERNAL",), "UNAVAILABLE", [], FAILURE),
        (("INTERNAL",), "RESOURCE_EXHAUSTED", ["40"], FAILURE),
        (("RESOURCE_EXHAUSTED",), "RESOURCE_EXHAUSTED", [], BACKOFF),
        (("RESOURCE_EXHAUSTED",), "RESOURCE_EXHAUSTED", ["40"], Verdict(True, advice_s=0.04)),
        (("503", "rate_limited"), "UNAVAILABLE", [], BACKOFF),
        (("503", "rate_limited"), "RESOURCE_EXHAUSTED", ["40"], Verdict(True, advice_s=0.04)),
    ],
)
def test_grpc_verdicts(on: tuple[str, ...], code: str, pushback: list[str], verdict: Verdict) -> None:
    assert grpc_verdict(RetryOn.of(on), {"OK": 0, **GRPC_CODES}[code], pushback) == verdict


# --- obeyed by a policy -----------------------------------------------------------------------------------------------


@dataclass
class Response:
    """What a peer answered: an HTTP status, and its `Retry-After`."""

    status: int
    retry_after: str = ""


def ask(drive: Drive, pipeline: Pipeline, *answers: Response) -> tuple[Response, int]:
    """Call a peer that gives `answers` in turn, as an HTTP client's edge does. Returns the last answer, and how many there were."""
    retry, clock = pipeline.retry, pipeline.clock
    assert retry is not None
    call = Call("test")
    pipeline.begin(call)
    left = list(answers)

    def judge(error: BaseException | None, result: Any) -> Verdict:
        return http_verdict(retry.on, result.status, [result.retry_after] if result.retry_after else [], clock.wall_s())

    def work() -> Response:
        return left.pop(0)

    async def awork() -> Response:
        return work()

    checked: Judge = judge
    if drive is via_sync:
        answer = run_plan(pipeline.plan(call, checked), clock, work)
    else:
        answer = asyncio.run(adrive(pipeline.plan(call, checked), clock, awork))
    return answer, len(answers) - len(left)


def retrying(clock: ManualClock, *before: Any, **settings: Any) -> Pipeline:
    return Pipeline("p", *before, Retry(**{"clock": clock, "jitter": "none", "attempts": 4, "budget": (100, 1.0), **settings}))


OK, BUSY = Response(200), Response(503)


def http_date_in(clock: ManualClock, seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(clock.wall_s() + seconds, UTC), usegmt=True)


def test_a_server_is_waited_for(clock: ManualClock, drive: Drive) -> None:
    dated = Response(429, http_date_in(clock, 7 + 12))
    assert ask(drive, retrying(clock), Response(503, "7"), dated, OK) == (OK, 3)
    assert clock.slept_s == [7.0, 12.0]


def test_backoff_begins_anew_after_advice(clock: ManualClock, drive: Drive) -> None:
    """gRFC A6, "Summary of Retry and Hedging Logic": the delay after a pushback is reset to the initial backoff."""
    answers = [BUSY, BUSY, Response(503, "7"), BUSY, BUSY, OK]
    assert ask(drive, retrying(clock, attempts=6), *answers) == (OK, 6)
    assert clock.slept_s == [0.1, 0.2, 7.0, 0.1, 0.2]


def test_decorrelated_backoff_begins_anew_after_advice(clock: ManualClock, drive: Drive) -> None:
    pipeline = retrying(clock, attempts=6, jitter="decorrelated", uniform=lambda: 0.5)
    ask(drive, pipeline, BUSY, BUSY, Response(503, "7"), BUSY, BUSY, OK)
    assert clock.slept_s == [0.2, 0.35, 7.0, 0.2, 0.35]


@pytest.mark.parametrize("long", ["31", "9" * 400, "Fri, 20 Nov 2099 12:00:00 GMT"])
def test_advice_above_the_cap_ends_it_at_once(clock: ManualClock, drive: Drive, long: str) -> None:
    pipeline, start_us = retrying(clock), clock.now_us()
    answer, asked = ask(drive, pipeline, Response(503, long), OK)
    assert (answer.status, asked, clock.now_us()) == (503, 1, start_us)
    assert pipeline.retry is not None
    assert pipeline.retry.decisions() == {"admitted": 1, "retried": 0, "rejected": 1}


def test_advice_as_long_as_the_cap_is_obeyed(clock: ManualClock, drive: Drive) -> None:
    assert ask(drive, retrying(clock, max_advice_s=5.0), Response(503, "5"), OK) == (OK, 2)


@pytest.mark.parametrize(("advice", "asked"), [("9", 2), ("10", 1), ("11", 1)])
def test_advice_beyond_the_deadline_ends_it_at_once(clock: ManualClock, drive: Drive, advice: str, asked: int) -> None:
    start_us = clock.now_us()
    _, made = ask(drive, retrying(clock, Deadline(10.0, clock=clock)), Response(503, advice), OK)
    assert made == asked
    assert clock.now_us() - start_us == (9_000_000 if asked == 2 else 0)


def test_only_successes_earn(clock: ManualClock, drive: Drive) -> None:
    pipeline = retrying(clock, attempts=1, budget=(10, 1.0))

    def tokens_after(status: int) -> object:
        ask(drive, pipeline, Response(status))
        assert pipeline.retry is not None
        return pipeline.retry.status()["budget_tokens"]

    assert [tokens_after(status) for status in (503, 503, 404, 500, 200)] == [9, 8, 8, 8, 9]


def test_no_retry_costs_a_token_whatever_the_code(clock: ManualClock) -> None:
    retry = Retry(clock=clock)
    for code, tokens in (("INTERNAL", 9), ("UNAVAILABLE", 8), ("RESOURCE_EXHAUSTED", 7)):
        verdict = grpc_verdict(retry.on, GRPC_CODES[code], ["-1"])
        tries = retry.begin(Call(now_us=clock.now_us()), lambda error, result, verdict=verdict: verdict)  # type: ignore[misc]
        assert not tries.again(OSError(), None, clock.now_us())
        assert tries.stopped == "the server asks not to retry"
        assert retry.status()["budget_tokens"] == tokens
