"""What the store `host` could stand on: LMDB, or a mapped file under kernel locks, all making the same small decision.

A decision reads 16 bytes, does the arithmetic of a bucket and writes 16 bytes. Measured, for each engine:
  alone       decisions a second in one process
  4 on one    in four processes that all use one bucket
  4 on many   in four processes over 100,000 buckets
  paced       four processes make 2,000 decisions a second each while a thread of each is busy: the 99th percentile and the worst of
              a decision, and how many waited longer than 5 ms for the lock
  crowded     the same four with their threads, but without a pause: how many of a million waited longer than 5 ms
  stopped     how long a decision takes while another process is stopped inside its turn (LMDB: given up after 2 s)
`lmdb` is installed for this only. Run: .venv/bin/python benchmarks/host_engines.py
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

PROCESSES: Final = 4
KEYS: Final = 100_000
RUN_S: Final = float(os.environ.get("RUN_S", "2"))
PATIENCE_S: Final = 0.005
OUT: Final = Path(__file__).parent / "out" / "host_engines.json"
RECORD: Final = struct.Struct("<QQ")
SHARDS: Final = 16
RATE: Final = 1_000_000_000
LOCK: Final = fcntl.LOCK_EX | fcntl.LOCK_NB
UNLOCK: Final = fcntl.LOCK_UN


def decide(record: tuple[int, int], now_us: int) -> tuple[int, int]:
    """The arithmetic of a bucket that is never empty."""
    bucket = record[0] | record[1] << 64
    full = now_us * RATE - 1000
    if bucket < full:
        bucket = full
    bucket += 1
    return bucket & 0xFFFFFFFFFFFFFFFF, bucket >> 64


class Lmdb:
    """One write transaction a decision, nothing synced to the disk."""

    def __init__(self, folder: str) -> None:
        import lmdb  # noqa: PLC0415  # only here

        self.env = lmdb.open(folder, map_size=1 << 28, sync=False, metasync=False, writemap=True, lock=True)

    def take(self, key: int) -> bool:
        name = key.to_bytes(16, "big")
        now_us = time.monotonic_ns() // 1000
        with self.env.begin(write=True) as turn:
            found = turn.get(name)
            turn.put(name, RECORD.pack(*decide(RECORD.unpack(found) if found else (0, 0), now_us)))
        return True

    def hold(self) -> None:
        self.held = self.env.begin(write=True)


class Mapped:
    """A mapped file; how a shard is locked is what the engines below differ in."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/table"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self.fd, KEYS * 16)
        self.map = mmap.mmap(self.fd, KEYS * 16)
        self.open_locks(folder)

    def open_locks(self, folder: str) -> None:
        raise NotImplementedError

    def lock(self, shard: int) -> bool:
        raise NotImplementedError

    def unlock(self, shard: int) -> None:
        raise NotImplementedError

    def take(self, key: int) -> bool:
        shard = key % SHARDS
        now_us = time.monotonic_ns() // 1000
        if not self.lock(shard) and not self.wait(shard):
            return False
        RECORD.pack_into(self.map, key * 16, *decide(RECORD.unpack_from(self.map, key * 16), now_us))
        self.unlock(shard)
        return True

    def wait(self, shard: int) -> bool:
        until_s = time.monotonic() + PATIENCE_S
        pause_s = 0.0
        while not self.lock(shard):
            if time.monotonic() > until_s:
                return False
            time.sleep(pause_s)
            pause_s = min(0.0005, pause_s + 0.00005)
        return True

    def hold(self) -> None:
        for shard in range(SHARDS):
            while not self.lock(shard):
                pass


class Flock(Mapped):
    """`flock`, one descriptor a shard."""

    def open_locks(self, folder: str) -> None:
        self.fds = [os.open(f"{self.path}.{shard}", os.O_RDWR | os.O_CREAT, 0o600) for shard in range(SHARDS)]

    def lock(self, shard: int) -> bool:
        try:
            fcntl.flock(self.fds[shard], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def unlock(self, shard: int) -> None:
        fcntl.flock(self.fds[shard], fcntl.LOCK_UN)


class ByteRange(Mapped):
    """Open file description locks, one byte a shard, one descriptor, through Python's `fcntl`, which lets go of the GIL."""

    def open_locks(self, folder: str) -> None:
        self.locks = [struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, shard, 1, 0) for shard in range(SHARDS)]
        self.unlocks = [struct.pack("@hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, shard, 1, 0) for shard in range(SHARDS)]

    def lock(self, shard: int) -> bool:
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, self.locks[shard])
        except OSError:
            return False
        return True

    def unlock(self, shard: int) -> None:
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, self.unlocks[shard])


class FlockHeld(Flock):
    """`flock` called with the GIL held, so that nobody who waits for the GIL has the lock."""

    def open_locks(self, folder: str) -> None:
        super().open_locks(folder)
        self.flock = ctypes.PyDLL(None).flock

    def lock(self, shard: int) -> bool:
        return self.flock(self.fds[shard], fcntl.LOCK_EX | fcntl.LOCK_NB) == 0  # type: ignore[no-any-return]

    def unlock(self, shard: int) -> None:
        self.flock(self.fds[shard], fcntl.LOCK_UN)


