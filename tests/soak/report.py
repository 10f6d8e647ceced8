"""A pytest plugin for `make soak`: says at the end what was run, how much of it, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest

_rows: list[tuple[str, str, float, str]] = []
_machines: dict[str, str] = {}
_busy_s: dict[str, float] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note how long each state machine is driven."""
    for item in items:
        driven: Any = getattr(getattr(item, "cls", None), "settings", None)
        if driven is not None:
            _machines[item.nodeid] = f"{driven.max_examples:,} examples x {driven.stateful_step_count} steps"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Note the processor time that a test takes: on a busy machine the clock on the wall says little."""
    began_s = time.process_time()
    result = yield
    _busy_s[item.nodeid] = time.process_time() - began_s
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that has run."""
    if report.when == "call":
        size = dict(report.user_properties).get("size", _machines.get(report.nodeid, ""))
        _rows.append((report.nodeid, str(size), report.duration, report.outcome))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was noted."""
    terminalreporter.section("soak")
    for name, size, duration_s, outcome in _rows:
        shown = name.removeprefix("tests/").replace("::runTest", "")
        terminalreporter.write_line(f"{duration_s:8.1f} s ({_busy_s.get(name, 0.0):.1f} s busy)  {outcome}  {shown}  {size}")
