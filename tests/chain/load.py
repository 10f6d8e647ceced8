"""Clients that ask one service, several at a time."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tests.integrations.asgi.server import Running

CLIENTS: Final = 4


def offer(service: Running, calls: int) -> Counter[int]:
    """So many GET requests; how often which status was answered."""
    with service.client() as client, ThreadPoolExecutor(CLIENTS) as pool:
        return Counter(pool.map(lambda _: client.get("/orders").status_code, range(calls)))


def offer_for(service: Running, duration_s: float) -> tuple[Counter[int], float]:
    """GET requests for so long, one after another from each client, and at least one each; also how long it took in the end."""
    began_s = time.monotonic()

    def ask(_: int) -> Counter[int]:
        found: Counter[int] = Counter()
        while not found or time.monotonic() - began_s < duration_s:
            found[client.get("/orders").status_code] += 1
        return found

    with service.client() as client, ThreadPoolExecutor(CLIENTS) as pool:
        total = sum(pool.map(ask, range(CLIENTS)), Counter())
    return total, time.monotonic() - began_s
