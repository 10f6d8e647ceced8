"""Which requests are tried again, and that what is sent again is whole."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from resilience import CircuitBreaker, CircuitOpen, Deadline, Pipeline, Retry
from resilience.testing import ManualClock
from tests.integrations.outgoing.clients import Flavour
from tests.integrations.outgoing.peer import Answer, Peer, breaks_off, closed_port, hangs_up, says, says_nothing

BODY = b"0123456789" * 20_000
UNAVAILABLE = says(503, b"later")


def retrying(clock: ManualClock, **settings: object) -> Pipeline:
    """Three tries with waits of 0.1 and 0.2 s."""
    arguments: dict[str, object] = {"attempts": 3, "jitter": "none", "budget": (100, 0.1), **settings}
    return Pipeline("payments", Retry(clock=clock, name="payments", **arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_idempotent_methods_are_tried_again(flavour: Flavour, peer: Peer, clock: ManualClock, method: str) -> None:
    peer.will(UNAVAILABLE, says(502))
    assert flavour.send(retrying(clock), method, peer.url).status_code == 200
    assert [seen.method for seen in peer.seen] == [method] * 3
    assert clock.slept_s == [0.1, 0.2]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("failure", [UNAVAILABLE, hangs_up], ids=["503", "no answer"])
def test_a_post_without_an_idempotency_key_is_sent_once(
    flavour: Flavour, peer: Peer, clock: ManualClock, method: str, failure: Answer
) -> None:
    peer.will(failure, failure, failure)
    results = flavour.send_all(retrying(clock), method, peer.url, body=b"10 EUR")
    assert results == [503] or issubclass(results[0], flavour.connection_errors)
    assert peer.bodies == [b"10 EUR"]
    assert clock.slept_s == []


@pytest.mark.parametrize("failure", [UNAVAILABLE, hangs_up], ids=["503", "no answer"])
def test_a_post_with_an_idempotency_key_is_tried_again_whole(
    flavour: Flavour, peer: Peer, clock: ManualClock, failure: Answer
) -> None:
    peer.will(failure, failure)
    answered = flavour.send(retrying(clock), "POST", peer.url, body=BODY, headers={"Idempotency-Key": "7"})
    assert answered.status_code == 200
    assert peer.bodies == [BODY, BODY, BODY]
    assert peer.values("idempotency-key") == ["7"] * 3
    assert peer.values("content-length") == [str(len(BODY))] * 3


def test_an_idempotency_key_without_a_value_is_none(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(UNAVAILABLE)
    assert flavour.send(retrying(clock), "POST", peer.url, headers={"Idempotency-Key": ""}).status_code == 503


def test_a_method_is_tried_again_on_request(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(UNAVAILABLE)
    pipeline = retrying(clock, methods=["POST"])
    assert flavour.send(pipeline, "POST", peer.url, body=b"again").status_code == 200
    peer.will(UNAVAILABLE)
    assert flavour.send(pipeline, "GET", peer.url).status_code == 503
    assert peer.bodies == [b"again", b"again", b""]


@pytest.mark.parametrize("failure", [UNAVAILABLE, hangs_up], ids=["503", "no answer"])
def test_a_body_from_a_generator_is_sent_once(flavour: Flavour, peer: Peer, clock: ManualClock, failure: Answer) -> None:
    peer.will(failure, failure, failure)
    results = flavour.send_all(retrying(clock), "PUT", peer.url, body=flavour.generator(b"once ", b"only"))
    assert results == [503] or issubclass(results[0], flavour.connection_errors)
    assert peer.bodies == [b"once only"]


def test_the_last_answer_is_returned_as_it_is(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says(503, b"first"), says(502, b"second"), says(503, b"third", x_shown="yes"))
    answered = flavour.send(retrying(clock), "GET", peer.url)
    assert (answered.status_code, answered.content, answered.headers["x-shown"]) == (503, b"third", "yes")
    assert len(peer.seen) == 3


@pytest.mark.parametrize("status", [204, 404, 409, 500])
def test_other_answers_are_not_tried_again(flavour: Flavour, peer: Peer, clock: ManualClock, status: int) -> None:
    peer.will(says(status))
    assert flavour.send(retrying(clock), "GET", peer.url).status_code == status
    assert len(peer.seen) == 1


def test_the_response_is_of_the_request_that_the_caller_made(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(UNAVAILABLE)
    pipeline = Pipeline("payments", Deadline(5.0, clock=clock), Retry(clock=clock))
    request = flavour.send(pipeline, "GET", peer.url, headers={"x-own": "1"}).request
    assert request.headers["x-own"] == "1"
    assert not {"x-retry-attempt", "x-envoy-expected-rq-timeout-ms"} & {name.lower() for name in request.headers}
    assert peer.values("x-own") == ["1", "1"]


# --- Retry-After --------------------------------------------------------------------------------------------------------------


def test_retry_after_is_obeyed_in_seconds_and_as_a_date(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    date = formatdate(clock.wall_s() + 10, usegmt=True)
    peer.will(says(429, retry_after="3"), says(503, retry_after=date))
    assert flavour.send(retrying(clock), "GET", peer.url).status_code == 200
    assert clock.slept_s == [3.0, 7.0]


def test_advice_beyond_the_deadline_or_the_most_that_is_obeyed_ends_it_now(
    flavour: Flavour, peer: Peer, clock: ManualClock
) -> None:
    peer.will(says(503, b"a while", retry_after="6"), says(503, b"long", retry_after="31"))
    pipeline = Pipeline("payments", Deadline(5.0, clock=clock), Retry(clock=clock))
    assert flavour.send(pipeline, "GET", peer.url).content == b"a while"
    assert flavour.send(retrying(clock), "GET", peer.url).content == b"long"
    assert clock.slept_s == []


# --- errors -------------------------------------------------------------------------------------------------------------------


def test_what_was_not_answered_is_tried_again_and_raised_as_itself(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(hangs_up, hangs_up)
    assert flavour.send(retrying(clock), "GET", peer.url).status_code == 200
    peer.will(hangs_up, hangs_up, hangs_up)
    with pytest.raises(flavour.connection_errors) as caught:
        flavour.send(retrying(clock), "GET", peer.url)
    assert caught.value.__notes__ == ["payments: gave up after 3 attempts in 0.3 s: attempts used up"]
    assert len(peer.seen) == 6


def test_a_connection_that_cannot_be_made_is_tried_again(flavour: Flavour, clock: ManualClock) -> None:
    with closed_port() as url, pytest.raises(flavour.connection_errors):
        flavour.send(retrying(clock), "GET", url)
    assert clock.slept_s == [0.1, 0.2]


def test_a_timeout_of_the_clients_own_is_tried_again(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says_nothing)
    assert flavour.send(retrying(clock, attempts=10), "GET", peer.url, timeout=0.1).status_code == 200


def test_a_body_that_breaks_off_after_the_last_try_is_the_callers(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    """The caller may have used what came of it: nobody but the caller can begin again."""
    peer.will(breaks_off)
    with pytest.raises(flavour.connection_errors):
        flavour.send(retrying(clock), "GET", peer.url)
    assert len(peer.seen) == 1


def test_errors_that_are_named_are_the_only_ones(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(hangs_up, hangs_up)
    with pytest.raises(flavour.connection_errors):
        flavour.send(retrying(clock, on=flavour.timeouts), "GET", peer.url)
    assert len(peer.seen) == 1
    assert flavour.send(retrying(clock, on=flavour.connection_errors), "GET", peer.url).status_code == 200


def test_a_result_can_be_judged(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(says(500), says(404, b"not yet"))
    pipeline = retrying(clock, on_result=lambda response: response.status_code in (404, 500))
    assert flavour.send(pipeline, "GET", peer.url).status_code == 200


def test_an_open_breaker_ends_it(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    breaker = CircuitBreaker(consecutive_failures=2, clock=clock)
    peer.will(*[UNAVAILABLE] * 3)
    with pytest.raises(CircuitOpen):
        flavour.send(Pipeline("payments", Retry(clock=clock), breaker), "GET", peer.url)
    assert len(peer.seen) == 2


# --- the number of the try, and the budget --------------------------------------------------------------------------------------


def test_each_try_says_how_many_were_made_before_it(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(UNAVAILABLE, UNAVAILABLE)
    flavour.send(retrying(clock), "GET", peer.url)
    assert peer.values("x-retry-attempt") == [None, "1", "2"]


def test_a_request_that_says_itself_which_try_it_is_is_not_tried_again(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    """A gateway passes on what it was sent: were it counted anew, each service on the way would try again."""
    peer.will(UNAVAILABLE)
    assert flavour.send(retrying(clock), "GET", peer.url, headers={"X-Retry-Attempt": "2"}).status_code == 503
    assert peer.values("x-retry-attempt") == ["2"]


def test_and_where_it_is_all_the_same_its_number_goes_on(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(UNAVAILABLE)
    flavour.send(retrying(clock, when_nested=True), "GET", peer.url, headers={"X-Retry-Attempt": "2"})
    flavour.send(retrying(clock), "GET", peer.url, headers={"X-Retry-Attempt": "many"})
    assert peer.values("x-retry-attempt") == ["2", "3", "many"]


def test_what_is_retried_further_out_is_not_retried_here(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    outer, inner = retrying(clock), retrying(clock)
    peer.will(*[UNAVAILABLE] * 5)

    def work() -> None:
        if flavour.send(inner, "GET", peer.url).status_code == 503:
            raise OSError

    with pytest.raises(OSError):
        outer.call(work)
    assert peer.values("x-retry-attempt") == [None, "1", "2"]


def test_tries_of_several_layers_add_up_where_that_is_asked_for(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    outer, inner = retrying(clock, attempts=2), retrying(clock, attempts=2, when_nested=True)
    peer.will(*[UNAVAILABLE] * 4)

    def work() -> None:
        flavour.send(inner, "GET", peer.url)
        raise OSError

    with pytest.raises(OSError):
        outer.call(work)
    assert peer.values("x-retry-attempt") == [None, "1", "1", "2"]


def test_a_dry_budget_ends_it(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    peer.will(*[UNAVAILABLE] * 30)
    pipeline = retrying(clock, budget=(10, 0.1))
    assert flavour.send_all(pipeline, "GET", *[peer.url] * 10) == [503] * 10
    assert len(peer.seen) == 13  # each failure costs a token of ten, and the fifth is one too many: three retries


def test_successes_earn_for_the_budget(flavour: Flavour, peer: Peer, clock: ManualClock) -> None:
    pipeline = retrying(clock, budget=(10, 0.5))
    retry = pipeline.retry
    assert retry is not None
    peer.will(UNAVAILABLE, says(200), says(404))
    flavour.send(pipeline, "GET", peer.url)
    assert retry.state.budget.tokens == 9.5
    flavour.send(pipeline, "GET", peer.url)
    assert retry.state.budget.tokens == 9.5
    flavour.send(pipeline, "POST", peer.url)
    assert retry.state.budget.tokens == 10
