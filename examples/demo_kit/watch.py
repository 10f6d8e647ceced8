"""Asks the service, ten times a second, what its breaker, health signal and limiter are doing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import httpx

from examples.demo_kit.recording import Reading, Recording, reading_of

_EVERY_S: Final = 0.1


class Watch:
    """Writes a reading of `GET /status` every 0.1 s."""

    def __init__(self, url: str, breaker: str, limiter: str, recording: Recording, now_s: Callable[[], float]) -> None:
        self._url = url
        self._breaker = breaker
        self._limiter = limiter
        self._recording = recording
        self._now_s = now_s

    async def run(self) -> None:
        """Watch until cancelled."""
        async with httpx.AsyncClient(base_url=self._url, timeout=2.0, trust_env=False) as client:
            while True:
                await self._read(client)
                await asyncio.sleep(_EVERY_S)

    async def _read(self, client: httpx.AsyncClient) -> None:
        asked_s = self._now_s()
        try:
            response = await client.get("/status")
        except httpx.TransportError:
            return  # one reading less; whether requests get their answers is counted by the load
        response.raise_for_status()
        self._recording.readings.append(
            reading_of(
                response.json(),
                asked_s=asked_s,
                heard_s=self._now_s(),
                breaker=self._breaker,
                limiter=self._limiter,
            )
        )

    async def until(self, condition: Callable[[Reading], bool], within_s: float) -> Reading | None:
        """The first reading from now on for which `condition` holds, or None when none came in time."""
        end_s, seen = self._now_s() + within_s, len(self._recording.readings)
        while self._now_s() < end_s:
            for reading in self._recording.readings[seen:]:
                if condition(reading):
                    return reading
            seen = len(self._recording.readings)
            await asyncio.sleep(_EVERY_S / 2)
        return None
