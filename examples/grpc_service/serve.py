"""Runs the inventory: `python -m examples.grpc_service.serve tasks` or `... threads`.

SPANS_FILE says where spans go, RESILIENCE_CONFIG names another configuration file; both are optional.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from opentelemetry.instrumentation.grpc import aio_server_interceptor, server_interceptor

from examples.asgi_app.telemetry import write_spans_to
from examples.demo_kit.parent import end_with_parent
from examples.grpc_service import tasks, threads
from resilience.integrations.grpc import ServerSettings

CONFIG: Final = Path(__file__).with_name("resilience.yaml")
_ENDS: Final = (signal.SIGTERM, signal.SIGINT)


async def _in_tasks(*args: Any) -> None:
    ended = asyncio.Event()
    for number in _ENDS:
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with tasks.serving(*args) as port:
        print(f"the inventory listens on port {port}", flush=True)
        await ended.wait()


def _in_threads(*args: Any) -> None:
    ended = threading.Event()
    for number in _ENDS:
        signal.signal(number, lambda *_: ended.set())
    with threads.serving(*args) as port:
        print(f"the inventory listens on port {port}", flush=True)
        ended.wait()


SERVERS: Final[dict[str, tuple[Callable[[], Any], Callable[..., None]]]] = {
    # OpenTelemetry's interceptor, around the guard, so that its server span is there when the guard decides; and what serves.
    "tasks": (aio_server_interceptor, lambda *args: asyncio.run(_in_tasks(*args))),
    "threads": (server_interceptor, _in_threads),
}


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description="The inventory of the shop, guarded by resilience.")
    parser.add_argument("server", choices=SERVERS, help="an asyncio server, or one of threads")
    parser.add_argument("--port", type=int, default=50051, help="of the loopback interface; default 50051, 0 for any that is free")
    parser.add_argument("--held", action="store_true", help="who started it holds the port, and standard input until it is to end")
    given = parser.parse_args()
    if given.held:
        end_with_parent(os.getpid())
    spans_file = os.environ.get("SPANS_FILE")
    if spans_file:
        write_spans_to(Path(spans_file), service="inventory")
    traced, serve = SERVERS[given.server]
    config = Path(os.environ.get("RESILIENCE_CONFIG", CONFIG))
    serve(config, f"127.0.0.1:{given.port}", ServerSettings(share_port=given.held), [traced()])


if __name__ == "__main__":
    main()
