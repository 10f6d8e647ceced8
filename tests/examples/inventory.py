"""The inventory of the example in this process, on both kinds of server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.grpc_service import tasks, threads
from examples.grpc_service.serve import CONFIG
from tests.loops import in_a_loop

SERVERS = ("tasks", "threads")


@contextmanager
def inventory(server: str, config: Path = CONFIG) -> Iterator[int]:
    """Serve it until the block is left. Yields its port."""
    here = "127.0.0.1:0"
    serving = threads.serving(config, here) if server == "threads" else in_a_loop(tasks.serving(config, here))
    with serving as port:
        yield port
