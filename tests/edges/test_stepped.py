"""Plans that are driven by hand."""

from __future__ import annotations

import subprocess
import sys

AT_EXIT = """
import atexit
from contextvars import ContextVar

atexit.register(print, "the rest of the interpreter")
from resilience.clock import SYSTEM_CLOCK
from resilience.edges import SteppedPlan

inside = ContextVar("inside")

def plan():
    mark = inside.set(True)
    try:
        yield
    finally:
        inside.reset(mark)
        print("the plan")

SteppedPlan(plan(), SYSTEM_CLOCK).first()
"""


def test_a_plan_that_stands_when_the_process_ends_is_closed_in_its_own_context_before_all_else_goes() -> None:
    ended = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout.splitlines(), ended.stderr) == (["the plan", "the rest of the interpreter"], "")
