"""Events of a change that is made under a lock reach the observers once the lock is released."""

from __future__ import annotations

from resilience import ConfigLoaded
from resilience.events import emit, held_back
from resilience.testing import RecordingObserver

FIRST, SECOND = ConfigLoaded("first", "1"), ConfigLoaded("second", "2")


def test_observers_hear_of_it_after_the_block_in_order() -> None:
    with RecordingObserver() as observer:
        with held_back():
            emit([FIRST])
            emit([SECOND])
            assert observer.events == []
        assert observer.events == [FIRST, SECOND]


def test_a_block_within_waits_for_the_outer_one() -> None:
    with RecordingObserver() as observer:
        with held_back():
            with held_back():
                emit([FIRST])
            assert observer.events == []
        assert observer.events == [FIRST]


def test_what_happened_before_an_error_is_told_too() -> None:
    with RecordingObserver() as observer:
        try:
            with held_back():
                emit([FIRST])
                raise KeyError
        except KeyError:
            pass
        assert observer.events == [FIRST]
