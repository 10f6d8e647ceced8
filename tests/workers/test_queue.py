"""The order of the queue against a list that is sorted anew each time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience.workers.entry import OVER, Entry
from resilience.workers.queue import TaskQueue
from tests.workers.helpers import entry_of

AGEING_US = 10_000_000


def taken(queue: TaskQueue) -> list[Entry]:
    found = []
    while (entry := queue.pop(AGEING_US)) is not None:
        found.append(entry)
    return found


def test_first_in_first_out_within_a_priority_and_the_lower_number_first() -> None:
    queue = TaskQueue()
    entries = [entry_of(priority) for priority in (5, 0, 9, 5, 0)]
    for entry in entries:
        queue.push(entry)
    assert taken(queue) == [entries[1], entries[4], entries[0], entries[3], entries[2]]
    assert (queue.length, queue.waited_us(AGEING_US)) == (0, 0)


@pytest.mark.parametrize(("late_s", "first"), [(89.9, "urgent"), (90.0, "urgent"), (90.1, "idle")])
def test_what_waits_becomes_one_priority_more_urgent_each_ageing(late_s: float, first: str) -> None:
    """A task of priority 9 goes before one of priority 0 that came more than nine times the ageing later."""
    queue = TaskQueue()
    idle, urgent = entry_of(9), entry_of(0, submitted_us=round(late_s * 1e6))
    queue.push(idle)
    queue.push(urgent)
    assert queue.pop(AGEING_US) is {"idle": idle, "urgent": urgent}[first]


def test_nobody_starves_under_a_stream_of_urgent_tasks() -> None:
    queue = TaskQueue()
    idle = entry_of(9)
    queue.push(idle)
    for second in range(200):
        queue.push(entry_of(0, submitted_us=second * 1_000_000))
        if queue.pop(AGEING_US) is idle:
            break
    assert second == 91, "nine priorities of ten seconds, and one task in front"


OPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 9), st.integers(0, 30_000_000)),
        st.tuples(st.just("pop"), st.just(0), st.just(0)),
        st.tuples(st.just("forget"), st.integers(0, 1_000), st.just(0)),
        st.tuples(st.just("ageing"), st.integers(1, 40_000_000), st.just(0)),
    ),
    max_size=300,
)


@given(OPS)
def test_any_order_of_events(ops: list[tuple[str, int, int]]) -> None:
    queue, naive = TaskQueue(), list[Entry]()
    now_us, ageing_us = 0, AGEING_US
    for op, number, more_us in ops:
        if op == "push":
            now_us += more_us
            entry = entry_of(number, now_us)
            queue.push(entry)
            naive.append(entry)
        elif op == "pop":
            naive.sort(
                key=lambda entry: (entry.priority * ageing_us + entry.submitted_us, entry.priority)
            )  # stable: first in first
            assert queue.pop(ageing_us) is (naive.pop(0) if naive else None)
        elif op == "forget" and naive:
            gone = naive.pop(number % len(naive))
            gone.state = OVER
            queue.forget(gone)
        elif op == "ageing":
            ageing_us = number
        assert queue.length == len(naive)
        assert queue.waited_us(now_us) == sum(now_us - entry.submitted_us for entry in naive)
        assert sorted(map(id, queue.all())) == sorted(map(id, naive))


def test_a_clock_that_goes_back_changes_no_order() -> None:
    queue = TaskQueue()
    first, second = entry_of(5, 1_000_000), entry_of(5, 0)
    queue.push(first)
    queue.push(second)
    assert taken(queue) == [first, second]


def test_what_is_over_does_not_pile_up() -> None:
    queue = TaskQueue()
    for _ in range(10_000):
        entry = entry_of(3)
        queue.push(entry)
        entry.state = OVER
        queue.forget(entry)
    assert sum(len(line) for line in queue._lines) <= 65
