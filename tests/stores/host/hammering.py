"""Processes that take from one store as fast as they can and are killed at any instant.

`python -m tests.stores.host.hammering FOLDER SECONDS SEED` prints what was admitted in all, over which time, how many were killed.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from fractions import Fraction
from typing import Final

from resilience.clock import SYSTEM_CLOCK
from resilience.layers.limiter.questions import Away, Take
from resilience.layers.limiter.shared_bucket import pace_of
from resilience.stores.host import HostStore
from resilience.stores.settings import HostStoreSettings

PROCESSES: Final = 4
RATE_PER_S, BURST = 500, 500  # as much as a machine that is busy with other things may leave unasked for
KEYS, KEY_RATE_PER_S, KEY_BURST = 20, 50, 10
_WORDS = 8
_PLAIN, _KEYED, _FIRST_US, _LAST_US, _DECISIONS, _AWAY = range(6)
PLAIN: Final = pace_of(Fraction(RATE_PER_S), BURST, 0)
KEYED: Final = pace_of(Fraction(KEY_RATE_PER_S), KEY_BURST, 0)


def hammer(folder: str, told: memoryview, at: int, seed: int) -> None:
    """Take without an end; what was had is counted where it outlives this process."""
    dice = random.Random(seed)
    store = HostStore(HostStoreSettings("hammer", folder), SYSTEM_CLOCK, beats=False)
    plain = Take("plain", None, PLAIN, PLAIN.capacity, 1)
    keyed = [Take("keyed", f"{number}", KEYED, KEYED.capacity, 1) for number in range(KEYS)]
    told[at + _FIRST_US] = SYSTEM_CLOCK.now_us()
    while True:
        for question, what in ((plain, _PLAIN), (dice.choice(keyed), _KEYED)):
            answer = store.buckets.take(question)
            if isinstance(answer, Away):
                told[at + _AWAY] += 1
            else:
                told[at + what] += answer.taken
            told[at + _DECISIONS] += 1
        told[at + _LAST_US] = SYSTEM_CLOCK.now_us()


def start(folder: str, told: memoryview, number: int) -> int:
    child = os.fork()
    if child == 0:
        try:
            hammer(folder, told, number * _WORDS, number)
        finally:
            os._exit(1)
    return child


def main(folder: str, seconds: float, seed: int) -> None:
    dice = random.Random(seed)
    most = round(seconds * 1_000) + 100
    told = memoryview(mmap.mmap(-1, most * _WORDS * 8)).cast("q")
    HostStore(HostStoreSettings("hammer", folder), SYSTEM_CLOCK, beats=False).buckets.prepare("keyed", KEYS)
    running = [start(folder, told, number) for number in range(PROCESSES)]
    started, ended_by_itself, end_s = PROCESSES, 0, time.monotonic() + seconds
    while time.monotonic() < end_s and started < most:
        time.sleep(dice.uniform(0.005, 0.03))
        victim = running.pop(0)
        os.kill(victim, signal.SIGKILL)
        ended_by_itself += os.WIFEXITED(os.waitpid(victim, 0)[1])
        running.append(start(folder, told, started))
        started += 1
    for child in running:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    rows = [told[number * _WORDS : (number + 1) * _WORDS].tolist() for number in range(started)]
    rows = [row for row in rows if row[_LAST_US]]
    print(
        json.dumps(
            {
                "plain": sum(row[_PLAIN] for row in rows),
                "keyed": sum(row[_KEYED] for row in rows),
                "decisions": sum(row[_DECISIONS] for row in rows),
                "away": sum(row[_AWAY] for row in rows),
                "seconds": (max(row[_LAST_US] for row in rows) - min(row[_FIRST_US] for row in rows)) / 1e6,
                "killed": started,
                "ended_by_themselves": ended_by_itself,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
