"""How every way that a request can end is counted, and that each of them gives its permit back."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from resilience import Pipeline, RateLimiter
from resilience.integrations.wsgi import ResilienceMiddleware
from resilience.testing import ManualClock
from tests.integrations.wsgi.apps import TEXT, Bench, Parts, answering, failing, listing
from tests.integrations.wsgi.conversation import Conversation, left_open


def bench_at_probe() -> Bench:
    """What the next request counts as can be seen."""
    bench = Bench()
    bench.half_open()
    return bench


@pytest.mark.parametrize("make", [answering, listing])
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("200 OK", "ok"),
        ("301 Moved Permanently", "ok"),
        ("404 Not Found", "ok"),
        ("429 Too Many Requests", "ok"),
        ("500 Internal Server Error", "failed"),
        ("503 Service Unavailable", "failed"),
        ("504 Gateway Timeout", "failed"),
    ],
)
def test_a_response_counts_by_its_status(make: Any, status: str, expected: str) -> None:
    bench = bench_at_probe()
    talk = Conversation(bench.guard(make(status))).run()
    assert (talk.status, talk.content) == (int(status[:3]), b"hello")
    assert bench.outcome() == expected


@pytest.mark.parametrize("status", ["", "2", "20", "abc Odd", "\xb2\xb2\xb2 Odd"])
def test_a_status_that_is_none_counts_as_a_failure_if_the_server_takes_it(status: str) -> None:
    bench = bench_at_probe()
    talk = Conversation(bench.guard(answering(status), validated=False), validated=False)
    talk.run()
    assert talk.head == (status, TEXT)
    assert bench.outcome() == "failed"


def test_the_permit_is_held_until_the_body_ends() -> None:
    bench = bench_at_probe()
    body = Parts(b"a", b"b")
    with left_open(Conversation(bench.guard(listing(body=body)))) as talk:
        for part in (b"a", b"b"):
            assert bench.outcome() == "held"
            assert talk.next_part() == part
        assert bench.outcome() == "held"
        assert talk.next_part() is None
        assert bench.outcome() == "ok"
        assert body.closed == 0
    assert body.closed == 1
    assert bench.outcome() == "ok"


def test_a_body_whose_end_the_server_never_asked_for_is_one_of_a_client_that_has_gone() -> None:
    bench = bench_at_probe()
    body = Parts(b"a", b"b")
    with left_open(Conversation(bench.guard(listing(body=body)))) as talk:
        assert talk.next_part() == b"a"
    assert body.closed == 1
    assert bench.outcome() == "ignored"


@pytest.mark.parametrize("parts_taken", [0, 1])
def test_a_body_that_is_dropped_and_never_closed_gives_its_permit_back_with_the_next_request(parts_taken: int) -> None:
    bench = bench_at_probe()
    talk = Conversation(bench.guard(listing(body=Parts(b"a", b"b")), validated=False), validated=False).begin()
    for _ in range(parts_taken):
        talk.next_part()
    assert bench.outcome() == "held"
    talk.body = talk._next = None
    assert bench.outcome() == "held"  # a destructor takes no locks
    assert Conversation(bench.guard(answering())).run().status == 200


def test_a_body_that_was_never_begun_gives_its_permit_back() -> None:
    bench, ran = bench_at_probe(), []

    def app(environ: Any, start_response: Any) -> Any:
        ran.append("begun")
        start_response("200 OK", TEXT)
        yield b"never"

    with left_open(Conversation(bench.guard(app))):
        assert bench.outcome() == "held"
    assert ran == []
    assert bench.outcome() == "ignored"


@pytest.mark.parametrize("twice", ["end and close", "close and close", "read on"])
def test_it_settles_once(twice: str) -> None:
    bench = bench_at_probe()
    body = Parts(b"a")
    middleware = bench.guard(listing(body=body), validated=False)
    talk = Conversation(middleware, validated=False).begin()
    assert talk.next_part() == b"a"
    if twice != "close and close":
        assert talk.next_part() is None
    if twice == "read on":
        assert talk.next_part() is None
    before = bench.outcome()
    assert before == ("held" if twice == "close and close" else "ok")
    talk.close()
    talk.close()
    assert bench.outcome() == ("ignored" if twice == "close and close" else "ok")
    settled = bench.breaker.pool.single.admitted
    talk.close()
    assert bench.breaker.pool.single.admitted == settled


def test_an_exception_is_a_failure_and_reaches_the_server_as_itself() -> None:
    bench = bench_at_probe()
    error = ValueError("a bug")
    talk = Conversation(bench.guard(failing(error)))
    with pytest.raises(ValueError, match="a bug") as caught:
        talk.begin()
    assert caught.value is error
    assert talk.starts == 0
    assert bench.outcome() == "failed"


def _raises_in_start_response(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", 7)
    return []


def _raises_after_start_response(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    raise ValueError("a bug")


@pytest.mark.parametrize(("app", "error"), [(_raises_in_start_response, TypeError), (_raises_after_start_response, ValueError)])
def test_an_exception_around_start_response_is_a_failure(app: Any, error: type[Exception]) -> None:
    bench = bench_at_probe()
    with pytest.raises(error):
        Conversation(bench.guard(app, validated=False)).begin()
    assert bench.outcome() == "failed"


@pytest.mark.parametrize("body", [Parts(ValueError("a bug")), Parts(b"", ValueError("a bug")), Parts(b"half", ValueError("a bug"))])
def test_an_exception_in_the_body_is_a_failure_and_the_body_is_closed(body: Parts) -> None:
    bench = bench_at_probe()
    talk = Conversation(bench.guard(listing(body=body)))
    with pytest.raises(ValueError, match="a bug"):
        talk.run()
    assert body.closed == 1
    assert bench.outcome() == "failed"


@pytest.mark.parametrize("body", [None, 7])
def test_a_body_that_cannot_be_iterated_over_is_a_failure(body: Any) -> None:
    bench = bench_at_probe()
    with pytest.raises(TypeError):
        Conversation(bench.guard(listing(body=body), validated=False)).run()
    assert bench.outcome() == "failed"


def test_a_body_whose_iteration_cannot_begin_is_a_failure_and_is_closed() -> None:
    class Broken(Parts):
        def __iter__(self) -> Any:
            raise ValueError("a bug")

    bench, body = bench_at_probe(), Broken()
    with pytest.raises(ValueError, match="a bug"):
        Conversation(bench.guard(listing(body=body), validated=False)).run()
    assert body.closed == 1
    assert bench.outcome() == "failed"


@pytest.mark.parametrize("parts_taken", [0, 1, 2])
def test_an_exception_in_close_leaves_no_permit_behind(parts_taken: int) -> None:
    bench = bench_at_probe()
    body = Parts(b"a", on_close=ValueError("while tidying up"))
    talk = Conversation(bench.guard(listing(body=body))).begin()
    for _ in range(parts_taken):
        talk.next_part()
    with pytest.raises(ValueError, match="while tidying up"):
        talk.close()
    assert body.closed == 1
    assert bench.outcome() == ("ok" if parts_taken == 2 else "ignored")  # it was whole before, or nobody waits for the rest


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), gevent.GreenletExit()])
@pytest.mark.parametrize("begun", [False, True])
def test_a_worker_that_is_told_to_end_leaves_no_permit_and_no_vote(error: BaseException, begun: bool) -> None:
    bench = bench_at_probe()
    app = listing(body=Parts(b"half", error)) if begun else failing(error)
    with pytest.raises(type(error)):
        Conversation(bench.guard(app)).run()
    assert bench.outcome() == "ignored"


def test_a_greenlet_that_is_killed_gives_its_permit_back() -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        gevent.sleep(3600)
        return answering()(environ, start_response)

    greenlet = gevent.spawn(Conversation(bench.guard(app)).run)
    gevent.sleep(0)
    assert bench.outcome() == "held"
    greenlet.kill()
    assert bench.outcome() == "ignored"


def test_a_gevent_timeout_is_a_failure() -> None:
    bench = bench_at_probe()

    def app(environ: Any, start_response: Any) -> Any:
        with gevent.Timeout(0.001):
            gevent.sleep(3600)
        return answering()(environ, start_response)

    with pytest.raises(gevent.Timeout):
        gevent.spawn(Conversation(bench.guard(app)).run).get()
    assert bench.outcome() == "failed"


def test_an_application_that_never_calls_start_response_is_a_failure() -> None:
    for body, reads in (([], 0), ([b"lost"], 0), (iter([]), 1), (iter([b"lost"]), 1)):
        bench = bench_at_probe()

        def app(environ: Any, start_response: Any, body: Any = body) -> Any:
            return body

        talk = Conversation(bench.guard(app, validated=False), validated=False).begin()
        for _ in range(reads):
            with pytest.raises(AssertionError, match="a body without a head"):
                talk.next_part()
        talk.close()
        assert (talk.starts, bench.outcome()) == (0, "failed")


def test_slow_is_the_time_to_the_start_of_the_response() -> None:
    for wait_s, first_s, rest_s, expected in ((0.0, 0.0, 20.0, "ok"), (1.5, 0.0, 0.0, "failed"), (0.0, 1.5, 0.0, "failed")):
        bench = Bench(default_s=None, slow_call_s=1.0)
        bench.half_open()

        def app(environ: Any, start_response: Any, bench: Bench = bench, times_s: Any = (wait_s, first_s, rest_s)) -> Any:
            bench.clock.advance(times_s[0])
            start_response("200 OK", TEXT)
            bench.clock.advance(times_s[1])
            yield b"first"
            bench.clock.advance(times_s[2])
            yield b"rest"

        assert Conversation(bench.guard(app)).run().content == b"firstrest"
        assert bench.outcome() == expected, (wait_s, first_s, rest_s)


def test_a_slow_list_is_slow() -> None:
    bench = Bench(default_s=None, slow_call_s=1.0)
    bench.half_open()

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", TEXT)
        bench.clock.advance(1.5)
        return [b"hello"]

    Conversation(bench.guard(app, validated=False)).run()
    assert bench.outcome() == "failed"


def test_a_path_that_is_not_guarded_is_the_application_s_own(tmp_path: Any) -> None:
    path = tmp_path / "resilience.yaml"
    path.write_text("version: 1\nroutes: [{match: {path: /**}, pipeline: none}]\n", encoding="utf-8")
    body = [b"hello"]
    middleware = ResilienceMiddleware(listing(body=body), config=path)
    try:
        talk = Conversation(middleware, validated=False).begin()
        assert talk.body is body
    finally:
        middleware.close()
        middleware.close()


def test_the_limiter_lets_a_request_wait_in_its_thread() -> None:
    clock = ManualClock()
    limiter = RateLimiter(2.0, 1, max_wait_s=5.0, clock=clock)
    app = ResilienceMiddleware(answering(), pipeline=Pipeline("api", limiter))
    assert [Conversation(app).run().status for _ in range(3)] == [200, 200, 200]
    assert clock.slept_s == [0.5, 0.5]


def test_the_middleware_needs_one_source() -> None:
    for arguments in ({}, {"config": "resilience.yaml", "pipeline": Pipeline("api")}):
        with pytest.raises(TypeError, match="either config="):
            ResilienceMiddleware(answering(), **arguments)  # type: ignore[arg-type]  # that is what is tested


def test_a_layer_that_breaks_leaves_no_permit_behind() -> None:
    class Broken:
        kind, name, has_effects, votes_at_start = "broken", "broken", False, False

        def admit(self, call: Any) -> None:
            raise LookupError("no key today")

        def settle(self, token: Any, outcome: Any, call: Any, now_us: int) -> None:
            """It never gave one."""

    bench = bench_at_probe()
    talk = Conversation(ResilienceMiddleware(answering(), pipeline=Pipeline("api", bench.breaker, Broken())))
    with pytest.raises(LookupError):
        talk.begin()
    assert talk.starts == 0
    assert bench.outcome() == "ignored"
