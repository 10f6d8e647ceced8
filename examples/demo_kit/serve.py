"""Serves an ASGI app with uvicorn on a socket that the parent process has bound.

Run as `python -m examples.demo_kit.serve FACTORY FD`. FACTORY is module:function. The server ends when its standard input
does, so that it never outlives a parent that was killed. (`uvicorn --fd` would take the socket for a Unix one and leave
Nagle's algorithm on, which can cost 40 ms an answer.)
"""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from examples.demo_kit.parent import end_with_parent


def main() -> None:
    """Serve until told to stop."""
    factory, descriptor = sys.argv[1:]
    end_with_parent(os.getpid())
    config = uvicorn.Config(
        factory,
        factory=True,
        access_log=False,
        log_level="warning",
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[socket.socket(fileno=int(descriptor))])
    if not server.started:
        sys.exit(3)


if __name__ == "__main__":
    main()
