"""However requests end, every span that was started has ended, and none is left current."""

from __future__ import annotations

from collections import Counter

import pytest
from opentelemetry import context
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from tests.integrations.asgi.conversation import run
from tests.integrations.asgi.storm import Storm
from tests.telemetry.recording import Recording


@pytest.mark.parametrize("is_traced", [True, False], ids=["under a server span", "alone"])
def test_every_span_ends(is_traced: bool, recorded: Recording, caplog: pytest.LogCaptureFixture) -> None:
    storm = Storm(seed=4)
    if is_traced:
        storm.app = OpenTelemetryMiddleware(storm.app, exclude_spans=["send", "receive"])  # type: ignore[assignment]
    run(storm.run())
    assert Counter(span.name for span in recorded.spans) == Counter(recorded.started)
    names = {"resilience.deadline", "resilience.limiter", "resilience.breaker", "GET /" if is_traced else "resilience api"}
    assert names <= set(recorded.started)
    assert context.get_current() == {}
    assert storm.clock.pending_timers == 0
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
