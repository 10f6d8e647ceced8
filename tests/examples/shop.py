"""An order service and the payment service, as processes of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from examples.asgi_app.app import CONFIG
from examples.demo_kit.main import Files
from examples.demo_kit.processes import Service
from examples.demo_kit.shorten import write_shortened

ORDER = {"item": "tea", "amount_cents": 1250}


class Shop:
    """Both services, running."""

    def __init__(self, orders: httpx.Client, payments: httpx.Client, files: Files) -> None:
        self.orders = orders
        self.payments = payments
        self.files = files

    def order(self, **headers: str) -> httpx.Response:
        return self.orders.post("/orders", json=ORDER, headers=headers)

    def break_payments(self, mode: str) -> None:
        assert self.payments.put("/faults", json={"mode": mode}).status_code == 200


@contextmanager
def opened(services: Callable[[Files], tuple[Service, Service]], folder: Path) -> Iterator[Shop]:
    """Both services of a demo, ready."""
    files = Files(folder)
    write_shortened(CONFIG, files.config, {})
    with ExitStack() as running:
        orders, payments = (running.enter_context(service) for service in services(files))
        for service in (payments, orders):
            asyncio.run(service.wait_ready())
        clients = [
            running.enter_context(httpx.Client(base_url=service.url, timeout=10, trust_env=False)) for service in (orders, payments)
        ]
        yield Shop(clients[0], clients[1], files)
