"""One trip to a server, as it is said: calls of scripts that are sent together, and a second time where their script is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from resilience.stores.redis.replies import NOT_DECIDED, Elsewhere, Reply, ScriptMissing, Trouble

_ASKING: Final = b"*1\r\n$6\r\nASKING\r\n"
"""Goes before a call whose slot is only just being moved to the node that is asked."""
_OF_A_CLUSTER: Final = "the server is one of a cluster, whose url begins with redis+cluster://"


class Sends(Protocol):
    """A call of a script."""

    @property
    def is_asking(self) -> bool: ...

    def call(self, *, whole: bool = False) -> bytes:
        """The command. `whole` sends the text of the script too."""


class Exchange:
    """Calls and their replies, in at most two rounds. `follows` says whether whoever asks follows what a cluster answers."""

    def __init__(self, calls: Sequence[Sends], *, follows: bool) -> None:
        self._calls = calls
        self._follows = follows
        self._round: Sequence[int] = range(len(calls))
        self._found: list[Reply] = []
        self._is_second = False
        self.is_open = True
        self.is_well = True
        """Whether the connection may be used again."""

    def command(self) -> tuple[bytes, int]:
        """What is sent now, and how many replies there are to it."""
        if len(self._calls) == 1 and not self._calls[0].is_asking:
            return self._calls[0].call(whole=self._is_second), 1
        said: list[bytes] = []
        for number in self._round:
            call = self._calls[number]
            if call.is_asking:
                said.append(_ASKING)
            # The text is sent once: whoever comes after it on this connection is decided by what it has brought.
            said.append(call.call(whole=self._is_second and number == self._round[0]))
        return b"".join(said), len(said)

    def take(self, replies: list[Reply]) -> None:
        """What it was answered."""
        if len(self._calls) == 1 and isinstance(replies[-1], bytes):  # nearly always
            self._found, self.is_open = replies[-1:], False
            return
        own = self._without_asking(replies)
        if self._is_second:
            for number, reply in zip(self._round, own, strict=True):
                self._found[number] = reply
        else:
            self._found = own
        missing = [number for number, reply in enumerate(self._found) if isinstance(reply, ScriptMissing)]
        self.is_open = bool(missing) and not self._is_second
        self.is_well = not any(_is_trouble(reply) for reply in self._found)
        self._is_second = True
        self._round = missing

    def _without_asking(self, replies: Sequence[Reply]) -> list[Reply]:
        told = iter(replies)
        own = []
        for number in self._round:
            if self._calls[number].is_asking:
                next(told)
            own.append(next(told))
        return own

    def replies(self) -> list[Reply]:
        """What became of each call.

        Raises:
            Trouble: no call has a reply that is of use.
        """
        first = self._found[0]
        if isinstance(first, bytes):
            return self._found
        if not self._follows:
            raise Trouble(_OF_A_CLUSTER) if isinstance(first, Elsewhere) else first
        if all(_is_trouble(reply) for reply in self._found):
            raise first
        return self._found


def _is_trouble(reply: Reply) -> bool:
    return isinstance(reply, Trouble) and not isinstance(reply, NOT_DECIDED)
