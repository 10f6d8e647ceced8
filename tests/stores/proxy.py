"""A proxy between client and server that makes trouble: it delays, slices, drops, cuts and resets what passes."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any


class FaultProxy:
    """Runs in a thread of its own on a loopback port. Faults can be changed at any time.

    delay_s: how long each piece is held back, on the way there and back; a function is called for each.
    slice_bytes: answers come in pieces of so many bytes, each delayed.
    is_deaf: what comes is taken and goes nowhere, as on a half-open connection.
    accepts: new connections are taken; else they are reset at once.
    With a `context`, clients speak TLS to it.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._context = context
        self.delay_s: Callable[[], float] = lambda: 0.0
        self.slice_bytes = 0
        self.is_deaf = False
        self.accepts = True
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()
        self._started.wait(5)

    @property
    def url(self) -> str:
        """Where a client connects to."""
        return f"redis://127.0.0.1:{self.port}/0"

    def jitter(self, mean_s: float, spread_s: float) -> None:
        """A slow network: each piece takes from mean - spread to mean + spread."""
        dice = random.Random(1)
        self.delay_s = lambda: dice.uniform(mean_s - spread_s, mean_s + spread_s)

    def cut(self, *, reset: bool = False) -> None:
        """End all connections, with a reset where asked."""
        self._loop.call_soon_threadsafe(self._cut, reset)

    def _cut(self, reset: bool) -> None:
        for writer in list(self._writers):
            if reset:
                found: Any = writer.get_extra_info("socket")
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            writer.transport.abort()

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        self._cut(False)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for _ in range(3):  # what was aborted is closed by the loop, a step later
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if not self.accepts:
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, server_writer}
        self._writers |= pair
        try:
            there = asyncio.ensure_future(self._pump(reader, server_writer, 0))
            back = asyncio.ensure_future(self._pump(server_reader, writer, self.slice_bytes))
            _, pending = await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
        finally:
            self._writers -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slice_bytes: int) -> None:
        while piece := await reader.read(65_536):
            size = slice_bytes or len(piece)
            for first in range(0, len(piece), size):
                delay_s = self.delay_s()
                if delay_s > 0:
                    await asyncio.sleep(delay_s)
                if self.is_deaf:
                    break
                writer.write(piece[first : first + size])
                await writer.drain()
