"""A process that forks while its other threads make calls: the child must not wait for locks that nobody there holds."""

from __future__ import annotations

import subprocess
import sys

CHILD = """
import contextlib, os, signal
from resilience import CircuitBreaker, Deadline, HealthSignal, Pipeline, RateLimiter, Retry, events, subscribe
from resilience.testing import RecordingObserver

health = HealthSignal()
deadline, retry = Deadline(1.0), Retry(2, health=health)
limiter = RateLimiter(5.0, health=health)
breaker = CircuitBreaker(min_calls=1, key=lambda call: "one", health=health)
pipeline = Pipeline("p", deadline, limiter, retry, breaker)
pipeline.call(str)
(machine,) = breaker.pool.table
(reporter,) = events._observers
held = [
    health._lock, deadline.state.lock, limiter.state.lock, retry.state.lock, retry.state.budget._lock,
    breaker.pool.table._lock, breaker.pool.single.lock, machine.lock, events._lock, reporter._lock,
]
for lock in held:  # as another thread may hold them at this instant, and in the child nobody releases them
    lock.acquire()
child = os.fork()
if child == 0:
    signal.alarm(10)  # ends a child that hangs
    pipeline.call(str)
    with contextlib.suppress(OSError):
        pipeline.call(lambda: (_ for _ in ()).throw(OSError("down")))
    breaker.force("open"), limiter.status(), breaker.status(), retry.status(), deadline.status(), health.status()
    subscribe(RecordingObserver())()
    os._exit(0)
for lock in held:
    lock.release()
_, status = os.waitpid(child, 0)
assert status == 0, f"the child ended with {status}"
pipeline.call(str)
print("whole")
"""


def test_a_child_takes_no_lock_over() -> None:
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("whole\n", 0), done.stderr