class FlockUnbroken(FlockHeld):
    """The same without a call between locking and unlocking: CPython changes threads only at calls and at jumps back."""

    def open_locks(self, folder: str) -> None:
        super().open_locks(folder)
        self.turns: list[Any] = []
        for fd in self.fds:
            self.turns.append(type("Turn", (), {"__getitem__": staticmethod(functools.partial(self.flock, fd))})())
        self.words = memoryview(self.map).cast("Q")

    def take(self, key: int) -> bool:
        shard, low = key % SHARDS, key * 2
        turn, words = self.turns[shard], self.words
        now_us = time.monotonic_ns() // 1000
        full = now_us * RATE - 1000
        if turn[LOCK] and not self.wait(shard):
            return False
        bucket = words[low] | words[low + 1] << 64
        if bucket < full:
            bucket = full
        bucket += 1
        words[low] = bucket & 0xFFFFFFFFFFFFFFFF
        words[low + 1] = bucket >> 64
        turn[UNLOCK]
        return True


ENGINES: Final[dict[str, type[Any]]] = {
    "lmdb": Lmdb,
    "flock": Flock,
    "byte ranges": ByteRange,
    "flock, GIL held": FlockHeld,
    "flock, no call in the turn": FlockUnbroken,
}


def hammer(engine: Any, keys: int) -> dict[str, float]:
    choose = random.Random(os.getpid()).randrange
    numbers = [choose(keys) for _ in range(10_000)]
    took, failed, began_s = 0, 0, time.monotonic()
    while time.monotonic() - began_s < RUN_S:
        for key in numbers[:2_000]:
            if not engine.take(key):
                failed += 1
        took += 2_000
    return {"per_s": took / (time.monotonic() - began_s), "failed": failed}


@contextmanager
def busy_thread() -> Iterator[None]:
    """A thread that wants the GIL all the time."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(200))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def paced(engine: Any, _keys: int) -> dict[str, Any]:
    times, failed, end_s = [], 0, time.monotonic() + RUN_S
    with busy_thread():
        while time.monotonic() < end_s:
            for _ in range(20):
                began_ns = time.perf_counter_ns()
                failed += not engine.take(0)
                times.append((time.perf_counter_ns() - began_ns) / 1e3)
            time.sleep(0.01)
    return {"times_us": times, "failed": failed}


def crowded(engine: Any, _keys: int) -> dict[str, int]:
    took, failed, end_s = 0, 0, time.monotonic() + RUN_S
    with busy_thread():
        while time.monotonic() < end_s:
            for _ in range(50):
                failed += not engine.take(0)
            took += 50
            sum(range(3_000))
    return {"took": took, "failed": failed}


def in_processes(name: str, folder: str, work: Callable[..., Any], count: int, keys: int) -> list[Any]:
    pipes = []
    for _ in range(count):
        reader, writer = os.pipe()
        if os.fork() == 0:
            try:
                result = work(ENGINES[name](folder), keys)
                with os.fdopen(writer, "w") as out:
                    json.dump(result, out)
            finally:
                os._exit(0)
        os.close(writer)
        pipes.append(reader)
    results = []
    for reader in pipes:
        with os.fdopen(reader) as source:
            results.append(json.load(source))
    for _ in range(count):
        os.wait()
    return results


def stopped(name: str, folder: str) -> float | None:
    """Milliseconds of a decision while somebody is stopped in its turn; None: longer than 2 s."""
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        engine = ENGINES[name](folder)
        engine.hold()
        os.write(writer, b"!")
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.read(reader, 1)
    taker = os.fork()
    if taker == 0:
        engine = ENGINES[name](folder)
        began_s = time.monotonic()
        engine.take(0)
        os.write(writer, struct.pack("d", (time.monotonic() - began_s) * 1e3))
        os._exit(0)
    os.set_blocking(reader, False)
    took_ms, until_s = None, time.monotonic() + 2.0
    while took_ms is None and time.monotonic() < until_s:
        time.sleep(0.01)
        try:
            (took_ms,) = struct.unpack("d", os.read(reader, 8))
        except BlockingIOError:
            continue
    for child in (taker, holder):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return took_ms


def measure(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        alone = [in_processes(name, folder, hammer, 1, 1)[0] for _ in range(3)]
        one = in_processes(name, folder, hammer, PROCESSES, 1)
        many = in_processes(name, folder, hammer, PROCESSES, KEYS)
        busy = in_processes(name, folder, paced, PROCESSES, 1)
        crowd = in_processes(name, folder, crowded, PROCESSES, 1)
        times_us = sorted(took for result in busy for took in result["times_us"])
        return {
            "alone_per_s": round(max(result["per_s"] for result in alone)),
            "four_on_one_per_s": round(sum(result["per_s"] for result in one)),
            "four_on_one_late": round(sum(result["failed"] for result in one)),
            "four_on_many_per_s": round(sum(result["per_s"] for result in many)),
            "paced_p99_us": round(times_us[len(times_us) * 99 // 100], 1),
            "paced_worst_ms": round(times_us[-1] / 1e3, 2),
            "paced_late": sum(result["failed"] for result in busy),
            "paced_decisions": len(times_us),
            "crowded_late_per_million": round(1e6 * sum(r["failed"] for r in crowd) / sum(r["took"] for r in crowd)),
            "stopped_ms": stopped(name, folder),
        }


def main() -> None:
    chosen = sys.argv[1:] or list(ENGINES)
    results = {}
    for name in chosen:
        results[name] = measure(name)
        print(f"{name}:", *(f"{what} {figure}" for what, figure in results[name].items()), sep="\n    ")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"python": sys.version.split()[0], "cores": os.cpu_count(), "engines": results}, indent=1))


if __name__ == "__main__":
    main()
