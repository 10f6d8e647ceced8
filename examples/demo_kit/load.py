"""Load at an even pace that does not wait for answers, as customers do not wait for each other."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import httpx

from examples.demo_kit.recording import Answer, Recording, Sample, classify

_MOST_UNANSWERED: Final = 150
_MOST_BEHIND_S: Final = 0.5
_ANSWER_WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent.

    Attributes:
        path: where each request is posted to.
        body: its JSON document.
        per_s: requests a second.
        customers: how many customers take turns, told apart by the header x-customer.
        traced: one in so many asks the service to record its spans.
    """

    path: str
    body: dict[str, object]
    per_s: float
    customers: int
    traced: int


class Load:
    """Sends `traffic` until stopped, and writes a sample for each request.

    At most 150 are unanswered at any time; and where this process stood still for longer than 0.5 s, what was due is not sent
    all at once afterwards. What is not sent for these reasons is written down as held back.
    """

    def __init__(self, url: str, traffic: Traffic, recording: Recording, now_s: Callable[[], float]) -> None:
        self._traffic = traffic
        self._recording = recording
        self._now_s = now_s
        self._content = json.dumps(traffic.body).encode()
        self._unanswered = 0
        self._stopping = False
        # Idle connections are dropped before the server drops them (uvicorn: after 5 s): a request that is sent into a
        # connection that is just being closed would get no answer.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50, keepalive_expiry=2.0)
        self._client = httpx.AsyncClient(base_url=url, limits=limits, timeout=_ANSWER_WITHIN_S, trust_env=False)

    def stop(self) -> None:
        """Send no more; `run` returns when the last answer has come."""
        self._stopping = True

    async def run(self) -> None:
        """Send until stopped."""
        start_s, sent = self._now_s(), 0
        async with self._client, asyncio.TaskGroup() as requests:
            while not self._stopping:
                due_s = start_s + sent / self._traffic.per_s
                early_s = due_s - self._now_s()
                if early_s > 0:
                    await asyncio.sleep(early_s)
                    continue
                sent += 1
                if self._unanswered < _MOST_UNANSWERED and -early_s < _MOST_BEHIND_S:
                    self._unanswered += 1
                    requests.create_task(self._send(sent, due_s))
                else:
                    self._recording.held_back.append(due_s)

    async def _send(self, number: int, due_s: float) -> None:
        headers = {"x-customer": f"customer-{number % self._traffic.customers}", "content-type": "application/json"}
        trace_id = ""
        if number % self._traffic.traced == 0:
            trace_id = secrets.token_hex(16)
            headers["traceparent"] = f"00-{trace_id}-{secrets.token_hex(8)}-01"  # W3C Trace Context; 01: record this
        try:
            response = await self._client.post(self._traffic.path, content=self._content, headers=headers)
        except httpx.TransportError:
            answer, says_when = Answer.NONE, False
        else:
            answer = classify(response.status_code, _problem_type(response))
            says_when = "retry-after" in response.headers
        finally:
            self._unanswered -= 1
        self._recording.samples.append(Sample(due_s, self._now_s(), answer, says_when, trace_id))


def _problem_type(response: httpx.Response) -> str:
    if response.headers.get("content-type") != "application/problem+json":
        return ""
    return str(response.json().get("type", ""))


def stopwatch() -> Callable[[], float]:
    """A clock that shows the seconds since it was made."""
    start_s = time.monotonic()
    return lambda: time.monotonic() - start_s
