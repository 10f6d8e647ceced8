"""An order service and what it depends on, as processes of their own."""

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
    """The services, running."""

    def __init__(self, orders: httpx.Client, dependency: Service, files: Files) -> None:
        self.orders = orders
        self.dependency = dependency
        self.files = files

    def order(self, **headers: str) -> httpx.Response:
        return self.orders.post("/orders", json=ORDER, headers=headers)

    def break_dependency(self, mode: str) -> None:
        asyncio.run(self.dependency.set_fault(mode))


@contextmanager
def opened(
    services: Callable[[Files], tuple[Service, Service, *tuple[Service, ...]]], folder: Path, config: Path = CONFIG
) -> Iterator[Shop]:
    """The services of a demo, ready."""
    files = Files(folder)
    write_shortened(config, files.config, {})
    with ExitStack() as running:
        orders, dependency, *others = (running.enter_context(service) for service in services(files))
        for service in (*others, dependency, orders):
            asyncio.run(service.wait_ready())
        client = running.enter_context(httpx.Client(base_url=orders.url, timeout=10, trust_env=False))
        yield Shop(client, dependency, files)
