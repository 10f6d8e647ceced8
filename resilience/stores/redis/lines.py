"""One connection at a time, and one trip on it at a time: what went wrong on a line is never read by the next."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from resilience.clock import SYSTEM_CLOCK, US_PER_S
from resilience.stores.base import LANE_TASK
from resilience.stores.redis.address import async_connections, sync_connections
from resilience.stores.redis.exchange import Exchange, Sends
from resilience.stores.redis.hurry import in_time
from resilience.stores.redis.replies import Address, Reply, Trouble, is_reply, replies, trouble_of
from resilience.stores.settings import RedisStoreSettings

_READ_SIZE: Final = 65_536
CONNECT_S: Final = 1.0
"""How long whoever keeps no call waiting may take for each step of making a connection."""
_CONNECT_NODE_S: Final = 0.3
"""The same where the thread has other nodes to see to: one that is gone must not keep it from them."""
_MAP_S: Final = 0.25
"""How long a node may take to say which nodes there are."""
_CLOCK: Final = SYSTEM_CLOCK
"""What waits for sockets goes by real time, whatever clock decisions go by."""


class Lines:
    """The blocking connections of one process to one server: those at rest are used again, one that saw trouble never.

    A call makes one as quickly as it can; the store's own thread may take longer, and leaves it at rest for calls.
    `address` is which node of a cluster it is.
    """

    def __init__(self, settings: RedisStoreSettings, address: Address | None = None) -> None:
        self._settings = settings
        self._address = address
        self.forget()

    def trip(self, calls: Sequence[Sends], timeout_us: int, *, is_patient: bool = False) -> list[Reply]:
        """Send calls of scripts, all at once, and read their replies; a script that the server does not know is sent as well.

        The time for connecting goes off that for the trip, unless the caller `is_patient`.

        Raises:
            Trouble: there are no replies in time, or all of them are errors.
        """
        deadline_us = _CLOCK.now_us() + timeout_us
        exchange = Exchange(calls, follows=self._address is not None)
        connection = self._take(self._patient if is_patient else self._quick)
        try:
            if connection._sock is None:
                if is_patient:
                    connection.connect()
                    deadline_us = _CLOCK.now_us() + timeout_us
                else:
                    in_time(connection.connect, connection.disconnect, _left_s(deadline_us))
            while exchange.is_open:
                exchange.take(_exchange(connection._sock, *exchange.command(), deadline_us))
        except BaseException as error:
            connection.disconnect()
            if isinstance(error, Trouble) or not isinstance(error, Exception):
                raise
            raise trouble_of(error) from None
        self._rest(connection, is_well=exchange.is_well)
        return exchange.replies()

    def map_of_slots(self) -> Any:
        """What this node of a cluster knows of its nodes: the reply to CLUSTER SLOTS.

        Raises:
            Trouble: there is no reply in time, or it is an error.
        """
        connection = self._take(self._patient)
        try:
            if connection._sock is None:
                connection.connect()
            connection._sock.settimeout(_MAP_S)
            connection.send_command("CLUSTER", "SLOTS")
            told = connection.read_response(disable_decoding=True)
        except Exception as error:  # noqa: BLE001  # whatever redis-py raises
            connection.disconnect()
            raise trouble_of(error) from None
        self._rest(connection)
        return told

    def _rest(self, connection: Any, *, is_well: bool = True) -> None:
        if not is_well:
            connection.disconnect()
            return
        self._at_rest.append(connection)
        if self._is_closed:
            self.close()

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
        self._quick = sync_connections(self._settings, timeout_s / 2, timeout_s, self._address)
        connect_s = CONNECT_S if self._address is None else _CONNECT_NODE_S
        self._patient = sync_connections(self._settings, connect_s, connect_s, self._address)


def _has_news(sock: socket.socket) -> bool:
    """Whether something came on a line at rest: its end, or an answer that nobody waits for. It is not used again."""
    look = select.poll()
    look.register(sock, select.POLLIN)
    return bool(look.poll(0))


def _exchange(sock: socket.socket, command: bytes, count: int, deadline_us: int) -> list[Reply]:
    """What is sent at once and so many replies to it, in the time there is for both."""
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
        found = replies(received, count)
        if found is not None:
            return found


def _left_s(deadline_us: int) -> float:
    left_us = deadline_us - _CLOCK.now_us()
    if left_us <= 0:
        raise Trouble("no answer in time")
    return left_us / US_PER_S


class AsyncLine:
    """The one connection of an event loop's lane.

    It is made by a task of its own, which may take longer than a decision waits: the trips after that have it.
    """

    def __init__(self, settings: RedisStoreSettings, address: Address | None = None) -> None:
        self._follows = address is not None
        self._factory: Any = async_connections(settings, address)
        self._connection: Any = None
        self._connecting: asyncio.Task[Trouble | None] | None = None

    async def trip(self, calls: Sequence[Sends], timeout_us: int) -> list[Reply]:
        """As `Lines.trip`, suspending this task."""
        loop = asyncio.get_running_loop()
        exchange = Exchange(calls, follows=self._follows)
        try:
            async with asyncio.timeout(None) as limit:
                # A loop that is busy sees its timers late, and together with what came in time: what came goes first.
                armed: list[asyncio.Handle] = [
                    loop.call_later(timeout_us / US_PER_S, lambda: armed.append(loop.call_soon(limit.reschedule, 0.0)))
                ]
                try:
                    while exchange.is_open:
                        exchange.take(await self._exchange(*exchange.command()))
                finally:
                    for handle in armed:
                        handle.cancel()
        except BaseException as error:
            await self._drop()
            if isinstance(error, Trouble) or not isinstance(error, Exception):
                raise
            raise trouble_of(error) from None
        if not exchange.is_well:
            await self._drop()
        return exchange.replies()

    async def _exchange(self, command: bytes, count: int) -> list[Reply]:
        if self._connection is not None and self._connection._reader.at_eof():  # closed by the server since
            await self._drop()
        if self._connection is None:
            await self._connected()
        await self._connection.send_packed_command(command)
        return [await self._reply() for _ in range(count)]

    async def _reply(self) -> Reply:
        try:
            reply = await self._connection.read_response(disable_decoding=True)
        except Exception as error:
            if is_reply(error):
                return trouble_of(error)
            raise
        return reply if isinstance(reply, bytes) else Trouble("the server answered with something else")

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
