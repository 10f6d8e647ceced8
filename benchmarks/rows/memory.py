"""Memory a key at 100,000 and 1,000,000 keys, and the longest single decision: each in a process that does nothing else.

Memory is what the process grew by, with the keys themselves, by the number of keys. The longest decision is that of filling the
table with new keys, of touching each once more, and of keys that come to a full table, in processor time of the thread, with the
garbage collector off.
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.harness import Row, Size, Table, reason
from benchmarks.stitched import UNREACHED
from resilience import RateLimited, RateLimiter
from resilience.call import Call
from resilience.clock import SYSTEM_CLOCK

Decide = Callable[[str], object]
ROUNDS: Final = 3
SIZES: Final = {"100,000 keys": 100_000, "1,000,000 keys": 1_000_000}


def ours(count: int) -> Decide:
    """A token comes back in a day, so that no bucket is full again and forgotten."""
    limiter = RateLimiter(1 / 86_400, 10, key="client_address", max_keys=count)
    call = Call()

    def decide(key: str) -> None:
        call.key = key
        call.now_us = SYSTEM_CLOCK.now_us()
        with contextlib.suppress(RateLimited):  # in a full table new keys share one bucket
            limiter.admit(call)

    return decide


def plain_dict(count: int) -> Decide:
    """The least that a table in Python can be: it grows in one piece."""
    table: dict[str, int] = {}

    def decide(key: str) -> None:
        table[key] = time.monotonic_ns()

    return decide


def limits(count: int) -> Decide:
    from limits import RateLimitItemPerDay  # noqa: PLC0415
    from limits.storage import MemoryStorage  # noqa: PLC0415
    from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415

    hit = FixedWindowRateLimiter(MemoryStorage()).hit
    item = RateLimitItemPerDay(86_400)
    return lambda key: hit(item, key)


def throttled_py(count: int) -> Decide:
    import throttled  # noqa: PLC0415

    store = throttled.MemoryStore(options={"MAX_SIZE": count})
    quota = throttled.per_day(86_400, burst=UNREACHED)
    decide: Decide = throttled.Throttled(using="token_bucket", quota=quota, store=store).limit
    return decide


MAKERS: Final[dict[str, Callable[[int], Decide]]] = {
    "resilience": ours,
    "a plain dict": plain_dict,
    "limits, fixed window": limits,
    "throttled-py": throttled_py,
}
AT_A_MILLION: Final = ("resilience", "a plain dict")


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def used_bytes() -> int:
    """The memory of its own that this process has in use, also where the system has put it away."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1_024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "VmSwap:")))


def longest_ns(decide: Decide, numbers: range) -> int:
    """The longest decision over these keys."""
    longest, now_ns = 0, time.thread_time_ns
    for number in numbers:
        key = address(number)
        began_ns = now_ns()
        decide(key)
        taken_ns = now_ns() - began_ns
        if taken_ns > longest:
            longest = taken_ns
    return longest


def measured_here(name: str, count: int) -> dict[str, float]:
    """Bytes a key, and the longest decision in milliseconds."""
    decide = MAKERS[name](count)
    decide(address(0))
    gc.collect()
    gc.disable()
    before = used_bytes()
    filling = longest_ns(decide, range(count))
    bytes_a_key = (used_bytes() - before) / count
    again = longest_ns(decide, range(count))
    beyond = longest_ns(decide, range(count, count + count // 10))
    return {"bytes": bytes_a_key, "longest_ms": max(filling, again, beyond) / 1e6}


def measured_apart(name: str, count: int) -> dict[str, float]:
    """The same in a process of its own.

    Raises:
        RuntimeError: it ended without an answer.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rows.memory", name, str(count)], capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def run(size: Size) -> Table:
    table = Table()
    for label, count in SIZES.items():
        if size.is_smoke and count > 100_000:
            continue
        for name in MAKERS:
            if (count > 100_000 and name not in AT_A_MILLION) or (size.is_smoke and name not in AT_A_MILLION):
                continue
            try:
                found = [measured_apart(name, count) for _ in range(1 if size.is_smoke else ROUNDS)]
            except Exception as error:  # noqa: BLE001  # a peer that is not there, or that fails on this Python, is told of
                table.rows[f"{label}: {name}"] = Row(None, note=reason(error))
                continue
            table.rows[f"{label}: {name}"] = Row.of([answer["bytes"] for answer in found], "B")
            table.rows[f"{label}: {name}, longest decision"] = Row.of([answer["longest_ms"] for answer in found], "ms")
        kept, longest = table.median(f"{label}: resilience"), table.median(f"{label}: resilience, longest decision")
        if kept is not None and longest is not None:
            table.figures[f"{label}: bytes a key"] = kept
            table.figures[f"{label}: longest decision"] = longest
    return table


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measured_here(sys.argv[1], int(sys.argv[2]))))
