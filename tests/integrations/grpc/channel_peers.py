"""Servers that channels connect to: in this process, and one in a process of its own that can be stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from resilience.integrations.grpc import ServerSettings, server_options

WHO, ECHO, METADATA, PEER, WAIT = "/test.Peer/Who", "/test.Peer/Echo", "/test.Peer/Metadata", "/test.Peer/Peer", "/test.Peer/Wait"
SUM, COUNT, CHAT = "/test.Peer/Sum", "/test.Peer/Count", "/test.Peer/Chat"
ROOT = Path(__file__).parents[3]


class Peer:
    """One server. `Wait`, `Sum`, `Count` and `Chat` answer when `go` is set; `arrived` tells that a call is there."""

    def __init__(self, name: str = "peer") -> None:
        self.name = name
        self.go = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.port = 0
        self.stop: Callable[[], None] = lambda: None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _wait(self) -> bytes:
        self.arrived.release()
        assert self.go.wait(180)
        return self.name.encode()

    def wait(self, request: bytes, context: Any) -> bytes:
        return self._wait()

    def sum(self, requests: Iterator[bytes], context: Any) -> bytes:
        answer = self._wait()
        return answer + b" " + b"".join(requests)

    def count(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"first"
        yield self._wait()

    def chat(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield b"first"
        yield self._wait()
        yield from requests

    def handlers(self) -> Any:
        def metadata(request: bytes, context: Any) -> bytes:
            pairs = [(key, value) for key, value in context.invocation_metadata() if key not in ("user-agent", "grpc-timeout")]
            return repr(sorted(pairs)).encode()

        methods = {
            "Who": grpc.unary_unary_rpc_method_handler(lambda request, context: self.name.encode()),
            "Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request * 2),
            "Metadata": grpc.unary_unary_rpc_method_handler(metadata),
            "Peer": grpc.unary_unary_rpc_method_handler(lambda request, context: context.peer().encode()),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
        }
        return grpc.method_handlers_generic_handler("test.Peer", methods)


@contextmanager
def serving(
    name: str = "peer",
    settings: ServerSettings | None = None,
    *,
    credentials: Any = None,
    port: int = 0,
    options: list[tuple[str, Any]] | None = None,
) -> Iterator[Peer]:
    """A server on loopback, with our options unless told others; what waits in it is let go at the end."""
    peer = Peer(name)
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=server_options(settings) if options is None else options)
        server.add_generic_rpc_handlers([peer.handlers()])
        address = f"127.0.0.1:{port}"
        peer.port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        peer.stop = lambda: server.stop(0).wait()
        server.start()
        try:
            yield peer
        finally:
            peer.go.set()
            peer.stop()


def unused_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def socket_options(peer_port: int, option: int) -> set[int]:
    """A TCP option of this process's own sockets that are connected to `peer_port`. Linux only."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        if not entry.is_socket():
            continue
        with socket.socket(fileno=os.dup(int(entry.name))) as copied:
            try:
                if copied.getpeername()[1] == peer_port:
                    found.add(copied.getsockopt(socket.IPPROTO_TCP, option))
            except (OSError, IndexError):  # one that listens, or no TCP
                continue
    return found


class ChildPeer:
    """A server in a process of its own, which can be made to hang."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.address = f"127.0.0.1:{port}"

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """While this lasts, its kernel acknowledges every byte, and it answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)  # its threads may run on for a moment
        assert os.WIFSTOPPED(status)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@contextmanager
def child_serving() -> Iterator[ChildPeer]:
    """A server in a process of its own."""
    command = [sys.executable, "-m", "tests.integrations.grpc.channel_peers"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield ChildPeer(process, int(process.stdout.readline()))
        finally:
            process.stdin.close()
            try:
                process.wait(10)
            finally:
                process.kill()


if __name__ == "__main__":
    with serving() as served:
        print(served.port, flush=True)
        sys.stdin.read()
