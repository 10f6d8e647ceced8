"""What a server answers: replies, errors, and where a cluster says that it must be asked instead."""

from __future__ import annotations

import ssl
from typing import Final

_LONGEST_REPLY: Final = 16 * 1024 * 1024
_NOT_SERVED: Final = b"Hash slot not served"
_BULK, _ERROR, _SIMPLE = b"$-+"
Address = tuple[str, int]
"""A host and a port."""


class Trouble(Exception):
    """The server did not answer as it should. The text says why; it holds no address and no command."""


class ScriptMissing(Trouble):
    """The server does not know the script, and so has not run it."""


class Elsewhere(Trouble):
    """This node of a cluster does not serve the slot, and so has not run the script: another must be asked.

    address: which one; without a host it is that of the node asked. is_asking: for this question only, while the slot moves.
    """

    def __init__(self, slot: int, address: Address, *, is_asking: bool) -> None:
        super().__init__("the server says ASK" if is_asking else "the server says MOVED")
        self.slot = slot
        self.address = address
        self.is_asking = is_asking


class Divided(Trouble):
    """The keys of a call are on two nodes for now, since their slot is being moved. The script has not run: each is asked alone."""


class Unserved(Trouble):
    """No node of the cluster serves the slot. The node that says so is well."""


NotDecided = Elsewhere | Divided | Unserved
"""Answers of a cluster's node that has not run the script, and is well."""
NOT_DECIDED: Final = (Elsewhere, Divided, Unserved)
Reply = bytes | Trouble
"""What one command was answered: what it returned, or its error."""


def replies(received: bytearray, count: int) -> list[Reply] | None:
    """So many whole replies: bulk strings, errors, or the OK before a question out of turn. None: there is more to come.

    Raises:
        Trouble: what came is something else.
    """
    found: list[Reply] = []
    start = 0
    while len(found) < count:
        end = received.find(b"\r\n", start)
        if end < 0:
            return None
        kind, line = received[start], bytes(received[start + 1 : end])
        start = end + 2
        if kind == _BULK:
            length = int(line) if line.isdigit() else -1
            if not 0 <= length <= _LONGEST_REPLY:
                raise _unexpected()
            if len(received) < start + length + 2:
                return None
            found.append(bytes(received[start : start + length]))
            start += length + 2
        elif kind == _ERROR:
            found.append(error_reply(line))
        elif kind == _SIMPLE:
            found.append(line)
        else:
            raise _unexpected()
    if len(received) > start:
        raise Trouble("the server answered more than was asked")
    return found


def _unexpected() -> Trouble:
    return Trouble("the server answered with something else")


def error_reply(text: bytes) -> Trouble:
    """The server's error by its first word, which is its code: the rest may name what is none of a log's business."""
    code, _, rest = text.partition(b" ")
    word = code.decode("ascii", "replace")[:32]
    if word in ("MOVED", "ASK"):
        return _elsewhere(rest.decode("ascii", "replace"), is_asking=word == "ASK")
    if word == "NOSCRIPT":
        return ScriptMissing(word)
    said = f"the server says {word}"
    if word == "CLUSTERDOWN" and rest.startswith(_NOT_SERVED):
        return Unserved(said)
    return Divided(said) if word == "TRYAGAIN" else Trouble(said)


def _elsewhere(text: str, *, is_asking: bool) -> Trouble:
    slot, _, address = text.partition(" ")
    host, _, port = address.rpartition(":")
    if not slot.isdigit() or not port.isdigit() or host == "?":
        return Trouble("the server says that another must be asked, and not which")
    return Elsewhere(int(slot), (host, int(port)), is_asking=is_asking)


_CODES: Final = {
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "MasterDownError": "MASTERDOWN",
    "MaxConnectionsError": "that it has too many clients",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}
"""Errors of redis-py whose texts have lost their codes."""
_FOLLOWED: Final = {
    "AskError": b"ASK",
    "ClusterDownError": b"CLUSTERDOWN",
    "MovedError": b"MOVED",
    "NoScriptError": b"NOSCRIPT",
    "TryAgainError": b"TRYAGAIN",
}
"""Those whose texts say more."""


def is_reply(error: Exception) -> bool:
    """Whether redis-py raises this for a reply that it has read to its end, so that more can be read."""
    return any(base.__name__ == "ResponseError" for base in type(error).__mro__)


def trouble_of(error: Exception) -> Trouble:
    """What went wrong, without the address that redis-py puts into its texts."""
    name = type(error).__name__
    if name in _FOLLOWED:
        return error_reply(_FOLLOWED[name] + b" " + str(error).encode("ascii", "replace"))
    if name in _CODES:
        return Trouble(f"the server says {_CODES[name]}")
    if name == "ResponseError":  # it keeps the code of an error that it does not know, and leaves out ERR
        text = str(error)
        return error_reply(text.encode() if text.partition(" ")[0].isupper() else b"ERR")
    if "Timeout" in name or isinstance(error, (BlockingIOError, ssl.SSLWantReadError)):
        return Trouble("no answer in time")
    return Trouble(f"no connection ({name})")
