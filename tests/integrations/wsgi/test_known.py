"""What is remembered of responses: it stays small, and what was forgotten is found out again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resilience import Outcome
from resilience.integrations.wsgi import response


def test_status_lines_are_remembered_up_to_a_bound_and_judged_alike_before_and_after() -> None:
    for _ in range(2):
        for number in range(300):
            assert response.judged(f"200 OK, number {number}") == (200, Outcome.OK)
            assert response.known_verdict(f"200 OK, number {number}") == (200, Outcome.OK)
        assert response.judged("503 Unavailable") == response.known_verdict("503 Unavailable") == (503, Outcome.FAILED)
    assert len(response._verdicts) <= response._MOST_KNOWN


def test_types_are_remembered_up_to_a_bound_but_never_an_event_stream_s() -> None:
    for number in range(300):
        kind = f"multipart/byteranges; boundary={number}"
        assert not response.is_event_stream([("Content-Type", kind)])
        assert response.is_known_plain(kind)
    assert response.is_event_stream([("content-type", "Text/Event-Stream; charset=utf-8")])
    assert not response.is_known_plain("Text/Event-Stream; charset=utf-8")
    assert len(response._plain_types) <= response._MOST_KNOWN


@pytest.mark.parametrize("ask", [response.is_known_plain, response.known_verdict])
def test_what_was_never_seen_is_not_known(ask: Callable[[str], object]) -> None:
    assert ask("never seen") is None


def test_what_a_head_with_two_types_counts_as_does_not_depend_on_what_was_served_before() -> None:
    heads = [[("Content-Type", "text/x-new"), ("content-type", "text/event-stream")], [("Content-Type", "text/x-new")]]
    assert [response.is_event_stream(head) for head in (*heads, *reversed(heads))] == [False] * 4
    assert response.is_event_stream([("content-type", "text/x-new"), ("CONTENT-TYPE", "text/event-stream")])
    assert not response.is_event_stream([("Content-Length", "2")])
