"""A real gRPC server that answers by a script, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

SERVICE: Final = "test.v1.Echo"
KINDS: Final = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
HANG: Final = "hang"
OK: Final = "ok"


@dataclass(frozen=True)
class Fails:
    """An answer that ends with an error: after some initial metadata or messages, where there are any."""

    code: grpc.StatusCode
    trailing: tuple[tuple[str, str], ...] = ()
    initial: tuple[tuple[str, str], ...] = ()
    after: int = 0


UNAVAILABLE: Final = Fails(grpc.StatusCode.UNAVAILABLE)


@dataclass
class Try:
    """One try as the server saw it."""

    metadata: dict[str, str]
    remaining_s: float
    requests: list[bytes] = field(default_factory=list)

    @property
    def attempt(self) -> str | None:
        """The number it came with."""
        return self.metadata.get("x-retry-attempt")


class Peer:
    """Answers each try with the next entry of `script`, and all beyond it with OK."""

    def __init__(self) -> None:
        self.script: list[Any] = []
        self.tries: list[Try] = []
        self.released = threading.Event()
        self.arrived = threading.Semaphore(0)
        self._lock = threading.Lock()
        self.target = ""

    def forget(self) -> None:
        """Let go of what hangs, and forget what was asked and what to answer."""
        self.released.set()
        self.released = threading.Event()
        self.script.clear()
        self.tries.clear()
        self.arrived = threading.Semaphore(0)

    def answer(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """One call: yields its responses."""
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        seen = Try(metadata, context.time_remaining())
        released = self.released
        with self._lock:
            self.tries.append(seen)
            action = self.script.pop(0) if self.script else OK
        self.arrived.release()
        if action == HANG:
            while context.is_active() and not released.wait(0.01):
                pass
            return
        if isinstance(action, Fails):
            seen.requests += messages  # or grpc.aio, which then still writes, takes the end for an error of its own
            if action.initial:
                context.send_initial_metadata(action.initial)
            yield from (b"part %d" % number for number in range(action.after))
            context.set_trailing_metadata(action.trailing)
            context.abort(action.code, "as the script says")
        for message in messages:
            seen.requests.append(message)
            yield b"re: " + message

    def handlers(self) -> Any:
        """One method for each kind of call, of bytes."""
        handlers = {}
        for kind in KINDS:
            asks, answers = kind.split("_")

            def behaviour(request: Any, context: Any, *, asks: str = asks, answers: str = answers) -> Any:
                responses = self.answer(iter([request]) if asks == "unary" else request, context)
                return responses if answers == "stream" else b", ".join(list(responses))

            handlers[kind] = getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)


@contextmanager
def served(threads: int = 8) -> Iterator[Peer]:
    """A peer on a port of its own."""
    peer = Peer()
    pool = ThreadPoolExecutor(threads)
    all_started = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(all_started.wait)
    all_started.wait(10)  # so that no test seems to leave one behind
    server = grpc.server(pool)
    server.add_generic_rpc_handlers((peer.handlers(),))
    peer.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield peer
    finally:
        peer.released.set()
        server.stop(0).wait(10)
        pool.shutdown()
