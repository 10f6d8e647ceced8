"""One connection at a time, and one command on it at a time: what went wrong on a line is never read by the next."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.stores.base import LANE_TASK
from resilience.stores.redis.address import async_connections, sync_connections
from resilience.stores.redis.hurry import in_time
from resilience.stores.settings import RedisStoreSettings

_READ_SIZE: Final = 65_536
_LONGEST_REPLY: Final = 16 * 1024 * 1024
CONNECT_S: Final = 1.0
"""How long whoever keeps no call waiting may take for each step of making a connection."""
_CLOCK: Final = SYSTEM_CLOCK
"""What waits for sockets goes by real time, whatever clock decisions go by."""


class Trouble(Exception):
    """The server did not answer as it should. The text says why; it holds no address and no command."""


class ScriptMissing(Trouble):
    """The server does not know the script, and so has not run it."""


class Lines:
    """The blocking connections of one process: those at rest are used again, one that saw trouble never.

    A call makes one as quickly as it can; the store's own thread may take longer, and leaves it at rest for calls.
    """

    def __init__(self, settings: RedisStoreSettings) -> None:
        self._settings = settings
        self.forget()

    def trip(self, command: bytes, timeout_us: int, whole: Callable[[], bytes], *, is_patient: bool = False) -> bytes:
        """Send a command and read its reply. What `whole` makes is sent where the server does not know the script.

        The time for connecting goes off that for the trip, unless the caller `is_patient`.

        Raises:
            Trouble: there is no reply in time, or it is an error.
        """
        deadline_us = _CLOCK.now_us() + timeout_us
        connection = self._take(self._patient if is_patient else self._quick)
        try:
            if connection._sock is None:
                if is_patient:
                    connection.connect()
                    deadline_us = _CLOCK.now_us() + timeout_us
                else:
                    in_time(connection.connect, connection.disconnect, _left_s(deadline_us))
            sock: socket.socket = connection._sock
            try:
                reply = _exchange(sock, command, deadline_us)
            except ScriptMissing:
                reply = _exchange(sock, whole(), deadline_us)
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, Trouble) or not isinstance(error, Exception):
                raise
            raise trouble_of(error) from None
        self._at_rest.append(connection)
        if self._is_closed:
            self.close()
        return reply

    def subscribed(self, channel: bytes) -> tuple[Any, socket.socket]:
        """A connection of its own that hears a channel: whatever can be read from the socket is news."""
        connection = self._patient.make_connection()
        try:
            connection.connect()
            connection.send_command("SUBSCRIBE", channel)
            sock: socket.socket = connection._sock
            sock.setblocking(False)
        except Exception as error:  # noqa: BLE001  # whatever redis-py raises
            connection.disconnect()
            raise trouble_of(error) from None
        return connection, sock

    def _take(self, factory: Any) -> Any:
        if os.getpid() != self._pid:
            self.forget()
        while True:
            try:
                connection = self._at_rest.pop()
            except IndexError:
                return factory.make_connection()
            if not _has_news(connection._sock):
                return connection
            connection.disconnect()

    def close(self) -> None:
        """Close what is at rest; what is under way is closed after its trip."""
        self._is_closed = True
        while self._at_rest:
            self._at_rest.pop().disconnect()

    def forget(self) -> None:
        """Have none. In a forked child: those at rest are the parent's."""
        timeout_s = self._settings.timeout_s
        self._is_closed = False
        self._pid = os.getpid()
        self._at_rest: deque[Any] = deque()
        self._quick = sync_connections(self._settings, timeout_s / 2, timeout_s)
        self._patient = sync_connections(self._settings, CONNECT_S, CONNECT_S)


def _has_news(sock: socket.socket) -> bool:
    """Whether something came on a line at rest: its end, or an answer that nobody waits for. It is not used again."""
    look = select.poll()
    look.register(sock, select.POLLIN)
    return bool(look.poll(0))


def _exchange(sock: socket.socket, command: bytes, deadline_us: int) -> bytes:
    """One command and its one reply, in the time there is for both."""
    sock.settimeout(_left_s(deadline_us))
    sock.sendall(command)
    received = bytearray()
    while True:
        # A process that is short of processor time reads late what came in time: then it is there, and is read without waiting.
        sock.settimeout(max(0, deadline_us - _CLOCK.now_us()) / US_PER_S)
        more = sock.recv(_READ_SIZE)
        if not more:
            raise Trouble("the server closed the connection")
        received += more
        reply = _reply(received)
        if reply is not None:
            return reply


