"""Which answers of an application open its breaker, where the file says so itself."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from resilience import load
from resilience.integrations.asgi import ResilienceMiddleware
from tests.integrations.asgi.apps import answering, failing
from tests.integrations.asgi.conversation import Conversation, run

FILE = """\
version: 1
breakers:
  orders: {{window: 2, {key}}}
pipelines:
  api: [{{breaker: orders}}]
routes:
  - {{match: {{path: "/**"}}, pipeline: api}}
"""


def statuses_of(path: Path, key: str, app: Any) -> list[int | None]:
    """What three requests in a row are answered with, None where the application raised. Two failures open the breaker: 503."""
    path.write_text(FILE.format(key=key), encoding="utf-8")

    async def ask() -> list[int | None]:
        guarded, statuses = ResilienceMiddleware(app, config=path), []
        for _ in range(3):
            conversation = Conversation(guarded)
            with contextlib.suppress(ValueError):
                await conversation.run()
            statuses.append(conversation.status)
        return statuses

    with load(path):
        return run(ask())


@pytest.mark.parametrize(
    ("key", "status", "third"),
    [
        ("probes: 5", 500, 503),
        ("probes: 5", 429, 429),
        ("failed_statuses: [429]", 429, 503),
        ("failed_statuses: [429]", 500, 500),
        ("failed_statuses: [404, 500..599]", 404, 503),
        ("failed_statuses: [404, 500..599]", 502, 503),
        ("failed_statuses: []", 500, 500),
        ("failed_codes: []", 500, 503),
    ],
)
def test_the_statuses_that_the_file_names_open_the_breaker(tmp_path: Path, key: str, status: int, third: int) -> None:
    assert statuses_of(tmp_path / "resilience.yaml", key, answering(status)) == [status, status, third]


@pytest.mark.parametrize("key", ["probes: 5", "failed_statuses: []", "failed_statuses: [429]"])
def test_an_exception_counts_whatever_the_statuses_are(tmp_path: Path, key: str) -> None:
    assert statuses_of(tmp_path / "resilience.yaml", key, failing(ValueError("broken"))) == [None, None, 503]
