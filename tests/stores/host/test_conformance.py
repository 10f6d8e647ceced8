"""The store of the host answers as every store does."""

from __future__ import annotations

import pytest

from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import Decided
from resilience.stores.host import HostStore
from resilience.testing import ManualClock
from tests.stores.conformance import Ask, BucketConformance


class TestHost(BucketConformance):
    keeps_refusals = False

    @pytest.fixture
    def ask(self, store: HostStore, clock: ManualClock) -> Ask:
        def ask(question: Take, now_us: int) -> Decided:
            clock._now_us = now_us
            answer = store.buckets.take(question)
            assert isinstance(answer, Decided), answer
            return answer

        return ask
