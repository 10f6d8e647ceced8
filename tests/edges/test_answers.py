"""Refusals as HTTP answers: each row of the table, and the fields as structured fields."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import CircuitOpen, DeadlineExceeded, Quota, RateLimited, RefusalSettings, Rejected
from resilience.edges import Answer, ratelimit_fields, refusal_answer

TYPES = "https://iana.org/assignments/http-problem-types#"
QUOTA = Quota("api", limit=200, window_s=2, remaining=50, available_in_s=0.5)


def answer(refusal: Rejected, *, own: bool = True, uniform: float = 0.0) -> Answer:
    """The answer, without chance."""
    return refusal_answer(refusal, own=own, uniform=lambda: uniform)


def over(reason: str = "quota", status: int = 429, quota: Quota | None = QUOTA) -> RateLimited:
    """A limiter's refusal."""
    return RateLimited("api: over", policy="api", reason=reason, retry_after_s=0.5, quota=quota, status=status)


@pytest.mark.parametrize(
    ("refusal", "own", "status", "kind"),
    [
        (over(), True, 429, f"{TYPES}quota-exceeded"),
        (over("cut"), True, 429, f"{TYPES}temporary-reduced-capacity"),
        (over("cut", 503), True, 503, f"{TYPES}temporary-reduced-capacity"),
        (over(), False, 429, f"{TYPES}temporary-reduced-capacity"),
        (over("cut", 503), False, 503, f"{TYPES}temporary-reduced-capacity"),
        (CircuitOpen("open", policy="x", reason="open", retry_after_s=3.0), True, 503, "about:blank"),
        (CircuitOpen("open", policy="x", reason="open", retry_after_s=3.0), False, 503, "about:blank"),
        (DeadlineExceeded("late", policy="x", reason="expired"), True, 504, "about:blank"),
        (DeadlineExceeded("late", policy="x", reason="expired"), False, 504, "about:blank"),
        (Rejected("by another guard", policy="x", reason="full"), False, 503, "about:blank"),
    ],
)
def test_each_refusal_has_its_status_and_problem_type(refusal: Rejected, own: bool, status: int, kind: str) -> None:
    found = answer(refusal, own=own)
    headers, document = dict(found.headers), json.loads(found.body)
    assert (found.status, document["status"], document["type"]) == (status, status, kind)
    assert document["reason"] == refusal.reason
    outward = "something that this service depends on cannot be called now"  # what is behind this service is not named
    assert document["detail"] == (str(refusal) if own else outward)
    assert document["title"]
    assert headers["content-type"] == "application/problem+json"
    assert headers["content-length"] == str(len(found.body))
    assert ("retry-after" in headers) == (refusal.retry_after_s is not None)
    assert ("violated-policies" in document) == kind.endswith("quota-exceeded")
    assert ("ratelimit" in headers) == ("ratelimit-policy" in headers) == (own and isinstance(refusal, RateLimited))
    assert all(name == name.lower() for name in headers)


def test_a_refusal_without_numbers_has_no_fields() -> None:
    assert "ratelimit" not in dict(answer(over(quota=None)).headers)


@given(
    wait_s=st.floats(0, 100_000),
    available_s=st.floats(0, 100_000),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_retry_after_is_never_earlier_than_the_wait_or_the_field_and_at_most_a_fifth_later(
    wait_s: float, available_s: float, uniform: float
) -> None:
    quota = Quota("api", 10, 10, 0, available_s)
    refusal = RateLimited("over", policy="api", retry_after_s=wait_s, quota=quota)
    headers = dict(answer(refusal, uniform=uniform).headers)
    retry_after, t = int(headers["retry-after"]), int(headers["ratelimit"].rpartition("t=")[2])
    least = max(1, math.ceil(max(wait_s, available_s) - 1e-9))
    assert max(t, least) <= retry_after <= least + max(1, least // 5)


@pytest.mark.parametrize("wait_s", [math.inf, math.nan])
def test_a_wait_that_is_no_time_gives_no_retry_after(wait_s: float) -> None:
    refused = answer(CircuitOpen("held open", policy="payments", reason="forced", retry_after_s=wait_s))
    assert refused.status == 503
    assert "retry-after" not in dict(refused.headers)


def test_a_fleet_of_refused_clients_does_not_come_back_in_one_second() -> None:
    drawn = {dict(refusal_answer(over(), own=True).headers)["retry-after"] for _ in range(200)}
    assert drawn == {"1", "2"}


def test_the_fields_list_all_policies_in_order() -> None:
    quotas = [QUOTA, Quota("per_client", 20, 60, 0, 2.000001)]
    assert ratelimit_fields(quotas) == [
        ("ratelimit-policy", '"api";q=200;w=2, "per_client";q=20;w=60'),
        ("ratelimit", '"api";r=50;t=1, "per_client";r=0;t=3'),
    ]


def test_no_number_is_longer_than_a_structured_field_can_hold() -> None:
    assert ratelimit_fields([Quota("api", 1, 10**15, 0, 1e100)]) == [
        ("ratelimit-policy", '"api";q=1;w=999999999999999'),
        ("ratelimit", '"api";r=0;t=999999999999999'),
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain", '"plain"'),
        ('a "b" c', '"a \\"b\\" c"'),
        ("back\\slash", '"back\\\\slash"'),
        ("zahlungen-ü", '"zahlungen-?"'),
        ("a\r\nset-cookie: x", '"a??set-cookie: x"'),
    ],
)
def test_a_policy_s_name_is_a_structured_field_string(name: str, shown: str) -> None:
    (_, policy), (_, limit) = ratelimit_fields([Quota(name, 1, 1, 1, 0.0)])
    assert policy == f"{shown};q=1;w=1"
    assert limit == f"{shown};r=1;t=1"
    policy.encode("ascii")


# --- what can be set --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 420, 499, 503, 529, 599])
def test_any_status_of_a_refusal_has_a_title_and_a_line(status: int) -> None:
    settings = RefusalSettings(open_status=status)
    found = refusal_answer(CircuitOpen("open", policy="x", reason="open"), own=True, settings=settings)
    document = json.loads(found.body)
    assert (found.status, document["status"], document["type"]) == (status, status, "about:blank")
    assert found.status_line == f"{status} {document['title']}"


def test_another_body_has_headers_that_fit() -> None:
    before = answer(over())
    found = before.with_body("text/plain", b"later")
    assert found.header("content-type") == "text/plain"
    assert found.header("content-length") == "5"
    assert (found.body, found.status, found.header("retry-after")) == (b"later", 429, before.header("retry-after"))
    assert len(found.headers) == len(before.headers)
    nothing = before.with_body("text/plain", b"")
    assert (nothing.header("content-type"), nothing.header("content-length"), nothing.header("x-none")) == (None, "0", None)
