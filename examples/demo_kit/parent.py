"""A service never outlives the demo that started it, not even one that was killed."""

from __future__ import annotations

import os
import signal
import sys
import threading


def end_with_parent(pid: int) -> None:
    """End the process `pid` when this one's standard input ends: its other end is held by the demo."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(pid, signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
