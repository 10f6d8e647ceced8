"""One trip to a server, as it is said: calls of scripts that are sent together, and a second time where their script is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from resilience.stores.redis.replies import Divided, Elsewhere, Reply, ScriptMissing, Trouble

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
        self._round = range(len(calls))
        self._found: list[Reply] = []
        self._is_second = False
        self.is_open = True

    def command(self) -> bytes:
        """What is sent now."""
        if len(self._calls) == 1:
            (only,) = self._calls
            return _ASKING + only.call(whole=self._is_second) if only.is_asking else only.call(whole=self._is_second)
        said = []
        for number in self._round:
            call = self._calls[number]
            if call.is_asking:
                said.append(_ASKING)
            # The text is sent once: whoever comes after it on this connection is decided by what it has brought.
            said.append(call.call(whole=self._is_second and number == self._round[0]))
        return b"".join(said)

    @property
    def count(self) -> int:
        """How many replies there are to it."""
        return len(self._round) + sum(self._calls[number].is_asking for number in self._round)

    def take(self, replies: Sequence[Reply]) -> None:
        """What it was answered."""
        told = iter(replies)
        own = []
        for number in self._round:
            if self._calls[number].is_asking:
                next(told)
            own.append(next(told))
        if self._is_second:
            for number, reply in zip(self._round, own, strict=True):
                self._found[number] = reply
        else:
            self._found = own
        missing = [number for number, reply in enumerate(self._found) if isinstance(reply, ScriptMissing)]
        self.is_open = bool(missing) and not self._is_second
        self._is_second = True
        self._round = missing  # type: ignore[assignment]

    @property
    def is_well(self) -> bool:
        """Whether the connection may be used again."""
        return not any(_is_trouble(reply) for reply in self._found)

    def replies(self) -> list[Reply]:
        """What became of each call.

        Raises:
            Trouble: no call has a reply that is of use.
        """
        if not self._follows and isinstance(self._found[0], Elsewhere):
            raise Trouble(_OF_A_CLUSTER)
        if all(isinstance(reply, Trouble) and (_is_trouble(reply) or not self._follows) for reply in self._found):
            raise self._found[0]  # type: ignore[misc]
        return self._found


def _is_trouble(reply: Reply) -> bool:
    return isinstance(reply, Trouble) and not isinstance(reply, (Elsewhere, Divided))
