"""Follows configuration files while the process runs: when to read one, the thread that does it, and SIGHUP."""

from __future__ import annotations

from resilience.watch.hangup import HANG_UP
from resilience.watch.thread import THREAD, Job
from resilience.watch.watcher import Known, News, Watcher

__all__ = ["HANG_UP", "THREAD", "Job", "Known", "News", "Watcher"]
