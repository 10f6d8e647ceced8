"""The manual clock, the recording observer and the fixture against leaks, which users' tests rely on."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from resilience import Clock
from resilience.clock import SYSTEM_CLOCK, to_us
from resilience.events import ConfigLoaded, emit
from resilience.testing import ManualClock, RecordingObserver


def test_time_moves_only_when_told(clock: ManualClock) -> None:
    start_us, start_s = clock.now_us(), clock.wall_s()
    assert (clock.now_us(), clock.wall_s()) == (start_us, start_s)
    clock.advance(1.5)
    assert (clock.now_us() - start_us, clock.wall_s() - start_s) == (1_500_000, 1.5)
    clock.step_back(2.0)
    assert clock.now_us() - start_us == -500_000
    assert repr(ManualClock(7.5)) == "ManualClock(7.5 s)"


def test_both_clocks_are_clocks(clock: ManualClock) -> None:
    assert isinstance(clock, Clock)
    assert isinstance(SYSTEM_CLOCK, Clock)
    assert repr(SYSTEM_CLOCK) == "SystemClock()"
    assert SYSTEM_CLOCK.now_us() <= SYSTEM_CLOCK.now_us()
    SYSTEM_CLOCK.sleep(0)
    asyncio.run(SYSTEM_CLOCK.asleep(0))


def test_sleeping_moves_it_and_is_remembered(clock: ManualClock) -> None:
    start_us = clock.now_us()
    clock.sleep(1.0)
    asyncio.run(clock.asleep(2.0))
    assert (clock.now_us() - start_us, clock.slept_s) == (3_000_000, [1.0, 2.0])


def test_sleeping_can_wait_for_somebody_to_move_it() -> None:
    clock, woken = ManualClock(auto_advance=False), []

    async def sleeper(duration_s: float) -> None:
        await clock.asleep(duration_s)
        woken.append(duration_s)

    async def main() -> None:
        tasks = [asyncio.create_task(sleeper(duration_s)) for duration_s in (3.0, 1.0, 2.0, 9.0)]
        await asyncio.sleep(0)
        for _ in range(3):
            clock.advance(1.0)
            await asyncio.sleep(0)
        tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    assert woken == [1.0, 2.0, 3.0]
    assert clock.pending_timers == 0


def test_timers_run_in_their_order_each_at_its_instant(clock: ManualClock) -> None:
    start_us, ran = clock.now_us(), []
    for delay_s in (3.0, 1.0, 2.0, 1.0):
        clock.call_later(delay_s, lambda: ran.append((clock.now_us() - start_us) / 1e6))
    cancelled = clock.call_later(1.5, lambda: ran.append(-1.0))
    cancelled.cancel()
    assert clock.pending_timers == 4
    clock.advance(2.5)
    assert ran == [1.0, 1.0, 2.0]
    clock.advance(100.0)
    assert ran == [1.0, 1.0, 2.0, 3.0]
    assert clock.pending_timers == 0


def test_a_timer_may_arm_another(clock: ManualClock) -> None:
    ran: list[float] = []

    def again() -> None:
        ran.append(clock.now_us() / 1e6)
        if len(ran) < 5:
            clock.call_later(1.0, again)

    clock.call_later(1.0, again)
    clock.advance(3.0)
    assert ran == [1001.0, 1002.0, 1003.0]
    clock.advance(3.0)
    assert len(ran) == 5


def test_a_task_that_moves_the_clock_meets_its_own_timer_at_its_next_await(clock: ManualClock) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        timer = clock.call_later(1.0, task.cancel)
        clock.advance(2.0)
        assert task.cancelling() == 0
        timer.cancel()
        await asyncio.sleep(0)
        clock.call_later(1.0, task.cancel)
        clock.advance(2.0)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()

    asyncio.run(main())


def test_a_timer_that_is_due_when_a_task_arms_it_waits_for_nobody_to_move_the_clock(clock: ManualClock) -> None:
    async def main() -> list[str]:
        ran: list[str] = []
        clock.call_later(0.0, lambda: ran.append("due"))
        clock.call_later(0.0, lambda: ran.append("cancelled")).cancel()
        clock.call_later(0.001, lambda: ran.append("not yet"))
        assert ran == []
        await asyncio.sleep(0)
        clock.advance(0.0)
        return ran

    assert asyncio.run(main()) == ["due"]
    assert clock.pending_timers == 1


def test_a_timer_of_a_task_that_is_over_runs_outside_of_any_loop(clock: ManualClock) -> None:
    ran = []

    async def main() -> None:
        clock.call_later(1.0, lambda: ran.append(1))

    asyncio.run(main())
    clock.advance(2.0)
    assert ran == [1]


def test_microseconds_are_rounded_to_the_nearest() -> None:
    assert [to_us(duration_s) for duration_s in (0.1, 1 / 3, 2.5e-7, 7.5e-7, 86_400.0)] == [100_000, 333_333, 0, 1, 86_400_000_000]


def test_the_observer_remembers_while_it_is_entered() -> None:
    event, observer = ConfigLoaded("a.yaml", "0"), RecordingObserver()
    emit([event])
    for _ in range(2):
        with observer:
            emit([event])
    emit([event])
    assert observer.events == [event, event]


# --- the documentation, and the fixture as a user has it --------------------------------------------------------------------

DOCS = (Path(__file__).parents[2] / "docs" / "testing.md").read_text(encoding="utf-8")
NAMED_BLOCK = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)
MARK = "markers =\n    may_leak: may leave behind what it names"


def run_pytest(folder: Path, **files: str) -> tuple[dict[str, int], str]:
    """Run pytest on `files` (without ending) in a process of its own: how many tests passed, failed and so on; what it printed."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers\n{MARK}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-q", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    counts = {word.rstrip("s"): int(count) for count, word in re.findall(r"(\d+) (passed|failed|errors?)", done.stdout)}
    return counts, done.stdout


