"""How a service further in failed: read off an HTTP response, taken as a refusal, and counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resilience import Call, CircuitOpen, DeadlineExceeded, Outcome, RateLimited, Rejected
from resilience.edges import (
    Fault,
    answer_in_handler,
    fault_of,
    judge_relayed,
    refusal_answer,
    register_translator,
    relayed_answer,
    relayed_in,
)
from resilience.edges import faults as module
from resilience.edges.codes import code_of_status, name_of_code, status_of_code
from resilience.layers.statuses import GRPC_CODES

TYPES = "https://iana.org/assignments/http-problem-types#"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
OTHER_TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PROBLEM = ("Content-Type", "application/problem+json")
WALL_S = 1_700_000_000.0


class PeerError(Exception):
    """An error of a client library that this test has made up. It carries what its translator finds."""

    def __init__(self, fault: Fault | None) -> None:
        super().__init__("http://inner.example:8443 said: policy inner-secret")
        self.fault = fault


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A client library whose errors are known here."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "_translators", [])
        register_translator(lambda error: error.fault if isinstance(error, PeerError) else None)
        yield


def problem(status: int, document: Any, *more: tuple[str, str]) -> Fault | None:
    """What is read off a response with a problem document."""
    return Fault.of_problem(status, [PROBLEM, *more], json.dumps(document).encode(), wall_s=WALL_S)


# --- the table between the two languages ----------------------------------------------------------------------------------------


CANONICAL = {  # google/rpc/code.proto
    "CANCELLED": 499, "UNKNOWN": 500, "INVALID_ARGUMENT": 400, "DEADLINE_EXCEEDED": 504, "NOT_FOUND": 404, "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403, "UNAUTHENTICATED": 401, "RESOURCE_EXHAUSTED": 429, "FAILED_PRECONDITION": 400, "ABORTED": 409,
    "OUT_OF_RANGE": 400, "UNIMPLEMENTED": 501, "INTERNAL": 500, "UNAVAILABLE": 503, "DATA_LOSS": 500,
}  # fmt: skip


def test_every_code_has_its_canonical_status() -> None:
    assert {name: status_of_code(number) for name, number in GRPC_CODES.items()} == CANONICAL


@pytest.mark.parametrize("status", sorted(set(CANONICAL.values())))
def test_a_status_of_the_table_goes_to_one_of_its_codes_and_back(status: int) -> None:
    assert CANONICAL[name_of_code(code_of_status(status))] == status


@pytest.mark.parametrize(
    ("status", "name"),
    [(418, "FAILED_PRECONDITION"), (413, "FAILED_PRECONDITION"), (507, "INTERNAL"), (599, "INTERNAL"), (502, "UNAVAILABLE"),
     (408, "DEADLINE_EXCEEDED"), (410, "NOT_FOUND"), (412, "FAILED_PRECONDITION"), (422, "INVALID_ARGUMENT"), (409, "ABORTED")],
)  # fmt: skip
def test_other_statuses_go_to_the_nearest_code(status: int, name: str) -> None:
    assert name_of_code(code_of_status(status)) == name


# --- reading ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "document", "code", "reason"),
    [
        (429, {"reason": "quota", "type": f"{TYPES}quota-exceeded"}, "RESOURCE_EXHAUSTED", "quota"),
        (429, {"reason": "cut", "type": f"{TYPES}temporary-reduced-capacity"}, "RESOURCE_EXHAUSTED", "cut"),
        (429, {}, "RESOURCE_EXHAUSTED", "cut"),
        (503, {"reason": "cut", "type": f"{TYPES}temporary-reduced-capacity"}, "RESOURCE_EXHAUSTED", "cut"),
        (503, {"type": f"{TYPES}temporary-reduced-capacity"}, "RESOURCE_EXHAUSTED", "cut"),
        (503, {"type": f"{TYPES}temporary-reduced-capacity", "reason": "open"}, "RESOURCE_EXHAUSTED", "cut"),
        (503, {"type": f"{TYPES}temporary-reduced-capacity-of-mine"}, "UNAVAILABLE", ""),
        (503, {"reason": "open"}, "UNAVAILABLE", "open"),
        (503, {"reason": "half_open"}, "UNAVAILABLE", "half_open"),
        (503, {"reason": "forced"}, "UNAVAILABLE", "forced"),
        (503, {"reason": "refused"}, "UNAVAILABLE", "refused"),
        (503, {"reason": "unavailable"}, "UNAVAILABLE", ""),
        (503, {"reason": "customer-4711"}, "UNAVAILABLE", ""),
        (503, {"reason": "expired"}, "DEADLINE_EXCEEDED", "expired"),
        (503, {"reason": "expired", "code": "UNAVAILABLE"}, "DEADLINE_EXCEEDED", "expired"),
        (503, {}, "UNAVAILABLE", ""),
        (504, {"reason": "expired"}, "DEADLINE_EXCEEDED", "expired"),
        (504, {"reason": "expired_on_arrival"}, "DEADLINE_EXCEEDED", "expired_on_arrival"),
        (504, {"reason": "cut"}, "DEADLINE_EXCEEDED", ""),
        (404, {"reason": "cut", "type": f"{TYPES}quota-exceeded"}, "NOT_FOUND", ""),
        (409, {"code": "ALREADY_EXISTS"}, "ALREADY_EXISTS", ""),
        (409, {"code": "NOT_FOUND"}, "ABORTED", ""),
        (409, {"code": "OK"}, "ABORTED", ""),
        (500, {"code": "DATA_LOSS"}, "DATA_LOSS", ""),
    ],
)
def test_what_a_problem_document_says_is_believed_where_it_fits_the_status(
    status: int, document: dict[str, Any], code: str, reason: str
) -> None:
    assert problem(status, document) == Fault(status, GRPC_CODES[code], reason)


@pytest.mark.parametrize("status", [200, 204, 302, 399])
def test_what_is_no_error_is_no_fault(status: int) -> None:
    assert problem(status, {"reason": "open"}) is None


@pytest.mark.parametrize(
    ("values", "hint_s"),
    [
        ([], None),
        (["7"], 7.0),
        (["0"], 0.0),
        (["7", "9"], 9.0),
        (["-7"], None),
        (["soon"], None),
        (["9" * 400], 86_400.0),
        (["Tue, 14 Nov 2023 22:13:50 GMT"], 30.0),
        (["Tue, 14 Nov 2023 22:13:10 GMT"], 0.0),
    ],
)
def test_the_hint_is_read_off_retry_after_and_bounded(values: list[str], hint_s: float | None) -> None:
    fault = problem(503, {}, *(("Retry-After", value) for value in values))
    assert fault is not None
    assert fault.retry_after_s == hint_s


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        (TRACE_ID, TRACE_ID), (TRACE_ID.upper(), ""), ("0" * 32, ""), (TRACE_ID + "\n", ""), (TRACE_ID[1:], ""),
        (f" {TRACE_ID}", ""), (4711, ""), (None, ""), ([TRACE_ID], ""), ("٠" * 32, ""),
    ],
)  # fmt: skip
def test_only_a_trace_id_is_taken_for_one(told: object, kept: str) -> None:
    fault = problem(503, {"trace_id": told})
    assert fault is not None
    assert fault.trace_id == kept


@pytest.mark.parametrize(
    "body",
    [
        b"", b"down", b"[]", b"null", b'"open"', b"\xff\xfe\x00", b"{", b"[" * 60_000, b'{"a":' * 12_000, b"9" * 60_000,
        b'{"reason": ["open"], "trace_id": {}, "type": 7, "code": 3.5}',
        json.dumps({"reason": "open", "padding": "x" * 65_536}).encode(),
    ],
)  # fmt: skip
def test_a_garbage_document_says_nothing(body: bytes) -> None:
    assert Fault.of_problem(503, [PROBLEM], body) == Fault(503, 14)


@pytest.mark.parametrize(
    "kinds", [[], ["application/json"], ["text/html"], ["application/problem+json", "text/html"], ["application/problem+jsonx"]]
)
def test_only_a_problem_document_is_read(kinds: list[str]) -> None:
    assert Fault.of_problem(503, [("content-type", kind) for kind in kinds], b'{"reason": "open"}') == Fault(503, 14)


def test_the_content_type_may_have_parameters_and_capitals() -> None:
    headers = [("CONTENT-TYPE", "Application/Problem+JSON; charset=utf-8")]
    assert Fault.of_problem(503, headers, b'{"reason": "open"}') == Fault(503, 14, "open")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
WORDS = st.sampled_from(["quota", "cut", "open", "half_open", "forced", "refused", "expired", "expired_on_arrival", TRACE_ID])
DOCUMENTS = st.dictionaries(
    st.sampled_from(["type", "reason", "trace_id", "code", "status", "detail"]),
    WORDS | st.sampled_from([f"{TYPES}quota-exceeded", f"{TYPES}temporary-reduced-capacity", *GRPC_CODES]) | JSON,
)
BODIES = DOCUMENTS.map(lambda document: json.dumps(document).encode()) | JSON.map(lambda it: json.dumps(it).encode()) | st.binary()
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["content-type", "Content-Type", "retry-after", "Retry-After", "x"]),
        st.sampled_from(["application/problem+json", "3", "-3", "99999999999999999999", "1e9", "nan"]) | st.text(max_size=20),
    ),
    max_size=4,
)
KNOWN = {"", "quota", "cut", "open", "half_open", "forced", "refused", "expired", "expired_on_arrival"}


@given(st.integers(100, 999), HEADERS, BODIES)
@example(503, [PROBLEM], b'{"reason": "open", "trace_id": "' + TRACE_ID.encode() + b'"}')
@example(503, [PROBLEM], b"[" * 65_536)
def test_whatever_a_response_says_only_known_words_and_numbers_are_taken_from_it(
    status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    fault = Fault.of_problem(status, headers, body)
    if status < 400:
        assert fault is None
        return
    assert fault is not None
    assert fault.status == status
    assert 1 <= fault.code <= 16
    assert fault.reason in KNOWN
    assert fault.retry_after_s is None or 0 <= fault.retry_after_s <= 86_400
    assert fault.trace_id == "" or (len(fault.trace_id) == 32 and int(fault.trace_id, 16) > 0)
    if fault.is_temporary:
        refusal = fault.refusal()
        document = json.loads(refusal_answer(refusal, own=False).body)
        assert document["status"] in (429, 503, 504)
        assert document["reason"] in KNOWN - {""} | {"unavailable"}
        again = Fault.of_problem(document["status"], [PROBLEM], json.dumps(document).encode())
        assert again is not None
        assert (again.code, again.is_refusal, again.trace_id) == (
            fault.code,
            fault.is_refusal or fault.code == 4,  # the next one only sees that this one was late
            fault.trace_id,
        )


# --- as a refusal -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "status", "type_", "reason"),
    [
        (Fault(429, 8, "quota"), RateLimited, 429, f"{TYPES}temporary-reduced-capacity", "quota"),
        (Fault(429, 8, "cut"), RateLimited, 429, f"{TYPES}temporary-reduced-capacity", "cut"),
        (Fault(503, 8, "cut"), RateLimited, 503, f"{TYPES}temporary-reduced-capacity", "cut"),
        (Fault(503, 14, "open"), CircuitOpen, 503, "about:blank", "open"),
        (Fault(503, 14, "half_open"), CircuitOpen, 503, "about:blank", "half_open"),
        (Fault(503, 14, "refused"), Rejected, 503, "about:blank", "refused"),
        (Fault(503, 14), Rejected, 503, "about:blank", "unavailable"),
        (Fault(504, 4, "expired"), DeadlineExceeded, 504, "about:blank", "expired"),
        (Fault(504, 4, "expired_on_arrival"), DeadlineExceeded, 504, "about:blank", "expired_on_arrival"),
        (Fault(504, 4), DeadlineExceeded, 504, "about:blank", "expired"),
        (Fault(503, 4, "expired"), DeadlineExceeded, 504, "about:blank", "expired"),
    ],
)
def test_a_temporary_fault_is_answered_by_the_table(
    fault: Fault, kind: type[Rejected], status: int, type_: str, reason: str
) -> None:
    told = Fault(fault.status, fault.code, fault.reason, 7.2, TRACE_ID)
    refusal = relayed_in(PeerError(told))
    assert type(refusal) is kind
    answer = refusal_answer(refusal, own=False, uniform=lambda: 0.0)
    document = json.loads(answer.body)
    assert (answer.status, document["type"], document["reason"], document["trace_id"]) == (status, type_, reason, TRACE_ID)
    assert dict(answer.headers)["retry-after"] == "8"
    assert document["detail"] == "something that this service depends on cannot be called now"
    assert b"inner" not in answer.body


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 418, 422, 500, 501, 502, 505])
def test_any_other_fault_is_not_relayed_by_itself(status: int) -> None:
    error = PeerError(Fault.of_problem(status, [], b""))
    assert relayed_in(error) is None
    with pytest.raises(PeerError) as raised:
        answer_in_handler(error)
    assert raised.value is error


@pytest.mark.parametrize("error", [ValueError("mine"), PeerError(None), KeyboardInterrupt()])
def test_an_error_that_no_service_answered_with_is_not_relayed(error: Exception) -> None:
    assert (relayed_in(error), fault_of(error)) == (None, None)
    with pytest.raises(type(error)):
        relayed_answer(error)


def test_a_group_of_nothing_else_is_relayed_by_its_first() -> None:
    limited, stopped = PeerError(Fault(429, 8, "cut", 3.0)), PeerError(Fault(503, 14, "open"))
    group = ExceptionGroup("tasks", [ExceptionGroup("more", [limited]), stopped, RateLimited("own")])
    refusal = relayed_in(group)
    assert isinstance(refusal, RateLimited)
    assert refusal.retry_after_s == 3.0
    assert relayed_in(ExceptionGroup("tasks", [limited, ValueError("mine")])) is None
    assert relayed_in(ExceptionGroup("tasks", [limited, PeerError(Fault(404, 5))])) is None


def test_a_translator_that_raises_is_told_of_and_stands_in_nobody_s_way(caplog: pytest.LogCaptureFixture) -> None:
    def broken(error: object) -> Fault | None:
        raise RuntimeError("a fault of the translator's")

    module._translators.insert(0, broken)
    register_translator(broken)
    assert module._translators.count(broken) == 1
    assert fault_of(PeerError(Fault(503, 14))) == Fault(503, 14)
    assert "an error of class PeerError cannot be read" in caplog.text
    assert "inner-secret" not in caplog.records[0].getMessage()


# --- how it counts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault(429, 8, "cut"), Outcome.IGNORED),
        (Fault(503, 8, "cut"), Outcome.IGNORED),
        (Fault(503, 14, "open"), Outcome.IGNORED),
        (Fault(503, 14, "refused"), Outcome.IGNORED),
        (Fault(504, 4, "expired_on_arrival"), Outcome.IGNORED),
        (Fault(504, 4, "expired"), Outcome.FAILED),
        (Fault(503, 14), Outcome.FAILED),
        (Fault(504, 4), Outcome.FAILED),
        (Fault(404, 5), Outcome.FAILED),
        (None, Outcome.FAILED),
    ],
)
def test_what_a_guard_further_in_refused_is_ignored_and_a_failure_is_one(fault: Fault | None, outcome: Outcome) -> None:
    call, error = Call("the request"), PeerError(fault)
    assert judge_relayed(call, error) is outcome
    assert judge_relayed(call, ExceptionGroup("tasks", [error])) is outcome
    assert judge_relayed(call, ExceptionGroup("tasks", [error, RateLimited("own")])) is outcome
    assert judge_relayed(call, ExceptionGroup("tasks", [error, ValueError("mine")])) is Outcome.FAILED


def test_a_failure_that_is_relayed_is_logged_in_one_line_without_the_text_of_the_error(caplog: pytest.LogCaptureFixture) -> None:
    judge_relayed(Call("the request"), PeerError(Fault(503, 14)))
    judge_relayed(Call("the request"), PeerError(Fault(503, 14, "open")))
    judge_relayed(Call("the request"), PeerError(Fault(404, 5)))
    assert caplog.messages == ["the request: a call that its handler made failed (UNAVAILABLE, PeerError)"]


def test_a_service_that_was_late_is_no_evidence_where_the_caller_left_it_no_time() -> None:
    call = Call("the request")
    call.deadline_counts = False
    assert judge_relayed(call, PeerError(Fault(504, 4, "expired"))) is Outcome.IGNORED


# --- one line of the application's ------------------------------------------------------------------------------------------------


def test_a_business_error_is_relayed_with_neutral_words_or_the_application_s() -> None:
    error = PeerError(Fault(409, GRPC_CODES["ALREADY_EXISTS"], "", 2.5, TRACE_ID))
    neutral, own = relayed_answer(error), relayed_answer(error, "there is such an order already")
    assert (neutral.status, own.status) == (409, 409)
    assert json.loads(neutral.body) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "something that this service depends on has answered so",
        "code": "ALREADY_EXISTS",
        "trace_id": TRACE_ID,
    }
    assert json.loads(own.body)["detail"] == "there is such an order already"
    assert int(dict(neutral.headers)["retry-after"]) >= 3
    assert Fault.of_problem(409, neutral.headers, neutral.body) == Fault(
        409, GRPC_CODES["ALREADY_EXISTS"], "", float(dict(neutral.headers)["retry-after"]), TRACE_ID
    )


def test_a_refusal_is_relayed_as_if_it_had_not_been_caught() -> None:
    answer = relayed_answer(CircuitOpen("inner-secret: open", reason="open", retry_after_s=3.0), "payments are down")
    document = json.loads(answer.body)
    assert (answer.status, document["reason"], document["detail"]) == (503, "open", "payments are down")
    assert relayed_answer(PeerError(Fault(429, 8, "cut"))).status == 429


def test_the_status_of_a_client_that_has_gone_has_no_phrase() -> None:
    assert json.loads(relayed_answer(PeerError(Fault(499, 1))).body)["title"] == "Error"