def _left_s(deadline_us: int) -> float:
    left_us = deadline_us - _CLOCK.now_us()
    if left_us <= 0:
        raise Trouble("no answer in time")
    return left_us / US_PER_S


def _reply(received: bytearray) -> bytes | None:
    """A whole reply to a script: a bulk string. None: there is more to come."""
    end = received.find(b"\r\n")
    if end < 0:
        return None
    if received[:1] == b"-":
        raise error_reply(bytes(received[1:end]))
    if received[:1] != b"$":
        raise Trouble("the server answered with something else")
    length = int(received[1:end])
    if not 0 <= length <= _LONGEST_REPLY:
        raise Trouble("the server answered with something else")
    start = end + 2
    if len(received) < start + length + 2:
        return None
    if len(received) > start + length + 2:
        raise Trouble("the server answered more than was asked")
    return bytes(received[start : start + length])


def error_reply(text: bytes) -> Trouble:
    """The server's error by its first word, which is its code: the rest may name what is none of a log's business."""
    code = text.split(b" ", 1)[0].decode("ascii", "replace")[:32]
    return ScriptMissing(code) if code == "NOSCRIPT" else Trouble(f"the server says {code}")


_CODES: Final = {
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "BusyLoadingError": "LOADING",
    "MaxConnectionsError": "that it has too many clients",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}
"""Errors of redis-py whose texts have lost their codes."""


def trouble_of(error: Exception) -> Trouble:
    """What went wrong, without the address that redis-py puts into its texts."""
    name = type(error).__name__
    if name == "NoScriptError":
        return ScriptMissing("NOSCRIPT")
    if name in _CODES:
        return Trouble(f"the server says {_CODES[name]}")
    if name == "ResponseError":
        return error_reply(str(error).encode())
    if "Timeout" in name or isinstance(error, (BlockingIOError, ssl.SSLWantReadError)):
        return Trouble("no answer in time")
    return Trouble(f"no connection ({name})")


class AsyncLine:
    """The one connection of an event loop's lane.

    It is made by a task of its own, which may take longer than a decision waits: the trips after that have it.
    """

    def __init__(self, settings: RedisStoreSettings) -> None:
        self._factory: Any = async_connections(settings)
        self._connection: Any = None
        self._connecting: asyncio.Task[Trouble | None] | None = None

    async def trip(self, command: bytes, timeout_us: int, whole: Callable[[], bytes]) -> bytes:
        """As `Lines.trip`, suspending this task."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                # A loop that is busy sees its timers late, and together with what came in time: what came goes first.
                armed: list[asyncio.Handle] = [
                    loop.call_later(timeout_us / US_PER_S, lambda: armed.append(loop.call_soon(limit.reschedule, 0.0)))
                ]
                try:
                    return await self._exchange(command)
                except ScriptMissing:
                    return await self._exchange(whole())
                finally:
                    for handle in armed:
                        handle.cancel()
        except BaseException as error:
            await self._drop()
            if isinstance(error, Trouble) or not isinstance(error, Exception):
                raise
            raise trouble_of(error) from None

    async def _exchange(self, command: bytes) -> bytes:
        if self._connection is not None and self._connection._reader.at_eof():  # closed by the server since
            await self._drop()
        if self._connection is None:
            await self._connected()
        await self._connection.send_packed_command(command)
        try:
            reply = await self._connection.read_response(disable_decoding=True)
        except Exception as error:  # noqa: BLE001  # whatever redis-py raises
            raise trouble_of(error) from None
        if not isinstance(reply, bytes):
            raise Trouble("the server answered with something else")
        return reply

    async def _connected(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(), name=LANE_TASK)
        trouble = await asyncio.shield(self._connecting)
        if trouble is not None:
            raise trouble

    async def _connect(self) -> Trouble | None:
        connection = self._factory.make_connection()
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if not isinstance(error, Exception):
                raise
            return trouble_of(error)
        finally:
            self._connecting = None
        self._connection = connection
        return None

    async def _drop(self) -> None:
        """Let the connection go, without waiting for the other side."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if connection._writer is not None:
                connection._writer.transport.abort()  # TLS would say goodbye, for which a loop that ends has no time
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """The lane ends."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting})
        await self._drop()
        for sentinel in getattr(getattr(self._factory, "sentinel_manager", None), "sentinels", ()):
            await sentinel.connection_pool.disconnect()
