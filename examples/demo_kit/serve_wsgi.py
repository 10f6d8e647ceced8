"""Serves a WSGI app with gunicorn on a socket that the parent process has bound: one worker process with many threads.

Run as `python -m examples.demo_kit.serve_wsgi FACTORY FD`. FACTORY is module:function. The server ends when its
standard input does.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.util import import_app

from examples.demo_kit.parent import end_with_parent

_THREADS = 100
"""While payments hang, each request holds one: 50 a second for a second, and as many for those that are refused meanwhile."""


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn, configured by this program alone."""

    def __init__(self, factory: str, descriptor: str) -> None:
        self._factory = factory
        self._descriptor = descriptor
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": f"fd://{self._descriptor}",
            "worker_class": "gthread",
            "workers": 1,  # limits and health live in one process
            "threads": _THREADS,
            "keepalive": 10,
            "graceful_timeout": 2,
            "loglevel": "warning",
            "control_socket_disable": True,  # it would lie in the user's home
            "post_worker_init": _end_with_parent,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return import_app(f"{self._factory}()")


def _end_with_parent(worker: Any) -> None:
    """In the worker: a process that has a thread should not fork."""
    end_with_parent(os.getppid())


def main() -> None:
    """Serve until told to stop."""
    Server(*sys.argv[1:]).run()


if __name__ == "__main__":
    main()
