"""What is said to the server and what it answers, as bytes: two scripts, their questions, their replies."""

from __future__ import annotations

import functools
import hashlib
import struct
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final

from resilience.fleet_health import FleetState, Mark
from resilience.layers.limiter.questions import Take
from resilience.layers.limiter.shared_bucket import Decided

_QUESTION: Final = struct.Struct("<4d")
_UNITS: Final = struct.Struct("<d")
_MARK: Final = struct.Struct("<16d")
_BOARD: Final = struct.Struct("<2d")
_STATE: Final = struct.Struct("<8d")
Told = tuple[str, int, Mark]


class Script:
    """One script, by its digest and by its text."""

    def __init__(self, file: str) -> None:
        self.text = (files(__package__) / file).read_bytes()
        self._by_digest = bulk(b"EVALSHA") + bulk(hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode())
        self._by_text = bulk(b"EVAL") + bulk(self.text)

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes], *, whole: bool = False) -> bytes:
        """The command that runs it, ready to be sent. `whole` sends its text, for a server that has forgotten it."""
        head = b"*%d\r\n" % (3 + len(keys) + len(arguments))
        parts = (bulk(b"%d" % len(keys)), *map(bulk, keys), *map(bulk, arguments))
        return head + (self._by_text if whole else self._by_digest) + b"".join(parts)


def bulk(text: bytes) -> bytes:
    """A bulk string of the Redis protocol."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


TAKE: Final = Script("take.lua")
RENEW: Final = Script("renew.lua")


class Questions:
    """Questions that are decided in one call, in order: each bucket is read and written once.

    `is_asking`: a node of a cluster is asked out of turn, while it takes over the slot.
    """

    def __init__(self, prefix: str, questions: Sequence[Take], *, is_asking: bool = False) -> None:
        self.is_asking = is_asking
        self._count = len(questions)
        if self._count == 1:
            (only,) = questions
            self.keys = [bucket_key(prefix, only.limit, only.key)]
            asked = _QUESTION.pack(1, only.least, only.most, only.patience_us)
            self.arguments = [_UNITS.pack(only.fresh_units) + only.pace.pack(), asked]
            return
        numbers: dict[tuple[str, str | None], int] = {}
        self.keys = []
        self.arguments = []
        packed = []
        for question in questions:
            bucket = question.limit, question.key
            number = numbers.get(bucket)
            if number is None:
                number = numbers[bucket] = len(numbers) + 1
                self.keys.append(bucket_key(prefix, question.limit, question.key))
                self.arguments.append(_UNITS.pack(question.fresh_units) + question.pace.pack())
            packed.append(_QUESTION.pack(number, question.least, question.most, question.patience_us))
        self.arguments.append(b"".join(packed))

    def call(self, *, whole: bool = False) -> bytes:
        """The command."""
        return TAKE.call(self.keys, self.arguments, whole=whole)

    @staticmethod
    def instant_us(reply: bytes) -> int:
        """When they were decided, by the server's clock."""
        (now_us,) = _UNITS.unpack_from(reply)
        return int(now_us)

    def answers(self, reply: bytes) -> list[Decided]:
        """What became of each question.

        Raises:
            ValueError: the reply is not one to these questions.
        """
        if len(reply) != 8 + 32 * self._count:
            raise ValueError(f"{self._count} questions were answered with {len(reply)} bytes")
        return [
            Decided(int(taken), int(wait_us), int(units), is_cut != 0.0)
            for taken, wait_us, units, is_cut in _QUESTION.iter_unpack(memoryview(reply)[8:])
        ]


def bucket_key(prefix: str, limit: str, key: str | None) -> bytes:
    """Where a bucket is kept: a client's key as a digest, hash-tagged, so that a cluster spreads the keys of one limit."""
    return _one_bucket(prefix, limit) if key is None else _key(prefix, "limit", limit, digest(limit, key))


@functools.lru_cache(maxsize=1_000)
def _one_bucket(prefix: str, limit: str) -> bytes:
    return _key(prefix, "limit", limit)


def digest(*parts: str) -> str:
    """128 bits of a hash of parts, none of which can run into the next."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        hashed.update(b"%d:%b" % (len(encoded), encoded))
    return urlsafe_b64encode(hashed.digest()).decode().rstrip("=")


def _key(prefix: str, *parts: str) -> bytes:
    return f"{prefix}:{':'.join(parts[:-1])}:{{{parts[-1]}}}".encode("utf-8", "surrogatepass")


def board_key(prefix: str) -> bytes:
    """One of the keys of a board."""
    return f"{{{prefix}}}:workers".encode("utf-8", "surrogatepass")


class Renewal:
    """What a process tells the board of all its signals, and what the board answers. All keys of a board are in one slot.

    marks: of each signal its name, which one of the process it is, and its mark.
    """

    is_asking = False

    def __init__(self, prefix: str, process: str, decides: int, marks: Sequence[Told], *, is_told: bool = True) -> None:
        board = f"{{{prefix}}}:health"
        self.keys = [board_key(prefix)]
        self.arguments = [process.encode(), b"%d" % decides, channel(prefix)]
        for signal, number, mark in marks:
            self.keys += [f"{board}:{signal}:state".encode(), f"{board}:{signal}:marks".encode()]
            self.arguments.append(_MARK.pack(*mark[:8], is_told, *mark.seen) + b"#%d" % number)
        self._count = len(marks)

    def call(self, *, whole: bool = False) -> bytes:
        """The command."""
        return RENEW.call(self.keys, self.arguments, whole=whole)

    def answers(self, reply: bytes) -> tuple[int, int, list[FleetState]]:
        """The server's instant, how many processes decide, and the state of each signal.

        Raises:
            ValueError: the reply is not one to this renewal.
        """
        if len(reply) != 16 + 64 * self._count:
            raise ValueError(f"{self._count} signals were answered with {len(reply)} bytes")
        now_us, workers = _BOARD.unpack_from(reply)
        states: list[Any] = [FleetState(*map(int, told[:7])) for told in _STATE.iter_unpack(memoryview(reply)[16:])]
        return int(now_us), int(workers), states


def channel(prefix: str) -> bytes:
    """Where changes of a board are told."""
    return f"{prefix}:health".encode("utf-8", "surrogatepass")
