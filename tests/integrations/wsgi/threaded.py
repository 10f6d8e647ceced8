"""waitress in a thread of this process, whose objects a test can look at."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import waitress

from tests.integrations.asgi.server import TIMEOUT_S, Running


@contextmanager
def serving(app: Any, *, threads: int = 2) -> Iterator[Running]:
    """Serve `app` on a free port of the loopback interface until the block is left."""
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    server = waitress.create_server(app, sockets=[listener], threads=threads, outbuf_high_watermark=65_536)
    server.adj.asyncore_loop_timeout = 0.05  # how soon it notices that it is closed
    thread = threading.Thread(target=server.run, name="waitress")
    thread.start()
    try:
        yield Running(listener.getsockname()[1])
    finally:
        server.task_dispatcher.shutdown()
        with suppress(OSError):  # pulled by another hand in between, it is closed already
            server.trigger.pull_trigger(server.close)  # in the server's own thread
        thread.join(TIMEOUT_S)
    assert not thread.is_alive(), "waitress does not stop"