def test_the_examples_of_the_documentation_run_as_they_stand(tmp_path: Path) -> None:
    files = {name.removesuffix(".py"): f"# {name}\n{code}" for name, code in NAMED_BLOCK.findall(DOCS)}
    assert len(files) == DOCS.count("```python")
    counts, output = run_pytest(tmp_path, **files)
    assert counts == {"passed": 7, "error": 1}, output
    shown = re.findall(r"```\n(resilience\.leaks\.Leaked: .*?)\n```", DOCS, re.DOTALL)[0].replace(
        " test_leaky.py", f" {tmp_path}/test_leaky.py"
    )
    assert shown in re.sub(r"^E   +", "", output, flags=re.MULTILINE).replace("\npermit", "\n  permit")


FIXTURE = "from resilience.testing import no_leaks_fixture\nno_leaks = no_leaks_fixture({})\n"

LEAKS = """
import asyncio, threading
import pytest
from resilience import Pipeline

may_end = threading.Event()
kept = []


def leaks_all():
    kept.append(Pipeline("api").guard("charge"))
    kept[-1].__enter__()
    threading.Thread(target=may_end.wait, daemon=True, name="the worker").start()
    asyncio.run(leaves_a_task())


async def leaves_a_task():
    asyncio.create_task(asyncio.sleep(60.0), name="the poller")


def test_that_leaks_everything():
    leaks_all()


def test_that_asks_for_the_fixture(no_leaks):
    leaks_all()


@pytest.mark.may_leak
def test_that_may():
    leaks_all()


@pytest.mark.may_leak("threads", "permits")
def test_that_may_not_leave_tasks():
    leaks_all()


@pytest.mark.may_leak("thread")
def test_with_a_slip_in_its_mark():
    pass


@pytest.mark.anyio
async def test_in_a_loop_of_anyio_s():
    with Pipeline("api").guard():
        await asyncio.sleep(0)


@pytest.mark.anyio
async def test_in_a_loop_of_anyio_s_that_leaves_a_task():
    await leaves_a_task()


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_that_is_clean():
    with Pipeline("api").guard():
        pass
"""


def errors(output: str) -> list[str]:
    """The tests in whose teardown or setup something was wrong, and what: the first word of each leak."""
    sections = re.split(
        r"^_+ ERROR at (?:teardown|setup) of (\w+) _+$", output.partition("= short test summary")[0], flags=re.MULTILINE
    )
    return [
        f"{name}: {', '.join(re.findall(r'^E +(thread|task|permit|ValueError)', text, re.MULTILINE))}"
        for name, text in zip(sections[1::2], sections[2::2], strict=True)
    ]


def test_the_fixture_fails_each_test_that_leaks_and_no_other(tmp_path: Path) -> None:
    counts, output = run_pytest(tmp_path, conftest=FIXTURE.format("autouse=True, wait_s=0.0"), test_leaks=LEAKS)
    assert counts == {"passed": 7, "error": 5}, output
    assert errors(output) == [
        "test_that_leaks_everything: thread, task, permit",
        "test_that_asks_for_the_fixture: thread, task, permit",
        "test_that_may_not_leave_tasks: task",
        "test_with_a_slip_in_its_mark: ValueError",
        "test_in_a_loop_of_anyio_s_that_leaves_a_task: task",
    ]


def test_without_autouse_it_guards_the_tests_that_ask_for_it(tmp_path: Path) -> None:
    counts, output = run_pytest(tmp_path, conftest=FIXTURE.format("wait_s=0.0"), test_leaks=LEAKS)
    assert errors(output) == ["test_that_asks_for_the_fixture: thread, task, permit"]
    assert counts == {"passed": 8, "error": 1}, output
